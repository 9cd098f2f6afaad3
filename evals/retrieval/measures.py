"""Retrieval metrics by query through ir-measures (trec_eval's code), for any encoder over any judged collection."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, Success, nDCG

from data.base.stats import Interval, bootstrap_interval
from data.retrieval_set import RetrievalSet
from trainer.encoder import Encoder
from trainer.run.dev import rank_corpus

MEASURES = {
    "ndcg@10": nDCG @ 10,
    "mrr@10": RR,  # of a run that is cut to its first ten
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "map": AP,
    "accuracy@1": Success @ 1,
}

# In a challenge set: the answer is first among the passages of its own family.
SIBLINGS = "siblings"
LABELS = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@10": "Recall@10",
    "recall@100": "Recall@100",
    "map": "MAP",
    "accuracy@1": "accuracy@1",
    SIBLINGS: "tells siblings apart",
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

    def of_queries(self, measure: str, query_ids: Iterable[str]) -> list[float]:
        """The values of some queries; those without a judgement are left out."""
        return [self.per_query[measure][q] for q in query_ids if q in self.per_query[measure]]

    def interval(self, measure: str) -> Interval:
        """The mean with its 95% bootstrap interval over queries."""
        return bootstrap_interval(list(self.per_query[measure].values()))


def score_run(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> RetrievalScores:
    """Score a run {query: {passage: similarity}} against judgements {query: {passage: grade}}."""
    names = {measure: name for name, measure in MEASURES.items()}
    # trec_eval leaves out queries that have no relevant passage; so do we, and count a query with no result as 0.
    judged = [query_id for query_id, grades in qrels.items() if any(grade > 0 for grade in grades.values())]
    per_query = {name: dict.fromkeys(judged, 0.0) for name in MEASURES}
    judgements = {query_id: dict(qrels[query_id]) for query_id in judged}
    first_ten = {query_id: first_ranked(found, 10) for query_id, found in run.items()}
    results = chain(
        ir_measures.iter_calc([measure for measure in MEASURES.values() if measure != RR], judgements, run),
        # ir-measures hands RR@10 to another provider, which breaks ties in another way than trec_eval.
        ir_measures.iter_calc([RR], judgements, first_ten),
    )
    for result in results:
        if result.query_id in per_query[names[result.measure]]:
            per_query[names[result.measure]][result.query_id] = float(result.value)
    return RetrievalScores(per_query=per_query)


def first_ranked(found: Mapping[str, float], k: int | None) -> dict[str, float]:
    """The k best passages (None: all) as trec_eval ranks them: by the score in single precision, ties by the higher
    id."""
    return dict(
        nlargest(len(found) if k is None else k, found.items(), key=lambda item: (np.float32(item[1]), item[0]))
    )


def score(run: Run, retrieval_set: RetrievalSet) -> RetrievalScores:
    """`score_run`, and for a challenge set whether each answer beats its siblings (measure "siblings")."""
    scores = score_run(run, retrieval_set.qrels)
    if retrieval_set.families:
        scores.per_query[SIBLINGS] = tells_siblings_apart(run, retrieval_set)
    return scores


def evaluate(encoder: Encoder, retrieval_set: RetrievalSet) -> RetrievalScores:
    """Encode, rank the 1000 best passages of each query and score them."""
    return score(ranked(encoder, retrieval_set), retrieval_set)


def ranked(encoder: Encoder, retrieval_set: RetrievalSet, *, progress: bool = False) -> Run:
    """What `evaluate` scores."""
    return rank_corpus(encoder, retrieval_set, k=1000, progress=progress)


def tells_siblings_apart(run: Run, retrieval_set: RetrievalSet) -> dict[str, float]:
    """1.0 by query where its best-ranked positive is first among the passages of that positive's family, else 0.0.

    A query whose positives the corpus lacks (see RetrievalSet) is none that tells them apart.
    """
    families, result = retrieval_set.families, {}
    members: dict[str, list[str]] = {}
    for passage_id, family in families.items():
        members.setdefault(family, []).append(passage_id)
    for query_id in retrieval_set.queries:
        scores = run.get(query_id, {})
        positives = retrieval_set.positives(query_id)
        if not positives:
            if any(grade > 0 for grade in retrieval_set.qrels[query_id].values()):
                result[query_id] = 0.0
            continue
        # A passage that was not retrieved ranks below every one that was.
        best = max(positives, key=lambda pid: scores.get(pid, float("-inf")))
        siblings = [pid for pid in members[families[best]] if pid not in positives]
        best_sibling = max((scores.get(pid, float("-inf")) for pid in siblings), default=float("-inf"))
        # A tie is not telling apart.
        result[query_id] = float(scores.get(best, float("-inf")) > best_sibling)
    return result
