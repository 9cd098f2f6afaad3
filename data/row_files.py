"""JSONL and Parquet in and out: any file of objects, and the canonical file of training rows."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from data.base.errors import STRICT, BadRows, InputError
from data.base.fields import Line
from data.base.files import atomic_path, atomic_writer, numbered_lines, open_bytes, unpacking
from data.records import Row, row_from_dict, row_to_dict, without_empty

_GROUP = 1_000  # rows in memory at once
PACKED = (".gz", ".zst")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# The names that public data sets give to the two sides of a pair, most usual first.
QUERY_FIELDS = ("query", "anchor", "question", "claim", "sentence1")
POSITIVE_FIELDS = ("positive", "positives", "pos", "passage", "document", "answer", "context", "sentence2")
# What no other lines have but those of this format.
_FOREIGN_FIELDS = {
    "neg": "flag-embedding",
    "negative_messages": "swift",
    "negative_passages": "tevatron",
    "labels": "st-labelled",
    "negative": "st-tuples",
    "negative_1": "st-tuples",
}


def read_objects(path: str | Path, bad_rows: BadRows = STRICT) -> Iterator[Line]:
    """Yield every object of a file by the end of its name: .parquet, .csv and .tsv with a header line, .json with an
    array, else JSONL (its non-blank lines). All but Parquet may be packed (.gz, .zst).

    Raises InputError at the first one that cannot be read, or counts it in `bad_rows` and goes on.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == ".parquet":
        yield from _read_parquet(path)
    elif kind in _DELIMITERS:
        yield from _read_table(path, _DELIMITERS[kind], bad_rows)
    elif kind == ".json" and _begins_with(path, b"["):
        yield from _read_array(path)
    else:
        yield from _read_lines(path, bad_rows)


def file_kind(path: Path) -> str:
    """The end of a file's name, without that of its packing."""
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix


def _begins_with(path: Path, start: bytes) -> bool:
    with open_bytes(path) as file, unpacking(path):
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start)


def _read_array(path: Path) -> Iterator[Line]:
    with open_bytes(path) as file, unpacking(path):
        try:
            values = json.loads(file.read(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", file=path) from error
    for number, value in enumerate(values, start=1):
        yield Line(value, str(path), number)


def _read_table(path: Path, delimiter: str, bad_rows: BadRows) -> Iterator[Line]:
    """The lines of a table as objects of its columns. A .tsv has no quoting, as usual in retrieval data."""
    csv.field_size_limit(2**30)
    lines = (text for _, text in numbered_lines(path, bad_rows))
    reader = (
        csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        if delimiter == "\t"
        else csv.reader(lines, delimiter=delimiter, strict=True)
    )
    header: list[str] | None = None
    while True:
        with bad_rows.catch():
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(f"not a line of a table ({error})", file=path, line=reader.line_num) from error
            if cells is None:
                return
            if header is None:
                header = [cell.strip() for cell in cells]
                if len({*header} - {""}) < len(header):
                    raise InputError("expected a header line of different column names", file=path, line=1)
            elif cells:
                line = Line(dict(zip(header, cells, strict=False)), str(path), reader.line_num)
                if len(cells) != len(header):
                    raise line.fault(f"expected {len(header)} columns as in the header, got {len(cells)}")
                yield line


def _read_lines(path: Path, bad_rows: BadRows) -> Iterator[Line]:
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
            yield read_row(line)


def read_row(line: Line) -> Row:
    """One training row of a canonical file. Raises InputError, which says what makes rows of another known kind."""
    try:
        return row_from_dict(line.value, file=line.file, line=line.number)
    except InputError as error:
        if (name := _foreign_format(line.value)) is not None:
            hint = f"this looks like a line of {name}: just convert input={line.file} source={name} out=ROWS.jsonl"
        elif _is_pair(line.value):
            hint = (
                "pairs of a query and a positive are no training rows yet: mine their negatives first, "
                f"just mine data={line.file} out=ROWS.jsonl"
            )
        else:
            raise
        raise line.fault(f"{error.what} ({hint})", error.field) from error


def _foreign_format(value: Any) -> str | None:
    if not isinstance(value, dict) or "positives" in value:
        return None
    name = next((name for field, name in _FOREIGN_FIELDS.items() if field in value), None)
    if name == "st-tuples" and "label" in value:
        graded = isinstance(value["label"], list) and any(isinstance(label, list) for label in value["label"])
        return "st-graded" if graded else "st-origins"
    return name


def _is_pair(value: Any) -> bool:
    if not isinstance(value, dict) or not any(name in value for name in QUERY_FIELDS):
        return False
    positives = value.get("positives", [""] if any(name in value for name in POSITIVE_FIELDS) else None)
    return isinstance(positives, list) and any(isinstance(text, str) for text in positives)


def count_rows(path: str | Path, at_most: int | None = None) -> int:
    """How many rows a canonical file holds (its non-blank lines; they are not checked), counted up to `at_most`."""
    path = Path(path)
    if file_kind(path) == ".parquet":
        count = count_parquet_objects(path)
        return count if at_most is None else min(count, at_most)
    with open_bytes(path) as file, unpacking(path):
        return sum(1 for _ in islice((line for line in file if line.strip()), at_most))


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as canonical JSONL, atomically; returns how many."""
    return write_objects(path, (row_to_dict(row) for row in rows))


def write_objects(path: str | Path, values: Iterable[Any]) -> int:
    """Write one JSON value a line, atomically; returns how many. Raises InputError, also for a name by which they would
    be read as something else."""
    if Path(path).suffix in (*PACKED, *_DELIMITERS, ".parquet"):
        raise InputError("is written as JSON lines: expected a name that ends in .jsonl", file=path)
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
        with parquet.ParquetFile(path) as file:
            values = (value for batch in file.iter_batches(batch_size=_GROUP) for value in batch.to_pylist())
            for number, value in enumerate(values, start=1):
                yield Line(without_empty(value), str(path), number)
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
