"""The sidecar of a converted file: what the foreign format cannot carry, line by line beside it.

`FILE.provenance.jsonl` holds, for each row of FILE in order, the ids, origins, requirements and verdicts, keyed by
content hashes of the texts. A reader that finds it gives back the rows as they were; without it, and for a text that it
does not know, every negative counts as mined.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from data.base.errors import InputError
from data.base.text import content_id
from data.records import FieldReader, Negative, Passage, Row, negative_from, requirement_from, row_to_dict, verdict_from
from data.row_files import read_objects


def sidecar_path(path: str | Path) -> Path:
    """Where the sidecar of a file lies."""
    path = Path(path)
    return path.with_name(f"{path.name}.provenance.jsonl")


def write_sidecar_line(file: IO[str], row: Row, *, num_lines: int) -> None:
    """Add one row's line; `num_lines` is how many lines of the converted file belong to it."""
    value = row_to_dict(row)
    line = {
        "key": _key(row.query),
        "query_id": row.query_id,
        "lines": num_lines,
        "positives": [_without_text(passage) for passage in value["positives"]],
        "negatives": [_without_text(negative) for negative in value["negatives"]],
        "requirements": value.get("requirements", []),
    }
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _without_text(passage: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": _key(passage["text"])} | {name: item for name, item in passage.items() if name != "text"}


class Sidecar:
    """Reads a sidecar in step with its file. Rows must be taken one by one, in order."""

    def __init__(self, path: Path):
        self._path = sidecar_path(path)
        self._lines: Iterator[tuple[int, Any]] = read_objects(self._path)

    def next_line(self) -> "SidecarLine":
        """The next row's line. Raises InputError when the sidecar has ended before its file."""
        for number, value in self._lines:
            return SidecarLine(FieldReader(value, file=str(self._path), line=number))
        raise InputError("ends before the file beside it: it belongs to another file; remove it", file=self._path)


class SidecarLine:
    """One row's provenance."""

    def __init__(self, reader: FieldReader):
        self._reader = reader
        self.num_lines = int(reader.number("lines"))

    def restore(self, row: Row) -> tuple[Row, int]:
        """The row with its ids, origins and judgements, and how many of its negatives this line does not know.

        Those come last, as the format gave them. Raises InputError when the line is about another row.
        """
        reader = self._reader
        if reader.text("key") != _key(row.query):
            reader.fail("key", "is of another query: the sidecar belongs to another file; remove it")
        saved = self._saved_positives()
        unknown: dict[str, list[Negative]] = {}
        for negative in row.negatives:
            unknown.setdefault(_key(negative.text), []).append(negative)
        # In the order of the original row; what the format left out stays out.
        known = [
            _restored(same.pop(0), item)
            for item in reader.objects("negatives")
            if (same := unknown.get(item.text("key")))
        ]
        others = [negative for same in unknown.values() for negative in same]
        restored = Row(
            query_id=reader.text("query_id"),
            query=row.query,
            positives=tuple(
                replace(found.pop(0), text=p.text) if (found := saved.get(_key(p.text))) else p for p in row.positives
            ),
            negatives=(*known, *others),
            requirements=tuple(requirement_from(item) for item in reader.objects("requirements", default=())),
        )
        return restored, len(others)

    def _saved_positives(self) -> dict[str, list[Passage]]:
        """The positives by the key of their text, without it: equal texts may have several ids."""
        saved = self._reader.value.get("positives")
        if isinstance(saved, Mapping):  # as sidecars were written at first: one id a text
            return {str(key): [Passage(id=str(found), text="")] for key, found in saved.items()}
        found: dict[str, list[Passage]] = {}
        for item in self._reader.objects("positives", default=()):
            passage = Passage(id=item.text("id"), text="", verdict=verdict_from(item))
            found.setdefault(item.text("key"), []).append(passage)
        return found


def _restored(negative: Negative, item: FieldReader) -> Negative:
    return negative_from(FieldReader({**item.value, "text": negative.text}, file=item.file, line=item.line))


def _key(text: str) -> str:
    return content_id(text)
