"""Pairs of a query and its positive(s): files and Hugging Face data sets, with a corpus of their own or one beside."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from data.base.errors import STRICT, BadRows, InputError, first_line
from data.base.fields import Line, Positives, Read, Text
from data.base.files import open_text, read_json_object
from data.base.options import options
from data.base.text import clean_text, content_id, passage_text, same_text_key
from data.readers.judged import Judged
from data.retrieval_set import RetrievalSet
from data.row_files import POSITIVE_FIELDS, QUERY_FIELDS, read_objects

log = logging.getLogger(__name__)
# The names that public corpora give to an id and to a text.
_ID_FIELDS = ("_id", "id", "docid", "doc_id")
_TEXT_FIELDS = ("text", "passage", "document", "contents", "content")


@options
class PairOptions:
    """How pairs are read."""

    query: str | None = None
    """Column or field of pairs that holds the query (None: query, anchor, question, claim or sentence1)."""

    positive: str | None = None
    """Column or field of pairs that holds the positive: text, or with --corpus the id of a passage (None: positive,
    positives, pos, passage, document, answer, context or sentence2)."""

    title: str | None = None
    """Column or field of pairs that holds the positive's title, which is put in front of its text."""

    corpus: str | None = None
    """Corpus beside the pairs: a file with a passage a line (text, perhaps title and id), a BEIR folder, or a folder of
    .txt files, each a passage under its name (None: the positives alone)."""


def read_pairs(path: str | Path, bad_rows: BadRows = STRICT, pairs: PairOptions | None = None) -> RetrievalSet:
    """Read a file of pairs (.jsonl, .json, .csv, .tsv or .parquet): a query and one positive or a list of positives
    (text, or {"title", "text"}).

    Equal texts become one passage, equal queries one query.
    """
    return _from_lines(read_objects(path, bad_rows), str(path), bad_rows, pairs or PairOptions())


