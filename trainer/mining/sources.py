"""Where candidates come from: the encoder's nearest passages (dense), BM25 over words, and both joined by their ranks.

Both answer alike for queries in their own form: search, the scores of given passages, and which positive of a query
each passage is most similar to.

Axes: Q queries, K ranked passages, S positives of a query, P passages, D width, V vocabulary.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from data.base.text import is_spaceless, tokens
from trainer.encoder.encoder import Floats, Indices
from trainer.mining.config import MineConfig
from trainer.mining.search import ApproximateIndex, stable_top_k, top_k

log = logging.getLogger(__name__)
# Passages up to which exact search is used.
_EXACT_UP_TO = 1_000_000
# BM25 scores that are held at once, and what softens the first ranks in reciprocal rank fusion (Cormack et al., 2009).
_SCORES_AT_ONCE, _FUSION = 32_000_000, 60


class Source(Protocol):
    """Ranks the corpus. `queries` is what the source compares passages with, one line a query."""

    def search(self, queries: Any, k: int) -> tuple[Floats, Indices]:
        """scores_QK, falling, and index_QK; a place that was not filled has index -1 and score -inf."""

    def scores(self, queries: Any, index_QS: Indices) -> Floats:
        """The scores of given passages; NaN where the index is -1."""

    def similarities(self, first: Indices, second: Indices) -> Floats:
        """How similar passages are to others, [first, second]; by angle: a long one of the others is not nearer."""


class Dense:
    """Inner products of embeddings; `queries_QD` are examples, on which an approximate index is measured."""

    def __init__(self, passages_PD: Floats, queries_QD: Floats, config: MineConfig, device: torch.device):
        self._passages_PD, self._device = passages_PD, device
        self._index = None
        if config.backend == "ivf" or (config.backend == "auto" and len(passages_PD) > _EXACT_UP_TO):
            self._index = ApproximateIndex(passages_PD)
            recall = self._index.recall(queries_QD, config.rank_to)
            log.info("approximate search finds %.1f %% of the exact top %d", 100 * recall, config.rank_to)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Indices]:
        if self._index is not None:
            return self._index.search(queries, k)
        return top_k(queries, self._passages_PD, k, self._device)

    def scores(self, queries: Floats, index_QS: Indices) -> Floats:
        scores_QS = np.full(index_QS.shape, np.nan, dtype=np.float32)
        for column in range(index_QS.shape[1]):
            has = index_QS[:, column] >= 0
            scores_QS[has, column] = np.einsum("qd,qd->q", queries[has], self._passages_PD[index_QS[has, column]])
        return scores_QS

    def similarities(self, first: Indices, second: Indices) -> Floats:
        second_SD = self._passages_PD[second]
        lengths_S1 = np.linalg.norm(second_SD, axis=1, keepdims=True)
        unit_SD = second_SD / np.maximum(lengths_S1, np.finfo(np.float32).tiny)
        found: Floats = self._passages_PD[first] @ unit_SD.T
        return found


class Bm25:
    """BM25 by bm25s, in Lucene's form (k1 1.5, b 0.75); a passage without a word of the query is no candidate."""

    def __init__(self, texts: Sequence[str]):
        import bm25s
        from scipy import sparse

        index = bm25s.BM25(method="lucene", dtype="float32")
        vocabulary: dict[str, int] = {}
        words = [[vocabulary.setdefault(word, len(vocabulary)) for word in bm25_words(text)] for text in texts]
        self._vocabulary = vocabulary
        if not vocabulary:
            self._passages_PV = sparse.csr_matrix((len(texts), 1), dtype=np.float32)
        else:
            index.index((words, vocabulary), create_empty_token=False, show_progress=False)
            weights = index.scores
            by_word = (weights["data"], weights["indices"], weights["indptr"])
            self._passages_PV = sparse.csc_matrix(by_word, shape=(len(texts), len(vocabulary))).tocsr()
        self._words_VP = self._passages_PV.T.tocsr()

    def queries(self, texts: Sequence[str]) -> Any:
        """Sparse counts of the corpus' words, [Q, V]."""
        from scipy import sparse

        found = [Counter(self._vocabulary[w] for w in bm25_words(text) if w in self._vocabulary) for text in texts]
        ends = np.cumsum([0, *map(len, found)])
        words = np.fromiter((word for counts in found for word in counts), dtype=np.int64, count=ends[-1])
        numbers = np.fromiter((n for counts in found for n in counts.values()), dtype=np.float32, count=ends[-1])
        return sparse.csr_matrix((numbers, words, ends), shape=(len(texts), self._passages_PV.shape[1]))

    def search(self, queries: Any, k: int) -> tuple[Floats, Indices]:
        num_passages = self._passages_PV.shape[0]
        k = min(k, num_passages)
        scores_QK = np.empty((queries.shape[0], k), dtype=np.float32)
        index_QK = np.empty((queries.shape[0], k), dtype=np.int64)
        step = max(1, _SCORES_AT_ONCE // num_passages)
        for start in range(0, queries.shape[0], step):
            part = slice(start, start + step)
            best = stable_top_k(torch.from_numpy((queries[part] @ self._words_VP).toarray()), k)
            scores_QK[part], index_QK[part] = (tensor.numpy() for tensor in best)
        index_QK[scores_QK <= 0], scores_QK[scores_QK <= 0] = -1, -np.inf
        return scores_QK, index_QK

    def scores(self, queries: Any, index_QS: Indices) -> Floats:
        scores_QS = np.full(index_QS.shape, np.nan, dtype=np.float32)
        for column in range(index_QS.shape[1]):
            has = np.flatnonzero(index_QS[:, column] >= 0)
            found = queries[has].multiply(self._passages_PV[index_QS[has, column]]).sum(axis=1)
            scores_QS[has, column] = np.asarray(found).ravel()
        return scores_QS

    def similarities(self, first: Indices, second: Indices) -> Floats:
        second_SV = self._passages_PV[second]
        lengths_S = np.sqrt(np.asarray(second_SV.multiply(second_SV).sum(axis=1)).ravel())
        found = (self._passages_PV[first] @ second_SV.T).toarray()
        return np.asarray(found / np.maximum(lengths_S, np.finfo(np.float32).tiny), dtype=np.float32)


def bm25_words(text: str) -> Iterator[str]:
    """The words of a text without case and punctuation; of a script without spaces, characters and pairs of them."""
    found = [match for match in tokens(text.casefold()) if any(map(str.isalnum, match[0]))]
    yield from (match[0] for match in found)
    for first, second in pairwise(found):
        if first.end() == second.start() and is_spaceless(first[0]) and is_spaceless(second[0]):
            yield first[0] + second[0]


def fuse(first_QK: Indices, second_QK: Indices, k: int) -> Indices:
    """Reciprocal rank fusion of two rankings of the same queries: the k best by the sum of 1 / (60 + rank).

    Equal sums are ordered by the lower passage; -1 is no passage. Neither ranking holds a passage twice.
    """
    index_QN = np.concatenate([first_QK, second_QK], axis=1)
    ranks_N = np.concatenate([np.arange(1, one.shape[1] + 1) for one in (first_QK, second_QK)])
    sums_QN = np.where(index_QN >= 0, 1 / (_FUSION + ranks_N), -np.inf)
    order_QN = np.argsort(index_QN, axis=1, kind="stable")
    index_QN, sums_QN = (np.take_along_axis(values, order_QN, 1) for values in (index_QN, sums_QN))
    # A passage of both stands beside itself now: its first place takes the sum, its second falls out.
    twice_QN = index_QN[:, 1:] == index_QN[:, :-1]
    sums_QN[:, :-1] += np.where(twice_QN & (index_QN[:, 1:] >= 0), sums_QN[:, 1:], 0)
    sums_QN[:, 1:][twice_QN] = -np.inf
    best_QK = np.lexsort((index_QN, -sums_QN))[:, :k]
    fused_QK = np.take_along_axis(index_QN, best_QK, 1)
    fused_QK[np.take_along_axis(sums_QN, best_QK, 1) == -np.inf] = -1
    return fused_QK
