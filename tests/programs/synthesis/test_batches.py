"""A synthesis whose calls travel as batches: same rows, one file a wave, resumed without sending twice."""

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.row_files import read_rows
from programs.lm.batches import calls
from programs.lm.budget import Budget
from programs.lm.models import ModelSpec
from programs.lm.servers.recorded import RecordedServer
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import BatchesOutError, cancel_batches, synthesize
from programs.synthesis.store import RunStore
from tests.fakes.fake_batches import BatchFault, FakeBatches, RunBatch
from tests.programs.conftest import Configured, Rows, Run


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves are sent and looked after at once, as the fake provider has nothing else to do."""
    monkeypatch.setattr(calls, "WaveSender", partial(calls.WaveSender, first_look_s=0.02, nothing_moves_s=0.1))


@pytest.fixture
def config(configured: Configured) -> Configured:
    return partial(configured, send="batch")


# A wave a step: extract, write, judge, repair; extract and judge.
@pytest.mark.parametrize(("settings", "waves"), [({"batch_size": 1000}, 4), ({"method": "verify"}, 2)])
def test_rows_are_the_same_as_with_calls(
    made_rows: Rows, tmp_path: Path, config: Configured, settings: dict[str, Any], waves: int
) -> None:
    rows = made_rows(6)
    with FakeBatches() as server:
        synthesize(config(server, rows, out=tmp_path / "batch", **settings))
        assert max(server.sent().values()) == 1
        assert len(server.batches) <= waves
        with RunStore(tmp_path / "batch" / "store.sqlite") as store:
            used = store.usage(whole_folder=True).values()
        assert sum(role.prompt_tokens + role.completion_tokens for role in used) == server.billed()
        synthesize(config(server, rows, out=tmp_path / "calls", send="calls", **settings))
    assert list(read_rows(tmp_path / "batch" / "rows.jsonl")) == list(read_rows(tmp_path / "calls" / "rows.jsonl"))


@pytest.mark.parametrize(
    "fault", ["expired", "cancelled", "error_lines", "reordered", "duplicated", "drop_after_create", "429_create"]
)
def test_whatever_happens_to_a_batch_the_rows_are_those_of_calls(
    made_rows: Rows, tmp_path: Path, config: Configured, fault: BatchFault
) -> None:
    rows = made_rows(6)
    with FakeBatches(batch_fault=lambda number: fault if number in (0, 2) else None) as server:
        summary = synthesize(config(server, rows, out=tmp_path / "run", batch_size=1000))
        with RunStore(tmp_path / "run" / "store.sqlite") as store:
            used = store.usage(whole_folder=True).values()
        assert sum(role.prompt_tokens + role.completion_tokens + role.reserved_tokens for role in used) == (
            server.billed()
        )
        synthesize(config(server, rows, out=tmp_path / "calls", send="calls"))
    assert summary["funnel"]["rows_failed"] == {}
    assert list(read_rows(tmp_path / "run" / "rows.jsonl")) == list(read_rows(tmp_path / "calls" / "rows.jsonl"))


def test_batches_go_on_in_the_layout_that_calls_found(made_rows: Rows, config: Configured) -> None:
    with FakeBatches(speaks="xml") as server:
        synthesize(config(server, made_rows(3), send="calls", adapter="auto", max_rows=2))
        calls_made = len(server.log)
        summary = synthesize(config(server, made_rows(3), adapter="auto"))
        assert len(server.log) == calls_made + 3
    assert summary["program"]["adapters"] == {"generator": "xml", "verifier": "xml"}


def test_a_refused_file_is_one_line_and_is_sent_anew_by_the_same_command(made_rows: Rows, config: Configured) -> None:
    with FakeBatches(batch_fault=lambda number: "failed" if number == 0 else None) as server:
        settings = config(server, made_rows(3))
        with pytest.raises(InputError, match="fake fault failed; nothing") as raised:
            synthesize(settings)
        assert "\n" not in str(raised.value)
        assert synthesize(settings)["funnel"]["rows"] == 3


def test_files_that_are_too_large_are_halved_until_they_are_taken(
    made_rows: Rows, tmp_path: Path, config: Configured
) -> None:
    with FakeBatches(batch_fault=lambda number: "too_large" if number < 2 else None) as server:
        assert synthesize(config(server, made_rows(8), out=tmp_path / "run"))["funnel"]["rows"] == 8
        assert max(server.sent().values()) == 1
        assert max(len(batch.custom_ids) for batch in server.batches.values()) == 2
    with FakeBatches(batch_fault=lambda number: "too_large") as server:
        with pytest.raises(InputError, match="the file is too large"):
            synthesize(config(server, made_rows(8), out=tmp_path / "never"))
        assert server.refused_files == 4  # of 8, 4, 2 and 1 requests


@pytest.mark.parametrize("cuts_first", [False, True])
def test_verdicts_by_files_are_those_of_calls_also_when_the_last_line_is_cut(
    made_rows: Rows, tmp_path: Path, config: Configured, cuts_first: bool
) -> None:
    rows = made_rows(5)
    with FakeBatches() as server:
        with RunBatch(tmp_path / "files", server, cuts_first=cuts_first):
            synthesize(config(server, rows, out=tmp_path / "files", send="files", method="verify"))
        # The request whose answer was cut off is asked once more, and no other.
        asked = [
            json.loads(line)["custom_id"]
            for file in (tmp_path / "files" / "requests").iterdir()
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        assert len(asked) - len(set(asked)) == cuts_first
        synthesize(config(server, rows, out=tmp_path / "calls", send="calls", method="verify"))
    assert list(read_rows(tmp_path / "files" / "rows.jsonl")) == list(read_rows(tmp_path / "calls" / "rows.jsonl"))


def test_a_budget_that_one_batch_would_pass_makes_smaller_ones(
    made_rows: Rows, tmp_path: Path, config: Configured
) -> None:
    rows = made_rows(12)
    with FakeBatches() as server:
        summary = synthesize(config(server, rows, out=tmp_path / "run", budget_tokens=40_000, max_tokens=4000))
        assert summary["funnel"]["rows"] == 12
        assert 0 < max(len(batch.custom_ids) for batch in server.batches.values()) < 12
        with pytest.raises(InputError, match="the budget of 100 tokens is spent"):
            synthesize(config(server, rows, out=tmp_path / "poor", budget_tokens=100))


def test_a_provider_without_batches_is_named_with_what_to_use_instead(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "unused")
    with pytest.raises(InputError, match=r"groq has no batch endpoint .* use send=calls, or send=files") as raised:
        synthesize(
            SynthesizeConfig(rows=made_rows(2), out=tmp_path / "run", lm="groq/llama-3.1-8b-instant", send="batch")
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ('{"custom_id": "foreign", "response": {"status_code": 200, "body": {"choices": []}}}\n', "'foreign'"),
        ("no JSON\n" * 9, "responses/.*:1: is no line of a batch's answers"),
    ],
)
def test_a_foreign_response_file_is_one_line(
    made_rows: Rows, tmp_path: Path, config: Configured, answers: str, words: str
) -> None:
    with FakeBatches() as server:
        settings = config(server, made_rows(3), send="files", wait=False)
        with pytest.raises(BatchesOutError, match="their files are in"):
            synthesize(settings)
        (asked,) = (tmp_path / "out" / "requests").glob("*.jsonl")
        (tmp_path / "out" / "responses" / asked.name).write_text(answers * 3, encoding="utf-8")
        with pytest.raises(InputError, match=words) as raised:
            synthesize(settings)
        assert "\n" not in str(raised.value) and not server.log


def test_no_wait_leaves_and_the_same_command_goes_on(made_rows: Rows, config: Configured) -> None:
    rows = made_rows(4)
    with FakeBatches(batch_s=1.0) as server:
        settings = config(server, rows, wait=False)
        left = 0
        for _ in range(10):
            try:
                summary = synthesize(settings)
                break
            except BatchesOutError as out:
                left += 1
                assert "the same command fetches" in str(out)
                time.sleep(1.0)
        assert left >= 2
        assert summary["funnel"]["rows"] == 4
        assert max(server.sent().values()) == 1


def test_no_wait_says_nothing_of_calls(made_rows: Rows, run: Run) -> None:
    with FakeBatches() as server:
        assert run(server, made_rows(2), wait=False)["funnel"]["accepted"] == 8


def test_cancel_asks_the_provider(made_rows: Rows, config: Configured) -> None:
    with FakeBatches(batch_s=60.0) as server:
        settings = config(server, made_rows(3), wait=False)
        with pytest.raises(BatchesOutError):
            synthesize(settings)
        assert "1 batch of" in cancel_batches(settings)
        assert [batch.status for batch in server.batches.values()] == ["cancelled"]


def test_a_batch_that_has_ended_keeps_none_of_the_others_from_being_cancelled(
    made_rows: Rows, config: Configured
) -> None:
    with FakeBatches(batch_s=60.0) as server:
        settings = config(server, made_rows(3), wait=False)
        for max_rows in (1, 3):
            with pytest.raises(BatchesOutError):
                synthesize(replace(settings, max_rows=max_rows))
        first, second = server.batches.values()
        first.ends_at = 0.0
        assert cancel_batches(settings).startswith("1 batch of")
        assert (first.status, second.status) == ("completed", "cancelled")


def test_recorded_models_take_no_batches(demo_rows: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no batches: use send=calls"):
        synthesize(SynthesizeConfig(rows=demo_rows, out=tmp_path / "run", send="batch", max_rows=1))


def test_a_local_model_takes_no_batches(tmp_path: Path) -> None:
    local = ModelSpec(name="local:tiny", model="openai/local-tiny", is_local=True)
    with pytest.raises(InputError, match="local:tiny runs on this machine and takes no batches: use send=calls"):
        calls.Waves("batch", tmp_path, batch_size=1, whose=str, budget=Budget()).sender("generator", local)


def test_files_are_answered_by_whoever_reads_them_and_give_the_live_rows(demo_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "files"
    with RecordedServer() as server, RunBatch(out, server):
        synthesize(SynthesizeConfig(rows=demo_rows, out=out, send="files", max_rows=8))
    synthesize(SynthesizeConfig(rows=demo_rows, out=tmp_path / "live", max_rows=8))
    assert list(read_rows(out / "rows.jsonl")) == list(read_rows(tmp_path / "live" / "rows.jsonl"))


def test_models_of_one_name_on_two_servers_get_each_its_own_requests(made_rows: Rows, config: Configured) -> None:
    with FakeBatches() as generator, FakeBatches() as verifier:
        verifier.token = generator.token
        synthesize(config(generator, made_rows(2), verifier_api_base=verifier.api_base))
    assert {served.kind for served in generator.log} == {"extract", "violate"}
    assert {served.kind for served in verifier.log} == {"verify"}