def read_hf_dataset(
    name: str,
    split: str = "train",
    revision: str | None = None,
    bad_rows: BadRows = STRICT,
    pairs: PairOptions | None = None,
) -> RetrievalSet:
    """Read a Hugging Face data set of pairs: a hub name ("org/name") or a local folder.

    A local folder is one that `Dataset.save_to_disk` wrote or one of Parquet, JSON or CSV files. Code that a data set
    ships is never run. Raises InputError when it cannot be loaded or has no query and positive columns.
    """
    import datasets

    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(_split_folder(folder, split)))
        elif (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
        else:
            # Streaming keeps a hub set of millions of rows out of memory until its texts are needed.
            loaded = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
    except InputError:
        raise
    except Exception as error:  # datasets raises a dozen unrelated types for "not there"
        raise InputError(f"cannot load this data set, split {split!r} ({first_line(error)})", file=name) from error
    return _from_lines(_numbered(loaded, name), name, bad_rows, pairs or PairOptions())


def _split_folder(folder: Path, split: str) -> Path:
    """The folder of one split of what `DatasetDict.save_to_disk` wrote. Raises InputError for none and an empty one."""
    splits = read_json_object(folder / "dataset_dict.json").get("splits") or []
    if split not in splits:
        raise InputError(f"has no split {split!r}; it has {', '.join(splits)}", file=folder)
    full = [name for name in splits if read_json_object(folder / name / "state.json").get("_data_files")]
    if split not in full:
        found = ", ".join(full) or "none"
        raise InputError(f"its split {split!r} is empty; with something in it: {found}", file=folder)
    return folder / split


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


def _from_lines(lines: Iterable[Line], name: str, bad_rows: BadRows, pairs: PairOptions) -> RetrievalSet:
    passages = {} if pairs.corpus is None else read_corpus(pairs.corpus, bad_rows)
    ids = {same_text_key(text): passage_id for passage_id, text in passages.items()}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    num_corpus, num_named = len(passages), 0
    for line in lines:
        with bad_rows.catch():
            query, texts = _pair(line, pairs)
            query_id = content_id(same_text_key(query))
            queries.setdefault(query_id, query)
            for text in texts:
                num_named += text in passages
                key = same_text_key(text)
                passage_id = text if text in passages else ids.setdefault(key, content_id(key))
                passages.setdefault(passage_id, text)
                qrels.setdefault(query_id, {})[passage_id] = 1
    if not queries:
        raise InputError("holds no pair of a query and a positive", file=name)
    added = list(passages)[num_corpus:]
    if num_named and added:
        # Where one positive is the id of a passage all are, and a slip of the pen must not become a passage.
        raise InputError(f"{passages[added[0]]!r} is no id of a passage in {pairs.corpus}", file=name, field="positive")
    if pairs.corpus is not None and added:
        log.info("%d positives of %s are not in %s and were added to it", len(added), name, pairs.corpus)
    return RetrievalSet(name=Path(name).name.partition(".")[0], passages=passages, queries=queries, qrels=qrels)


def read_corpus(spec: str, bad_rows: BadRows = STRICT) -> dict[str, str]:
    """Texts by id of a file of passages, a BEIR folder's corpus, or a folder of .txt files. Raises InputError."""
    path = Path(spec)
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        corpus = next(iter(sorted(path.glob("corpus.jsonl*"))), None)
        if not files and corpus is None:
            raise InputError("expected a folder with .txt files or a corpus.jsonl", file=path)
        lines = _text_files(path, files, bad_rows) if corpus is None else read_objects(corpus, bad_rows)
    else:
        lines = read_objects(path, bad_rows)
    return Judged(spec, bad_rows).texts(map(_named, lines), "passage", spec)


def _text_files(folder: Path, files: list[Path], bad_rows: BadRows) -> Iterator[Line]:
    for file in files:
        with bad_rows.catch(), open_text(file) as opened:
            try:
                text = opened.read()
            except UnicodeDecodeError as error:
                raise InputError(f"not UTF-8 text ({error.reason})", file=file) from error
            yield Line({"_id": file.relative_to(folder).as_posix(), "text": text}, str(file), 1)


def _named(line: Line) -> Line:
    """A passage with its text under "text" and its id, or its content's hash, under "_id"."""
    if not isinstance(line.value, dict):
        return line
    value = dict(line.value)
    text = next((value[name] for name in _TEXT_FIELDS if value.get(name) is not None), None)
    known = next((value[name] for name in _ID_FIELDS if value.get(name) is not None), None)
    if known is None:
        known = content_id(same_text_key(f"{value.get('title') or ''} {text or ''}"))
    return Line(value | {"_id": known, "text": text}, line.file, line.number)


def _joined(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    title, text = value.get("title"), value.get("text")
    return passage_text(title, text or "") if isinstance(title, str) and isinstance(text, str | None) else text


_PassageText = Annotated[Text, Read(_joined)]
"""Text, or {"title", "text"}."""


def _pair(line: Line, pairs: PairOptions) -> tuple[str, tuple[str, ...]]:
    """The query and its positives' texts. Raises InputError."""
    query_name = _field_name(line, (pairs.query,) if pairs.query else QUERY_FIELDS)
    positive_name = _field_name(line, (pairs.positive,) if pairs.positive else POSITIVE_FIELDS)
    query, positive = line.part(Text, query_name), line.value[positive_name]
    if isinstance(positive, list):
        if pairs.title is not None:
            raise line.fault('expected one positive for its title; in a list each is {"title", "text"}', positive_name)
        return query, line.part(Positives[_PassageText], positive_name)
    text = line.part(_PassageText, positive_name)
    if pairs.title is None:
        return query, (text,)
    title = line.value[_field_name(line, (pairs.title,))]
    return query, (passage_text(None if title is None else clean_text(str(title)), text),)


def _field_name(line: Line, names: tuple[str, ...]) -> str:
    if not isinstance(line.value, dict):
        raise line.fault(f"expected a JSON object, got {type(line.value).__name__}")
    for name in names:
        if name in line.value:
            return name
    found = ", ".join(map(str, line.value)) or "none"
    expected = f"the field {names[0]}" if len(names) == 1 else f"one of the fields {', '.join(names)}"
    raise line.fault(f"expected {expected}; found {found}")
