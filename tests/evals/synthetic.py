"""Small synthetic rows and an encoder that returns chosen vectors."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.records import Negative, Passage, Row, Verdict


class TableEncoder:
    """Returns the vector that a table holds for a text, else a vector drawn from the text's own letters."""

    def __init__(self, table: Mapping[str, Sequence[float]] | None = None, width: int = 8):
        self._table, self._width = dict(table or {}), width
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], role: object, *, progress: bool = False) -> np.ndarray:
        self.asked += texts
        return np.array([self._table.get(text, self._drawn(text)) for text in texts], dtype=np.float32)

    def _drawn(self, text: str) -> list[float]:
        vector = np.random.default_rng(list(text.encode())).normal(size=self._width)
        return list(vector / np.linalg.norm(vector))


def generated(text: str, *, answers: bool | None = False, disruption: str = "entity_shift") -> Negative:
    verdict = None if answers is None else Verdict(satisfied=(False, True), answers_query=answers, reason="it says so")
    return Negative(text=text, source="generated", disruption=disruption, verdict=verdict)


def mined(text: str) -> Negative:
    return Negative(text=text, source="mined", score=0.5)


def row(number: int, negatives: Sequence[Negative], positive: str | None = None) -> Row:
    return Row(
        query_id=f"q{number}",
        query=f"query {number}",
        positives=(Passage(id=f"p{number}", text=positive or f"answer {number}"),),
        negatives=tuple(negatives),
    )
