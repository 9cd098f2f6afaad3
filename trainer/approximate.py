"""Approximate search for corpora on which exact search takes too long: FAISS' IVF and HNSW indexes.

Axes: Q queries, P passages, K results a query, D width.
"""

import logging
import math
from typing import Any, Literal

import numpy as np

from trainer.encoder.encoder import Floats, Indices
from trainer.search import checked_queries, top_k

log = logging.getLogger(__name__)
Kind = Literal["ivf", "hnsw"]

# Passages per cluster centre that FAISS needs to place it well; more are not looked at.
_TRAINED_ON = 64
_ADDED_AT_ONCE = 65536
_QUERIES_FOR_RECALL = 100


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
