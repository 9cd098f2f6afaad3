"""Exact nearest passages by inner product, in blocks that bound the memory. Mining, dev evaluation and evals share it.

Axes: Q queries, P passages, K results a query, D width.
"""

import logging
import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.base.errors import InputError
from trainer.encoder.encoder import Floats, Indices

log = logging.getLogger(__name__)
Kind = Literal["ivf", "hnsw"]
# Passages per cluster centre that FAISS needs to place it well; more are not looked at.
_TRAINED_ON = 64
_ADDED_AT_ONCE = 65536
_QUERIES_FOR_RECALL = 100

Backend = Literal["torch", "faiss"]

# One block of scores: 256 queries x 65,536 passages in float32 are 64 MiB.
_QUERIES, _PASSAGES = 256, 65536
# FAISS cuts its own blocks of passages and is faster with many queries at a time.
_FAISS_QUERIES = 8192
_BROKEN = "an embedding holds NaN or infinity: the model is broken"


def top_k(queries_QD: Floats, passages_PD: Floats, k: int, *, backend: Backend = "torch") -> tuple[Floats, Indices]:
    """The k best passages of every query: scores_QK, falling, and their rows in `passages_PD` as index_QK.

    Exact. Equal scores are ordered by the lower row, at the cut too, so that a result does not depend on the block
    size (`faiss` promises this only inside what it returns). k is cut to the number of passages. `passages_PD` may be
    memory-mapped. Raises InputError when widths differ or a vector is not finite.
    """
    checked_queries(queries_QD, passages_PD)
    k = min(k, len(passages_PD))
    if len(queries_QD) == 0 or k <= 0:
        return np.empty((len(queries_QD), max(k, 0)), np.float32), np.empty((len(queries_QD), max(k, 0)), np.int64)
    search, size = (_faiss_block, _FAISS_QUERIES) if backend == "faiss" else (_torch_block, _QUERIES)
    blocks = [search(queries_QD[start : start + size], passages_PD, k) for start in range(0, len(queries_QD), size)]
    scores_QK = np.concatenate([scores for scores, _ in blocks])
    if not np.isfinite(scores_QK).all():
        raise InputError(_BROKEN)
    return scores_QK, np.concatenate([index for _, index in blocks])


def checked_queries(queries_QD: Floats, passages_PD: Floats) -> None:
    """Raises InputError when the widths differ or a query is not finite."""
    if queries_QD.shape[1] != passages_PD.shape[1]:
        raise InputError(
            f"query embeddings are {queries_QD.shape[1]} wide and passage embeddings {passages_PD.shape[1]}: "
            "they come from different models"
        )
    if not np.isfinite(queries_QD).all():
        raise InputError(_BROKEN)


def _torch_block(queries_QD: Floats, passages_PD: Floats, k: int) -> tuple[Floats, Indices]:
    queries = _tensor(queries_QD)
    best_scores: Tensor | None = None
    best_index = torch.empty(0, dtype=torch.long)
    for start in range(0, len(passages_PD), _PASSAGES):
        passages = _tensor(passages_PD[start : start + _PASSAGES])
        scores_QK, index_QK = _stable_top_k(queries @ passages.T, k)
        index_QK = index_QK + start
        if best_scores is not None:
            # Earlier blocks come first, so that among equal scores the lower row keeps winning.
            scores_QK, chosen = _stable_top_k(torch.cat([best_scores, scores_QK], dim=1), k)
            index_QK = torch.cat([best_index, index_QK], dim=1).gather(1, chosen)
        best_scores, best_index = scores_QK, index_QK
    assert best_scores is not None
    return best_scores.numpy(), best_index.numpy()


