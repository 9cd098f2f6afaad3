"""A corpus by position, and which of its passages share a text.

Axes: Q rows, S members of a row's set (padded with -1), P passages.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data.base.text import same_text_key
from data.records import Row
from data.retrieval_set import RetrievalSet
from trainer.encoder.encoder import Indices


class Corpus:
    """`ids[i]` and `texts[i]` of passage i; `text_of[i]` is equal for passages of the same text."""

    def __init__(self, data: RetrievalSet):
        self.ids, self.texts = list(data.passages), list(data.passages.values())
        self._position = {passage_id: i for i, passage_id in enumerate(self.ids)}
        self._text_number: dict[str, int] = {}
        numbers = (self._text_number.setdefault(same_text_key(t), len(self._text_number)) for t in self.texts)
        self.text_of = np.fromiter(numbers, dtype=np.int64, count=len(self.texts))
        self._copies = np.bincount(self.text_of)

    def positives(self, rows: Sequence[Row]) -> Indices:
        """Positions of each row's positives, [Q, S]."""
        return _padded([{self._position[passage.id] for passage in row.positives} for row in rows])

    def taken_texts(self, rows: Sequence[Row]) -> Indices:
        """Numbers of the texts of each row's positives and of its query, if the corpus has that text, [Q, S]."""
        return _padded([self._taken(row) for row in rows])

    def most_copies(self, rows: Sequence[Row]) -> int:
        """The most passages that a row's positives and their copies take up among its best."""
        return max((int(self._copies[sorted(self._taken(row))].sum()) for row in rows), default=0)

    def _taken(self, row: Row) -> set[int]:
        texts = {int(self.text_of[self._position[passage.id]]) for passage in row.positives}
        number = self._text_number.get(same_text_key(row.query))
        return texts if number is None else texts | {number}


def _padded(sets: Sequence[Iterable[int]]) -> Indices:
    lists = [sorted(members) for members in sets]
    padded_QS = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
    for q, members in enumerate(lists):
        padded_QS[q, : len(members)] = members
    return padded_QS
