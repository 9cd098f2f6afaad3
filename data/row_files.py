"""JSONL in and out: any file of objects, and the canonical file of training rows."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import atomic_writer, numbered_lines, open_bytes
from data.records import Row, row_from_dict, row_to_dict

_GROUP = 1_000  # rows in memory at once


class BadRows:
    """Collects rows that were skipped instead of stopping at the first one (`--skip-bad-rows`)."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []
        self.by_fault: Counter[str] = Counter()

    def add(self, error: InputError) -> None:
        self.count += 1
        self.by_fault[f"{error.field}: {error.what}" if error.field else error.what] += 1
        if len(self.examples) < 5:
            self.examples.append(str(error))

    def summary(self) -> str:
        """One line a reader of the log can act on."""
        shown = "; ".join(self.examples)
        return f"skipped {self.count} bad rows" + (f" (first: {shown})" if shown else "")


def read_objects(path: str | Path, bad_rows: BadRows | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (1-based line, decoded value) of every non-blank line. Raises InputError unless `bad_rows` collects it."""
    for line, raw in numbered_lines(path, None if bad_rows is None else bad_rows.add):
        if not raw.strip():
            continue
        try:
            # Python's json takes NaN and Infinity, which are not JSON and which no other reader accepts.
            yield line, json.loads(raw, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            fault = InputError(f"not valid JSON ({error})", file=path, line=line)
            if bad_rows is None:
                raise fault from error
            bad_rows.add(fault)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_rows(path: str | Path, bad_rows: BadRows | None = None) -> Iterator[Row]:
    """Stream the training rows of a canonical file: JSONL, or Parquet where the name ends in .parquet.

    Raises InputError (file, line, field) at the first bad row, or counts it in `bad_rows` and goes on.
    """
    path = Path(path)
    values = read_parquet_objects(path) if path.suffix == ".parquet" else read_objects(path, bad_rows)
    for line, value in values:
        try:
            yield row_from_dict(value, file=str(path), line=line)
        except InputError as error:
            if bad_rows is None:
                raise
            bad_rows.add(error)


def count_rows(path: str | Path, at_most: int | None = None) -> int:
    """How many rows a canonical file holds (its non-blank lines; they are not checked), counted up to `at_most`."""
    path = Path(path)
    if path.suffix == ".parquet":
        count = count_parquet_objects(path)
        return count if at_most is None else min(count, at_most)
    with open_bytes(path) as file:
        return sum(1 for _ in islice((line for line in file if line.strip()), at_most))


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as canonical JSONL, atomically; returns how many."""
    return write_objects(path, (row_to_dict(row) for row in rows))


def write_objects(path: str | Path, values: Iterable[Any]) -> int:
    """Write one JSON value a line, atomically; returns how many."""
    count = 0
    with atomic_writer(path) as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _schema() -> Any:
    import pyarrow as pa

    text, flag = pa.string(), pa.bool_()
    requirement = pa.struct(
        [("id", pa.int32()), ("kind", text), ("statement", text), ("evidence", text), ("critical", flag)]
    )
    verdict = pa.struct([("satisfied", pa.list_(flag)), ("answers_query", flag), ("reason", text)])
    negative = pa.struct(
        [
            ("text", text),
            ("source", text),
            ("id", text),
            ("score", pa.float64()),
            ("requirement", requirement),
            ("disruption", text),
            ("verdict", verdict),
            ("generator", text),
            ("program", text),
            ("grade", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("query_id", text),
            ("query", text),
            ("positives", pa.list_(pa.struct([("id", text), ("text", text), ("verdict", verdict)]))),
            ("negatives", pa.list_(negative)),
            ("requirements", pa.list_(requirement)),
        ]
    )


def write_parquet_objects(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write canonical row objects; the file takes its name only when all are written. Raises InputError."""
    import pyarrow as pa
    from pyarrow import parquet

    schema, values = _schema(), iter(values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder) / path.name
            with parquet.ParquetWriter(new, schema) as writer:
                while group := list(islice(values, _GROUP)):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
            new.replace(path)
    except OSError as error:
        raise InputError(f"cannot write: {error}", file=path) from error


def read_parquet_objects(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (1-based row, object) of a Parquet file of canonical rows. Raises InputError when it cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_GROUP):
                for value in batch.to_pylist():
                    number += 1
                    yield number, _without_null(value)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot read as Parquet: {error}", file=path) from error


def count_parquet_objects(path: Path) -> int:
    """How many rows a Parquet file says it has. Raises InputError when it cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read as Parquet: {error}", file=path) from error


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value
