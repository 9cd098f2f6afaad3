"""The budget: reserved before each call, settled after, shared by every role."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from data.base.errors import InputError
from programs.lm.budget import Budget, BudgetSpentError
from programs.lm.models import ModelSpec, Price
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from tests.fakes.fake_model import FakeModel

PRICE = Price(prompt=1e-6, completion=2e-6)


def test_what_is_in_flight_counts() -> None:
    budget = Budget(tokens=1000)
    first = budget.reserve(prompt_tokens=101, max_tokens=400, price=None)
    assert first is not None
    assert first.tokens == 501
    # The call in flight may use less than it holds: the next one asks again.
    assert budget.reserve(prompt_tokens=101, max_tokens=400, price=None) is None
    budget.settle(first, tokens=100, usd=None)
    second = budget.reserve(prompt_tokens=101, max_tokens=400, price=None)
    assert second is not None
    budget.settle(second, tokens=501, usd=None)
    with pytest.raises(BudgetSpentError, match="1000 tokens is spent: 601 are used and the next call may take 501"):
        budget.reserve(prompt_tokens=101, max_tokens=400, price=None)
    # Once a call did not fit, no smaller one slips in behind it.
    with pytest.raises(BudgetSpentError):
        budget.reserve(prompt_tokens=1, max_tokens=1, price=None)
    assert not budget.open


def test_settling_frees_what_was_not_used() -> None:
    budget = Budget(usd=0.001)
    for _ in range(10):
        held = budget.reserve(prompt_tokens=101, max_tokens=200, price=PRICE)
        assert held is not None
        budget.settle(held, tokens=50, usd=0.00001)
    assert budget.spent_tokens == 500
    assert budget.spent_usd == pytest.approx(0.0001)
    assert budget.open


def test_an_unknown_charge_counts_as_what_was_reserved() -> None:
    budget = Budget(usd=1.0)
    held = budget.reserve(prompt_tokens=101, max_tokens=200, price=PRICE)
    assert held is not None
    budget.settle(held, tokens=0, usd=None)
    assert budget.spent_usd == pytest.approx(held.usd) == pytest.approx(101e-6 + 400e-6)


def test_many_threads_never_exceed_the_limit() -> None:
    budget, refused = Budget(tokens=10_000), threading.Event()

    def work() -> None:
        while True:
            try:
                held = budget.reserve(prompt_tokens=11, max_tokens=89, price=None)
            except BudgetSpentError:
                refused.set()
                return
            if held is not None:
                budget.settle(held, tokens=held.tokens, usd=0.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.is_set()
    assert 10_000 - 8 * 100 <= budget.spent_tokens <= 10_000


def test_what_is_kept_back_is_there_after_release() -> None:
    budget = Budget(tokens=1000)
    budget.keep_back(tokens=600, usd=0.0)
    with pytest.raises(BudgetSpentError):
        budget.reserve(prompt_tokens=1, max_tokens=500, price=None)
    budget.release()
    assert budget.reserve(prompt_tokens=1, max_tokens=500, price=None) is not None
    budget.close("stopped by Ctrl-C")
    budget.release()
    with pytest.raises(BudgetSpentError, match="Ctrl-C"):
        budget.reserve(prompt_tokens=1, max_tokens=1, price=None)


def test_a_fatal_error_is_what_every_later_call_gets() -> None:
    budget = Budget()
    budget.fail(InputError("the key was refused"))
    budget.fail(InputError("something later"))
    with pytest.raises(InputError, match="the key was refused"):
        budget.reserve(prompt_tokens=1, max_tokens=1, price=None)


def test_dollars_need_a_known_price() -> None:
    unknown, free = ModelSpec(name="m", model="openai/m"), ModelSpec(name="m", model="openai/m", is_local=True)
    with pytest.raises(InputError, match="price of m is unknown"):
        Budget(usd=1.0).check_priced(unknown, "lm")
    Budget(usd=1.0).check_priced(free, "lm")
    Budget(tokens=5).check_priced(unknown, "lm")


def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(
    made_rows: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        settings = {
            "rows": made_rows(12),
            "out": tmp_path / "out",
            "lm": "openai/fake",
            "api_base": server.api_base,
            "max_tokens": 200,
            "adapter": "chat",
            "concurrency": 2,
        }
        with pytest.raises(InputError, match="budget of 20000 tokens is spent"):
            synthesize(SynthesizeConfig(**settings, budget_tokens=20_000))
        used = sum(served.prompt_tokens + served.completion_tokens for served in server.log)
        assert 10_000 < used <= 20_000
        # The budget is the folder's, not the process': the same command has nothing left.
        calls = len(server.log)
        with pytest.raises(InputError, match="budget of 20000 tokens is spent"):
            synthesize(SynthesizeConfig(**settings, budget_tokens=20_000))
        assert len(server.log) <= calls + 2
        summary = synthesize(SynthesizeConfig(**settings))
    assert summary["funnel"]["accepted"] == 48
    asked = [served.request for served in server.answered()]
    assert len(asked) == len(set(asked))


def test_dollars_on_an_unpriced_model_stop_before_the_first_call(
    made_rows: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeModel() as server, pytest.raises(InputError, match="price of openai/fake is unknown"):
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        synthesize(
            SynthesizeConfig(
                rows=made_rows(2), out=tmp_path / "o", lm="openai/fake", api_base=server.api_base, budget_usd=1
            )
        )
    assert not server.log
    assert not (tmp_path / "o").exists()
