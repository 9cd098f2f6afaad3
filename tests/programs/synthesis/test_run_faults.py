"""The run against a misbehaving model: every row ends with a named fate, and the books agree with the server's."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.base.outputs import claim_folder
from data.row_files import read_rows
from programs.lm import pacing
from programs.synthesis.store import RunStore
from tests.fakes.fake_model import FakeModel, Fault
from tests.programs.conftest import Rows, Run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_FIRST_DELAY_S", 0.01)


def books_agree(summary: dict[str, Any], server: FakeModel) -> None:
    roles = summary["usage"]["roles"].values()
    assert summary["usage"]["requests"] == len(server.log)
    assert sum(role["prompt_tokens"] for role in roles) == sum(served.prompt_tokens for served in server.log)
    assert sum(role["completion_tokens"] for role in roles) == sum(served.completion_tokens for served in server.log)


def test_a_well_behaved_model(made_rows: Rows, run: Run) -> None:
    with FakeModel() as server:
        summary = run(server, made_rows(5), canary_share=1.0)
    assert summary["funnel"]["accepted"] == summary["funnel"]["accepted_surgical"] == 20
    assert summary["verifier"]["missed"] == 0
    # Extract, write all, one line-up; the price of openai/fake is known to nobody.
    assert summary["usage"]["requests"] == 15
    assert summary["usage"]["cost_usd"] is None
    assert "unknown" in summary["usage"]["cost_in_words"]
    books_agree(summary, server)
    for row in read_rows(Path(summary["rows_file"])):
        assert [negative.source for negative in row.negatives] == ["mined"] + ["generated"] * 4


def test_mixed_faults_lose_no_row(made_rows: Rows, run: Run) -> None:
    kinds: list[Fault] = [
        "429", "429_retry_after", "500", "503", "drop", "malformed", "empty", "wrong_schema", "truncated", "not_json"
    ]  # fmt: skip
    rng = random.Random(3)
    with FakeModel(fault=lambda number: rng.choice(kinds) if rng.random() < 0.2 else None) as server:
        single: dict[str, Any] = {"batched": False, "verify": "one-by-one", "canary_share": 0.5}
        summary = run(server, made_rows(25), **single, retries=8, malformed_retries=5)
    funnel = summary["funnel"]
    assert funnel["rows"] == 25
    # By bad luck one prompt can be cut off twice, which is a counted loss; nothing else may cost a row.
    assert funnel["rows_failed"].keys() <= {"extract_truncated"}
    assert funnel["accepted"] + sum(funnel["lost"].values()) == funnel["violations_planned"]
    assert funnel["violations_planned"] == 4 * (25 - sum(funnel["rows_failed"].values()))
    assert set(server.outcomes()) - {"ok"} == set(kinds)
    steps = ("extract", "violate", "verify")
    known = {f"{step}_{loss}" for step in steps for loss in ("malformed", "truncated")}
    # By the same bad luck a repair is cut off twice: counted, and its row stays.
    assert funnel["faults"].keys() <= {*known, "repair_failed"}
    books_agree(summary, server)


@pytest.mark.parametrize(
    ("fault", "loss"),
    [("malformed", "extract_malformed"), ("empty", "extract_malformed"), ("wrong_schema", "extract_malformed"),
     ("truncated", "extract_truncated"), ("huge", "extract_malformed")],
)  # fmt: skip
def test_answers_that_cannot_be_used_are_bounded_and_counted(
    fault: Fault, loss: str, made_rows: Rows, run: Run
) -> None:
    with FakeModel(fault=lambda number: fault) as server:
        rows = made_rows(2)
        with pytest.raises(InputError, match=f"none of the 2 rows came through: {loss.replace('_', ' ')} 2"):
            run(server, rows, malformed_retries=1)
    assert len(server.log) == 4
    assert not (rows.parent / "out" / "rows.jsonl").exists()
    books_agree(json.loads((rows.parent / "out" / "summary.json").read_text()), server)


def text_of(completion: dict[str, Any], text: str) -> None:
    completion["choices"][0]["message"]["content"] = text


def without_choices(number: int, completion: dict[str, Any]) -> None:
    if number == 0:
        completion["choices"] = []


def half_a_character(number: int, completion: dict[str, Any]) -> None:
    text_of(completion, completion["choices"][0]["message"]["content"] + " \ud83d")


def nested(opening: str) -> Callable[[int, dict[str, Any]], None]:
    def alter(number: int, completion: dict[str, Any]) -> None:
        if number == 0:
            text_of(completion, f"[[ ## information_need ## ]]\nx\n\n[[ ## requirements ## ]]\n{opening * 5000}")

    return alter


@pytest.mark.parametrize(
    "alter",
    [without_choices, half_a_character, nested("["), nested('{"a":')],
    ids=["no choices", "lone surrogate", "brackets", "braces"],
)
def test_an_odd_answer_costs_a_retry_at_most(
    alter: Callable[[int, dict[str, Any]], None], made_rows: Rows, run: Run
) -> None:
    with FakeModel(alter=alter) as server:
        summary = run(server, made_rows(2), canary_share=0.0)
        assert summary["funnel"]["accepted"] == 8
        assert len(server.log) == 6 + (alter is not half_a_character)
        books_agree(summary, server)


def test_an_answer_that_no_parser_takes_is_asked_for_again_after_a_restart_too(made_rows: Rows, run: Run) -> None:
    rows = made_rows(1)
    with FakeModel(alter=nested("["), fault=lambda number: "401" if number == 1 else None) as server:
        with pytest.raises(InputError, match="key was refused"):
            run(server, rows, canary_share=0.0)
        # The paid answer is found in the store, cannot be read there either, and is asked for again.
        summary = run(server, rows, canary_share=0.0)
        assert summary["funnel"]["accepted"] == 4
        assert len(server.log) == 2 + 3
        books_agree(summary, server)


def test_half_a_character_may_be_escaped_in_any_text_of_a_json_answer(made_rows: Rows, run: Run) -> None:
    def alter(number: int, completion: dict[str, Any]) -> None:
        answer = json.loads(completion["choices"][0]["message"]["content"])
        text_of(completion, json.dumps({k: f"{v} \ud83d" if isinstance(v, str) else v for k, v in answer.items()}))

    with FakeModel(alter=alter) as server:
        summary = run(server, made_rows(2), adapter="json", canary_share=0.0)
        assert summary["funnel"]["accepted"] == 8
        books_agree(summary, server)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("401", "key was refused"), ("404", "not known"), ("quota", "no quota")],
)
def test_a_hopeless_fault_stops_the_run_at_once(fault: Fault, words: str, made_rows: Rows, run: Run) -> None:
    with FakeModel(fault=lambda number: fault) as server, pytest.raises(InputError, match=words):
        run(server, made_rows(30), concurrency=2)
    assert len(server.log) <= 2


def test_a_dead_server_stops_the_run_and_the_rows_are_asked_again_later(made_rows: Rows, run: Run) -> None:
    rows = made_rows(30)
    with FakeModel(fault=lambda number: "503") as server, pytest.raises(InputError, match="10 calls in a row"):
        run(server, rows, retries=1, concurrency=2)
    with FakeModel() as server:
        summary = run(server, rows)
    assert summary["funnel"]["rows_failed"] == {}
    assert summary["funnel"]["accepted"] == 120


def test_a_verifier_that_misses_positives_is_refused(
    made_rows: Rows, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    # It takes every second known positive for one.
    with FakeModel(says_relevant=lambda passage: "question" in passage and int(passage[-2]) % 2 == 0) as server:
        rows = made_rows(40)
        with pytest.raises(InputError, match=r"misses \d+ of \d+ known positives.*not usable"):
            run(server, rows, canary_share=1.0, concurrency=4)
        assert not (rows.parent / "out" / "rows.jsonl").exists()
        # It stops as soon as the canaries are clear, long before all 40 rows are paid for.
        assert 20 <= len({served.query for served in server.log}) < 40
        assert "the profile is wrong" in caplog.text and "reason: It says so." in caplog.text
        kept = run(server, rows, canary_share=1.0, accept_unusable_verifier=True)
    # Even so no row is kept whose own positive was refused.
    assert (kept["funnel"]["accepted"], kept["funnel"]["rows_left_out"]) == (80, 20)
    assert kept["verifier"]["usable"] is False


def test_a_refused_draft_is_written_again_with_the_reason(made_rows: Rows, run: Run) -> None:
    def relevant(passage: str) -> bool:
        return "This draft" in passage or "breaks requirement" not in passage

    with FakeModel(says_relevant=relevant) as server:
        summary = run(server, made_rows(3))
    assert summary["funnel"]["accepted"] == summary["funnel"]["accepted_after_repair"] == 12
    with FakeModel(says_relevant=relevant) as server:
        summary = run(server, made_rows(3), repairs=0, again=True)
    assert summary["funnel"]["lost"]["answers_query"] == 12


def test_fewer_calls_in_flight_on_rate_limits(made_rows: Rows, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_BURST_S", 0.01)
    with FakeModel(max_at_once=3, delay_s=0.01) as server:
        summary = run(server, made_rows(20), concurrency=32, retries=12)
    assert summary["lowest_concurrency"] < 32
    assert summary["funnel"]["accepted"] == 80
    books_agree(summary, server)


def test_a_secret_is_in_no_file_of_the_run_folder(made_rows: Rows, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    kinds: list[Fault | None] = [None, "500", "malformed", None, None, "429"]
    rows = made_rows(4)
    with FakeModel(fault=lambda number: kinds[number % len(kinds)]) as server:
        run(server, rows, malformed_retries=5)
        token = server.token
    with FakeModel(fault=lambda number: "401") as server, pytest.raises(InputError) as refused:
        run(server, rows, seed=1, again=True)
    files = [path for path in (rows.parent / "out").rglob("*") if path.is_file()]
    assert len(files) >= 4
    for secret in (token, server.token):
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert secret not in str(refused.value)
        assert secret not in caplog.text


def test_a_second_run_on_the_folder_is_refused(made_rows: Rows, run: Run) -> None:
    rows = made_rows(1)
    claim_folder("synthesize", rows.parent / "out", ())
    with FakeModel() as server:
        run(server, rows)
        with (
            RunStore(rows.parent / "out" / "store.sqlite", program="other"),
            pytest.raises(InputError, match="another process"),
        ):
            run(server, rows)


@pytest.mark.parametrize(("speaks", "tried"), [("chat", 1), ("json", 2), ("xml", 3)])
def test_a_probe_finds_the_layout_and_the_store_remembers_it(
    speaks: str, tried: int, made_rows: Rows, run: Run
) -> None:
    rows = made_rows(2)
    with FakeModel(speaks=speaks) as server:
        summary = run(server, rows, adapter="auto", canary_share=0.0, malformed_retries=0)
        assert summary["program"]["adapters"] == {"generator": speaks, "verifier": speaks}
        assert summary["funnel"]["accepted"] == 8
        # The probe asks for what a server is most likely to refuse. One model in both roles is probed once; two rows
        # take three calls each.
        assert {served.kind for served in server.log[:tried]} == {"extract"}
        assert len(server.log) == tried + 6
        assert summary["usage"]["requests"] == len(server.log)
        run(server, rows, adapter="auto", canary_share=0.0, malformed_retries=0)
        assert len(server.log) == tried + 6


def test_a_model_that_follows_no_layout_is_refused(made_rows: Rows, run: Run) -> None:
    with (
        FakeModel(fault=lambda number: "wrong_schema") as server,
        pytest.raises(InputError, match="none of the layouts"),
    ):
        run(server, made_rows(2), adapter="auto")
    assert len(server.log) == 3


def test_a_dead_server_is_not_called_too_weak(made_rows: Rows, run: Run) -> None:
    with (
        FakeModel(fault=lambda number: "503") as server,
        pytest.raises(InputError, match="openai/fake does not answer") as stopped,
    ):
        run(server, made_rows(2), adapter="auto", retries=1)
    assert "too weak" not in str(stopped.value)
    assert len(server.log) == 2


def test_a_fallback_takes_over_and_is_named_on_what_it_wrote(
    made_rows: Rows, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(3)
    with FakeModel() as second:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", second.api_base)
        monkeypatch.setenv("HOSTED_VLLM_API_KEY", second.token)
        with FakeModel(fault=lambda number: "503" if number % 2 else None) as first:
            summary = run(
                first,
                rows,
                retries=0,
                lm_fallbacks="hosted_vllm/spare",
                verifier_fallbacks="hosted_vllm/spare",
            )
        assert summary["funnel"]["accepted"] == 12
        models = summary["usage"]["roles"]["generator"]["models"]
        assert models == ["hosted_vllm/spare", "openai/fake"]
        assert summary["usage"]["requests"] == len(first.log) + len(second.log)
    written = [n.generator for row in read_rows(Path(summary["rows_file"])) for n in row.of_source("generated")]
    assert set(written) == {"hosted_vllm/spare", "openai/fake"}
    # Each of its calls wrote the four of a row.
    assert written.count("hosted_vllm/spare") == 4 * sum(served.kind == "violate" for served in second.log)


def test_a_row_takes_three_calls(made_rows: Rows, run: Run) -> None:
    rows = made_rows(5)
    with FakeModel() as single:
        one_by_one = run(single, rows, canary_share=0.0, batched=False, verify="one-by-one")
    with FakeModel() as server:
        batched = run(server, rows, again=True)
        books_agree(batched, server)
    assert batched["funnel"] == one_by_one["funnel"]
    # One analysis, one call that writes all, one line-up; one by one: 1 + 4 + 5, the mined passage with them.
    assert (batched["usage"]["requests"], one_by_one["usage"]["requests"]) == (5 * 3, 5 * 10)
    assert batched["usage"]["tokens"] < one_by_one["usage"]["tokens"]


def test_a_verifier_that_was_refused_is_refused_again_before_more_is_paid(made_rows: Rows, run: Run) -> None:
    rows = made_rows(60)
    with FakeModel(says_relevant=lambda passage: False) as server:
        with pytest.raises(InputError, match="its verdicts are not usable"):
            run(server, rows)
        paid = len(server.log)
        with pytest.raises(InputError, match="its verdicts are not usable"):
            run(server, rows)
        assert len(server.log) == paid
        with pytest.raises(InputError, match="none of the 1 rows came through"):
            run(server, rows, accept_unusable_verifier=True, max_rows=1)


def test_a_batch_of_the_wrong_size_is_asked_for_again_and_then_lost_by_name(made_rows: Rows, run: Run) -> None:
    with FakeModel(short_batches=True) as server:
        summary = run(server, made_rows(2), batched=True, malformed_retries=1)
    assert summary["funnel"]["lost"]["not_written"] == 8
    assert summary["funnel"]["faults"] == {"violate_malformed": 4}


def test_no_secret_of_an_address_or_an_answer_is_written(
    made_rows: Rows, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(number: int, completion: dict[str, Any]) -> None:
        message = completion["choices"][0]["message"]
        message["content"] = message["content"].replace(" is ", f" is {server.token} pass-word ")

    with FakeModel(alter=tell) as server:
        rows = made_rows(3)
        # The client sends the password as the key, which this server refuses.
        address = server.api_base.replace("://", "://me:pass-word@")
        with caplog.at_level("INFO"):
            with pytest.raises(InputError, match="none of the 3 rows"):
                run(server, rows, api_base=address)
            assert "pass-word" not in (rows.parent / "out" / "config.json").read_text(encoding="utf-8")
            assert not server.log and run(server, rows)["funnel"]["rows"] == 3 and server.log
        written = b"".join(file.read_bytes() for file in (rows.parent / "out").rglob("*") if file.is_file())
        assert b"[secret]" in written
        for secret in (server.token, "pass-word"):
            assert secret.encode() not in written and secret not in caplog.text
    assert f"generator: openai/fake at {server.api_base}" in caplog.messages
