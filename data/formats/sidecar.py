"""The sidecar of a converted file: what the foreign format cannot carry, line by line beside it.

`FILE.provenance.jsonl` holds the rows of FILE in order, with a content hash (`key`) in the place of each text, so that
ids, origins, requirements and verdicts come back. A text that it does not know is a mined negative of unknown origin.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from data.base.errors import InputError
from data.base.fields import Line
from data.base.text import content_id
from data.records import Negative, Passage, Row, row_from_dict, row_to_dict
from data.row_files import read_objects


def sidecar_path(path: str | Path) -> Path:
    """Where the sidecar of a file lies."""
    path = Path(path)
    return path.with_name(f"{path.name}.provenance.jsonl")


def write_sidecar_line(file: IO[str], row: Row, *, num_lines: int) -> None:
    """Add one row's line; `num_lines` is how many lines of the converted file belong to it."""
    value = row_to_dict(row)
    line = {
        "key": content_id(value.pop("query")),
        "lines": num_lines,
        **value,
        "positives": [_keyed(passage) for passage in value["positives"]],
        "negatives": [_keyed(negative) for negative in value["negatives"]],
    }
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _keyed(passage: dict[str, Any]) -> dict[str, Any]:
    return {"key": content_id(passage["text"])} | {name: item for name, item in passage.items() if name != "text"}


class Sidecar:
    """Reads a sidecar in step with its file. Rows must be taken one by one, in order."""

    def __init__(self, path: Path):
        self._path = sidecar_path(path)
        self._lines = read_objects(self._path)

    def next_line(self) -> "SidecarLine":
        """The next row's line. Raises InputError when the sidecar has ended before its file."""
        for line in self._lines:
            return _read(line)
        raise InputError("ends before the file beside it: it belongs to another file; remove it", file=self._path)


@dataclass(frozen=True, slots=True)
class SidecarLine:
    """One row's provenance: `saved` is the row with keys for texts, `num_lines` how many lines of the file it has."""

    line: Line
    num_lines: int
    saved: Row

    def restore(self, row: Row) -> tuple[Row, int]:
        """The row with its ids, origins and judgements, and how many of its negatives this line does not know.

        Those come last, as the format gave them. Raises InputError when the line is about another row.
        """
        if self.saved.query != content_id(row.query):
            raise self.line.fault("is of another query: the sidecar belongs to another file; remove it", "key")
        positives, unknown = _by_key(self.saved.positives, key=False), _by_key(row.negatives)
        # In the order of the original row; what the format left out stays out.
        known = [replace(one, text=same.pop(0).text) for one in self.saved.negatives if (same := unknown.get(one.text))]
        others = [negative for same in unknown.values() for negative in same]
        restored = replace(
            self.saved,
            query=row.query,
            positives=tuple(
                replace(saved.pop(0), text=passage.text)
                if (saved := positives.get(content_id(passage.text)))
                else passage
                for passage in row.positives
            ),
            negatives=(*known, *others),
        )
        return restored, len(others)


P = TypeVar("P", Passage, Negative)


def _by_key(passages: Iterable[P], *, key: bool = True) -> dict[str, list[P]]:
    """The passages of each text: equal texts may have several ids. `key`: their texts are not keys already."""
    found: dict[str, list[P]] = {}
    for passage in passages:
        found.setdefault(content_id(passage.text) if key else passage.text, []).append(passage)
    return found


def _read(line: Line) -> SidecarLine:
    def unkeyed(items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [item | {"text": item.get("key")} if isinstance(item, dict) else item for item in items]

    value = line.value
    if not isinstance(value, dict) or type(value.get("lines")) is not int or value["lines"] < 1:
        raise line.fault("expected how many lines of the file beside it belong to this row", "lines")
    row = value | {"query": value.get("key")} | {name: unkeyed(value.get(name)) for name in ("positives", "negatives")}
    return SidecarLine(line, value["lines"], row_from_dict(row, file=line.file, line=line.number))
