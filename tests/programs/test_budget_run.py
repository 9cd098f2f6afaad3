"""Runs under a budget: what the servers were really asked for never costs more than was allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import litellm
import pytest

from data.errors import InputError
from programs.config import SynthesizeConfig
from programs.run import synthesize
from tests.fakes.fake_model import FakeModel

Rows = Callable[[int], Path]
# USD a token; the fallback is the dearer one.
PROMPT, COMPLETION = 1e-6, 4e-6
DEARER = 5


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


def run(first: FakeModel, spare: FakeModel, rows: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", first.token)
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", spare.api_base)
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", spare.token)
    base: dict[str, Any] = {
        "rows": rows,
        "out": rows.parent / "out",
        "lm": "openai/priced",
        "api_base": first.api_base,
        "lm_fallbacks": "hosted_vllm/priced-spare",
        "verifier_fallbacks": "hosted_vllm/priced-spare",
        "adapter": "chat",
        "concurrency": 8,
        "retries": 0,
        "max_tokens": 200,
    }
    synthesize(SynthesizeConfig(**base | settings))


def paid(*servers: FakeModel) -> float:
    """What the servers' own logs come to; the second one is the dearer."""
    return sum(
        (served.prompt_tokens * PROMPT + served.completion_tokens * COMPLETION) * (DEARER if number else 1)
        for number, server in enumerate(servers)
        for served in server.log
    )


def test_dollars_hold_over_the_fallbacks_too(made_rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModel(fault=lambda number: "503" if number % 2 else None) as first, FakeModel() as spare:
        with pytest.raises(InputError, match=r"budget of 0.1 USD is spent"):
            run(first, spare, made_rows(60), monkeypatch, budget_usd=0.1)
        assert spare.log
        assert 0.05 < paid(first, spare) <= 0.1
        # What earlier processes paid counts.
        with pytest.raises(InputError, match=r"budget of 0.1 USD is spent"):
            run(first, spare, made_rows(60), monkeypatch, budget_usd=0.1)
        assert paid(first, spare) <= 0.1


def test_a_model_that_writes_more_than_it_may_exceeds_the_budget_by_the_calls_in_flight_alone(
    made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeModel(delay_s=0.05) as first, FakeModel() as spare:
        with pytest.raises(InputError, match="budget of 30000 tokens is spent"):
            # It is told to write 16 tokens and writes a hundred.
            run(first, spare, made_rows(60), monkeypatch, budget_tokens=30_000, max_tokens=16)
        used = [served.prompt_tokens + served.completion_tokens for served in first.log]
    assert sum(used) <= 30_000 + 8 * max(used)


def test_a_fallback_of_unknown_price_stops_the_run_before_the_first_call(
    made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeModel() as first, FakeModel() as spare:
        with pytest.raises(InputError, match="price of hosted_vllm/unpriced is unknown"):
            run(first, spare, made_rows(2), monkeypatch, budget_usd=1.0, verifier_fallbacks="hosted_vllm/unpriced")
        assert not first.log
        assert not spare.log


def test_a_call_that_was_given_up_on_counts_as_if_it_had_been_answered(
    made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeModel(fault=lambda number: "stall") as first, FakeModel() as spare:
        with pytest.raises(InputError, match="tokens is spent"):
            run(
                first, spare, made_rows(60), monkeypatch,
                budget_tokens=4000, timeout_s=0.3, lm_fallbacks=None, verifier_fallbacks=None,
            )  # fmt: skip
        # Each of them may have been billed a prompt of several hundred tokens and 200 of answer.
        assert len(first.log) <= 8
