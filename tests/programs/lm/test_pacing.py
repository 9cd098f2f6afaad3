"""Retries and the adaptive limit of calls in flight."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.lm import pacing
from programs.lm.pacing import AdaptiveConcurrency, retry_delay


@given(st.integers(0, 50), st.integers())
def test_delays_grow_and_stay_bounded(attempt: int, seed: int) -> None:
    delay = retry_delay(attempt, None, random.Random(seed))
    ceiling = min(0.5 * 2**attempt, 60)
    assert ceiling / 2 <= delay <= ceiling


@given(st.floats(0, 1e9), st.integers())
def test_the_server_decides_when_it_says_so(asked: float, seed: int) -> None:
    delay = retry_delay(0, asked, random.Random(seed))
    assert min(asked, 600) <= delay <= min(asked, 600) + 0.1


def test_never_more_calls_than_allowed() -> None:
    async def scenario() -> int:
        limit, most = AdaptiveConcurrency(3), 0

        async def one() -> None:
            nonlocal most
            async with limit.slot():
                most = max(most, limit.in_flight)
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(50)))
        assert limit.in_flight == 0
        return most

    assert asyncio.run(scenario()) == 3


def test_refusals_cut_once_a_burst_and_answers_raise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pacing.time, "monotonic", lambda: now)
    limit = AdaptiveConcurrency(30)
    limit.refused(0.1)
    limit.refused(0.1)
    assert limit.allowed == pytest.approx(20)
    now += 2
    limit.refused(2.1)  # it started before the cut
    assert limit.allowed == pytest.approx(20)
    limit.refused(1.9)
    assert limit.allowed == pytest.approx(40 / 3)
    for _ in range(2000):
        limit.answered(1.0)
    assert limit.allowed == 30
    assert limit.lowest == pytest.approx(40 / 3)
    for _ in range(100):
        now += 2
        limit.refused(0.1)
    assert limit.allowed == 1


def test_a_cancelled_waiter_does_not_lose_its_turn_for_others() -> None:
    async def scenario() -> bool:
        limit = AdaptiveConcurrency(1)
        release = asyncio.Event()

        async def hold() -> None:
            async with limit.slot():
                await release.wait()

        async def short() -> bool:
            async with limit.slot():
                return True

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        first, second = asyncio.create_task(short()), asyncio.create_task(short())
        await asyncio.sleep(0)
        release.set()
        await holder
        first.cancel()
        return await asyncio.wait_for(second, timeout=5)

    assert asyncio.run(scenario())


def test_after_close_no_call_starts_and_settled_waits_for_the_last() -> None:
    async def scenario() -> list[str]:
        limit, events = AdaptiveConcurrency(2), []
        release = asyncio.Event()

        async def hold() -> None:
            async with limit.slot():
                await release.wait()
                events.append("answered")

        async def late() -> None:
            async with limit.slot():
                events.append("late")

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        limit.close()
        waiter = asyncio.create_task(late())
        asyncio.get_running_loop().call_soon(release.set)
        await limit.settled()
        events.append("settled")
        await holder
        await asyncio.sleep(0)
        waiter.cancel()
        return events

    assert asyncio.run(scenario()) == ["answered", "settled"]


def test_calls_start_spread_over_the_time_of_an_answer_and_none_starts_after_close() -> None:
    async def scenario() -> tuple[list[float], int]:
        limit, starts = AdaptiveConcurrency(4), []
        limit.answered(0.4)
        loop = asyncio.get_running_loop()

        async def one() -> None:
            async with limit.slot():
                starts.append(loop.time())
                await asyncio.sleep(0.05)

        calls = [asyncio.create_task(one()) for _ in range(8)]
        while len(starts) < 5:
            await asyncio.sleep(0.01)
        limit.close()
        await limit.settled()
        held = limit.in_flight
        started = len(starts)
        await asyncio.sleep(0.3)
        assert len(starts) == started
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return starts, held

    starts, held = asyncio.run(scenario())
    # A little under a tenth of a second a place; a loop that is late only makes the gaps after it shorter.
    assert all(at - starts[0] >= 0.085 * number - 0.01 for number, at in enumerate(starts))
    assert held == 0


def test_one_quick_answer_is_forgotten() -> None:
    limit = AdaptiveConcurrency(4)
    limit.answered(0.01)
    for _ in range(1000):
        limit.answered(0.4)
    assert limit._fastest_s == pytest.approx(0.4)
