"""The concurrent part of the run: workers that take rows from one stream, with progress, Ctrl-C and an early stop."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, Self, TypeVar

from data.base.progress import progress_bar
from data.base.text import content_id
from data.records import Row, row_content_id
from programs.lm.batches.calls import Waves
from programs.lm.models import needs_no_auth_call
from programs.lm.pacing import AdaptiveConcurrency
from programs.modules.candidates import Synthesis
from programs.modules.row_program import RowInputs, RowProgram
from programs.profiles.profile import CorpusProfile
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.funnel import Funnel
from programs.synthesis.mined_verdicts import nearest_mined
from programs.synthesis.roles import Specs
from programs.synthesis.store import RunStore, current_row

T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger(__name__)
# What really waits: looking up host names.
_BLOCKING: tuple[object, ...] = (socket.getaddrinfo, socket.getnameinfo)
# New objects between two collections (a call makes some thousands), and collections between those of older objects.
_COLLECTIONS = (20_000, 20, 100)

# Calls in flight at Ctrl-C may still settle for this long; with the clean-up it stays under two seconds.
_SETTLE_S = 1.5
# Skipping finished rows must not keep the event loop from its other work.
_SKIPS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the work on the rows ended: what was finished, whether the canaries condemned the verifier on the way, and
    the fewest calls that a server let be in flight."""

    funnel: Funnel
    condemned: bool
    lowest_limit: int


class RowWorkers:
    """One run over the rows that the store does not have yet. After `run`, `stopped` tells whether Ctrl-C ended it."""

    def __init__(
        self,
        program: RowProgram,
        profile: CorpusProfile,
        config: SynthesizeConfig,
        store: RunStore,
        limits: Sequence[AdaptiveConcurrency],
        waves: Waves | None = None,
    ):
        self._program, self._profile, self._config = program, profile, config
        self._store, self._limits, self.waves = store, limits, waves
        self._done = Funnel()
        self._met: set[str] = set()
        self._ending = asyncio.Event()
        self.stopped = False
        self._condemned = False
        self._skipped = self.cancelled_calls = 0

    async def run(self, rows: Iterator[Row], total: int) -> Outcome:
        """Synthesise the unfinished rows."""
        with progress_bar(total=total, unit="row", desc="synthesize") as progress, self._stop_on_interrupt():
            # Rows whose calls wait for a batch cost nothing but memory: as many are at work as a batch has requests.
            at_once = self._config.concurrency if self.waves is None else self._config.batch_size
            workers = [asyncio.create_task(self._work(rows, progress)) for _ in range(min(at_once, total))]
            waits = self._config.wait or self.waves is None
            ending = asyncio.create_task(self._ending.wait() if waits else self._until_all_out())
            telling = asyncio.create_task(self._tell(progress))
            try:
                await self._until_done_or_ending(workers, ending)
            finally:
                await _cancel([*workers, ending, telling])
        if self._skipped:
            log.info("%d of %d were finished already and cost nothing", self._skipped, total)
        lowest = min((int(limit.lowest) for limit in self._limits), default=0)
        return Outcome(funnel=self._done, condemned=self._condemned, lowest_limit=lowest)

    async def _until_all_out(self) -> bool:
        """Until Ctrl-C, or until nothing more can be asked before a batch comes back."""
        assert self.waves is not None
        out, ending = asyncio.create_task(self.waves.until_all_out()), asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([out, ending], return_when=asyncio.FIRST_COMPLETED)
            self.stopped = True
        finally:
            out.cancel()
            ending.cancel()
        return True

    async def _until_done_or_ending(self, workers: list["asyncio.Task[None]"], ending: "asyncio.Task[bool]") -> None:
        waiting: set[asyncio.Task[None]] = set(workers)
        while waiting and not ending.done():
            finished, _ = await asyncio.wait([*waiting, ending], return_when=asyncio.FIRST_COMPLETED)
            waiting -= finished
            error = next((task.exception() for task in finished if task is not ending and task.exception()), None)
            if error is not None:
                await self._settle()
                raise error
        if ending.done():
            await self._settle()

    async def _settle(self) -> None:
        """Start no further call, and let those in flight come to their end for a short while: they are paid for."""
        for limit in self._limits:
            limit.close()
        if self._limits:
            await asyncio.wait([asyncio.create_task(limit.settled()) for limit in self._limits], timeout=_SETTLE_S)
        self.cancelled_calls = sum(limit.in_flight for limit in self._limits)

    async def _work(self, rows: Iterator[Row], progress: Any) -> None:
        for row in rows:
            work = RowWork.of(row, self._config)
            row_id = work.row_id
            # A copy with other mined negatives is done with the first one, or each start would make both anew.
            if row_id in self._met or self._store.is_finished(row_id, judged=work.judged):
                self._met.add(row_id)
                progress.update()
                self._skipped += 1
                if self._skipped % _SKIPS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                continue
            self._met.add(row_id)
            await self._synthesize(work)
            progress.update()
            self._note(progress)

    def _note(self, progress: Any) -> None:
        waves = "" if self.waves is None else f", {self.waves.progress()}"
        note = f"accepted {self._done.accepted}, failed {self._done.rows_failed.total()}{waves}"
        progress.set_postfix_str(note, refresh=False)

    async def _tell(self, progress: Any) -> None:
        """Keep the note up to date while no row ends: with batches for hours."""
        while self.waves is not None:
            await asyncio.sleep(1.0)
            self._note(progress)
            progress.update(0)
            progress.refresh()

    async def _synthesize(self, work: "RowWork") -> None:
        synthesis = await work.run(self._program, self._profile, self._config)
        self._store.finish(work.row_id, synthesis)
        self._done.add(synthesis)
        if self._done.condemns_verifier(self._config):
            self._condemned = True
            self._ending.set()

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self.stopped = True
            self._ending.set()

        try:
            loop.add_signal_handler(signal.SIGINT, stop)
        except (NotImplementedError, ValueError, RuntimeError):
            # Not the main thread, or a system without such handlers: Ctrl-C then ends the run at once.
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


