"""Tevatron."""

from collections.abc import Sequence
from typing import Any

from data.base.text import content_id, passage_text
from data.formats.format import _row
from data.records import FieldReader, Negative, Passage, Row


# Tevatron: passages as {"docid", "title", "text"}.
def _tevatron_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
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


def _tevatron_from_lines(lines: Sequence[FieldReader]) -> Row:
    (reader,) = lines
    positives = [Passage(id=p.text("docid"), text=_titled(p)) for p in reader.objects("positive_passages")]
    if not positives:
        reader.fail("positive_passages", "expected at least one positive")
    negatives = (
        Negative(text=_titled(n), source="mined", id=n.text("docid"))
        for n in reader.objects("negative_passages", default=())
    )
    return _row(reader.text("query"), positives, negatives, reader.text("query_id"))


def _titled(reader: FieldReader) -> str:
    return passage_text(reader.text("title", default=None), reader.text("text"))
