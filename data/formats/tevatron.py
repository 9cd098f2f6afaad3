"""Tevatron: {"query_id", "query"} and passages as {"docid", "title", "text"}."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.base.fields import Line, List, OptionalText, Positives, Text
from data.base.text import content_id, passage_text
from data.formats.format import Format
from data.records import Negative, Passage, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passage:
    docid: Text
    title: OptionalText = None
    text: Text

    def joined(self) -> str:
        return passage_text(self.title, self.text)


@dataclass(frozen=True, slots=True)
class _Line:
    query_id: Text
    query: Text
    positive_passages: Positives[_Passage]
    negative_passages: List[_Passage] = ()


class Tevatron(Format):
    """The one foreign format here that carries ids."""

    name = "tevatron"
    carries = "texts and ids"

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        return [
            {
                "query_id": row.query_id,
                "query": row.query,
                "positive_passages": [{"docid": p.id, "title": "", "text": p.text} for p in row.positives],
                "negative_passages": [
                    {"docid": n.id or content_id(n.text), "title": "", "text": n.text} for n in negatives
                ],
            }
        ]

    def decode(self, lines: Sequence[Line]) -> Row:
        line = lines[0].read(_Line)
        return Row(
            query_id=line.query_id,
            query=line.query,
            positives=tuple(Passage(id=p.docid, text=p.joined()) for p in line.positive_passages),
            negatives=tuple(Negative(id=n.docid, text=n.joined(), source="mined") for n in line.negative_passages),
        )