@dataclass(frozen=True, slots=True)
class RowWork:
    """A row, the id that its outcome is stored under, and where its negatives stand that are to be judged with it.

    Those are the nearest mined ones and, where nothing is written, generated ones without a verdict.
    """

    row: Row
    row_id: str
    places: tuple[int, ...]

    @classmethod
    def of(cls, row: Row, config: SynthesizeConfig) -> Self:
        """What is to be done for this row."""
        places = nearest_mined(row, config.verify_mined)
        if config.method != "verify":
            return cls(row, row_content_id(row), places)
        generated = [n for n, one in enumerate(row.negatives) if one.source == "generated" and one.verdict is None]
        places += tuple(generated)
        texts = [row.negatives[place].text for place in places] + [one.statement for one in row.requirements]
        # Nothing else is stored here: lines with the same positive and other negatives are other work.
        return cls(row, content_id(row_content_id(row), *texts), places)

    @property
    def num_mined(self) -> int:
        """How many of these are mined; they come first."""
        return sum(self.row.negatives[place].source == "mined" for place in self.places)

    @property
    def texts(self) -> tuple[str, ...]:
        """The passages to be judged."""
        return tuple(self.row.negatives[place].text for place in self.places)

    @property
    def judged(self) -> str:
        """The name of these passages: verdicts on other ones are no verdicts on them."""
        return content_id(*self.texts) if self.places else ""

    def inputs(self, profile: CorpusProfile, config: SynthesizeConfig) -> RowInputs:
        """What the program sees of it."""
        inputs = row_inputs(self.row, profile, canary=is_canary(self.row_id, config.canary_share, config.seed))
        own = self.row.requirements if config.method == "verify" else ()
        return replace(inputs, mined=self.texts, requirements=own)

    async def run(self, program: RowProgram, profile: CorpusProfile, config: SynthesizeConfig) -> Synthesis:
        """Do it."""
        current_row.set(self.row_id)
        prediction = await program.acall(inputs=self.inputs(profile, config))
        synthesis: Synthesis = prediction.synthesis
        return replace(synthesis, judged=self.judged)


def row_inputs(row: Row, profile: CorpusProfile, *, canary: bool = False) -> RowInputs:
    """What the program sees of a row: its first positive, and its other texts, which it must not repeat."""
    positive, *others = row.positives
    return RowInputs(
        query=row.query,
        passage=positive.text,
        relevance=profile.relevance,
        style=profile.style_for(row),
        other_positives=tuple(passage.text for passage in others),
        negatives=tuple(mined.text for mined in row.of_source("mined")),
        canary=canary,
        seed_id=row_content_id(row),
    )


def is_canary(row_id: str, share: float, seed: int) -> bool:
    """Whether the row's known positive is verified too: a fixed choice by content, not by order."""
    return int(content_id(str(seed), row_id), 16) < share * 2**64


async def _cancel(tasks: Sequence["asyncio.Task[object]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class InlineExecutor(ThreadPoolExecutor):
    """Runs what it is given at once, in the thread that asks; look-ups of host names go to a thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """The finished future of `fn`, or an unfinished one of a look-up."""
        if fn in _BLOCKING:
            return super().submit(fn, *args, **kwargs)
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries whatever was raised to whoever awaits it
            future.set_exception(error)
        return future


def run_inline(work: Awaitable[T], specs: Specs) -> T:
    """Run `work` with these models in a loop without threads, or with them where a provider fetches credentials."""

    async def inline() -> T:
        if all(needs_no_auth_call(spec) for models in specs.values() for spec in models):
            asyncio.get_running_loop().set_default_executor(InlineExecutor(max_workers=4, thread_name_prefix="look-up"))
        return await work

    return asyncio.run(inline())


@contextmanager
def rare_collections() -> Iterator[None]:
    """Keep the hundreds of thousands of objects of imported modules out of the garbage collections of a run.

    With Python's own settings a tenth of the time of every call went into looking at them.
    """
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
