"""The best passages of each query with what the rules ask about them: positives, copies, and the margins' anchors.

Axes: Q queries, K ranked passages, S positives of a query, P passages, D width.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.base.text import same_text_key
from data.records import Row
from data.retrieval_set import RetrievalSet
from trainer.encoder.encoder import Indices
from trainer.mining.config import MarginAnchor, MineConfig
from trainer.mining.rules import CODE, Codes, Floats, Limits, apply_rules
from trainer.mining.search import CPU, ApproximateIndex, top_k

log = logging.getLogger(__name__)
# Passages up to which exact search is used.
_EXACT_UP_TO = 1_000_000
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The best passages of some queries by falling score; `index_QK` is -1 where an index found fewer.

    `positive_scores_QS` is NaN where a query has fewer positives, `nearest_QK` the column of the positive that a
    passage is most similar to.
    """

    scores_QK: Floats
    index_QK: Indices
    is_positive_QK: Flags
    is_same_text_QK: Flags
    positive_scores_QS: Floats
    nearest_QK: Indices

    def anchor(self, kind: MarginAnchor) -> Floats:
        """The score of the positive that margins count from, [Q, K] for the nearest, else [Q, 1]."""
        if kind == "nearest":
            return np.take_along_axis(self.positive_scores_QS, self.nearest_QK, axis=1)
        reduce = np.nanmin if kind == "lowest" else np.nanmean
        return np.asarray(reduce(self.positive_scores_QS, axis=1, keepdims=True), dtype=np.float32)

    def codes(self, limits: Limits, anchor: MarginAnchor) -> Codes:
        """The code of the first rule that each passage breaks."""
        codes_QK = apply_rules(self.scores_QK, self.is_positive_QK, self.is_same_text_QK, self.anchor(anchor), limits)
        codes_QK[self.index_QK < 0] = CODE["rank_window"]
        return codes_QK


class Ranker:
    """Ranks a corpus for rows of its queries.

    `passages_PD` is in the order of `data.passages`; `device` searches. `queries_QD` are examples of queries, on which
    an approximate index is measured.
    """

    def __init__(
        self,
        data: RetrievalSet,
        passages_PD: Floats,
        queries_QD: Floats,
        config: MineConfig,
        device: torch.device = CPU,
    ):
        self.corpus = Corpus(data)
        self._passages_PD = passages_PD
        self._search = _search(passages_PD, queries_QD, config, device)

    def rank(self, rows: Sequence[Row], queries_QD: Floats, num_ranked: int) -> Ranked:
        """The `num_ranked` best passages that are no positives, and the positives and copies among them."""
        positives_QS, excluded_QS = self.corpus.positives(rows), self.corpus.excluded_text_ids(rows)
        # Positives and their copies take up places among the best: ask for that many more.
        scores_QK, index_QK = self._search(queries_QD, num_ranked + self.corpus.max_duplicates(rows))
        is_positive_QK = _contains(positives_QS, index_QK)
        text_QK = self.corpus.text_of[index_QK]
        return Ranked(
            scores_QK=scores_QK,
            index_QK=index_QK,
            is_positive_QK=is_positive_QK,
            is_same_text_QK=_contains(excluded_QS, text_QK) | _repeats(text_QK, is_positive_QK),
            positive_scores_QS=_positive_scores(queries_QD, self._passages_PD, positives_QS),
            nearest_QK=_nearest_positives(self._passages_PD, index_QK, positives_QS),
        )


_Search = Callable[[Floats, int], tuple[Floats, Indices]]


def _search(passages_PD: Floats, queries_QD: Floats, config: MineConfig, device: torch.device) -> _Search:
    if config.backend == "exact" or (config.backend == "auto" and len(passages_PD) <= _EXACT_UP_TO):
        return lambda queries, k: top_k(queries, passages_PD, k, device)
    index = ApproximateIndex(passages_PD)
    recall = index.recall(queries_QD, config.rank_to)
    log.info("approximate search finds %.1f %% of the exact top %d", 100 * recall, config.rank_to)
    return index.search


