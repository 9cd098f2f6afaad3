"""Rank a retrieval set with an encoder and score the ranking: what training stops on and what evals/ builds on."""

import ir_measures

from data.retrieval_set import RetrievalSet
from trainer.encoder import Encoder
from trainer.search import top_k
from trainer.world import ALONE, World

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def rank(
    encoder: Encoder, retrieval_set: RetrievalSet, k: int = 100, *, progress: bool = False, world: World = ALONE
) -> Run:
    """The `k` best passages of every query with their scores: run[query_id][passage_id] = inner product.

    Several processes share the encoding; each gets the whole run.
    """
    passage_ids, query_ids = list(retrieval_set.passages), list(retrieval_set.queries)
    passages_PD = world.encode(encoder, list(retrieval_set.passages.values()), "document", progress=progress)
    queries_QD = world.encode(encoder, list(retrieval_set.queries.values()), "query", progress=progress)
    scores_QK, index_QK = top_k(queries_QD, passages_PD, k)
    return {
        query_id: {passage_ids[i]: float(score) for i, score in zip(index_K, scores_K, strict=True)}
        for query_id, index_K, scores_K in zip(query_ids, index_QK.tolist(), scores_QK.tolist(), strict=True)
    }


def ndcg_at_10(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10 over the judged queries, in [0, 1], by trec_eval's code; a query without results counts as 0."""
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])
