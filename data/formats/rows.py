"""Canonical rows: one JSON object a row, everything in it."""

from collections.abc import Sequence
from typing import Any

from data.base.fields import Line
from data.formats.format import Format
from data.records import Negative, Row, row_to_dict
from data.row_files import read_row


class Rows(Format):
    """This project's own format."""

    name = "rows"
    carries = "everything"
    lossless = True

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        return [row_to_dict(row)]

    def decode(self, lines: Sequence[Line]) -> Row:
        return read_row(lines[0])
