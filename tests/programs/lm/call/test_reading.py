"""Slow answers are read one after another, beside the event loop, so that calls in flight keep their time."""

import asyncio
import threading
import time

import pytest

from programs.lm.call.reading import Reader
from programs.lm.faults import CallError


def test_many_slow_answers_are_read_one_at_a_time_and_the_loop_goes_on() -> None:
    at_once, most, ticks = 0, 0, 0
    lock = threading.Lock()

    def slow(text: str) -> dict[str, str]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        if text.endswith("?"):
            raise ValueError("no answer")
        return {"text": text}

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def all_of_them() -> list[Reader]:
        ticking = asyncio.create_task(tick())
        readers = [Reader(slow) for _ in range(8)]
        await asyncio.gather(*(reader.read("{" * 400 + str(n)) for n, reader in enumerate(readers)))
        with pytest.raises(CallError, match="no answer"):
            await Reader(slow).read("{" * 400 + "?")
        ticking.cancel()
        return readers

    readers = asyncio.run(all_of_them())
    assert most == 1 and ticks > 8
    assert [reader.outputs("{" * 400 + str(n)) for n, reader in enumerate(readers)] == [
        {"text": "{" * 400 + str(n)} for n in range(8)
    ]
    # Each run has a loop, and so turns, of its own.
    asyncio.run(all_of_them())
