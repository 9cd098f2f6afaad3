"""The diagnose command end to end with a tiny random encoder."""

import io
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import read_json_object, write_json
from data.records import Row
from data.row_files import read_objects, write_rows
from evals.__main__ import main
from evals.diagnostics.config import DiagnoseConfig
from evals.diagnostics.diagnose import sample_rows, with_run_defaults
from evals.diagnostics.table import interval
from tests.evals.run_folders import synthesis_summary
from tests.evals.synthetic import generated, mined, row


def rows(num: int = 12) -> list[Row]:
    words = ["files", "team", "plan", "price", "room", "days"]
    return [
        row(r, [mined(f"{words[r % 6]} corpus {r} {n}") for n in range(2)]
            + [generated(f"note {words[(r + n) % 6]} {r}") for n in range(2)])
        for r in range(num)
    ]  # fmt: skip


def diagnosed(folder: Path, looked_at: list[Row], *words: str) -> int:
    """The exit code of `diagnose` on these rows, which writes into folder/out."""
    write_rows(folder / "rows.jsonl", looked_at)
    return main(["diagnose", f"rows={folder}/rows.jsonl", f"out={folder}/out", *words])


def test_before_and_after_in_one_file(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "run" / "summary.json", synthesis_summary(12))
    words = [f"model={tiny_bert}", f"baseline={tiny_bert}", f"run={tmp_path}/run", "permutations=19"]
    assert diagnosed(tmp_path, rows(), *words, "parameter_rows=2") == 0
    shown = capsys.readouterr().out
    assert "12 of 12 rows, 24 mined and 24 generated negatives" in shown
    assert "warning: “note” opens 100% of generated and 0% of corpus passages" in shown
    assert "this verifier misses 1 of 10 known positives" in shown
    assert "audit: no audit has been made" in shown
    found = read_json_object(tmp_path / "out" / "diagnostics.json")
    before, after = found["encoders"]["before"], found["encoders"]["after"]
    assert before == after, "the same encoder twice"
    assert after["leak"]["embedding_auc"]["low"] <= after["leak"]["embedding_auc"]["mean"]
    assert after["drift"]["num_rows"] == 12 and after["parameter_drift"]["num_rows"] == 2
    assert [(name, one["count"]) for name, one in after["by_grade"].items()] == [
        ("2/3", 24),
        ("1", 12),
        ("not judged", 24),
    ]
    assert "similarity, grade 2/3" in shown and max(map(len, shown[: shown.index("warning")].splitlines()[3:])) <= 80
    assert found["text_leak"]["words_auc"]["mean"] == 1.0
    assert [step["name"] for step in found["funnel"]["steps"]][-1] == "accepted"
    lines = [line.value for line in read_objects(tmp_path / "out" / "scores.jsonl")]
    assert len(lines) == 12
    assert len(lines[0]["scores"]["after"]) == 5


def test_a_demo_folder_says_what_to_look_at(tmp_path: Path, tiny_bert: Path) -> None:
    run = tmp_path / "run"
    write_rows(run / "synthesis" / "rows.jsonl", rows())
    write_json(run / "synthesis" / "summary.json", synthesis_summary(12))
    write_json(run / "summary.json", {"models": {"zero-shot": str(tiny_bert), "mined": "gone", "full": str(tiny_bert)}})
    config, rows_file, out = with_run_defaults(DiagnoseConfig(run=run))
    assert (config.model, config.baseline) == (str(tiny_bert), None)
    assert (rows_file, out) == (run / "synthesis" / "rows.jsonl", run / "diagnostics")
    write_json(run / "summary.json", {"models": {"zero-shot": "first", "full": str(tiny_bert)}})
    assert with_run_defaults(DiagnoseConfig(run=run))[0].baseline == "first"
    assert with_run_defaults(DiagnoseConfig(run=run, baseline="other"))[0].baseline == "other"
    with pytest.raises(InputError, match="--baseline: expected --model with it"):
        DiagnoseConfig(rows=tmp_path, out=tmp_path, baseline="other", audit=1)
    assert with_run_defaults(DiagnoseConfig(run=run, audit=3))[0].model is None
    write_json(run / "summary.json", {})
    with pytest.raises(InputError, match="has trained none"):
        with_run_defaults(DiagnoseConfig(run=run))
    with pytest.raises(InputError, match="holds no synthesis"):
        with_run_defaults(DiagnoseConfig(run=tmp_path))


