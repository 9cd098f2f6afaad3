"""Pairs of a query and its positive(s): JSONL and Parquet files, and Hugging Face data sets, hub or local."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.text import content_id, same_text_key
from data.records import FieldReader
from data.retrieval_set import RetrievalSet
from data.row_files import BadRows, read_objects, read_parquet_objects

# The names that public data sets give to the two sides, most usual first.
QUERY_FIELDS = ("query", "anchor", "question", "claim", "sentence1")
POSITIVE_FIELDS = ("positive", "positives", "pos", "passage", "document", "answer", "context", "sentence2")


def read_pairs(path: str | Path, bad_rows: BadRows | None = None) -> RetrievalSet:
    """Read the lines of a .jsonl file, or the rows of a .parquet file: a query and one positive or a list of positives
    (text, or {"title", "text"}).

    The corpus is the set of positives; equal texts become one passage, equal queries one query.
    """
    path = Path(path)
    records = read_parquet_objects(path) if path.suffix == ".parquet" else read_objects(path, bad_rows)
    return _from_records(records, str(path), bad_rows)


def read_hf_dataset(
    name: str, split: str = "train", revision: str | None = None, bad_rows: BadRows | None = None
) -> RetrievalSet:
    """Read a Hugging Face data set of pairs: a hub name ("org/name") or a local folder.

    A local folder is one that `Dataset.save_to_disk` wrote or one of Parquet, JSON or CSV files. Code that a data set
    ships is never run. Raises InputError when it cannot be loaded or has no query and positive columns.
    """
    import datasets

    local = Path(name).is_dir()
    try:
        if local and any((Path(name) / f).is_file() for f in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise InputError(f"has no split {split!r}; it has {', '.join(loaded)}", file=name)
                loaded = loaded[split]
        else:
            # Streaming keeps a hub set of millions of rows out of memory until its texts are needed.
            loaded = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
    except InputError:
        raise
    except Exception as error:  # datasets raises a dozen unrelated types for "not there"
        raise InputError(f"cannot load this data set, split {split!r} ({_first_line(error)})", file=name) from error
    return _from_records(_numbered(loaded, name), name, bad_rows)


def _numbered(loaded: Iterable[Any], name: str) -> Iterator[tuple[int, Any]]:
    """(1-based row, record) of a data set. Its files are read only now, and what is wrong with them shows only now."""
    number = 0
    try:
        for number, value in enumerate(loaded, start=1):
            yield number, value
    except InputError:
        raise
    except Exception as error:  # pyarrow and the hub's client raise as many types as datasets does
        raise InputError(f"cannot be read after row {number} ({_first_line(error)})", file=name) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _from_records(records: Iterable[tuple[int, Any]], name: str, bad_rows: BadRows | None) -> RetrievalSet:
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    query_ids: dict[str, str] = {}
    passage_ids: dict[str, str] = {}
    for line, value in records:
        try:
            reader = FieldReader(value, file=name, line=line)
            query = reader.text(_field_name(reader, QUERY_FIELDS, name, line))
            texts = list(_positive_texts(reader, _field_name(reader, POSITIVE_FIELDS, name, line)))
        except InputError as error:
            if bad_rows is None:
                raise
            bad_rows.add(error)
            continue
        query_id = query_ids.setdefault(same_text_key(query), content_id(same_text_key(query)))
        queries.setdefault(query_id, query)
        for text in texts:
            passage_id = passage_ids.setdefault(same_text_key(text), content_id(same_text_key(text)))
            passages.setdefault(passage_id, text)
            qrels.setdefault(query_id, {})[passage_id] = 1
    if not queries:
        raise InputError("holds no pair of a query and a positive", file=name)
    return RetrievalSet(name=Path(name).stem, passages=passages, queries=queries, qrels=qrels)


def _field_name(reader: FieldReader, names: tuple[str, ...], file: str, line: int) -> str:
    for name in names:
        if name in reader.value:
            return name
    raise InputError(
        f"expected one of the fields {', '.join(names)}; found {', '.join(map(str, reader.value)) or 'none'}",
        file=file,
        line=line,
    )


def _positive_texts(reader: FieldReader, name: str) -> Iterator[str]:
    value = reader.value[name]
    items = value if isinstance(value, list) else [value]
    if not items:
        reader.fail(name, "expected at least one positive")
    for position, item in enumerate(items):
        where = f"{name}[{position}]" if isinstance(value, list) else name
        if isinstance(item, dict):
            inner = FieldReader(item, path=f"{where}.")
            title, text = inner.text("title", default=None), inner.value.get("text")
            item = f"{title}\n{text}" if title and isinstance(text, str) else text
        yield FieldReader({where: item}, file=reader.file, line=reader.line).text(where)
