"""When to ask again and how many calls to keep in flight."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from programs.lm.models import ModelSpec

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 60.0
# A server may ask for more patience than that, up to this.
_LONGEST_RETRY_AFTER_S = 600.0
# One burst of refusals is one signal: the limit drops once, not once a refused call.
_BURST_S = 0.25
# How much slower the fastest answer may seem after each answer, so that one lucky answer is forgotten.
_FORGET = 1.01
# Calls start this much closer together than an even spread, so that what an idle moment lost is caught up.
_CLOSER = 0.85


def retry_delay(attempt: int, retry_after: float | None, rng: random.Random) -> float:
    """Seconds to wait after the failed 0-based `attempt`: what the server asked for, else exponential with jitter."""
    if retry_after is not None:
        # The small random part keeps the refused calls from coming back in one burst.
        return min(retry_after, _LONGEST_RETRY_AFTER_S) + rng.uniform(0, 0.1)
    ceiling = min(_FIRST_DELAY_S * 2.0**attempt, _LONGEST_DELAY_S)
    return rng.uniform(ceiling / 2, ceiling)


class AdaptiveConcurrency:
    """How many calls may be in flight: cut by a third on a refusal, raised by one after a full round of answers.

    They start spread over the time that one answer takes: calls that start together come back together, and then each
    waits while all the others are read and prepared. Belongs to one event loop.
    """

    def __init__(self, largest: int):
        self.largest = largest
        self.allowed = float(largest)
        self.lowest = float(largest)
        self.in_flight = 0
        self._closed = False
        self._settled = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._last_cut = -_BURST_S
        self._fastest_s = 0.0
        self._next_start = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the allowed places."""
        await self._take_place()
        try:
            yield
        finally:
            self._free_place()

    async def _take_place(self) -> None:
        while True:
            await self._wait_for_room()
            self.in_flight += 1
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + _CLOSER * self._fastest_s / self.allowed
            if start <= now:
                return
            try:
                await asyncio.sleep(start - now)
            except asyncio.CancelledError:
                self._free_place()
                raise
            if not self._closed:
                return
            self._free_place()

    async def _wait_for_room(self) -> None:
        while self._closed or self.in_flight >= int(self.allowed):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                # A place that was handed over just now must not be lost.
                self._wake()
                raise

    def _free_place(self) -> None:
        self.in_flight -= 1
        self._settle()
        self._wake()

    def close(self) -> None:
        """Let no further call start; those in flight go on."""
        self._closed = True
        self._settle()

    async def settled(self) -> None:
        """Wait, after `close`, until no call is in flight."""
        await self._settled.wait()

    def refused(self, seconds: float, retry_after: float = 0.0) -> None:
        """The server asked, after this time, for fewer calls, and for none in the next `retry_after` seconds."""
        now = time.monotonic()
        self._next_start = max(self._next_start, now + min(retry_after, _LONGEST_RETRY_AFTER_S))
        # What started before the last cut says nothing about the limit since then.
        if now - self._last_cut >= max(_BURST_S, seconds):
            self._last_cut = now
            self.allowed = max(1.0, self.allowed * 2 / 3)
            self.lowest = min(self.lowest, self.allowed)

    def answered(self, seconds: float) -> None:
        """One call was answered after this time."""
        self._fastest_s = min(seconds, self._fastest_s * _FORGET) or seconds
        self.allowed = min(float(self.largest), self.allowed + 1 / self.allowed)
        self._wake()

    def _settle(self) -> None:
        if self._closed and self.in_flight == 0:
            self._settled.set()

    def _wake(self) -> None:
        room = 0 if self._closed else int(self.allowed) - self.in_flight
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1


class ConcurrencyByPlace:
    """One AdaptiveConcurrency for each place that calls go to: two roles on one server share it."""

    def __init__(self, largest: int):
        self._largest = largest
        self._limits: dict[tuple[str, str | None], AdaptiveConcurrency] = {}

    def of(self, spec: ModelSpec) -> AdaptiveConcurrency:
        """The limit of the place where this model is served."""
        return self._limits.setdefault((spec.model, spec.api_base), AdaptiveConcurrency(self._largest))

    def all(self) -> list[AdaptiveConcurrency]:
        """Every limit so far."""
        return list(self._limits.values())
