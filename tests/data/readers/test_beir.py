import gzip
import json
import os
from pathlib import Path

import pytest

from data.base.errors import BadRows, InputError
from data.readers.beir import read_beir
from data.readers.pairs import read_pairs
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet
from data.row_files import count_rows, read_rows


def test_a_beir_folder_round_trips(small: RetrievalSet, folder: Path) -> None:
    assert read_beir(folder, "test") == small
    assert read_source(str(folder), "test") == small


def test_grade_zero_is_not_a_positive(small: RetrievalSet) -> None:
    assert list(small.positives("q1")) == ["p1"]
    assert [row.query_id for row in small.rows()] == ["q1", "q2"]


def test_titles_are_joined_and_header_is_optional(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text(
        '{"_id": 1, "title": "T", "text": "x"}\n{"_id": "2", "title": "only title", "text": ""}\n', encoding="utf-8"
    )
    (folder / "qrels" / "test.tsv").write_text("q1\t1\t1\nq2\t2\t1\n", encoding="utf-8")
    assert read_beir(folder).passages == {"1": "T\nx", "2": "only title"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "p1", "text": " "}\n', r"corpus\.jsonl:1: field 'text': is empty"),
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}\n{"_id": "p1", "text": "b"}\n', r":2: .*'p1' occurs twice"),
        ("corpus.jsonl", "\n", "holds no passage"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"queries\.jsonl:1: field 'text': is missing"),
        ("queries.jsonl", "[1]\n", r"queries\.jsonl:1: expected a JSON object"),
        ("qrels/test.tsv", "q\tc\ts\nq9\tp1\t1\n", r"test\.tsv:2: field 'query-id': names the unknown query 'q9'"),
        ("qrels/test.tsv", "q\tc\ts\nq1\tp9\t1\n", r"test\.tsv:2: .*unknown passage 'p9'"),
        ("qrels/test.tsv", "q\tc\ts\nq1\tp1\n", r"test\.tsv:2: expected 3 tab-separated columns"),
        ("qrels/test.tsv", "q\tc\ts\nq1\tp1\tyes\n", r"test\.tsv:2: .*expected a whole number"),
        # A first line with a bad score is no header.
        ("qrels/test.tsv", "q1\tp1\t1.0\nq2\tp2\t1\n", r"test\.tsv:1: field 'score': expected a whole number"),
        ("qrels/test.tsv", "q1\tp1\tnan\nq2\tp2\t1\n", r"test\.tsv:1: field 'score': expected a whole number"),
        ("qrels/test.tsv", "q2\tp2\t1\nq2\tp2\t0\n", r"test\.tsv:2: field 'score': is 0, and 1 in an earlier line"),
        ("qrels/test.tsv", "q\tc\ts\nq1\tp1\t0\n", "has no positive judgement"),
    ],
)
def test_a_bad_beir_folder_is_one_clear_line(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_beir(folder)


def test_a_missing_split_names_those_there_are(folder: Path) -> None:
    with pytest.raises(InputError, match="has the splits test"):
        read_beir(folder, "train")


def test_bad_lines_can_be_skipped_and_are_counted(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "p4", "text": ""}\nnot json\n')
    with (folder / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("q1\tp4\t1\n")
    bad_rows = BadRows()
    assert set(read_beir(folder, bad_rows=bad_rows).passages) == {"p1", "p2", "p3"}
    assert bad_rows.count == 3


@pytest.mark.parametrize("family", [["Felidae"], {"name": "x"}, None, "", True, 1.5])
def test_other_metadata_of_public_sets_is_no_family(folder: Path, small: RetrievalSet, family: object) -> None:
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "p4", "text": "x", "metadata": {"family": family}}) + "\n")
    found = read_beir(folder)
    assert found.families == {} and set(found.passages) == {*small.passages, "p4"}


def test_a_line_that_is_no_text_is_named_and_can_be_skipped(folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"query": f"q{i}", "positive": f"p{i}"}).encode() for i in range(5)]
    lines[3] = '{"query": "caf\u00e9", "positive": "p"}'.encode("latin-1")
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    with pytest.raises(InputError, match=r"pairs\.jsonl:4: not UTF-8 text"):
        read_pairs(path)
    bad_rows = BadRows()
    assert sorted(read_pairs(path, bad_rows).queries.values()) == ["q0", "q1", "q2", "q4"]
    assert (bad_rows.count, count_rows(path)) == (1, 5)
    with (folder / "qrels" / "test.tsv").open("ab") as file:
        file.write(b"q\xe9\tp1\t1\n")
    with pytest.raises(InputError, match=r"test\.tsv:5: not UTF-8 text"):
        read_beir(folder)
    bad_rows = BadRows()
    assert len(read_beir(folder, bad_rows=bad_rows).queries) == 2
    assert bad_rows.count == 1


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a BEIR folder"):
        read_source(str(tmp_path / "none"), "test")


def test_a_skipped_passage_makes_no_query_score_better(folder: Path) -> None:
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="names the unknown passage 'p1'"):
        read_beir(folder)
    bad_rows = BadRows()
    found = read_beir(folder, bad_rows=bad_rows)
    assert found.qrels == {"q1": {"p1": 2, "p3": 0}, "q2": {"p2": 1}} and bad_rows.count == 1
    assert found.positives("q1") == {} and [row.query_id for row in found.rows()] == ["q2"]


def test_an_empty_split_names_those_with_something(folder: Path, tmp_path: Path) -> None:
    import datasets

    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no positive judgement.*there are the splits test"):
        read_beir(folder, "dev")
    table = datasets.Dataset.from_dict({"anchor": ["q1"], "positive": ["a"]})
    datasets.DatasetDict({"train": table, "dev": table.select([])}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(InputError, match="split 'dev' is empty; with something in it: train"):
        read_source(str(tmp_path / "dict"), "dev")


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_packed_files_are_read(end: str, small: RetrievalSet, folder: Path) -> None:
    import pyarrow

    for path in [*folder.glob("*.jsonl"), *folder.glob("qrels/*.tsv")]:
        packed = pyarrow.compress(path.read_bytes(), codec="zstd", asbytes=True) if end == ".zst" else None
        path.with_name(f"{path.name}{end}").write_bytes(packed or gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_source(str(folder), "test") == small
    corpus = folder / f"corpus.jsonl{end}"
    corpus.write_bytes(corpus.read_bytes()[:-9])
    with pytest.raises(InputError, match=f"corpus.jsonl{end}: cannot read"):
        read_beir(folder)


@pytest.mark.parametrize(("start", "name"), [(b"PK\x03\x04", "zip"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\x00", "xz")])
def test_other_packed_files_are_named(start: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(start + b"abc")
    with pytest.raises(InputError, match=f"is a {name} file, which is not read: unpack it first"):
        read_pairs(path)


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="is not a regular file"):
        list(read_rows(tmp_path / "rows.jsonl"))
