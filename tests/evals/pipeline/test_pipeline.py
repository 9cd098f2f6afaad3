"""`just pipeline` on the sample file of the documents: every step, skipping, going on, doing again, and its faults."""

import json
import logging
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.base.cli import run_command
from data.base.outputs import claim_folder
from evals.__main__ import COMMANDS
from evals.pipeline.config import PipelineConfig
from evals.pipeline.plan import STEPS, read_plan
from evals.pipeline.run import STATE_FILE, fingerprint
from programs.__main__ import COMMANDS as PROGRAMS
from trainer.__main__ import COMMANDS as TRAINER
from trainer.encoder.options import BUNDLED_MODEL

SAMPLE = Path(__file__).parents[3] / "docs" / "demo.toml"
ALL = ["mine", "synthesize", "train", "diagnose", "eval", "report"]


def pipeline(*words: str, config: Path = SAMPLE) -> int:
    return run_command(COMMANDS, ["pipeline", f"config={config}", *words])


@pytest.fixture
def skipped(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The steps that were skipped since this was last asked."""
    caplog.set_level(logging.INFO)

    def since() -> list[str]:
        said = [record.getMessage() for record in caplog.records if ": skipped, " in record.getMessage()]
        caplog.clear()
        return [line.split(": skipped")[0].split()[-1] for line in said]

    return since


def written(folder: Path) -> dict[str, str | None]:
    names = ("mined.jsonl", "synthesis/rows.jsonl", "train/model", "diagnostics/diagnostics.json", "eval.json")
    return {name: fingerprint(folder / name) for name in names}


def mined_and_trained(folder: Path) -> Path:
    """The file of a pipeline of two short steps."""
    file = folder / "run.toml"
    file.write_text("data = 'bundled:demo'\n[mine]\nrelative-margin = 'none'\n[train]\nepochs = 1\n", encoding="utf-8")
    return file


@pytest.mark.slow
def test_each_step_runs_once_goes_on_and_is_done_again_where_something_changed(
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    skipped: Callable[[], list[str]],
) -> None:
    out = tmp_path / "run"
    small = [
        f"out={out}",
        f"model={tiny_bert}",
        "synthesize.max-rows=20",
        "train.epochs=2",
        "diagnose.parameter-rows=0",
    ]

    # A run that dies within a step: its folder is there, the step is not done.
    def dies(config: Any) -> None:
        (out / "train").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(TRAINER, "train", (TRAINER["train"][0], dies))
        assert pipeline(*small) == 130
    assert pipeline(*small) == 0
    assert skipped() == ["mine", "synthesize"]
    shown = capsys.readouterr().out
    assert f"done: {', '.join(ALL)}; everything is in {out}/" in shown
    follows = f"publish model={out / 'train' / 'model'} evaluations={out / 'eval.json'} hub=ORG/NAME"
    assert shown.splitlines()[-1] == f"next: just {follows}"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<title>CausalNeg demo" in page and "Which queries won, which lost?" in page

    first = written(out)
    assert None not in first.values()
    assert pipeline(*small) == 0
    assert skipped() == ALL and written(out) == first
    # The file that it wrote says the same.
    assert tomllib.loads((out / "run.toml").read_text(encoding="utf-8"))["train"]["epochs"] == 2
    assert pipeline(config=out / "run.toml") == 0
    assert skipped() == ALL and written(out) == first
    # A step's own run.toml goes on with that step alone.
    assert run_command(TRAINER, ["train", f"config={out / 'train' / 'run.toml'}"]) == 0
    assert written(out) == first

    assert pipeline(*small, "train.lr=1e-3") == 0
    assert skipped() == ["mine", "synthesize"]
    second = written(out)
    assert {name for name in first if first[name] != second[name]} == {
        "train/model", "diagnostics/diagnostics.json", "eval.json"
    }  # fmt: skip
    # What changes nothing about a training does not begin it again, and recorded rows are made anew unasked.
    assert pipeline(*small, "train.lr=1e-3", "train.device=cpu", "eval.slice-measure=map") == 0
    assert skipped() == ["mine", "synthesize", "train", "diagnose"]
    assert pipeline(*small, "synthesize.negatives-per-row=2", "train.lr=1e-3") == 0
    assert skipped() == ["mine"]
    assert written(out)["synthesis/rows.jsonl"] != second["synthesis/rows.jsonl"]
    # A product that was changed or lost is made again.
    (out / "eval.json").unlink()
    assert pipeline(*small, "synthesize.negatives-per-row=2", "train.lr=1e-3") == 0
    assert skipped() == [step for step in ALL if step != "eval"]


def test_what_a_training_that_was_begun_anew_and_killed_left_is_not_taken_for_it(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = mined_and_trained(tmp_path), tmp_path / "run"
    given = [f"out={out}", f"model={tiny_bert}"]
    assert pipeline(*given, config=file) == 0
    first = fingerprint(out / "train" / "model")

    def dies_before_it_begins(config: Any) -> None:
        assert config.restart
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(TRAINER, "train", (TRAINER["train"][0], dies_before_it_begins))
        assert pipeline(*given, "mine.num-negatives=2", config=file) == 130
    assert pipeline(*given, "mine.num-negatives=2", config=file) == 0
    assert fingerprint(out / "train" / "model") != first


def test_a_training_of_another_folder_is_never_thrown_away(tiny_bert: Path, tmp_path: Path) -> None:
    file = mined_and_trained(tmp_path)
    given = [f"out={tmp_path / 'run'}", f"model={tiny_bert}"]
    assert pipeline(*given, config=file) == 0
    other = tmp_path / "other"
    assert pipeline(f"out={tmp_path / 'run2'}", given[1], f"train.out={other}", "train.lr=1e-4", config=file) == 0
    before = fingerprint(other / "model")
    assert pipeline(*given, f"train.out={other}", "train.lr=1e-3", config=file) == 2
    assert fingerprint(other / "model") == before


@pytest.mark.parametrize("state", ['{"mine": 1}', '{"notes": {}}', "[]"])
def test_a_folder_of_anything_else_is_refused(state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text("data = 'bundled:demo'\n[mine]\n", encoding="utf-8")
    own = tmp_path / STATE_FILE
    own.write_text(state, encoding="utf-8")
    assert pipeline(f"out={tmp_path}", config=file) == 2
    assert own.read_text(encoding="utf-8") == state
    claim_folder("synthesize", tmp_path / "synthesis", [])
    assert pipeline(f"out={tmp_path / 'synthesis'}", config=file) == 2
    assert "which is a run of `synthesize`" in capsys.readouterr().err


def test_rows_whose_calls_are_out_end_the_pipeline_without_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    file, out = tmp_path / "run.toml", tmp_path / "run"
    file.write_text(
        f"out = '{out}'\n[mine]\ndata = 'bundled:demo'\nsource = 'bm25'\n[synthesize]\nlm = 'openai/gpt-4.1-mini'\n"
        "send = 'files'\nwait = false\nmax-rows = 2\n[train]\n",
        encoding="utf-8",
    )
    assert pipeline(config=file) == 0
    assert "requests" in capsys.readouterr().out.splitlines()[-1]
    assert "made" not in json.loads((out / STATE_FILE).read_text(encoding="utf-8"))["synthesize"]
    assert not (out / "train").exists()


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("[mine]\n[trian]", [], "[trian]: no such step; the nearest is train"),
        ("[mine]\nnum_negativs = 3", [], "[mine] num-negativs: no such option of `mine`; the nearest is num-negatives"),
        ("dat = 'x'\n[mine]", [], "dat: no step takes it; the nearest is data"),
        ("mine = 3", [], "mine: expected a table, [mine]"),
        ("data = 'bundled:demo'", [], "has no table of a step: expected some of [queries], [mine]"),
        ("[mine]", [], "[mine] expected --data"),
        ("[train]", [], "[train] expected --rows"),
        ("[eval]\nmodel = 'm'\ndata = 'd'\nout = 'None'", [], "[eval] --out: expected a file or folder"),
        ("data = 'bundled:demo'\n[mine]\n[train]\nlr = -1", [], "[train] --lr: expected a number above 0"),
        ("[mine]", ["data=nowhere"], "[mine] nowhere: --data: does not exist"),
        ("[mine]\ndata = 'bundled:demo'", ["lm=recorded:demo"], "--lm: no step of {file} takes it"),
        ("[mine]\ndata = 'bundled:demo'", ["model=./nowhere"], "[mine] unknown model './nowhere'"),
        ("[mine]\ndata = 'bundled:demo'\n[train]\ndev = 'nowhere'", [], "[train] nowhere: --dev: does not exist"),
        ("[mine]\ndata = 'bundled:demo'", ["train.epochs=1"], "--train.epochs: {file} has no [train]"),
        ("[mine]\ndata = 'bundled:demo'", ["mine.sed=1"], "--mine.sed: no such option of `mine`; the nearest is seed"),
        ("[mine]\ndata = 'bundled:demo'\n[synthesize]\nlm = 'nobody/x'", [], "[synthesize] field 'lm': unknown model"),
        ("[mine]\ndata = 'bundled:demo'\n[synthesize]\nprofile = 'x'", [], "[synthesize] field 'profile': unknown"),
    ],
)
def test_a_fault_of_any_step_is_said_before_the_first_runs(
    text: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    assert pipeline(f"out={tmp_path / 'run'}", *words, config=file) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said.format(file=file) in errors[0]
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_data_of_the_command_line_hold_over_queries_that_a_step_writes(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("out = 'x'\n[queries]\ncorpus = 'c'\nlm = 'a/b'\n[mine]\n[train]\n[eval]\n", encoding="utf-8")
    found = {}
    for words in ({}, {"dev": "mine", "data": "others", "model": "m"}):
        _, steps = read_plan(PipelineConfig(config=file, **words), {**TRAINER, **PROGRAMS, **COMMANDS})
        _, mine, train, evaluation = (step.config for step in steps)
        found[len(words)] = mine.data, train.dev, evaluation.data, evaluation.model, evaluation.baseline
    assert found == {
        0: ("x/queries", "x/queries", "x/queries", "x/train/model", BUNDLED_MODEL),
        3: ("others", "mine", "others", "x/train/model", "m"),
    }


def test_what_was_to_have_no_value_has_none_when_the_run_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, commands = tmp_path / "own.toml", {**TRAINER, **PROGRAMS, **COMMANDS}
    file.write_text("data = 'bundled:demo'\n[mine]\n[train]\n[eval]\nbaseline = 'None'\n", encoding="utf-8")
    monkeypatch.setattr("evals.pipeline.run._run", lambda *words: None)
    assert pipeline(f"out={tmp_path / 'run'}", config=file) == 0
    first, again = (
        read_plan(PipelineConfig(config=each, out=tmp_path / "run"), commands)[1]
        for each in (file, tmp_path / "run" / "run.toml")
    )
    assert first[2].config.baseline is None
    assert [step.config for step in again] == [step.config for step in first]


def test_the_folder_in_the_file_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.toml"
    file.write_text("out = '~/run'\ndata = 'bundled:demo'\n[mine]\n", encoding="utf-8")
    out, (mine,) = read_plan(PipelineConfig(config=file), {**TRAINER, **PROGRAMS, **COMMANDS})
    assert (out, mine.made) == (tmp_path / "run", tmp_path / "run" / "mined.jsonl")


def test_the_steps_are_commands_whose_run_file_they_share() -> None:
    assert set(STEPS) <= {**TRAINER, **PROGRAMS, **COMMANDS}.keys()