def test_a_folder_with_a_training_says_what_to_look_at(tmp_path: Path, tiny_bert: Path) -> None:
    write_rows(tmp_path / "synthesis" / "rows.jsonl", rows())
    write_json(tmp_path / "synthesis" / "summary.json", synthesis_summary(12))
    with pytest.raises(InputError, match="has trained none"):
        with_run_defaults(DiagnoseConfig(run=tmp_path))
    (tmp_path / "train" / "model").mkdir(parents=True)
    write_json(tmp_path / "train" / "config.json", {"model": str(tiny_bert)})
    config = with_run_defaults(DiagnoseConfig(run=tmp_path))[0]
    assert (config.model, config.baseline) == (str(tmp_path / "train" / "model"), str(tiny_bert))
    assert config.grade_sharpness is None
    settings = {"model": str(tiny_bert), "relevance": "graded", "grade_sharpness": 8.0}
    write_json(tmp_path / "train" / "config.json", settings)
    assert with_run_defaults(DiagnoseConfig(run=tmp_path))[0].grade_sharpness == 8
    assert with_run_defaults(DiagnoseConfig(run=tmp_path, model=str(tmp_path / "train")))[0].grade_sharpness == 8
    assert with_run_defaults(DiagnoseConfig(run=tmp_path, model=str(tiny_bert)))[0].grade_sharpness is None
    assert with_run_defaults(DiagnoseConfig(run=tmp_path, grade_sharpness=2.0))[0].grade_sharpness == 2


def test_an_audit_that_is_stopped_at_once_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert diagnosed(tmp_path, rows(), "audit=5") == 0
    assert "the audit has no answer yet" in capsys.readouterr().out


def test_two_rows_end_in_a_table_with_open_ends(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [mined(f"m {i}") for i in range(4)] + [generated(f"g {i}") for i in range(4)]
    # Without the first row too little is left for an interval by leaving rows out.
    few = [row(0, many), row(1, [mined("m"), generated("g")])]
    assert diagnosed(tmp_path, few, f"model={tiny_bert}", "parameter_rows=0", "permutations=19") == 0
    assert "lengths, openings and phrases: too few rows: 2 have generated" in capsys.readouterr().out


def test_an_end_that_the_data_leave_open_is_a_dash() -> None:
    assert interval({"mean": 0.25, "low": 0.0, "high": None}) == "0.250 [0.000, –]"
    assert interval({"mean": None, "low": None, "high": None}) == interval(None) == "–"


def test_rows_without_generated_negatives_still_tell_their_hardness(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [row(r, [mined(f"corpus {r}")]) for r in range(8)]
    assert diagnosed(tmp_path, plain, f"model={tiny_bert}", "permutations=19") == 0
    shown = capsys.readouterr().out
    assert "text leak: no row has a generated negative" in shown
    assert "drift: gradient drift needs rows that have both mined and generated negatives" in shown
    found = read_json_object(tmp_path / "out" / "diagnostics.json")
    assert set(found["encoders"]["now"]["hardness"]["by_source"]) == {"mined"}
    assert found["warnings"] == []


def test_an_audit_alone_needs_no_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\ny\nn\nq\n"))
    assert diagnosed(tmp_path, rows(), "audit=10") == 0
    shown = capsys.readouterr().out
    assert "10 passages to judge, 0 already done" in shown
    assert "generated negatives answer the query after all by hand" in shown
    assert len((tmp_path / "out" / "audit.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model: expected an encoder"),
        (["audit=-1"], "--audit: expected at least 0"),
        (["model=x", "temperature=0"], "--temperature: expected a number above 0"),
        (["model=x", "permutations=5"], "--permutations: expected at least 19"),
        (["model=x", "max-rows=-1"], "--max-rows: expected at least 0"),
        (["model=x", "parameter-rows=1"], "--parameter-rows: expected 0 or at least 2"),
        (["audit=3", "baseline=x"], "--baseline: expected --model with it"),
        (["model=no/such/model"], "no/such/model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, words: list, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diagnosed(tmp_path, rows(2), *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_an_empty_file_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnosed(tmp_path, [], "model=x") == 2
    assert "rows.jsonl: holds no rows" in capsys.readouterr().err


def test_a_sample_takes_rows_with_generated_negatives_first_and_keeps_their_order() -> None:
    mixed = [row(r, [mined("m")] if r % 2 else [generated("g")]) for r in range(10)]
    found = sample_rows(mixed, 6, seed=1)
    assert [r.query_id for r in found if r.of_source("generated")] == ["q0", "q2", "q4", "q6", "q8"]
    assert found == sorted(found, key=mixed.index)
    assert sample_rows(mixed, 0, seed=1) == mixed == sample_rows(mixed, 10, seed=1)
