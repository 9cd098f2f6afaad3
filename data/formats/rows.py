"""Canonical rows: one JSON object a row, everything in it."""

from collections.abc import Sequence
from typing import Any

from data.base.fields import Line
from data.formats.format import Format
from data.records import Negative, Row, row_from_dict, row_to_dict


class Rows(Format):
    """This project's own format."""

    name = "rows"
    carries = "everything"
    lossless = True

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        return [row_to_dict(row)]

    def decode(self, lines: Sequence[Line]) -> Row:
        line = lines[0]
        return row_from_dict(line.value, file=line.file, line=line.number)
