"""Collects the calls of many rows into waves and hands each caller its answer when its wave has come back."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from data.base.errors import InputError
from data.base.text import content_id
from programs.lm.batches.books import Wave, WaveBooks
from programs.lm.batches.lines import BatchAnswer, BatchRequest
from programs.lm.batches.services import BatchService, FileTooLargeError
from programs.lm.faults import CallError

log = logging.getLogger(__name__)
# Providers take files of up to 200 MB (OpenAI) or 100 MB; a wave stays below both.
_MOST_BYTES = 90_000_000
# Between two steps of a row there is only parsing: when no request has come for so long, every row waits for an answer.
_NOTHING_MOVES_S = 1.0
# Asked about a wave again after so long, then after ever longer.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 2.0, 120.0
_GROWTH = 1.3
# A wave that the service refuses to take is tried again so often, a refused connection being no refusal for good.
_SEND_TRIES = 5


T = TypeVar("T")


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What the service answers, asked again while it cannot be reached: a wave that is out loses nothing by waiting."""
    pause = _FIRST_LOOK_S
    while True:
        try:
            return await ask()
        except CallError as fault:
            log.warning("the batch service does not answer (%s): asked again in %.0f s", fault, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_LOOK_S)


class WaveSender:
    """The waves of one model.

    `complete` waits for the answer to one request. A wave is sent when it has `batch_size` requests or 90 MB, or when
    nothing else can move. Use as an async context manager; leaving it lets waves run on at the service.
    """

    def __init__(
        self,
        service: BatchService,
        books: WaveBooks,
        *,
        target: str,
        batch_size: int,
        first_look_s: float = _FIRST_LOOK_S,
        nothing_moves_s: float = _NOTHING_MOVES_S,
    ):
        self._service, self._books, self._target, self._batch_size = service, books, target, batch_size
        self._first_look_s, self._nothing_moves_s = first_look_s, nothing_moves_s
        self._waiting: dict[str, asyncio.Future[BatchAnswer]] = {}
        self._pending: dict[str, BatchRequest] = {}
        self._pending_bytes = 0
        self._out: dict[str, Wave] = {}
        self._came = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._looked_at: set[str] = set()
        self._last_event = time.monotonic()
        self.requests_back = 0

    async def __aenter__(self) -> "WaveSender":
        for wave in self._books.out():
            if wave.target == self._target:
                await self._take_up(wave)
        self._start(self._collect())
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def complete(self, request: BatchRequest) -> BatchAnswer:
        """The answer to this request; one that an earlier run received or still has out is not sent again."""
        if self._fault is not None:
            raise self._fault
        kept = self._books.take(request.id)
        if kept is not None and not kept.lost:
            return kept
        if kept is not None:
            self._books.used(request.id)
        future = self._waiting.setdefault(request.id, asyncio.get_running_loop().create_future())
        if request.id not in self._pending and not any(request.id in wave.ids for wave in self._out.values()):
            self._pending[request.id] = request
            self._pending_bytes += request.num_bytes
            self._last_event = time.monotonic()
            self._came.set()
        return await asyncio.shield(future)

    def used(self, request: BatchRequest) -> None:
        """The caller has stored what it needs of this answer."""
        self._books.used(request.id)

    @property
    def nothing_to_send(self) -> bool:
        """Whether all that was asked for is in a wave that is out, and every wave that is out was found unfinished."""
        quiet = time.monotonic() - self._last_event > 2 * self._nothing_moves_s
        return quiet and not self._pending and self._out.keys() <= self._looked_at

    @property
    def waves(self) -> Sequence[Wave]:
        """The waves that are out, oldest first."""
        return sorted(self._out.values(), key=lambda wave: wave.made_at)

    async def cancel_all(self) -> int:
        """Ask the service to stop every wave that is out; returns how many. One that has ended is left as it is."""
        asked = 0
        for wave in self.waves:
            if (batch_id := wave.batch_id) is None:
                continue
            if (await _patiently(partial(self._service.state, batch_id))).status == "running":
                await _patiently(partial(self._service.cancel, batch_id))
                asked += 1
        return asked

    async def _take_up(self, wave: Wave) -> None:
        """Go on with a wave of an earlier run: one without an id may have been made all the same."""
        if wave.batch_id is None:
            batch_id = await _patiently(lambda: self._service.find(wave.mark))
            if batch_id is None:
                self._books.never_sent(wave.mark)
                return
            self._books.sent(wave.mark, batch_id)
            wave = replace(wave, batch_id=batch_id)
        self._follow(wave)

    async def _collect(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while len(self._pending) < self._batch_size and self._pending_bytes < _MOST_BYTES:
                try:
                    await asyncio.wait_for(self._came.wait(), self._nothing_moves_s)
                    self._came.clear()
                except TimeoutError:
                    break
            while self._pending:
                await self._send(self._next_wave())
                if len(self._pending) < self._batch_size:
                    break
            if self._pending:
                self._came.set()

    def _next_wave(self) -> list[BatchRequest]:
        chosen: list[BatchRequest] = []
        size = 0
        for request in list(self._pending.values()):
            length = request.num_bytes
            if chosen and (len(chosen) == self._batch_size or size + length > _MOST_BYTES):
                break
            chosen.append(self._pending.pop(request.id))
            size += length
        self._pending_bytes -= size
        return chosen

    async def _send(self, requests: Sequence[BatchRequest]) -> None:
        made_at = time.time()
        # The time makes a mark of its own for requests that are sent again after their wave was lost.
        mark = content_id(self._target, repr(made_at), *(request.id for request in requests))
        wave = Wave(mark=mark, target=self._target, ids=frozenset(r.id for r in requests), made_at=made_at)
        self._books.made(wave)
        self._out[mark] = wave
        pause = self._first_look_s
        for attempt in range(_SEND_TRIES):
            try:
                batch_id = await self._service.send(requests, mark)
                break
            except FileTooLargeError:
                self._books.never_sent(mark)
                del self._out[mark]
                if len(requests) == 1:
                    raise
                # Later waves are no larger than what this service may take.
                self._batch_size = (len(requests) + 1) // 2
                log.warning("no file of %d requests is taken: sent in files of %d", len(requests), self._batch_size)
                self._pending = {request.id: request for request in requests} | self._pending
                self._pending_bytes += sum(request.num_bytes for request in requests)
                return
            except CallError as fault:
                # The answer may have been lost on its way, with the batch made.
                if (found := await _patiently(lambda: self._service.find(mark))) is not None:
                    batch_id = found
                    break
                if attempt == _SEND_TRIES - 1:
                    self._books.never_sent(mark)
                    raise InputError(f"a batch of {len(requests)} requests could not be sent: {fault}") from None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_LOOK_S)
        self._books.sent(mark, batch_id)
        log.info("batch %s: %d requests sent to %s", batch_id, len(requests), self._target)
        self._follow(replace(wave, batch_id=batch_id))

    def _follow(self, wave: Wave) -> None:
        self._out[wave.mark] = wave
        self._start(self._until_back(wave))

    async def _until_back(self, wave: Wave) -> None:
        batch_id = wave.batch_id
        assert batch_id is not None
        pause = self._first_look_s
        while (state := await _patiently(lambda: self._service.state(batch_id))).status == "running":
            self._looked_at.add(wave.mark)
            await asyncio.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_LOOK_S)
        if state.status == "refused":
            # The same command sends it anew, once what was wrong is mended.
            self._books.never_sent(wave.mark)
            raise InputError(f"the provider refused batch {batch_id}: {state.reason}; nothing of it was billed")
        answers = {answer.id: answer for answer in await _patiently(lambda: self._service.answers(state))}
        if foreign := answers.keys() - wave.ids:
            raise InputError(
                f"batch {batch_id} has answers to {len(foreign)} requests that are not this run's, such as "
                f"{min(foreign)!r}: expected the custom_id of the request file",
                file=state.files[0] if state.files else None,
            )
        lost = {one: BatchAnswer(id=one, status=0, message=state.reason or "no answer", lost=True) for one in wave.ids}
        answers = lost | answers
        self._books.settled(wave.mark, answers.values())
        del self._out[wave.mark]
        self.requests_back += len(wave.ids)
        self._last_event = time.monotonic()
        for one, answer in answers.items():
            future = self._waiting.pop(one, None)
            if future is not None and not future.done():
                future.set_result(answer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        # Nothing that waits can get an answer any more.
        self._fault = self._fault or task.exception()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(task.exception() or CallError("bad_response", "the batches ended"))
        self._waiting.clear()