def _tensor(values: Floats) -> Tensor:
    # Blocks of a memory-mapped file are read-only, which torch does not have.
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _stable_top_k(scores_QP: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk with ties, at the cut too, broken by the lower column."""
    k = min(k, scores_QP.shape[1])
    # One more than asked for shows whether the cut runs through equal scores.
    best_QK, index_QK = torch.topk(scores_QP, min(k + 1, scores_QP.shape[1]), dim=1)
    if best_QK.shape[1] > k:
        for q in torch.nonzero(best_QK[:, k] == best_QK[:, k - 1]).flatten().tolist():
            order = torch.argsort(scores_QP[q], descending=True, stable=True)[:k]
            index_QK[q, :k], best_QK[q, :k] = order, scores_QP[q, order]
    best_QK, index_QK = best_QK[:, :k], index_QK[:, :k]
    # Sort by row, then stably by score: equal scores end up in the order of their rows.
    index_QK, by_row = index_QK.sort(dim=1)
    best_QK, by_score = best_QK.gather(1, by_row).sort(dim=1, descending=True, stable=True)
    return best_QK, index_QK.gather(1, by_score)


def _faiss_block(queries_QD: Floats, passages_PD: Floats, k: int) -> tuple[Floats, Indices]:
    import faiss

    # FAISS would leave such passages out and say nothing.
    if not all(np.isfinite(passages_PD[i : i + _PASSAGES]).all() for i in range(0, len(passages_PD), _PASSAGES)):
        raise InputError(_BROKEN)
    scores_QK, index_QK = faiss.knn(
        np.ascontiguousarray(queries_QD), np.ascontiguousarray(passages_PD), k, metric=faiss.METRIC_INNER_PRODUCT
    )
    order = np.lexsort((index_QK, -scores_QK))
    return np.take_along_axis(scores_QK, order, 1), np.take_along_axis(index_QK, order, 1).astype(np.int64)


class ApproximateIndex:
    """An index over passages; `search` answers like `top_k` and misses some. Scores that it returns are exact."""

    def __init__(self, passages_PD: Floats, kind: Kind):
        import faiss

        self._passages_PD = passages_PD
        count, width = passages_PD.shape
        if kind == "hnsw":
            self._index: Any = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = 128
        else:
            num_clusters = max(1, min(count // 39, round(4 * math.sqrt(count))))
            centres = faiss.IndexFlatIP(width)
            self._index = faiss.IndexIVFFlat(centres, width, num_clusters, faiss.METRIC_INNER_PRODUCT)
            self._index.own_fields = False
            self._centres = centres  # FAISS keeps a bare pointer to it
            # An eighth of the clusters: recall above 0.95 where neighbours cluster at all.
            self._index.nprobe = max(8, num_clusters // 8)
            step = max(1, count // (num_clusters * _TRAINED_ON))
            self._index.train(np.ascontiguousarray(passages_PD[::step]))
        for start in range(0, count, _ADDED_AT_ONCE):
            self._index.add(np.ascontiguousarray(passages_PD[start : start + _ADDED_AT_ONCE]))
        self._kind = kind

    def search(self, queries_QD: Floats, k: int) -> tuple[Floats, Indices]:
        """scores_QK, falling, and index_QK; a place that was not filled has index -1 and score -inf."""
        checked_queries(queries_QD, self._passages_PD)
        k = min(k, len(self._passages_PD))
        if self._kind == "hnsw":
            self._index.hnsw.efSearch = max(2 * k, 128)
        scores_QK, index_QK = self._index.search(np.ascontiguousarray(queries_QD), k)
        scores_QK[index_QK < 0] = -np.inf
        order = np.lexsort((index_QK, -scores_QK))
        return np.take_along_axis(scores_QK, order, 1), np.take_along_axis(index_QK, order, 1).astype(np.int64)

    def recall(self, queries_QD: Floats, k: int) -> float:
        """Share of the exact top k that the index finds, on up to a hundred of the queries."""
        sample = queries_QD[:: max(1, len(queries_QD) // _QUERIES_FOR_RECALL)]
        _, exact = top_k(sample, self._passages_PD, k)
        _, found = self.search(sample, k)
        hits = sum(len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True))
        return hits / max(1, exact.size)
