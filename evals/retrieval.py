"""Retrieval metrics by query through ir-measures (trec_eval's code), for any encoder over any judged collection."""

from collections.abc import Mapping
from dataclasses import dataclass

import ir_measures
from ir_measures import AP, RR, R, Success, nDCG

from data.retrieval_set import RetrievalSet
from evals.stats import Interval, bootstrap_interval
from trainer.dev import rank
from trainer.encoder import Encoder

MEASURES = {
    "ndcg@10": nDCG @ 10,
    "mrr@10": RR @ 10,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "map": AP,
    "accuracy@1": Success @ 1,
}

Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalScores:
    """`per_query[measure][query_id]`; a query for which nothing was retrieved scores 0."""

    per_query: dict[str, dict[str, float]]

    def mean(self, measure: str) -> float:
        values = self.per_query[measure].values()
        return sum(values) / len(values)

    def means(self) -> dict[str, float]:
        return {measure: self.mean(measure) for measure in self.per_query}

    def interval(self, measure: str) -> Interval:
        """The mean with its 95% bootstrap interval over queries."""
        return bootstrap_interval(list(self.per_query[measure].values()))


def score_run(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> RetrievalScores:
    """Score a run {query: {passage: similarity}} against judgements {query: {passage: grade}}."""
    names = {measure: name for name, measure in MEASURES.items()}
    # trec_eval leaves out queries that have no relevant passage; so do we, and count a query with no result as 0.
    judged = [query_id for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values())]
    per_query = {name: dict.fromkeys(judged, 0.0) for name in MEASURES}
    for result in ir_measures.iter_calc(list(MEASURES.values()), {q: dict(qrels[q]) for q in judged}, run):
        if result.query_id in per_query[names[result.measure]]:
            per_query[names[result.measure]][result.query_id] = float(result.value)
    return RetrievalScores(per_query=per_query)


def evaluate(encoder: Encoder, retrieval_set: RetrievalSet, *, progress: bool = False) -> RetrievalScores:
    """Encode, rank the 1000 best passages of each query and score them."""
    return score_run(rank(encoder, retrieval_set, k=1000, progress=progress), retrieval_set.qrels)


def tells_siblings_apart(run: Run, retrieval_set: RetrievalSet, families: Mapping[str, str]) -> dict[str, float]:
    """1.0 by query where the answer ranks first among the passages of its own family, else 0.0.

    `families` gives the family of each passage id. Every query must have exactly one positive.
    """
    result = {}
    for query_id, scores in run.items():
        (answer,) = retrieval_set.positives(query_id)
        siblings = [pid for pid in retrieval_set.passages if families[pid] == families[answer] and pid != answer]
        best_sibling = max((scores.get(pid, float("-inf")) for pid in siblings), default=float("-inf"))
        # A tie is not telling apart.
        result[query_id] = float(scores.get(answer, float("-inf")) > best_sibling)
    return result