def _contains(sets_QS: Indices, values_QK: Indices) -> Flags:
    """Which values of a query are in the query's set; sets are padded with -1, which no value has."""
    found_QK = np.zeros(values_QK.shape, dtype=np.bool_)
    for column in range(sets_QS.shape[1]):
        found_QK |= values_QK == sets_QS[:, column : column + 1]
    return found_QK


def _repeats(text_QK: Indices, is_positive_QK: Flags) -> Flags:
    """Which ranked passages have the text of one that is ranked above them."""
    order_QK = np.argsort(text_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(text_QK, order_QK, axis=1)
    repeats_QK = np.zeros(text_QK.shape, dtype=np.bool_)
    np.put_along_axis(repeats_QK, order_QK[:, 1:], sorted_QK[:, 1:] == sorted_QK[:, :-1], axis=1)
    return repeats_QK & ~is_positive_QK


def _positive_scores(queries_QD: Floats, passages_PD: Floats, positives_QS: Indices) -> Floats:
    scores_QS = np.full(positives_QS.shape, np.nan, dtype=np.float32)
    for column in range(positives_QS.shape[1]):
        has = positives_QS[:, column] >= 0
        scores_QS[has, column] = np.einsum("qd,qd->q", queries_QD[has], passages_PD[positives_QS[has, column]])
    return scores_QS


def _nearest_positives(passages_PD: Floats, index_QK: Indices, positives_QS: Indices) -> Indices:
    nearest_QK = np.zeros(index_QK.shape, dtype=np.int64)
    several_Q = np.flatnonzero((positives_QS >= 0).sum(axis=1) > 1)
    # One query at a time: all at once would hold the embeddings of every ranked passage.
    for q in several_Q.tolist():
        positives_SD = passages_PD[positives_QS[q, positives_QS[q] >= 0]]
        # By angle: a long vector is not nearer.
        lengths_S1 = np.linalg.norm(positives_SD, axis=1, keepdims=True)
        unit_SD = positives_SD / np.maximum(lengths_S1, np.finfo(np.float32).tiny)
        nearest_QK[q] = np.argmax(passages_PD[index_QK[q]] @ unit_SD.T, axis=1)
    return nearest_QK


class Corpus:
    """`ids[i]` and `texts[i]` of passage i; `text_of[i]` is equal for passages of the same text."""

    def __init__(self, data: RetrievalSet):
        self.ids, self.texts = list(data.passages), list(data.passages.values())
        self._position = {passage_id: i for i, passage_id in enumerate(self.ids)}
        self._text_number: dict[str, int] = {}
        numbers = (self._text_number.setdefault(same_text_key(t), len(self._text_number)) for t in self.texts)
        self.text_of = np.fromiter(numbers, dtype=np.int64, count=len(self.texts))
        self._copies = np.bincount(self.text_of)

    def positives(self, rows: Sequence[Row]) -> Indices:
        """Positions of each row's positives, [Q, S]."""
        return _padded([{self._position[passage.id] for passage in row.positives} for row in rows])

    def excluded_text_ids(self, rows: Sequence[Row]) -> Indices:
        """Numbers of the texts of each row's positives and of its query, if the corpus has that text, [Q, S]."""
        return _padded([self._excluded(row) for row in rows])

    def max_duplicates(self, rows: Sequence[Row]) -> int:
        """The most passages that a row's positives and their copies take up among its best."""
        return max((int(self._copies[sorted(self._excluded(row))].sum()) for row in rows), default=0)

    def _excluded(self, row: Row) -> set[int]:
        texts = {int(self.text_of[self._position[passage.id]]) for passage in row.positives}
        number = self._text_number.get(same_text_key(row.query))
        return texts if number is None else texts | {number}


def _padded(sets: Sequence[Iterable[int]]) -> Indices:
    lists = [sorted(members) for members in sets]
    padded_QS = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
    for q, members in enumerate(lists):
        padded_QS[q, : len(members)] = members
    return padded_QS
