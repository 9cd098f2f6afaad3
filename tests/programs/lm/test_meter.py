"""What an answer is charged, whatever its server says of it."""

from typing import Any

import pytest

from programs.lm.budget import Budget, Reservation
from programs.lm.meter import Answer, Attempt, Meter
from programs.lm.models import ModelSpec, Price
from programs.lm.usage import TextSize


def metered(max_tokens: int | None = None) -> tuple[Meter, Budget, Price]:
    """The meter of a priced model, its budget and its price."""
    budget = Budget()
    meter = Meter("generator", ModelSpec(name="m", model="openai/gpt-4o", max_tokens=max_tokens), None, budget)
    assert meter.price is not None
    return meter, budget, meter.price


def charge(meter: Meter, answer: Answer, *, prompt: int = 4000, held: int = 5000) -> None:
    """Charge an attempt at a prompt of so many characters, for which so many tokens were reserved."""
    reserved = Reservation(held, 1.0)
    meter.charge(Attempt(key="", prompt=TextSize(prompt, 0), held=reserved, outcome="ok", answer=answer))


@pytest.mark.parametrize("cost", [0.0, None])
def test_a_cost_of_nothing_is_not_believed_of_a_priced_model(cost: float | None) -> None:
    meter, budget, price = metered()
    expected = 1000 * price.prompt + 100 * price.completion
    counted: dict[str, Any] = {"text": "t", "prompt_tokens": 1000, "completion_tokens": 100}
    charge(meter, Answer(**counted, listed_cost=cost))
    assert (budget.spent_tokens, budget.spent_usd) == (1100, pytest.approx(expected))
    # Prompt tokens from the provider's cache have a price of their own on the list.
    assert price.cached is not None and price.cached < price.prompt
    charge(meter, Answer(**counted, cached_tokens=400))
    assert budget.spent_usd == pytest.approx(2 * expected - 400 * (price.prompt - price.cached))


@pytest.mark.parametrize(
    "odd",
    [
        {"listed_cost": 1e-9},
        {"listed_cost": float("nan")},
        {"listed_cost": -5.0},
        {"cached_tokens": 10**6},
        {"prompt_tokens": 10**8, "listed_cost": 250.0},
        {"completion_tokens": 10**8, "listed_cost": 1000.0},
        {"uncounted_tokens": 10**8},
    ],
)
def test_no_answer_lowers_its_price_or_locks_the_folder(odd: dict[str, Any]) -> None:
    meter, budget, price = metered(max_tokens=100)
    counted: dict[str, Any] = {"text": "t" * 400, "prompt_tokens": 1000, "completion_tokens": 100}
    charge(meter, Answer(**counted | odd), held=2100)
    assert budget.spent_tokens == 1100
    assert budget.spent_usd == pytest.approx(1000 * price.prompt + 100 * price.completion)


def test_tokens_that_are_in_the_total_alone_are_counted() -> None:
    meter, budget, _ = metered()
    charge(meter, Answer(text="t", prompt_tokens=1000, completion_tokens=100, uncounted_tokens=700))
    assert budget.spent_tokens == 1800


def test_a_server_that_writes_more_than_it_may_is_reserved_for_what_it_wrote() -> None:
    meter, _, _ = metered(max_tokens=100)
    proper, long = (Answer(text="x" * 4 * tokens, completion_tokens=tokens) for tokens in (100, 5000))
    false = Answer(text="x" * 400, prompt_tokens=1, completion_tokens=4000)
    for answer, longest in ((proper, 100), (false, 400), (long, 5000), (proper, 5000)):
        charge(meter, answer, prompt=0, held=2100)
        assert meter.longest_answer(100) == longest
    assert meter.longest_answer(8000) == 8000
    assert meter.longest_answer(None) is None
