"""Flag embedding."""

from collections.abc import Sequence
from typing import Any

from data.formats.format import _mined, _passages, _row, _texts
from data.records import FieldReader, Negative, Row


def _at_least_one(row: Row, number: int) -> tuple[Negative, ...] | None:
    return row.negatives or None


# FlagEmbedding: {"query", "pos": [text], "neg": [text]}. Its data set draws at least one negative from every line.
def _flag_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [{"query": row.query, "pos": [p.text for p in row.positives], "neg": [n.text for n in negatives]}]


def _flag_from_lines(lines: Sequence[FieldReader]) -> Row:
    (reader,) = lines
    return _row(
        reader.text("query"), _passages(_texts(reader, "pos", None), reader, "pos"), _mined(_texts(reader, "neg"))
    )
