"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import atomic_writer, numbered_lines
from data.base.text import passage_text
from data.records import FieldReader
from data.retrieval_set import RetrievalSet
from data.row_files import BadRows, read_objects, write_objects


def read_beir(folder: str | Path, split: str = "test", bad_rows: BadRows | None = None) -> RetrievalSet:
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


def _read_texts(path: Path, what: str, bad_rows: BadRows | None, families: dict[str, str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line, value in read_objects(path, bad_rows):
        try:
            reader = FieldReader(value, file=str(path), line=line)
            text_id = reader.text("_id")
            if text_id in texts:
                reader.fail("_id", f"the {what} id {text_id!r} occurs twice")
            if what == "passage":
                title = reader.text("title", default=None)
                # A few BEIR sets hold passages that have a title and no text.
                text = passage_text(title, reader.text("text", default=None) or "")
                if not text:
                    reader.fail("text", "is empty")
                # Public sets keep other things in "metadata", too, and under "family" other things than a name.
                metadata = reader.object("metadata") if isinstance(reader.value.get("metadata"), dict) else None
                if metadata is not None and type(metadata.value.get("family")) in (str, int):
                    family = metadata.text("family", default=None)
                    if family is not None:
                        families[text_id] = family
            else:
                text = reader.text("text")
        except InputError as error:
            if bad_rows is None:
                raise
            bad_rows.add(error)
            continue
        texts[text_id] = text
    if not texts:
        raise InputError(f"holds no {what}", file=path)
    return texts


def _read_qrels(
    path: Path, passages: dict[str, str], queries: dict[str, str], bad_rows: BadRows | None
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, raw in numbered_lines(path, None if bad_rows is None else bad_rows.add):
        cells = raw.rstrip("\r\n").split("\t")
        if not raw.strip() or (line == 1 and not _is_number(cells[-1])):
            continue
        try:
            query_id, passage_id, grade = _qrels_cells(cells, path, line)
            if query_id not in queries:
                raise InputError(f"names the unknown query {query_id!r}", file=path, line=line, field="query-id")
            if passage_id not in passages:
                raise InputError(f"names the unknown passage {passage_id!r}", file=path, line=line, field="corpus-id")
        except InputError as error:
            if bad_rows is None:
                raise
            bad_rows.add(error)
            continue
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
