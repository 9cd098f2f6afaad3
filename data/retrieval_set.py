"""A retrieval task in memory: a corpus, queries and relevance judgements. Every reader of raw data ends here."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from data.records import Passage, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """Texts by id and graded judgements; `qrels[query_id][passage_id]` > 0 means relevant.

    `queries` holds the judged queries only. `name` is for messages and reports. `families` gives the family of each
    passage in a challenge set, where a family is a group of passages about nearly the same thing; empty elsewhere.
    """

    name: str
    passages: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    families: dict[str, str] = field(default_factory=dict)

    def positives(self, query_id: str) -> dict[str, str]:
        """Text by id of the passages that are relevant to a query."""
        return {pid: self.passages[pid] for pid, grade in self.qrels.get(query_id, {}).items() if grade > 0}

    def rows(self) -> Iterator[Row]:
        """One row without negatives for each query that has a positive."""
        for query_id, query in self.queries.items():
            positives = self.positives(query_id)
            if positives:
                yield Row(
                    query_id=query_id,
                    query=query,
                    positives=tuple(Passage(id=pid, text=text) for pid, text in positives.items()),
                )
