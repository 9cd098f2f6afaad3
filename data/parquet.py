"""Canonical rows as Parquet, streamed in row groups with one fixed schema."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import InputError

_GROUP = 1_000  # rows in memory at once


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
        ]
    )
    return pa.schema(
        [
            ("query_id", text),
            ("query", text),
            ("positives", pa.list_(pa.struct([("id", text), ("text", text)]))),
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
