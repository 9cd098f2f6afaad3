"""A run that is recorded can be gone through again, to the byte, without its model; what is missing is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.row_files import write_rows
from programs.__main__ import main
from programs.lm.servers.cassette import CassetteServer, read_cassette
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.dataset import DatasetConfig, write_dataset
from programs.synthesis.run import synthesize
from tests.fakes.fake_model import FakeModel, Fault
from tests.fakes.made_rows import made_row

NO_CASSETTE = "expected a call as `record` writes them: this is no cassette"
Rows = Callable[[int], Path]


def recorded(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int], Fault | None] = lambda n: None
) -> tuple[Path, dict[str, Any], FakeModel]:
    """A synthesis through a hosted model, and its cassette."""
    with FakeModel(fault=fault) as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        tape = tmp_path / "tape.jsonl"
        summary = synthesized(rows, tmp_path / "live", server, adapter="json", concurrency=1, record=tape)
    return tape, summary, server


def synthesized(rows: Path, out: Path, server: FakeModel, **settings: Any) -> dict[str, Any]:
    config = {"rows": rows, "out": out, "lm": "openai/fake", "api_base": server.api_base, "canary_share": 1.0}
    return synthesize(SynthesizeConfig(**config | settings))


def replayed(tmp_path: Path, rows: Path, tape: Path, **settings: Any) -> dict[str, Any]:
    config = {"rows": rows, "out": tmp_path / "again", "lm": f"recorded:{tape}", "canary_share": 1.0}
    return synthesize(SynthesizeConfig(**config | settings))


def rows_text(out: Path, generator: str) -> str:
    return (out / "rows.jsonl").read_text().replace(json.dumps(generator), '"GENERATOR"')


def test_a_run_is_gone_through_again_to_the_byte(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(5)
    # The second answer is malformed and the fourth cut off: what was asked again is answered again.
    faults: dict[int, Fault] = {1: "malformed", 3: "truncated", 6: "503"}
    tape, live, server = recorded(tmp_path, rows, monkeypatch, faults.get)
    again = replayed(tmp_path, rows, tape, concurrency=4)
    texts = rows_text(tmp_path / "live", "openai/fake"), rows_text(tmp_path / "again", "recorded:tape.jsonl")
    assert texts[0] == texts[1] and texts[0].count("GENERATOR") > 5
    assert again["funnel"] == live["funnel"]
    assert again["usage"]["tokens"] == live["usage"]["tokens"] > 0
    assert again["usage"]["cost_usd"] == 0
    lines = read_cassette(tape)
    # A server error is no answer.
    assert len(lines) == len(server.log) - 1
    assert {line["signature"] for line in lines} == {"ExtractRequirements", "ViolateRequirements", "VerifyLineup"}
    assert {line["finish_reason"] for line in lines} == {"stop", "length"}
    assert {line["model"] for line in lines} == {"openai/fake"}
    text = tape.read_text()
    assert server.token not in text and server.api_base not in text


def test_the_answers_in_a_run_folder_are_exported_as_the_same_cassette(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape, _, _ = recorded(tmp_path, made_rows(3), monkeypatch)
    out, exported = tmp_path / "set", tmp_path / "exported.jsonl"
    config = DatasetConfig(run=tmp_path / "live", out=out, licence="cc0-1.0", cassette=exported)
    write_dataset(config)
    assert exported.read_bytes() == tape.read_bytes()
    write_dataset(config)
    assert exported.read_bytes() == tape.read_bytes()


def test_a_run_that_goes_on_records_what_is_new(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(4)
    with FakeModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        tape = tmp_path / "tape.jsonl"
        for count in (2, 4, 4):
            synthesized(rows, tmp_path / "live", server, adapter="chat", record=tape, max_rows=count)
            assert len(read_cassette(tape)) == len(server.log)


def test_what_was_not_recorded_is_named_by_row_step_and_field(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape, _, _ = recorded(tmp_path, made_rows(3), monkeypatch)
    rows = tmp_path / "other.jsonl"
    write_rows(rows, [made_row(0), made_row(7)])
    summary = replayed(tmp_path, rows, tape)
    assert summary["funnel"]["rows_failed"] == {"extract_request_refused": 1}
    recorded_inputs = read_cassette(tape)[0]["inputs"]
    query = recorded_inputs["query"]
    for changed, words in (
        ({"passage": "x"}, f"ExtractRequirements for the query {query!r} was recorded with another passage"),
        ({"query": "why"}, "ExtractRequirements was recorded for other queries than 'why'"),
        ({"count": "2"}, f"nothing was recorded of a step with the fields {', '.join(recorded_inputs)}, count"),
    ):
        fields = "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in (recorded_inputs | changed).items())
        with CassetteServer(tape) as server:
            refused = httpx.post(
                f"{server.api_base}/chat/completions",
                json={"messages": [{"role": "user", "content": fields}]},
                headers={"Authorization": f"Bearer {server.token}"},
            )
        assert refused.status_code == 422
        assert words in refused.json()["error"]["message"]


def test_why_a_later_step_was_refused_is_said_once(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = made_rows(3)
    tape, _, _ = recorded(tmp_path, rows, monkeypatch)
    lines = tape.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if json.loads(line)["signature"] != "ViolateRequirements")
    tape.write_text(kept, encoding="utf-8")
    again = replayed(tmp_path, rows, tape)
    assert again["funnel"]["faults"]["violate_request_refused"] == 3
    said = [line for line in caplog.messages if "violate: a request was refused" in line]
    assert len(said) == 1 and "recorded:tape.jsonl has no such answer: " in said[0]


def test_other_files_are_not_taken_for_cassettes(
    tmp_path: Path, made_rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made_rows(2)
    before = rows.read_bytes()
    command = ["synthesize", f"rows={rows}", f"out={tmp_path / 'out'}"]
    for flags, words in (
        (["lm=openai/fake", f"record={rows}"], f"{rows}:1: {NO_CASSETTE}"),
        ([f"lm=recorded:{rows}"], f"{rows}:1: {NO_CASSETTE}"),
        (["lm=recorded:nowhere"], "or recorded:xquad-sentences, or recorded:FILE of a cassette that `record` wrote"),
        (["lm=openai/fake", f"record={tmp_path}"], f"{tmp_path}: cannot read: Is a directory"),
    ):
        assert main([*command, *flags]) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert rows.read_bytes() == before
