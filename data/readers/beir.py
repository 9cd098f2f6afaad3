"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, as they are or packed (.gz, .zst)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.base.errors import STRICT, BadRows, InputError
from data.base.fields import Line
from data.base.files import atomic_writer, numbered_lines
from data.base.text import clean_text
from data.readers.judged import Judged
from data.retrieval_set import RetrievalSet
from data.row_files import PACKED, read_objects, write_objects

_COLUMNS = ("query-id", "corpus-id", "score")


def is_beir(folder: Path) -> bool:
    """Whether a folder is meant as a BEIR folder."""
    return _find(folder, "corpus.jsonl").exists() or (folder / "qrels").exists()


def read_beir(folder: str | Path, split: str = "test", bad_rows: BadRows = STRICT) -> RetrievalSet:
    """Read one split of a BEIR folder.

    Passages are title and text joined by a newline; a passage's "metadata": {"family": ...} makes the set a challenge
    set (all passages have a family, or none). Raises InputError (file, line, field) for a missing file, bad JSON,
    an empty query or passage, a duplicate id, judgements of unknown ids, or a split without a positive.
    """
    folder = Path(folder)
    corpus, topics, qrels_file = (
        _find(folder, name) for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    )
    for path in (corpus, topics, qrels_file):
        if not path.is_file():
            found = _splits(folder)
            hint = f"; the folder has the splits {', '.join(found)}" if path == qrels_file and found else ""
            raise InputError(
                f"is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/*.tsv{hint}", file=path
            )
    judged = Judged(f"{folder.name}/{split}", bad_rows)
    families: dict[str, str] = {}
    passages = judged.texts(_noting(families, read_objects(corpus, bad_rows)), "passage", str(corpus))
    queries = judged.texts(read_objects(topics, bad_rows), "query", str(topics))
    families = {passage_id: families[passage_id] for passage_id in passages if passage_id in families}
    if families and len(families) < len(passages):
        missing = next(passage_id for passage_id in passages if passage_id not in families)
        raise InputError(f"passage {missing!r} has no family while others have one", file=corpus, field="metadata")
    try:
        qrels = judged.judgements(_qrels(qrels_file, bad_rows), passages, queries, str(qrels_file))
    except InputError as error:
        others = [name for name in _splits(folder) if name != split and _has_lines(folder, name)]
        if error.line is not None or not others:
            raise
        raise InputError(f"{error.what}; with judgements there are the splits {', '.join(others)}", file=qrels_file) \
            from error  # fmt: skip
    return RetrievalSet(
        name=judged.name,
        passages=passages,
        queries={query_id: queries[query_id] for query_id in qrels},
        qrels=qrels,
        families=families,
    )


def _find(folder: Path, name: str) -> Path:
    """The file, or a packed one of that name; the plain name where neither is there."""
    return next((path for end in ("", *PACKED) if (path := folder / f"{name}{end}").is_file()), folder / name)


def _splits(folder: Path) -> list[str]:
    return sorted({path.name.partition(".tsv")[0] for path in folder.glob("qrels/*.tsv*")})


def _has_lines(folder: Path, split: str) -> bool:
    return any(True for _ in _qrels(_find(folder, f"qrels/{split}.tsv"), BadRows()))


def _noting(families: dict[str, str], lines: Iterable[Line]) -> Iterator[Line]:
    """The lines of a corpus; a passage's family, if it has one, goes into `families`."""
    for line in lines:
        # Public sets keep other things in "metadata", too, and under "family" other things than a name.
        metadata = line.value.get("metadata") if isinstance(line.value, dict) else None
        family = metadata.get("family") if isinstance(metadata, dict) else None
        if type(family) in (str, int) and clean_text(str(family)):
            families[clean_text(str(line.value.get("_id")))] = clean_text(str(family))
        yield line


def _qrels(path: Path, bad_rows: BadRows) -> Iterator[Line]:
    for number, raw in numbered_lines(path, bad_rows):
        cells = raw.rstrip("\r\n").split("\t")
        if not raw.strip() or (number == 1 and not _is_number(cells[-1])):
            continue
        line = Line(dict(zip(_COLUMNS, cells, strict=False)), str(path), number)
        if len(cells) == len(_COLUMNS):
            yield line
        else:
            bad_rows.add(line.fault(f"expected 3 tab-separated columns ({', '.join(_COLUMNS)}), got {len(cells)}"))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_beir(folder: str | Path, retrieval_set: RetrievalSet, split: str) -> None:
    """Write a retrieval set as a BEIR folder with one split (titles stay the first line of the text)."""
    folder = Path(folder)
    write_objects(folder / "corpus.jsonl", _corpus_lines(retrieval_set))
    write_objects(folder / "queries.jsonl", ({"_id": qid, "text": text} for qid, text in retrieval_set.queries.items()))
    with atomic_writer(folder / "qrels" / f"{split}.tsv") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query_id, grades in retrieval_set.qrels.items():
            for passage_id, grade in grades.items():
                file.write(f"{query_id}\t{passage_id}\t{grade}\n")


def _corpus_lines(retrieval_set: RetrievalSet) -> Iterator[dict[str, Any]]:
    for passage_id, text in retrieval_set.passages.items():
        family = retrieval_set.families.get(passage_id)
        metadata = {} if family is None else {"metadata": {"family": family}}
        yield {"_id": passage_id, "title": "", "text": text} | metadata
