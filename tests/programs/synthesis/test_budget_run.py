"""Runs under a budget: what the servers were really asked for never costs more than was allowed."""

import asyncio
from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from data.base.errors import InputError
from programs.lm.budget import Budget
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run

# USD a token; the fallback is the dearer one.
PROMPT, COMPLETION = 1e-6, 4e-6
DEARER = 5
ALONE: dict[str, Any] = {"lm_fallbacks": None, "verifier_fallbacks": None}


@pytest.fixture(autouse=True)
def prices() -> None:
    for name, times in (("openai/priced", 1), ("hosted_vllm/priced-spare", DEARER)):
        litellm.register_model(
            {
                name: {
                    "litellm_provider": name.partition("/")[0],
                    "mode": "chat",
                    "input_cost_per_token": PROMPT * times,
                    "output_cost_per_token": COMPLETION * times,
                }
            }
        )


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModel]:
    """The dearer fallback."""
    with FakeModel() as server:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.api_base)
        monkeypatch.setenv("HOSTED_VLLM_API_KEY", server.token)
        yield server


@pytest.fixture
def run(run: Run, spare: FakeModel) -> Run:
    fallbacks = dict.fromkeys(("lm_fallbacks", "verifier_fallbacks"), "hosted_vllm/priced-spare")
    base = {"lm": "openai/priced", "concurrency": 8, "retries": 0, "max_tokens": 200}
    return lambda first, rows, **settings: run(first, rows, **fallbacks | base | settings)


def usage_of(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens}


def paid(*servers: FakeModel) -> float:
    """What the servers' own logs come to; the second one is the dearer."""
    return sum(
        (served.prompt_tokens * PROMPT + served.completion_tokens * COMPLETION) * (DEARER if number else 1)
        for number, server in enumerate(servers)
        for served in server.log
    )


def test_dollars_hold_over_the_fallbacks_too(made_rows: Rows, run: Run, spare: FakeModel) -> None:
    with FakeModel(fault=lambda number: "503" if number % 2 else None) as first:
        with pytest.raises(InputError, match=r"budget of 0.1 USD is spent"):
            run(first, made_rows(60), budget_usd=0.1)
        assert spare.log
        assert 0.05 < paid(first, spare) <= 0.1
        # What earlier processes paid counts.
        with pytest.raises(InputError, match=r"budget of 0.1 USD is spent"):
            run(first, made_rows(60), budget_usd=0.1)
        assert paid(first, spare) <= 0.1


def test_a_model_that_writes_more_than_it_may_exceeds_the_budget_by_the_calls_in_flight_alone(
    made_rows: Rows, run: Run
) -> None:
    with FakeModel(delay_s=0.05) as first:
        with pytest.raises(InputError, match="budget of 30000 tokens is spent"):
            # It is told to write 16 tokens and writes a hundred.
            run(first, made_rows(60), budget_tokens=30_000, max_tokens=16)
        used = [served.prompt_tokens + served.completion_tokens for served in first.log]
    assert sum(used) <= 30_000 + 8 * max(used)


def test_a_fallback_of_unknown_price_stops_the_run_before_the_first_call(
    made_rows: Rows, run: Run, spare: FakeModel
) -> None:
    with FakeModel() as first:
        with pytest.raises(InputError, match="price of hosted_vllm/unpriced is unknown"):
            run(first, made_rows(2), budget_usd=1.0, verifier_fallbacks="hosted_vllm/unpriced")
        assert not first.log
        assert not spare.log


def test_a_call_that_was_given_up_on_counts_as_if_it_had_been_answered(made_rows: Rows, run: Run) -> None:
    with FakeModel(fault=lambda number: "stall") as first:
        with pytest.raises(InputError, match="tokens is spent"):
            run(first, made_rows(60), budget_tokens=4000, timeout_s=0.3, **ALONE)
        # Each of them may have been billed a prompt of several hundred tokens and 200 of answer.
        calls = len(first.log)
        assert 0 < calls <= 8
        # A later start knows of them too.
        with pytest.raises(InputError, match="tokens is spent"):
            run(first, made_rows(60), budget_tokens=4000, timeout_s=0.3, **ALONE)
        assert len(first.log) == calls


