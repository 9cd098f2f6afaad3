"""A retrieval task in memory: a corpus, queries and relevance judgements. Every reader of raw data ends here."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data.base.text import same_text_key
from data.records import Passage, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """Texts by id and graded judgements; `qrels[query_id][passage_id]` > 0 means relevant.

    `queries` holds the judged queries only. A judged passage that the corpus lacks (a bad row that was skipped) stays
    judged: a query must not score better for want of it. `name` is for messages and reports. `families` gives the
    family of each passage in a challenge set, where a family is a group of passages about nearly the same thing.
    `shared_ids` says whether a passage with a query's id is that query (None: where the texts are equal).
    """

    name: str
    passages: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    families: dict[str, str] = field(default_factory=dict)
    shared_ids: bool | None = None

    def positives(self, query_id: str) -> dict[str, str]:
        """Text by id of the passages that are relevant to a query, the highest grade first."""
        grades = sorted(self.qrels.get(query_id, {}).items(), key=lambda judged: -judged[1])
        return {pid: self.passages[pid] for pid, grade in grades if grade > 0 and pid in self.passages}

    def is_a_passage(self, query_id: str) -> bool:
        """Whether the query is a passage under its own id, as in ArguAna and Quora: then that passage is no result.

        BEIR's evaluator goes by the id alone and so drops an unrelated passage where queries and passages are both
        numbered from 1; texts that are equal, a passage's title aside, tell the two apart. A passage that is judged
        relevant to itself stays.
        """
        passage = self.passages.get(query_id)
        if passage is None or self.shared_ids is not None:
            return passage is not None and bool(self.shared_ids)
        query, without_title = same_text_key(self.queries[query_id]), passage.partition("\n")[2]
        return query in (same_text_key(passage), same_text_key(without_title)) and query_id not in self.positives(
            query_id
        )

    def rows(self) -> Iterator[Row]:
        """One row without negatives for each query that has a positive; its first positive is the best graded."""
        for query_id, query in self.queries.items():
            positives = self.positives(query_id)
            if positives:
                yield Row(
                    query_id=query_id,
                    query=query,
                    positives=tuple(Passage(id=pid, text=text) for pid, text in positives.items()),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Ids of the evaluation side whose text also occurs on the training side."""

    queries: tuple[str, ...]
    relevant_passages: tuple[str, ...]
    num_queries: int
    num_relevant_passages: int

    def __bool__(self) -> bool:
        return bool(self.queries or self.relevant_passages)

    def summary(self) -> str:
        """One line: what is shared, of how many."""
        return (
            f"{len(self.queries)} of {self.num_queries} evaluation queries and {len(self.relevant_passages)} of "
            f"{self.num_relevant_passages} of their relevant passages also occur in the training data"
        )


def find_leakage(train: Iterable[Row], evaluation: RetrievalSet) -> Leakage:
    """Find evaluation queries and relevant passages whose text is a query, positive or generated text in `train`.

    Mined negatives are left out: training and evaluation often share a corpus, and a mined negative is no answer key.
    """
    queries: set[str] = set()
    passages: set[str] = set()
    for row in train:
        queries.add(same_text_key(row.query))
        passages.update(same_text_key(passage.text) for passage in row.positives)
        passages.update(same_text_key(negative.text) for negative in row.of_source("generated"))
    relevant = {pid: text for qid in evaluation.queries for pid, text in evaluation.positives(qid).items()}
    return Leakage(
        queries=tuple(qid for qid, text in evaluation.queries.items() if same_text_key(text) in queries),
        relevant_passages=tuple(pid for pid, text in relevant.items() if same_text_key(text) in passages),
        num_queries=len(evaluation.queries),
        num_relevant_passages=len(relevant),
    )
