"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base.errors import STRICT, BadRows, InputError
from data.base.fields import OptionalText, Text
from data.base.files import atomic_writer, numbered_lines
from data.base.text import clean_text, passage_text
from data.retrieval_set import RetrievalSet
from data.row_files import read_objects, write_objects


def read_beir(folder: str | Path, split: str = "test", bad_rows: BadRows = STRICT) -> RetrievalSet:
    """Read one split of a BEIR folder.

    Passages are title and text joined by a newline; a passage's "metadata": {"family": ...} makes the set a challenge
    set (all passages have a family, or none). Raises InputError (file, line, field) for a missing file, bad JSON,
    an empty query or passage, a duplicate id, judgements of unknown ids, or a split without a positive.
    """
    folder = Path(folder)
    qrels_file = folder / "qrels" / f"{split}.tsv"
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", qrels_file):
        if not path.is_file():
            found = sorted(p.stem for p in folder.glob("qrels/*.tsv"))
            hint = f"; the folder has the splits {', '.join(found)}" if path == qrels_file and found else ""
            raise InputError(
                f"is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/*.tsv{hint}", file=path
            )
    families: dict[str, str] = {}
    passages = _read_texts(folder / "corpus.jsonl", "passage", bad_rows, families)
    queries = _read_texts(folder / "queries.jsonl", "query", bad_rows, {})
    if families and len(families) < len(passages):
        missing = next(passage_id for passage_id in passages if passage_id not in families)
        raise InputError(
            f"passage {missing!r} has no family while others have one", file=folder / "corpus.jsonl", field="metadata"
        )
    qrels = _read_qrels(qrels_file, passages, queries, bad_rows)
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise InputError("has no positive judgement (a score above 0)", file=qrels_file)
    return RetrievalSet(
        name=f"{folder.name}/{split}",
        passages=passages,
        queries={query_id: queries[query_id] for query_id in qrels},
        qrels=qrels,
        families=families,
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """A line of corpus.jsonl or queries.jsonl."""

    _id: Text
    title: OptionalText = None
    text: OptionalText = None  # a few BEIR sets hold passages that have a title and no text
    metadata: Any = None

    @property
    def family(self) -> str | None:
        # Public sets keep other things in "metadata", too, and under "family" other things than a name.
        family = self.metadata.get("family") if isinstance(self.metadata, dict) else None
        return clean_text(str(family)) or None if type(family) in (str, int) else None


def _read_texts(path: Path, what: str, bad_rows: BadRows, families: dict[str, str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in read_objects(path, bad_rows):
        with bad_rows.catch():
            found = line.read(_Text)
            text_id, text = found._id, passage_text(found.title if what == "passage" else None, found.text or "")
            if text_id in texts:
                raise line.fault(f"the {what} id {text_id!r} occurs twice", "_id")
            if not text:
                raise line.fault("is missing" if "text" not in line.value else "is empty", "text")
            texts[text_id] = text
            if found.family is not None:
                families[text_id] = found.family
    if not texts:
        raise InputError(f"holds no {what}", file=path)
    return texts


def _read_qrels(
    path: Path, passages: dict[str, str], queries: dict[str, str], bad_rows: BadRows
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, raw in numbered_lines(path, bad_rows):
        cells = raw.rstrip("\r\n").split("\t")
        if not raw.strip() or (line == 1 and not _is_number(cells[-1])):
            continue
        with bad_rows.catch():
            query_id, passage_id, grade = _qrels_cells(cells, path, line)
            if query_id not in queries:
                raise InputError(f"names the unknown query {query_id!r}", file=path, line=line, field="query-id")
            if passage_id not in passages:
                raise InputError(f"names the unknown passage {passage_id!r}", file=path, line=line, field="corpus-id")
            qrels.setdefault(query_id, {})[passage_id] = grade
    return qrels


def _qrels_cells(cells: list[str], path: Path, line: int) -> tuple[str, str, int]:
    if len(cells) != 3:
        raise InputError(
            f"expected 3 tab-separated columns (query-id, corpus-id, score), got {len(cells)}", file=path, line=line
        )
    try:
        grade = int(cells[2])
    except ValueError as error:
        raise InputError(f"expected a whole number, got {cells[2]!r}", file=path, line=line, field="score") from error
    return cells[0].strip(), cells[1].strip(), grade


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
