import csv
import gzip
import io
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import STRICT, BadRows, InputError
from data.base.text import same_text_key
from data.formats.convert import write_format
from data.readers.beir import read_beir, write_beir
from data.readers.demo import demo_family_set, demo_items, demo_train_set
from data.readers.pair_options import PairOptions
from data.readers.pairs import read_hf_dataset, read_pairs
from data.readers.recorded import BUNDLED, bundled_rows
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet, find_leakage
from data.row_files import count_rows, read_rows, write_objects, write_rows
from tests.fakes.fake_hub import TOKEN, FakeHub


@pytest.fixture
def small() -> RetrievalSet:
    return RetrievalSet(
        name="small/test",
        passages={"p1": "One\nfirst text", "p2": "second", "p3": "third שלום"},
        queries={"q1": "which is first", "q2": "which is second"},
        qrels={"q1": {"p1": 2, "p3": 0}, "q2": {"p2": 1}},
    )


@pytest.fixture
def folder(small: RetrievalSet, tmp_path: Path) -> Path:
    write_beir(tmp_path / "small", small, "test")
    return tmp_path / "small"


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


@pytest.mark.parametrize("first", ["q1\tp1\t1.0", "q1\tp1\tnan"])
def test_a_first_judgement_with_a_bad_score_is_no_header(folder: Path, first: str) -> None:
    (folder / "qrels" / "test.tsv").write_text(f"{first}\nq2\tp2\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test\.tsv:1: field 'score': expected a whole number"):
        read_beir(folder)


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


def test_a_data_set_whose_file_is_broken_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"query": "q", "positive": "p"}\n{"query": \n', encoding="utf-8")
    with pytest.raises(InputError, match=f"{tmp_path.name}: cannot be read after row [01] "):
        read_source(str(tmp_path), "train")


def test_pairs_merge_equal_queries_and_passages(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"query": "Q one", "positive": "a"},
        {"query": "q  one", "positives": ["A ", {"title": "T", "text": "b"}]},
        {"anchor": "q two", "pos": ["a"]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = read_pairs(path)
    assert sorted(found.passages.values()) == ["T\nb", "a"]
    assert sorted(found.queries.values()) == ["Q one", "q two"]
    assert sorted(len(grades) for grades in found.qrels.values()) == [1, 2]
    assert read_source(str(path), "train") == found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "a"}', "expected one of the fields positive,"),
        ('{"query": "a", "positive": ""}', "field 'positive': is empty"),
        ('{"query": "a", "positives": []}', "at least one positive"),
        ('{"query": "a", "positives": ["x", null]}', r"field 'positives\[1\]': is null"),
        ('{"query": "a", "positives": [{"text": 5.5}]}', r"field 'positives\[0\]': expected text"),
        ("", "holds no pair"),
    ],
)
def test_a_bad_pair_is_one_clear_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(path)


def test_local_hugging_face_data_sets_are_read(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"anchor": ["q1", "q2"], "positive": ["a", "b"]})
    table.save_to_disk(str(tmp_path / "disk"))
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "dict"))
    (tmp_path / "parquet").mkdir()
    table.to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    expected = read_hf_dataset(str(tmp_path / "disk")).queries
    assert sorted(expected.values()) == ["q1", "q2"]
    assert read_source(str(tmp_path / "dict"), "train").queries == expected
    assert read_source(str(tmp_path / "parquet"), "train").queries == expected
    with pytest.raises(InputError, match="has no split 'dev'; it has train"):
        read_hf_dataset(str(tmp_path / "dict"), "dev")
    with pytest.raises(InputError, match="cannot load this data set"):
        read_hf_dataset(str(tmp_path / "parquet"), "dev")


def test_a_parquet_file_of_pairs_is_read_like_its_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    lines = [{"query": "q1", "positives": [{"title": "T", "text": "a"}]}, {"query": "q2", "positives": [{"text": "b"}]}]
    write_objects(tmp_path / "pairs.jsonl", lines)
    parquet.write_table(pa.Table.from_pylist(lines), tmp_path / "pairs.parquet")
    assert read_source(str(tmp_path / "pairs.parquet"), "train") == read_source(str(tmp_path / "pairs.jsonl"), "train")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot read as Parquet"):
        read_source(str(tmp_path / "bad.parquet"), "train")


def test_rows_are_read_from_parquet_too(tmp_path: Path) -> None:
    rows = [replace(item.row, query_id=str(i)) for i, item in enumerate(demo_items()[:3])]
    write_rows(tmp_path / "rows.jsonl", rows)
    write_format(tmp_path / "rows.parquet", "rows", rows)
    for name in ("rows.jsonl", "rows.parquet"):
        assert list(read_rows(tmp_path / name)) == rows
        assert count_rows(tmp_path / name) == 3
        assert count_rows(tmp_path / name, 2) == 2


