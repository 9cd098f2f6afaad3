"""Pairs of a query and its positive(s): JSONL and Parquet files, and Hugging Face data sets, hub or local."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from data.base.errors import STRICT, BadRows, InputError, first_line
from data.base.fields import Line, Positives, Read, Text
from data.base.text import content_id, passage_text, same_text_key
from data.retrieval_set import RetrievalSet
from data.row_files import read_objects

# The names that public data sets give to the two sides, most usual first.
QUERY_FIELDS = ("query", "anchor", "question", "claim", "sentence1")
POSITIVE_FIELDS = ("positive", "positives", "pos", "passage", "document", "answer", "context", "sentence2")


def read_pairs(path: str | Path, bad_rows: BadRows = STRICT) -> RetrievalSet:
    """Read the lines of a .jsonl file, or the rows of a .parquet file: a query and one positive or a list of positives
    (text, or {"title", "text"}).

    The corpus is the set of positives; equal texts become one passage, equal queries one query.
    """
    return _from_lines(read_objects(path, bad_rows), str(path), bad_rows)


def read_hf_dataset(
    name: str, split: str = "train", revision: str | None = None, bad_rows: BadRows = STRICT
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
        raise InputError(f"cannot load this data set, split {split!r} ({first_line(error)})", file=name) from error
    return _from_lines(_numbered(loaded, name), name, bad_rows)


def _numbered(loaded: Iterable[Any], name: str) -> Iterator[Line]:
    """The records of a data set. Its files are read only now, and what is wrong with them shows only now."""
    number = 0
    try:
        for number, value in enumerate(loaded, start=1):
            yield Line(value, name, number)
    except InputError:
        raise
    except Exception as error:  # pyarrow and the hub's client raise as many types as datasets does
        raise InputError(f"cannot be read after row {number} ({first_line(error)})", file=name) from error


def _from_lines(lines: Iterable[Line], name: str, bad_rows: BadRows) -> RetrievalSet:
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line in lines:
        with bad_rows.catch():
            query, texts = _pair(line)
            query_id = content_id(same_text_key(query))
            queries.setdefault(query_id, query)
            for text in texts:
                passage_id = content_id(same_text_key(text))
                passages.setdefault(passage_id, text)
                qrels.setdefault(query_id, {})[passage_id] = 1
    if not queries:
        raise InputError("holds no pair of a query and a positive", file=name)
    return RetrievalSet(name=Path(name).stem, passages=passages, queries=queries, qrels=qrels)


def _joined(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    title, text = value.get("title"), value.get("text")
    return passage_text(title, text) if isinstance(title, str) and isinstance(text, str) else text


_PassageText = Annotated[Text, Read(_joined)]
"""Text, or {"title", "text"}."""


def _pair(line: Line) -> tuple[str, tuple[str, ...]]:
    """The query and its positives' texts. Raises InputError."""
    query_name, positive_name = (_field_name(line, names) for names in (QUERY_FIELDS, POSITIVE_FIELDS))
    positive = line.value[positive_name]
    query = line.part(Text, query_name)
    if isinstance(positive, list):
        return query, line.part(Positives[_PassageText], positive_name)
    return query, (line.part(_PassageText, positive_name),)


def _field_name(line: Line, names: tuple[str, ...]) -> str:
    if not isinstance(line.value, dict):
        raise line.fault(f"expected a JSON object, got {type(line.value).__name__}")
    for name in names:
        if name in line.value:
            return name
    found = ", ".join(map(str, line.value)) or "none"
    raise line.fault(f"expected one of the fields {', '.join(names)}; found {found}")
