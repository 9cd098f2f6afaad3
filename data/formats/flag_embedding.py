"""FlagEmbedding: {"query", "pos": [text], "neg": [text]}."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.base.fields import Line, List, Positives, Text
from data.formats.format import Format, mined, passages
from data.records import Negative, Row


@dataclass(frozen=True, slots=True)
class _Line:
    query: Text
    pos: Positives[Text]
    neg: List[Text] = ()


class FlagEmbedding(Format):
    """Its data set draws at least one negative from every line."""

    name = "flag-embedding"

    def choose(self, row: Row, number: int) -> tuple[Negative, ...] | None:
        return row.negatives or None

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        return [{"query": row.query, "pos": [p.text for p in row.positives], "neg": [n.text for n in negatives]}]

    def decode(self, lines: Sequence[Line]) -> Row:
        line = lines[0].read(_Line)
        return Row(query=line.query, positives=passages(line.pos), negatives=mined(line.neg))