def test_a_hub_set_is_read_at_one_commit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    read: list[tuple[str, str, str | None]] = []
    empty = RetrievalSet(name="x", passages={}, queries={}, qrels={})
    monkeypatch.setattr("data.readers.source.read_hf_dataset", lambda *a: read.append(a[:3]) or empty)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as hub, caplog.at_level(logging.INFO):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        read_source("hub:org/pairs", "train")
        assert f"hub:org/pairs@{'a' * 40} reads the same again" in caplog.text
        read_source(f"hub:org/pairs@{'a' * 40}", "train")
        with pytest.raises(InputError, match="hub:org/none: the hub has no such data set"):
            read_source("hub:org/none@v1", "train")
    assert read == [("org/pairs", "train", "a" * 40)] * 2
    assert ("GET", "/api/datasets/org/none/revision/v1") in hub.requests


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a BEIR folder"):
        read_source(str(tmp_path / "none"), "test")


def test_leakage_is_found_by_text_not_by_id(small: RetrievalSet) -> None:
    train = RetrievalSet(
        name="t",
        passages={"other": "SECOND"},
        queries={"x": "Which is  first"},
        qrels={"x": {"other": 1}},
    )
    found = find_leakage(train.rows(), small)
    assert found.queries == ("q1",)
    assert found.relevant_passages == ("p2",)
    assert found.summary().startswith("1 of 2 evaluation queries and 1 of 2 ")
    assert not find_leakage([], small)


def test_the_demo_data_is_what_its_readme_says() -> None:
    items = demo_items()
    assert len(items) == 120
    assert sum(len(item.row.negatives) for item in items) == 394
    broken = kept = 0
    for item in items:
        (positive,) = item.row.positives
        assert item.positive_verdict.answers_query and all(item.positive_verdict.satisfied)
        assert all(r.evidence in positive.text for r in item.row.requirements)
        assert [r.id for r in item.row.requirements] == list(range(1, len(item.row.requirements) + 1))
        assert len(item.why) == len(item.row.negatives)
        for negative in item.row.negatives:
            assert negative.verdict and negative.requirement and not negative.verdict.answers_query
            violated = [i + 1 for i, holds in enumerate(negative.verdict.satisfied) if not holds]
            broken += negative.requirement.id in violated
            kept += violated == [negative.requirement.id]
    # The README counts 331 that violate exactly one requirement, whichever it is.
    assert broken == 380
    assert kept <= 331


def test_the_demo_splits_share_nothing_with_training() -> None:
    rows = [item.row for item in demo_items()]
    for split, queries in (("test", 100), ("dev", 40), ("seen", 140)):
        retrieval_set = demo_family_set(split)
        assert len(retrieval_set.queries) == queries
        assert not find_leakage(rows, retrieval_set)
        sizes = list(retrieval_set.families.values())
        assert set(retrieval_set.families) == set(retrieval_set.passages)
        assert {sizes.count(family) for family in sizes} == {5}
    assert len({same_text_key(text) for text in demo_train_set().passages.values()}) == 120


def test_families_make_a_challenge_set(small: RetrievalSet, tmp_path: Path) -> None:
    family_set = replace(small, families={"p1": "a", "p2": "a", "p3": "b"})
    write_beir(tmp_path / "small", family_set, "test")
    assert read_beir(tmp_path / "small") == family_set
    with (tmp_path / "small" / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "p4", "text": "x", "metadata": {"url": "u"}}\n')
    with pytest.raises(InputError, match="passage 'p4' has no family"):
        read_beir(tmp_path / "small")


def test_the_demo_data_is_a_source_by_name() -> None:
    assert len(read_source("bundled:demo", "train").queries) == 120
    assert read_source("bundled:demo", "dev") == demo_family_set("dev")
    with pytest.raises(InputError, match="has no split 'validation'; it has train, seen, dev, test"):
        read_source("bundled:demo", "validation")


def test_the_bundled_corpora_are_what_their_readmes_say() -> None:
    counts = {}
    for spec in BUNDLED:
        rows, naive = bundled_rows(spec, "counterfactual"), bundled_rows(spec, "naive")
        assert [row.query_id for row in rows] == [row.query_id for row in naive]
        assert not find_leakage([*rows, *naive], read_source(spec, "test"))
        corpus = read_source(spec, "train")
        assert all(corpus.passages[p.id] == p.text for row in rows for p in row.positives)
        negatives = {
            "counterfactual": [n for row in rows for n in row.of_source("generated")],
            "naive": [n for row in naive for n in row.of_source("generated")],
            "mined": [n for row in rows for n in row.of_source("mined")],
        }
        assert all(n.relevance is not None for found in negatives.values() for n in found)
        counts[spec] = {
            kind: (len(found), sum(n.verdict is not None and n.verdict.answers_query for n in found))
            for kind, found in negatives.items()
        }
    assert counts == {
        "bundled:demo": {"counterfactual": (394, 0), "naive": (394, 1), "mined": (0, 0)},
        "bundled:xquad-sentences": {"counterfactual": (1128, 0), "naive": (1128, 4), "mined": (1504, 11)},
    }
    exactly_one = [
        sum(not holds for holds in n.verdict.satisfied) == 1
        for row in bundled_rows("bundled:xquad-sentences", "counterfactual")
        for n in row.of_source("generated")
        if n.verdict is not None
    ]
    assert sum(exactly_one) == 920
    test = read_source("bundled:xquad-sentences", "test")
    assert (len(test.passages), len(test.queries)) == (1159, 340)
    assert test.families["x14-04-01"] == "x14-04"
    with pytest.raises(InputError, match="unknown bundled corpus"):
        read_source("bundled:squad", "test")
    with pytest.raises(InputError, match="unknown bundled corpus"):
        bundled_rows("bundled:squad", "naive")


