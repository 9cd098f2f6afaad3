"""The demo and the evaluation command, end to end with a tiny random encoder."""

import json
from pathlib import Path

import pytest

from data.base.cli import run_command
from data.base.files import folder_lock, write_json
from data.base.outputs import MARKER
from data.base.stats import compare_paired
from data.row_files import read_rows
from evals.__main__ import COMMANDS
from evals.demo import run as demo_module
from evals.demo.run import DIAGNOSED, what_it_means

ARMS = ["zero-shot", "mined only", "mined + generated + entropy"]


def run(*argv: str) -> int:
    return run_command(COMMANDS, argv)


def test_a_demo_that_another_process_works_on_keeps_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / MARKER, {"run": "demo"})
    write_json(tmp_path / "summary.json", {})
    with folder_lock(tmp_path):
        assert run("demo", f"out={tmp_path}") == 2
    assert "another process is working in this folder" in capsys.readouterr().err
    assert (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_the_demo_runs_every_step_and_says_what_came_out(
    tiny_bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "demo"
    stale = out / "rows" / "stale.jsonl"
    stale.parent.mkdir(parents=True)
    stale.write_text("", encoding="utf-8")
    write_json(out / MARKER, {"run": "demo"})
    labels = out / "diagnostics" / "audit.jsonl"
    labels.parent.mkdir()
    labels.write_text("", encoding="utf-8")
    (labels.parent / "diagnostics.json").write_text("{}", encoding="utf-8")
    assert run("demo", f"out={out}", f"model={tiny_bert}", "epochs=1") == 0
    shown = capsys.readouterr().out
    assert all(arm in shown for arm in ARMS)
    assert "tells siblings apart: " in shown
    assert shown.splitlines()[-1] == f"next: just mine data=DATA out={tmp_path}/mine/mined.jsonl"

    assert not stale.exists()
    assert labels.read_text(encoding="utf-8") == ""
    diagnostics = json.loads((labels.parent / "diagnostics.json").read_text(encoding="utf-8"))
    assert diagnostics["num_rows_used"] == DIAGNOSED and list(diagnostics["encoders"]) == ["before", "after"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<title>" in page and "Which queries won, which lost?" in page
    assert "Not here: " not in page
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert list(summary["test"]) == ARMS
    assert summary["synthesis"]["funnel"]["accepted"] == 380
    assert summary["synthesis"]["verifier"]["missed"] == 0
    for arm in ARMS:
        for measure in ("ndcg@10", "accuracy@1", "siblings"):
            per_query = summary["per_query"][arm][measure]
            assert len(per_query) == 100
            assert summary["test"][arm][measure]["mean"] == pytest.approx(sum(per_query.values()) / 100)

    mined = list(read_rows(out / "rows" / "mined_only.jsonl"))
    full = list(read_rows(out / "rows" / "mined_generated_entropy.jsonl"))
    for mined_row, full_row in zip(mined, full, strict=True):
        # A random encoder's margin filter leaves few mined negatives; where there are enough, the texts are equal.
        assert len(mined_row.negatives) <= len(full_row.negatives)
        assert {n.text for n in full_row.of_source("mined")} <= {n.text for n in mined_row.negatives}
    assert not any(row.of_source("generated") for row in mined)
    assert sum(len(row.of_source("generated")) for row in full) == 380
    for name in ("mined_only", "mined_generated_entropy"):
        assert (out / "train" / name / "model" / "model.safetensors").is_file()

    result = tmp_path / "eval.json"
    model = out / "train" / "mined_only" / "model"
    capsys.readouterr()
    assert run("eval", f"model={model}", f"baseline={tiny_bert}", f"data={out}/data/test", f"out={result}",
               f"rows={out}/synthesis/rows.jsonl", f"per-query={tmp_path}/q.csv") == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert shown.startswith("test/test: 100 queries over 100 passages")
    measured = json.loads(result.read_text(encoding="utf-8"))
    assert measured["per_query"]["ndcg@10"] == pytest.approx(summary["per_query"]["mined only"]["ndcg@10"])
    assert measured["baseline"]["per_query"]["accuracy@1"] == summary["per_query"]["zero-shot"]["accuracy@1"]
    assert measured["per_query"]["siblings"] == summary["per_query"]["mined only"]["siblings"]
    short = measured["slices"]["6 to 10 words"]["ndcg@10"]["mean"]
    long = measured["slices"]["11 to 20 words"]["ndcg@10"]["mean"]
    assert (20 * short + 80 * long) / 100 == pytest.approx(measured["means"]["ndcg@10"])
    lines = (tmp_path / "q.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 100
    assert lines[0].startswith('"model","query_id","query","ndcg@10"')
    difference = measured["baseline"]["comparisons"]["ndcg@10"]["difference"]["mean"]
    assert difference == pytest.approx(measured["means"]["ndcg@10"] - measured["baseline"]["means"]["ndcg@10"])

    # Once more: what was answered is not asked again, unless other questions are asked.
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "train_arm", stops)
    rows = (out / "synthesis" / "rows.jsonl").read_bytes()
    assert "finished already" not in caplog.text
    assert run("demo", f"out={out}", f"model={tiny_bert}", "epochs=1") == 130
    assert "120 of 120 were finished already and cost nothing" in caplog.text
    assert (out / "synthesis" / "rows.jsonl").read_bytes() == rows and not (out / "summary.json").exists()
    caplog.clear()
    assert run("demo", f"out={out}", f"model={tiny_bert}", "seed=1") == 130
    assert "finished already" not in caplog.text


def test_the_sentence_says_what_came_out() -> None:
    low, high = dict.fromkeys(map(str, range(40)), 0.0), dict.fromkeys(map(str, range(40)), 1.0)
    assert what_it_means(compare_paired(low, high)).startswith("generated negatives made it better")
    assert what_it_means(compare_paired(high, low)).startswith("generated negatives made it worse")
    assert what_it_means(compare_paired(low, low)).startswith("no significant difference")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["eval", "model=no/such/model", "data={beir}", "split=test"], "no/such/model"),
        (["eval", "model={model}", "data=nowhere"], "nowhere: does not exist"),
        (["eval", "model={model}", "data={beir}", "per-query=q.txt"], "--per-query: expected a name that ends in"),
        (["eval", "model={model}", "data={beir}", "split=dev"], "has the splits test"),
        (["demo", "out={beir}/corpus.jsonl/x", "model={model}"], "is a file, expected a folder to write into"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text('{"_id": "p", "text": "a"}\n', encoding="utf-8")
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n', encoding="utf-8")
    (beir / "qrels" / "test.tsv").write_text("q\tp\t1\n", encoding="utf-8")
    assert run(*(word.format(beir=beir, model=tiny_bert) for word in argv)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert message in line
