import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.__main__ import COMMANDS
from data.base.cli import run_command
from data.base.errors import BadRows, InputError
from data.formats.convert import fewest_negatives, read_format, write_format
from data.formats.registry import FORMATS
from data.formats.sidecar import sidecar_path
from data.records import Negative, Passage, Row
from data.row_files import read_rows, write_objects, write_rows
from tests.data.test_records import rows

FOREIGN = [name for name, known in FORMATS.items() if not known.lossless]
ROW = Row(
    query_id="q1",
    query="which plan",
    positives=(Passage(id="p1", text="Title\nfirst"), Passage(id="p2", text="second")),
    negatives=(
        Negative(text="g1", source="generated", disruption="entity_shift", generator="m", grade=0.25),
        Negative(text="m1", source="mined", id="d1", score=0.5),
        Negative(text="m2", source="mined", id="d2", score=0.25),
    ),
)


def distinct_texts(row: Row) -> bool:
    texts = [n.text for n in row.negatives] + [p.text for p in row.positives]
    return len(texts) == len(set(texts))


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(rows.filter(distinct_texts), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_format_gives_the_rows_back(name: str, tmp_path: Path, originals: list[Row]) -> None:
    path = tmp_path / f"{name}.jsonl"
    num_negatives = fewest_negatives(originals, name)
    kept = [row for row in originals if FORMATS[name].choose(row, num_negatives) is not None]
    if not kept:
        with pytest.raises(InputError, match="no row could be written"):
            write_format(path, name, originals, num_negatives)
        return
    report = write_format(path, name, originals, num_negatives)
    assert report.rows == len(kept) and report.rows + sum(report.dropped.values()) == len(originals)
    back = list(read_format(path, name))
    for row, original in zip(back, kept, strict=True):
        chosen = {n.text for n in FORMATS[name].choose(original, num_negatives) or ()}
        assert row == replace(original, negatives=tuple(n for n in original.negatives if n.text in chosen))


@given(st.lists(rows, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parquet_gives_the_rows_back(tmp_path: Path, originals: list[Row]) -> None:
    path = tmp_path / "rows.parquet"
    if originals:
        write_format(path, "rows", originals)
        assert list(read_format(path, "rows")) == originals


def test_the_lines_are_what_each_trainer_reads(tmp_path: Path) -> None:
    def lines(name: str, num_negatives: int | None = None) -> list[dict]:
        write_format(tmp_path / name, name, [ROW], num_negatives)
        return [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]

    assert lines("flag-embedding") == [
        {"query": "which plan", "pos": ["Title\nfirst", "second"], "neg": ["g1", "m1", "m2"]}
    ]
    # By position: the mined ones first.
    swift = lines("swift", 2)
    assert [line["positive_messages"][0][0]["content"] for line in swift] == ["Title\nfirst", "second"]
    assert [m[0]["content"] for m in swift[0]["negative_messages"]] == ["m1", "m2", "g1"]
    assert swift[0]["messages"] == [{"role": "user", "content": "which plan"}]
    (tevatron,) = lines("tevatron")
    assert tevatron["query_id"] == "q1"
    assert tevatron["positive_passages"][1] == {"docid": "p2", "title": "", "text": "second"}
    assert [p["docid"] for p in tevatron["negative_passages"]][1:] == ["d1", "d2"]
    # A cut keeps what was paid for.
    assert lines("st-tuples", 2)[1] == {
        "anchor": "which plan", "positive": "second", "negative_1": "g1", "negative_2": "m1"
    }  # fmt: skip
    assert lines("st-origins", 2)[1]["label"] == [1, 0]
    assert lines("st-graded", 2)[1]["label"] == [[1.0, 0.25], [0.0, -1.0]]
    assert lines("st-labelled") == [
        {"query": "which plan", "docs": ["Title\nfirst", "second", "g1", "m1", "m2"], "labels": [1, 1, 0, 0, 0]}
    ]


@pytest.mark.parametrize("name", FOREIGN)
def test_without_a_sidecar_texts_come_back_and_negatives_of_unknown_origin_are_mined(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    other = replace(ROW, query_id="q2", query="another")
    write_format(path, name, [ROW, other], 2)
    sidecar_path(path).unlink()
    first, second = read_format(path, name)
    assert (first.query, second.query) == ("which plan", "another")
    assert [p.text for p in first.positives] == ["Title\nfirst", "second"]
    assert {n.text for n in first.negatives} >= {"g1", "m1"}
    assert all(n.generator is None for n in first.negatives)
    generated = [n.text for n in first.of_source("generated")]
    assert generated == (["g1"] if name in ("st-origins", "st-graded") else [])
    assert [n.relevance for n in first.negatives if n.text == "g1"] == [0.25 if name == "st-graded" else None]


def test_titles_of_tevatron_are_joined(tmp_path: Path) -> None:
    line = {
        "query_id": 7, "query": "q", "positive_passages": [{"docid": 1, "title": "T", "text": "x"}],
        "negative_passages": [],
    }  # fmt: skip
    write_objects(tmp_path / "t.jsonl", [line])
    (row,) = read_format(tmp_path / "t.jsonl", "tevatron")
    assert (row.query_id, row.positives) == ("7", (Passage(id="1", text="T\nx"),))


@pytest.mark.parametrize(
    ("name", "line", "field"),
    [
        ("flag-embedding", {"query": "q", "neg": ["n"]}, "pos"),
        ("flag-embedding", {"query": "q", "pos": [], "neg": ["n"]}, "pos"),
        ("flag-embedding", {"query": "q", "pos": ["p"], "neg": ["n", " "]}, "neg[1]"),
        ("swift", {"messages": [], "positive_messages": []}, "messages"),
        ("swift", {"messages": [{"role": "user"}], "positive_messages": []}, "messages.content"),
        ("swift", {"messages": [{"content": "q"}], "positive_messages": [{"content": "p"}]}, "positive_messages[0]"),
        ("tevatron", {"query_id": "1", "query": "q", "positive_passages": []}, "positive_passages"),
        (
            "tevatron",
            {"query_id": "1", "query": "q", "positive_passages": [{"text": "p"}]},
            "positive_passages[0].docid",
        ),
        ("st-tuples", {"anchor": "q"}, "positive"),
        ("st-tuples", {"anchor": "q", "positive": "p", "negative_1": ""}, "negative_1"),
        ("st-origins", {"anchor": "q", "positive": "p", "negative_1": "n"}, "label"),
        ("st-origins", {"anchor": "q", "positive": "p", "negative_1": "n", "label": [1, 0]}, "label"),
        ("st-origins", {"anchor": "q", "positive": "p", "negative_1": "n", "label": [2]}, "label"),
        ("st-graded", {"anchor": "q", "positive": "p", "negative_1": "n", "label": [[1, 1.5]]}, "label"),
        ("st-graded", {"anchor": "q", "positive": "p", "negative_1": "n", "label": [1]}, "label"),
        ("st-labelled", {"query": "q", "docs": ["a"], "labels": [1, 0]}, "labels"),
        ("st-labelled", {"query": "q", "docs": ["a", "b"], "labels": ["1", "0"]}, "labels"),
        ("st-labelled", {"query": "q", "docs": ["a"], "labels": [0]}, "docs"),
        ("st-labelled", {"query": "q", "docs": ["a"], "labels": [-1]}, "docs"),
    ],
)
def test_a_bad_line_names_file_line_and_field(name: str, line: dict, field: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    write_objects(path, [line])
    with pytest.raises(InputError) as caught:
        list(read_format(path, name))
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 1, field)
    bad_rows = BadRows()
    assert list(read_format(path, name, bad_rows)) == []
    assert bad_rows.count == 1


def test_a_sidecar_of_another_file_is_refused(tmp_path: Path) -> None:
    write_format(tmp_path / "a.jsonl", "flag-embedding", [ROW])
    other = replace(ROW, query="another")
    write_format(tmp_path / "b.jsonl", "flag-embedding", [other, other])
    (tmp_path / "b.jsonl").rename(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="belongs to another file"):
        list(read_format(tmp_path / "a.jsonl", "flag-embedding"))


def test_texts_that_the_sidecar_does_not_know_stay_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flag.jsonl"
    write_format(path, "flag-embedding", [ROW])
    line = json.loads(path.read_text(encoding="utf-8"))
    line["neg"] = ["n1", *line["neg"][1:], "n2"]
    write_objects(path, [line])
    argv = ["convert", f"input={path}", "source=flag-embedding", f"out={tmp_path}/back.jsonl"]
    assert run_command(COMMANDS, argv) == 0
    assert f"negatives that {path}.provenance.jsonl does not know, kept without ids: 2 as mined" in (
        capsys.readouterr().out
    )
    (back,) = read_rows(tmp_path / "back.jsonl")
    added = (Negative(text="n1", source="mined"), Negative(text="n2", source="mined"))
    assert back == replace(ROW, negatives=(*ROW.negatives[1:], *added))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_sidecar_says_nothing_about_canonical_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    older = tmp_path / "older.jsonl"
    write_format(older, "flag-embedding", [replace(ROW, negatives=ROW.negatives[1:])])
    sidecar = sidecar_path(older).read_bytes()
    write_format(path, "rows", [ROW])
    sidecar_path(path).write_bytes(sidecar)
    assert list(read_format(path, "rows")) == [ROW]
    write_format(path, "rows", [ROW])
    assert not sidecar_path(path).exists()


@pytest.mark.parametrize("name", ["flag-embedding", "tevatron", "st-labelled"])
def test_equal_texts_keep_an_id_each(name: str, tmp_path: Path) -> None:
    negatives = (Negative(text="t", source="mined", id="d1"), Negative(text="t", source="generated", generator="m"))
    row = replace(ROW, positives=(Passage(id="p1", text="same"), Passage(id="p2", text="same")), negatives=negatives)
    write_format(tmp_path / "x.jsonl", name, [row])
    assert list(read_format(tmp_path / "x.jsonl", name)) == [row]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_empty_conversion_leaves_the_file_that_is_there(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    write_format(path, "rows", [ROW])
    before = path.read_bytes()
    with pytest.raises(InputError, match="no row could be written as rows"):
        write_format(path, "rows", [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    bare = replace(ROW, negatives=())
    with pytest.raises(InputError, match=r"no row could be written as flag-embedding \(1 dropped: no negatives\)"):
        write_format(tmp_path / "x.jsonl", "flag-embedding", [bare])
    with pytest.raises(InputError, match="say how many"):
        write_format(tmp_path / "x.jsonl", "st-tuples", [ROW])
    with pytest.raises(InputError, match="only canonical rows go into Parquet"):
        write_format(tmp_path / "x.parquet", "swift", [ROW], 1)
    with pytest.raises(InputError, match="unknown format 'csv'"):
        write_format(tmp_path / "x.jsonl", "csv", [ROW])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "no.parquet").write_bytes(b"PAR0")
    with pytest.raises(InputError, match="cannot read as Parquet"):
        list(read_format(tmp_path / "no.parquet", "rows"))


def test_the_command_counts_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(ROW, query="few", negatives=ROW.negatives[1:2])
    write_rows(tmp_path / "rows.jsonl", [ROW, few])
    argv = ["convert", f"input={tmp_path}/rows.jsonl", f"out={tmp_path}/out.jsonl", "to=swift"]
    assert run_command(COMMANDS, argv) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 rows as 4 lines of swift; negatives: 1 generated, 2 mined")
    assert "left out, since every line has the same number: 1 mined" in shown
    assert "set NUM_MINED_NEGATIVES" in shown
    assert run_command(COMMANDS, [*argv, "num-negatives=2"]) == 0
    assert "1 rows dropped: fewer than 2 mined negatives" in capsys.readouterr().out
    back = ["convert", f"input={tmp_path}/out.jsonl", "source=swift", f"out={tmp_path}/back.parquet"]
    assert run_command(COMMANDS, back) == 0
    assert list(read_format(tmp_path / "back.parquet", "rows")) == list(read_rows(tmp_path / "rows.jsonl"))[:1]


@pytest.mark.slow
def test_sentence_transformers_trains_a_step_from_the_tuples(tiny_bert: Path, tmp_path: Path) -> None:
    import datasets
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    write_format(tmp_path / "tuples.jsonl", "st-tuples", [ROW], 3)
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "tuples.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.column_names == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, report_to=[], save_strategy="no", use_cpu=True, learning_rate=0.1
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=table, loss=MultipleNegativesRankingLoss(model)
    ).train()
    assert any(not value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_format_is_named_with_the_command_that_converts_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    write_format(path, name, [ROW], num_negatives=1)
    for read in (read_rows, lambda path: read_format(path, "rows")):
        with pytest.raises(InputError, match=f"looks like a line of {name}: just convert input=.* source={name} "):
            list(read(path))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl.gz"])
def test_lines_get_no_name_by_which_they_would_be_read_as_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.jsonl"):
        write_format(tmp_path / name, "rows", [ROW])
    assert not list(tmp_path.iterdir())
