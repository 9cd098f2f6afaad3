import csv
import gzip
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import STRICT, InputError
from data.formats.convert import write_format
from data.readers.beir import write_beir
from data.readers.demo import demo_items
from data.readers.pairs import PairOptions, read_hf_dataset, read_pairs
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet
from data.row_files import count_rows, read_rows, write_objects, write_rows
from tests.fakes.fake_hub import TOKEN, FakeHub


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
    write_objects(path, lines)
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


def test_a_title_is_of_one_positive(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "q", "pos": ["a", "b"], "title": "t"}', encoding="utf-8")
    assert set(read_pairs(path).passages.values()) == {"a", "b"}
    with pytest.raises(InputError, match="field 'pos': expected one positive for its title"):
        read_pairs(path, pairs=PairOptions(title="title"))


def test_options_of_pairs_are_said_to_mean_nothing_elsewhere(
    tmp_path: Path, small: RetrievalSet, caplog: pytest.LogCaptureFixture
) -> None:
    write_beir(tmp_path, small, "test")
    for spec in (str(tmp_path), "bundled:demo"):
        caplog.clear()
        read_source(spec, "test", pairs=PairOptions())
        assert not caplog.records
        read_source(spec, "test", pairs=PairOptions(query="q", corpus="other.jsonl"))
        assert f"--query and --corpus: without effect, as {spec} is no file of pairs" in caplog.text


def test_rows_that_are_pairs_say_to_mine_first(tmp_path: Path) -> None:
    write_objects(tmp_path / "pairs.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(
        InputError, match=r"field 'positives': is missing .*mine their negatives first, just mine data="
    ):
        list(read_rows(tmp_path / "pairs.jsonl"))
