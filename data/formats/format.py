"""Training rows in the formats of other trainers: one reader and one writer each.

A writer turns a row into the lines of its format; a reader turns the lines of one row back. What a format cannot carry
goes into a sidecar (data/formats/sidecar.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.base.text import content_id
from data.records import FieldReader, Negative, Passage, Row, row_from_dict, row_to_dict

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    `choose(row, number)` gives the negatives that the format can hold, in its order (None: it cannot hold this row);
    `to_lines(row, negatives)` gives the row's lines; `from_lines` gives a row back, with content hashes for ids it does
    not carry and every negative as mined. `same_row(first, next)` says whether two lines of a file without sidecar
    belong to one row. `fixed_negatives`: every line has the same number.
    """

    name: str
    carries: str
    to_lines: Callable[[Row, Sequence[Negative]], list[dict[str, Any]]]
    from_lines: Callable[[Sequence[FieldReader]], Row]
    choose: Callable[[Row, int], tuple[Negative, ...] | None] = lambda row, number: row.negatives
    fixed_negatives: bool = False
    same_row: Callable[[Line, Line], bool] = lambda first, following: False
    lossless: bool = False


def _row(query: str, positives: Sequence[Passage], negatives: Iterator[Negative], query_id: str | None = None) -> Row:
    return Row(
        query_id=query_id or content_id(query), query=query, positives=tuple(positives), negatives=tuple(negatives)
    )


def _texts(reader: FieldReader, name: str, default: Any = ()) -> list[str]:
    found = reader.value.get(name, default)
    if not isinstance(found, (list, tuple)):
        reader.fail(name, f"expected a list of texts, got {type(found).__name__}")
    return [
        FieldReader({f"{name}[{i}]": text}, file=reader.file, line=reader.line).text(f"{name}[{i}]")
        for i, text in enumerate(found)
    ]


def _passages(texts: Sequence[str], reader: FieldReader, name: str) -> list[Passage]:
    if not texts:
        reader.fail(name, "expected at least one positive")
    return [Passage(id=content_id(text), text=text) for text in texts]


def _mined(texts: Sequence[str]) -> Iterator[Negative]:
    return (Negative(text=text, source="mined") for text in texts)


# Canonical rows.
def _rows_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [row_to_dict(row)]


def _rows_from_lines(lines: Sequence[FieldReader]) -> Row:
    return row_from_dict(lines[0].value, file=lines[0].file, line=lines[0].line)
