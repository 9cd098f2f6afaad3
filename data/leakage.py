"""Does evaluation data occur in training data? Compared by text, so that renamed ids hide nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from data.records import Row
from data.retrieval_set import RetrievalSet
from data.text import same_text_key


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
