"""The ledger by itself, without Ray: rows belong to one worker, lost workers give back what they held."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.base.errors import InputError
from programs.lm.budget import BudgetSpentError
from programs.lm.models import ModelSpec, Price
from programs.lm.usage import Call
from programs.modules.candidates import Synthesis
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.ray import ledger as ray_ledger
from programs.synthesis.ray.engine import read_line, with_key, without_key
from programs.synthesis.ray.ledger import Ledger

PLACE = ("openai/fake", None)


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ray_ledger, "time", clock)
    return clock


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    config = SynthesizeConfig(rows=tmp_path / "rows.jsonl", out=tmp_path, budget_tokens=1000, concurrency=2)
    found = Ledger(config, "p", lost_after_s=30.0)
    yield found
    asyncio.run(found.close())


def test_a_row_belongs_to_one_worker_until_it_is_finished(ledger: Ledger) -> None:
    async def run() -> None:
        assert await ledger.take("a", "row", "") == "yours"
        # Not even the same worker takes it twice: a file may hold a row twice.
        assert await ledger.take("a", "row", "") == "under way"
        assert await ledger.take("b", "row", "") == "under way"
        await ledger.finish("row", Synthesis())
        assert await ledger.take("b", "row", "") == "finished"
        # A copy with other mined negatives is done with the first one.
        assert await ledger.take("b", "row", "other texts") == "finished"
        await ledger.take("a", "other", "")
        await ledger.drop("other")
        assert await ledger.take("b", "other", "") == "yours"

    asyncio.run(run())


def test_the_first_outcome_of_a_row_stays(ledger: Ledger) -> None:
    async def run() -> None:
        await ledger.finish("row", Synthesis(information_need="first"))
        await ledger.finish("row", Synthesis(information_need="second"))
        assert (await ledger.state())["funnel"].rows == 1

    asyncio.run(run())
    assert ledger._store.load("row").information_need == "first"


def test_a_lost_worker_gives_back_rows_places_and_pays_what_it_held(ledger: Ledger, clock: Clock) -> None:
    async def run() -> None:
        await ledger.beat("a", 1)
        await ledger.take("a", "row", "")
        held = await ledger.reserve("a", 101, 99, Price(prompt=0.0, completion=0.0))
        assert held.tokens == 200
        for _ in range(2):
            await ledger.enter("a", PLACE)
        waiting = asyncio.create_task(ledger.enter("b", PLACE))
        await asyncio.sleep(0)
        assert (await ledger.state())["busy"] == [1]
        clock.now += 29
        await ledger.beat("b", 2)
        assert await ledger.take("b", "row", "") == "under way" and not waiting.done()
        clock.now += 2
        await ledger.beat("b", 2)
        await waiting
        assert await ledger.take("b", "row", "") == "yours"
        assert (await ledger.state())["busy"] == [2]
        assert ledger._budget.spent_tokens == 200
        # It was only slow: what it settles now is settled already.
        await ledger.settle("a", held, 50, 0.0)
        assert ledger._budget.spent_tokens == 200

    asyncio.run(run())


def test_one_budget_and_one_refusal_for_all(ledger: Ledger) -> None:
    async def run() -> None:
        held = await ledger.reserve("a", 101, 500, None)
        # It may fit once the other worker's call has settled.
        assert await ledger.reserve("b", 101, 500, None) is None
        await ledger.settle("a", held, 500, None)
        with pytest.raises(BudgetSpentError, match="budget of 1000 tokens is spent"):
            await ledger.reserve("b", 101, 500, None)
        with pytest.raises(BudgetSpentError):  # once spent, no later call fits
            await ledger.reserve("a", 2, 16, None)
        await ledger.fail("the key was refused")
        with pytest.raises(InputError, match="the key was refused"):
            await ledger.reserve("a", 2, 16, None)

    asyncio.run(run())


def test_answers_and_books_outlive_the_worker(ledger: Ledger) -> None:
    async def run() -> None:
        call = Call(role="generator", model="m", outcome="ok", prompt_tokens=5, completion_tokens=2)
        await ledger.record("row", call, "key", "answer")
        assert await ledger.find("row", "key") == "answer"
        assert await ledger.find("other", "key") is None

    asyncio.run(run())
    assert ledger._store.usage()["generator"].prompt_tokens == 5


def test_places_are_limited_over_all_workers_and_shrink_on_refusal(ledger: Ledger, clock: Clock) -> None:
    async def run() -> None:
        for name in ("a", "b"):
            await ledger.enter(name, PLACE)
        third = asyncio.create_task(ledger.enter("b", PLACE))
        await asyncio.sleep(0)
        assert not third.done()
        await ledger.leave("a", PLACE)
        await third
        await ledger.paced(PLACE, True, 0.1)
        assert (await ledger.state())["lowest"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON .* in the line that begins '{'"),
        ('{"query": "q", "positives": []}', "rows.jsonl: field 'positives': expected at least one .* begins '{\"query"),
    ],
)
def test_a_bad_line_is_named_by_how_it_begins(line: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_line(line, Path("rows.jsonl"))


def test_a_key_stays_in_the_environment_of_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(name="m", model="m", api_key="planted", key_env="MY_KEY")
    travelling = without_key(spec)
    assert travelling.api_key is None
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError, match="MY_KEY is not set where this actor runs"):
        with_key(travelling)
    monkeypatch.setenv("MY_KEY", "planted")
    assert with_key(travelling) == spec
    # A key that was not chosen by its variable's name is another provider's business.
    other = ModelSpec(name="o", model="o")
    assert with_key(without_key(other)) == other