def test_what_was_given_up_on_is_told_apart_from_what_has_no_price(made_rows: Rows, run: Run) -> None:
    with FakeModel(fault=lambda number: "stall" if number == 2 else None) as first:
        usage = run(first, made_rows(1), timeout_s=1.0, retries=1, **ALONE)["usage"]
        known = paid(first)
    roles = usage["roles"].values()
    assert usage["tokens"] == sum(served.prompt_tokens + served.completion_tokens for served in first.log)
    assert usage["cost_usd"] is None
    assert sum(role["cost_usd_known_part"] for role in roles) == pytest.approx(known, abs=2e-6)
    assert sum(role["calls_given_up_on"] for role in roles) == 1
    # One prompt of two thousand bytes, each at most a token before any was counted, and 200 tokens of answer at most.
    assert 0.0008 < sum(role["cost_usd_of_calls_given_up_on"] for role in roles) < 0.009
    assert f"at least {known:.4f} USD (calls given up on: 1, which may have been billed up to" in usage["cost_in_words"]


@pytest.mark.parametrize("name", ["openai/deepseek-chat", "hosted_vllm/gpt-4o"])
def test_a_name_that_another_provider_has_a_price_for_is_refused_too(name: str, made_rows: Rows, run: Run) -> None:
    with FakeModel() as first:
        with pytest.raises(InputError, match=f"price of {name} is unknown"):
            run(first, made_rows(2), budget_usd=1.0, lm=name)
        assert not first.log


@pytest.mark.parametrize("usage", [None, usage_of(0), usage_of(10**25)], ids=["none", "zero", "absurd"])
def test_a_server_that_counts_no_tokens_keeps_to_the_budget_by_estimates(
    usage: dict[str, int] | None, made_rows: Rows, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def uncounted(number: int, completion: dict[str, Any]) -> None:
        del completion["usage"]
        if usage is not None:
            completion["usage"] = usage

    with FakeModel(alter=uncounted) as first:
        with pytest.raises(InputError, match="budget of 12000 tokens is spent"):
            run(first, made_rows(10), budget_tokens=12_000)
        used = sum(served.prompt_tokens + served.completion_tokens for served in first.log)
        assert 8_000 < used <= 12_000
    assert caplog.text.count("generator openai/priced reports no token counts") == 1


def test_a_call_waits_for_what_others_hold_and_the_budget_is_used(made_rows: Rows, run: Run) -> None:
    with FakeModel(delay_s=0.01) as first:
        with pytest.raises(InputError, match="budget of 30000 tokens is spent"):
            run(first, made_rows(60), budget_tokens=30_000, max_tokens=4000, concurrency=32)
        used = sum(served.prompt_tokens + served.completion_tokens for served in first.log)
    # The last call that did not fit could have written 4000 tokens more.
    assert 24_000 < used <= 30_000


def blocking(server: FakeModel, budget: Budget) -> RoleLM:
    spec = ModelSpec(name="m", model="openai/priced", api_base=server.api_base, api_key=server.token, max_tokens=20)
    return RoleLM("generator", spec, retries=0, budget=budget)


def test_a_blocking_call_waits_for_what_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, waits = Budget(tokens=100), []
    other = budget.reserve(prompt_tokens=1, max_tokens=90, price=None)
    assert other is not None

    async def wait(seconds: float) -> None:
        # The client gives way to others with sleeps of no time.
        waits.extend([seconds] if seconds else [])
        if len(waits) == 3:
            budget.settle(other, tokens=0, usd=None)

    monkeypatch.setattr(asyncio, "sleep", wait)
    with FakeModel() as server:
        assert len(blocking(server, budget)("hello")) == 1
    assert waits == [0.02, 0.04, 0.08]


def test_a_call_that_is_cancelled_on_the_way_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a call that waits for it would wait for ever.
    async def cancelled(**_: object) -> None:
        raise asyncio.CancelledError

    budget = Budget(tokens=200)
    monkeypatch.setattr(litellm, "acompletion", cancelled)
    with FakeModel() as server, pytest.raises(asyncio.CancelledError):
        blocking(server, budget)("hello")
    # At most 6 tokens of prompt and 20 of answer, which may have been billed.
    assert budget.spent_tokens == 26
    assert budget.reserve(prompt_tokens=1, max_tokens=173, price=None) is not None
