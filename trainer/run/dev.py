"""Rank a retrieval set with an encoder and score the ranking: what training stops on and what evals/ builds on."""

from collections.abc import Sequence
from itertools import islice

import ir_measures
import numpy as np
import torch

from data.retrieval_set import RetrievalSet
from trainer.distributed import ALONE, World
from trainer.encoder import Encoder
from trainer.encoder.encoder import Floats
from trainer.mining.search import top_k

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def rank_corpus(
    encoder: Encoder, retrieval_set: RetrievalSet, k: int = 100, *, progress: bool = False, world: World = ALONE
) -> Run:
    """The `k` best passages of every query with their scores: run[query_id][passage_id] = inner product.

    A passage that is the query itself (RetrievalSet.is_a_passage) is left out.
    Several processes share the encoding; each gets the whole run.
    """
    embedded = _embeddings(encoder, retrieval_set, progress, world)
    return _rank(retrieval_set, *embedded, k, encoder.device)


def dev_scores(
    encoder: Encoder, retrieval_set: RetrievalSet | None, widths: Sequence[int] = (), world: World = ALONE
) -> dict[str, float]:
    """nDCG@10 of the embeddings as `dev_ndcg_at_10`, and of their first w numbers as `dev_ndcg_at_10_at_w`.

    Nothing without a retrieval set.
    """
    if retrieval_set is None:
        return {}
    queries_QD, passages_PD = _embeddings(encoder, retrieval_set, False, world)

    def score(queries_QD: Floats, passages_PD: Floats) -> float:
        return ndcg_at_10(_rank(retrieval_set, queries_QD, passages_PD, 10, encoder.device), retrieval_set.qrels)

    narrow = {f"dev_ndcg_at_10_at_{w}": score(_narrow(queries_QD, w), _narrow(passages_PD, w)) for w in widths}
    return {"dev_ndcg_at_10": score(queries_QD, passages_PD)} | narrow


def _embeddings(encoder: Encoder, retrieval_set: RetrievalSet, progress: bool, world: World) -> tuple[Floats, Floats]:
    passages_PD = world.encode(encoder, list(retrieval_set.passages.values()), "document", progress=progress)
    return world.encode(encoder, list(retrieval_set.queries.values()), "query", progress=progress), passages_PD


def _narrow(embeddings_BD: Floats, width: int) -> Floats:
    first_BD = embeddings_BD[:, :width]
    return np.ascontiguousarray(first_BD / np.linalg.norm(first_BD, axis=1, keepdims=True).clip(min=1e-12))


def _rank(retrieval_set: RetrievalSet, queries_QD: Floats, passages_PD: Floats, k: int, device: torch.device) -> Run:
    passage_ids = list(retrieval_set.passages)
    # A query that is a passage, too, would find itself first.
    itself = {query_id for query_id in retrieval_set.queries if retrieval_set.is_a_passage(query_id)}
    scores_QK, index_QK = top_k(queries_QD, passages_PD, k + bool(itself), device)
    run: Run = {}
    for query_id, index_K, scores_K in zip(retrieval_set.queries, index_QK.tolist(), scores_QK.tolist(), strict=True):
        found = {passage_ids[i]: float(score) for i, score in zip(index_K, scores_K, strict=True)}
        if query_id in itself:
            found.pop(query_id, None)
        run[query_id] = dict(islice(found.items(), k))
    return run


def ndcg_at_10(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10 over the queries that have a relevant passage, in [0, 1], by trec_eval's code.

    A query without results counts as 0.
    """
    scored = {query_id: grades for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], scored, run)[ir_measures.nDCG @ 10])
