"""Nearest passages by inner product, for mining, dev evaluation and evals: exact, or approximate where there are many.

Axes: Q queries, P passages, K results a query, D width.
"""

import math

import numpy as np
import torch
from torch import Tensor

from data.base.errors import InputError
from trainer.encoder.encoder import Floats, Indices

# Passages per cluster centre that FAISS needs to place it well; more are not looked at.
_TRAINED_ON = 64
_ADDED_AT_ONCE = 65536
_QUERIES_FOR_RECALL = 100

# One block of scores on a GPU: 256 queries x 65,536 passages in float32 are 64 MiB.
_QUERIES, _PASSAGES = 256, 65536
CPU = torch.device("cpu")
_BROKEN = "an embedding holds NaN or infinity: the model is broken"


def top_k(queries_QD: Floats, passages_PD: Floats, k: int, device: torch.device = CPU) -> tuple[Floats, Indices]:
    """The k best passages of every query: scores_QK, falling, and their rows in `passages_PD` as index_QK.

    Exact: by FAISS on a CPU, by torch in blocks on a GPU. Equal scores are ordered by the lower row, at the cut too. k
    is cut to the number of passages. `passages_PD` may be memory-mapped. Raises InputError when widths differ or a
    vector is not finite.
    """
    checked_queries(queries_QD, passages_PD)
    k = min(k, len(passages_PD))
    if len(queries_QD) == 0 or k <= 0:
        return np.empty((len(queries_QD), max(k, 0)), np.float32), np.empty((len(queries_QD), max(k, 0)), np.int64)
    # FAISS would leave such passages out and say nothing.
    if not all(np.isfinite(passages_PD[i : i + _PASSAGES]).all() for i in range(0, len(passages_PD), _PASSAGES)):
        raise InputError(_BROKEN)
    return (
        _by_faiss(queries_QD, passages_PD, k) if device.type == "cpu" else _by_torch(queries_QD, passages_PD, k, device)
    )


def checked_queries(queries_QD: Floats, passages_PD: Floats) -> None:
    """Raises InputError when the widths differ or a query is not finite."""
    if queries_QD.shape[1] != passages_PD.shape[1]:
        raise InputError(
            f"query embeddings are {queries_QD.shape[1]} wide and passage embeddings {passages_PD.shape[1]}: "
            "they come from different models"
        )
    if not np.isfinite(queries_QD).all():
        raise InputError(_BROKEN)


def _by_torch(queries_QD: Floats, passages_PD: Floats, k: int, device: torch.device) -> tuple[Floats, Indices]:
    found = [
        _torch_block(queries_QD[i : i + _QUERIES], passages_PD, k, device) for i in range(0, len(queries_QD), _QUERIES)
    ]
    return np.concatenate([scores for scores, _ in found]), np.concatenate([index for _, index in found])


def _torch_block(queries_QD: Floats, passages_PD: Floats, k: int, device: torch.device) -> tuple[Floats, Indices]:
    queries = _tensor(queries_QD, device)
    best_scores, best_index = (
        queries.new_empty(len(queries), 0),
        torch.empty(len(queries), 0, dtype=torch.long, device=device),
    )
    for start in range(0, len(passages_PD), _PASSAGES):
        scores_QK, index_QK = stable_top_k(queries @ _tensor(passages_PD[start : start + _PASSAGES], device).T, k)
        # Earlier blocks come first, so that among equal scores the lower row keeps winning.
        best_scores, chosen = stable_top_k(torch.cat([best_scores, scores_QK], dim=1), k)
        best_index = torch.cat([best_index, index_QK + start], dim=1).gather(1, chosen)
    return best_scores.cpu().numpy(), best_index.cpu().numpy()


def _tensor(values: Floats, device: torch.device) -> Tensor:
    # Blocks of a memory-mapped file are read-only, which torch does not have.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)


def stable_top_k(scores_QP: Tensor, k: int) -> tuple[Tensor, Tensor]:
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


def _by_faiss(queries_QD: Floats, passages_PD: Floats, k: int) -> tuple[Floats, Indices]:
    import faiss

    passages_PD = np.ascontiguousarray(passages_PD)
    # One more than asked for shows whether the cut runs through equal scores: which of them FAISS keeps is chance.
    found = faiss.knn(np.ascontiguousarray(queries_QD), passages_PD, min(k + 1, len(passages_PD)),
                      metric=faiss.METRIC_INNER_PRODUCT)  # fmt: skip
    scores_QK, index_QK = _in_order(*found)
    if len(passages_PD) > k:
        tied_Q = scores_QK[:, k] == scores_QK[:, k - 1]
        scores_QK, index_QK = scores_QK[:, :k].copy(), index_QK[:, :k].copy()
        if tied_Q.any():
            scores_QK[tied_Q], index_QK[tied_Q] = _by_torch(queries_QD[tied_Q], passages_PD, k, CPU)
    return scores_QK, index_QK


def _in_order(scores_QK: Floats, index_QK: Indices) -> tuple[Floats, Indices]:
    """By falling score, equal ones by the lower row."""
    order_QK = np.lexsort((index_QK, -scores_QK))
    return np.take_along_axis(scores_QK, order_QK, 1), np.take_along_axis(index_QK, order_QK, 1).astype(np.int64)


class ApproximateIndex:
    """An inverted file over passages; `search` answers like `top_k` and misses some; its scores are exact."""

    def __init__(self, passages_PD: Floats):
        import faiss

        self._passages_PD = passages_PD
        count, width = passages_PD.shape
        num_clusters = max(1, min(count // 39, round(4 * math.sqrt(count))))
        self._centres = faiss.IndexFlatIP(width)  # FAISS keeps a bare pointer to it
        self._index = faiss.IndexIVFFlat(self._centres, width, num_clusters, faiss.METRIC_INNER_PRODUCT)
        self._index.own_fields = False
        # An eighth of the clusters: recall above 0.95 where neighbours cluster at all.
        self._index.nprobe = max(8, num_clusters // 8)
        step = max(1, count // (num_clusters * _TRAINED_ON))
        self._index.train(np.ascontiguousarray(passages_PD[::step]))
        for start in range(0, count, _ADDED_AT_ONCE):
            self._index.add(np.ascontiguousarray(passages_PD[start : start + _ADDED_AT_ONCE]))

    def search(self, queries_QD: Floats, k: int) -> tuple[Floats, Indices]:
        """scores_QK, falling, and index_QK; a place that was not filled has index -1 and score -inf."""
        checked_queries(queries_QD, self._passages_PD)
        scores_QK, index_QK = self._index.search(np.ascontiguousarray(queries_QD), min(k, len(self._passages_PD)))
        scores_QK[index_QK < 0] = -np.inf
        return _in_order(scores_QK, index_QK)

    def recall(self, queries_QD: Floats, k: int) -> float:
        """Share of the exact top k that the index finds, on up to a hundred of the queries."""
        sample = queries_QD[:: max(1, len(queries_QD) // _QUERIES_FOR_RECALL)]
        _, exact = top_k(sample, self._passages_PD, k)
        _, found = self.search(sample, k)
        hits = sum(len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True))
        return hits / max(1, exact.size)