def test_a_skipped_passage_makes_no_query_score_better(folder: Path) -> None:
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="names the unknown passage 'p1'"):
        read_beir(folder)
    bad_rows = BadRows()
    found = read_beir(folder, bad_rows=bad_rows)
    assert found.qrels == {"q1": {"p1": 2, "p3": 0}, "q2": {"p2": 1}} and bad_rows.count == 1
    assert found.positives("q1") == {} and [row.query_id for row in found.rows()] == ["q2"]


def test_two_grades_for_one_passage_are_refused(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("q2\tp2\t1\nq2\tp2\t0\n")
    with pytest.raises(InputError, match=r"test\.tsv:6: field 'score': is 0, and 1 in an earlier line"):
        read_beir(folder)


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


PAIRS = [{"q": "which one", "good": "the first", "head": "T"}, {"q": 'say "two"', "good": "the, second", "head": ""}]


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.tsv", "p.parquet", "p.csv.gz"])
def test_pairs_of_any_file_and_any_columns(name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path, columns = tmp_path / name, PairOptions(query="q", positive="good", title="head")
    if name == "p.parquet":
        parquet.write_table(pa.Table.from_pylist(PAIRS), path)
    elif name == "p.jsonl":
        write_objects(path, PAIRS)
    elif name == "p.json":
        path.write_text(json.dumps(PAIRS), encoding="utf-8")
    elif name == "p.tsv":
        path.write_text("".join("\t".join(line) + "\n" for line in [PAIRS[0], *map(dict.values, PAIRS)]), "utf-8")
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(PAIRS[0]))
        writer.writeheader()
        writer.writerows(PAIRS)
        raw = text.getvalue().encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    found = read_source(str(path), "train", STRICT, columns)
    assert list(found.queries.values()) == ["which one", 'say "two"']
    assert list(found.passages.values()) == ["T\nthe first", "the, second"]
    with pytest.raises(InputError, match="expected the field nothing; found q, good, head"):
        read_pairs(path, STRICT, PairOptions(query="nothing"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,positive\na\n", r":2: expected 2 columns as in the header, got 1"),
        ('query,positive\n"a,b\n', r":2: not a line of a table"),
        ("query,query\na,b\n", r":1: expected a header line of different column names"),
        ("query,positive\na,\n", r":2: field 'positive': is empty"),
    ],
)
def test_a_bad_table_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "p.csv")


@pytest.mark.parametrize("kind", ["texts", "file", "beir"])
def test_a_corpus_beside_the_pairs(kind: str, tmp_path: Path, small: RetrievalSet) -> None:
    texts = {"a.txt": "the first", "b/c.txt": "the second", "d.txt": "a third"}
    corpus = tmp_path / "corpus"
    if kind == "texts":
        for name, text in texts.items():
            (corpus / name).parent.mkdir(parents=True, exist_ok=True)
            (corpus / name).write_text(text, encoding="utf-8")
    elif kind == "file":
        corpus = tmp_path / "corpus.jsonl"
        write_objects(corpus, [{"id": name, "passage": text} for name, text in texts.items()])
    else:
        write_beir(corpus, replace(small, passages=texts, queries={}, qrels={}), "test")
    pairs = tmp_path / "pairs.jsonl"
    for positive in ("The  first", "a.txt"):
        write_objects(pairs, [{"query": "q", "positive": positive}])
        found = read_source(str(pairs), "train", STRICT, PairOptions(corpus=str(corpus)))
        assert found.passages == texts
        assert list(found.qrels.values()) == [{"a.txt": 1}]
    write_objects(pairs, [{"query": "q", "positive": "not there"}])
    assert len(read_pairs(pairs, STRICT, PairOptions(corpus=str(corpus))).passages) == 4
    write_objects(pairs, [{"query": "q", "positive": "a.txt"}, {"query": "r", "positive": "z.txt"}])
    with pytest.raises(InputError, match=r"'z.txt' is no id of a passage in"):
        read_pairs(pairs, STRICT, PairOptions(corpus=str(corpus)))


def test_rows_that_are_pairs_say_to_mine_first(tmp_path: Path) -> None:
    write_objects(tmp_path / "pairs.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(
        InputError, match=r"field 'positives': is missing .*mine their negatives first, just mine data="
    ):
        list(read_rows(tmp_path / "pairs.jsonl"))
