"""JSONL and Parquet in and out: any file of objects, and the canonical file of training rows."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from data.base.errors import STRICT, BadRows, InputError
from data.base.fields import Line
from data.base.files import atomic_path, atomic_writer, numbered_lines, open_bytes
from data.records import Row, row_to_dict

_GROUP = 1_000  # rows in memory at once


def read_objects(path: str | Path, bad_rows: BadRows = STRICT) -> Iterator[Line]:
    """Yield every non-blank line of a JSONL file, or every row of a Parquet file where the name ends in .parquet.

    Raises InputError at the first line that is not JSON, or counts it in `bad_rows` and goes on.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    for number, raw in numbered_lines(path, bad_rows):
        if not raw.strip():
            continue
        with bad_rows.catch():
            try:
                # Python's json takes NaN and Infinity, which are not JSON and which no other reader accepts.
                value = json.loads(raw, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise InputError(f"not valid JSON ({error})", file=path, line=number) from error
            yield Line(value, str(path), number)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_rows(path: str | Path, bad_rows: BadRows = STRICT) -> Iterator[Row]:
    """Stream the training rows of a canonical file: JSONL, or Parquet where the name ends in .parquet.

    Raises InputError (file, line, field) at the first bad row, or counts it in `bad_rows` and goes on.
    """
    for line in read_objects(path, bad_rows):
        with bad_rows.catch():
            yield line.read(Row)


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


def _arrow_type(kind: Any) -> Any:
    """The Parquet type of a record's field."""
    import pyarrow as pa

    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return pa.struct([(field.name, _arrow_type(hints[field.name])) for field in fields(kind)])
    if get_origin(kind) is tuple:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    # What is left of `X | None`; a Literal's choices are texts.
    (kind,) = {arg if isinstance(arg, type) else type(arg) for arg in get_args(kind) or (kind,)} - {NoneType}
    if is_dataclass(kind):
        return _arrow_type(kind)
    return {str: pa.string(), bool: pa.bool_(), int: pa.int32(), float: pa.float64()}[kind]


def write_parquet_objects(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write canonical row objects; the file takes its name only when all are written. Raises InputError."""
    import pyarrow as pa
    from pyarrow import parquet

    schema, values = pa.schema(_arrow_type(Row)), iter(values)
    with atomic_path(path) as new, parquet.ParquetWriter(new, schema) as writer:
        while group := list(islice(values, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _read_parquet(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_GROUP):
                for value in batch.to_pylist():
                    number += 1
                    yield Line(_without_null(value), str(path), number)
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
