"""The one process that a run on Ray shares: the run store, the budget over all workers, and how many calls may fly.

Workers reach it through the three classes at the end, which stand in for the store's journal, the budget and the call
limit of a run in one process. A worker that falls silent is taken for lost: what it had reserved counts as spent, since
it may have been billed, and its places are free again.
"""

import itertools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.base.errors import InputError
from programs.lm.budget import Budget, BudgetSpentError, Reservation
from programs.lm.models import ModelSpec, Price
from programs.lm.pacing import CallLimit, Limits
from programs.lm.usage import Call
from programs.modules.candidates import synthesis_from_dict
from programs.synthesis.funnel import Funnel
from programs.synthesis.store import RunStore, current_row

# Workers give a sign of life this often; one that has given none for so long is lost.
BEAT_S, LOST_AFTER_S = 2.0, 30.0
Place = tuple[str, str | None]
Taken = Literal["yours", "under way", "finished"]


@dataclass(slots=True)
class _Worker:
    pid: int
    seen: float
    held: dict[int, Reservation] = field(default_factory=dict)
    slots: dict[int, AsyncExitStack] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """What the ledger is made of: plain values, since they travel to its process."""

    store: Path
    program: str
    budget_usd: float | None
    budget_tokens: int | None
    concurrency: int
    max_miss_rate: float
    accept_unusable_verifier: bool
    lost_after_s: float


class Ledger:
    """Runs as a Ray actor on the machine of the run folder. Every method is short and runs on the actor's one loop."""

    def __init__(self, settings: LedgerSettings):
        self._settings = settings
        self._store = RunStore(settings.store, program=settings.program)
        self._budget = Budget(usd=settings.budget_usd, tokens=settings.budget_tokens)
        self._budget.add_spent(self._store.usage(whole_folder=True).values())
        self._limits: dict[Place, CallLimit] = {}
        self._workers: dict[str, _Worker] = {}
        self._numbers = itertools.count()
        self._under_way: dict[str, str] = {}
        self._funnel = Funnel()
        self._condemned = False
        self._lost = 0

    async def beat(self, worker: str, pid: int) -> None:
        """A worker's sign of life; also notices those that have given none for long."""
        now = time.monotonic()
        self._workers.setdefault(worker, _Worker(pid, now)).seen = now
        for name, other in list(self._workers.items()):
            if now - other.seen > self._settings.lost_after_s:
                await self._forget(name)

    async def _forget(self, worker: str) -> None:
        lost = self._workers.pop(worker)
        self._lost += 1
        for reservation in lost.held.values():
            self._budget.settle(reservation, tokens=reservation.tokens, usd=None)
        for slot in lost.slots.values():
            await slot.aclose()
        self._under_way = {row: by for row, by in self._under_way.items() if by != worker}

    async def take(self, worker: str, row_id: str) -> Taken:
        """Whether this worker is to work on the row: "yours" from now on, "finished", or "under way" (ask again later:
        its worker may be lost all the same, or the row fail there)."""
        if self._store.is_finished(row_id):
            return "finished"
        if self._under_way.get(row_id) in self._workers:
            return "under way"
        self._worker(worker)
        self._under_way[row_id] = worker
        return "yours"

    async def drop(self, row_id: str) -> None:
        """The worker gives the row up without an outcome."""
        self._under_way.pop(row_id, None)

    async def find(self, row_id: str, key: str) -> str | None:
        """An answer that this row has been given already, by whatever worker."""
        current_row.set(row_id)
        return self._store.find(key)

    async def record(self, row_id: str, call: Call, key: str, answer: str | None) -> None:
        """One attempt at a call into the books."""
        current_row.set(row_id)
        self._store.record(call, key=key, answer=answer)

    async def finish(self, row_id: str, synthesis: Mapping[str, Any]) -> None:
        """A row's outcome into the store. The first one stays: a row has one outcome, however often it was run."""
        self._under_way.pop(row_id, None)
        if self._store.is_finished(row_id):
            return
        outcome = synthesis_from_dict(synthesis)
        self._store.finish(row_id, outcome)
        self._funnel.add(outcome)
        if self._funnel.calibration(self._settings.max_miss_rate).unusable_early:
            self._condemned = not self._settings.accept_unusable_verifier
            if self._condemned:
                self._budget.close("the verifier is unusable")

    async def reserve(
        self, worker: str, prompt_chars: int, max_tokens: int | None, price: Price | None
    ) -> tuple[int, Reservation] | str | None:
        """What the call may use at most, held; None when it is to ask again; or why no further call is made."""
        try:
            held = self._budget.reserve(prompt_chars=prompt_chars, max_tokens=max_tokens, price=price)
        except InputError as refusal:
            return str(refusal)
        if held is None:
            return None
        number = next(self._numbers)
        self._worker(worker).held[number] = held
        return number, held

    async def settle(self, worker: str, number: int, tokens: int, usd: float | None) -> None:
        """What the call used. One of a worker that was given up for lost is settled already."""
        held = self._worker(worker).held.pop(number, None)
        if held is not None:
            self._budget.settle(held, tokens=tokens, usd=usd)

    async def fail(self, reason: str) -> None:
        """No call can succeed any more."""
        self._budget.fail(InputError(reason))

    async def enter(self, worker: str, place: Place) -> int:
        """Wait for one of the places in flight; returns its number for `leave`."""
        slot = AsyncExitStack()
        await slot.enter_async_context(self._limit(place).slot())
        number = next(self._numbers)
        self._worker(worker).slots[number] = slot
        return number

    async def leave(self, worker: str, number: int) -> None:
        """Give a place back."""
        slot = self._worker(worker).slots.pop(number, None)
        if slot is not None:
            await slot.aclose()

    async def paced(self, place: Place, refused: bool, seconds: float) -> None:
        """A server answered after this time, or asked for fewer calls."""
        limit = self._limit(place)
        limit.refused(seconds) if refused else limit.answered(seconds)

    async def state(self) -> dict[str, Any]:
        """What the driver shows and decides on."""
        return {
            "funnel": self._funnel,
            "condemned": self._condemned,
            "refusal": self._budget.refusal,
            "spent_tokens": self._budget.spent_tokens,
            "lowest": min((int(limit.lowest) for limit in self._limits.values()), default=self._settings.concurrency),
            "busy": sorted({self._workers[name].pid for name in self._under_way.values() if name in self._workers}),
            "lost": self._lost,
        }

    async def close(self) -> None:
        """Release the store to the driver."""
        self._store.close()

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker(0, time.monotonic()))

    def _limit(self, place: Place) -> CallLimit:
        return self._limits.setdefault(place, CallLimit(self._settings.concurrency))


class LedgerJournal:
    """The store's journal, as a worker sees it."""

    def __init__(self, ledger: Any):
        self._ledger = ledger

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""
        import ray

        found = ray.get(self._ledger.find.remote(current_row.get(), key))
        return None if found is None else str(found)

    def record(self, call: Call, *, key: str, answer: str | None) -> None:
        """Keep one attempt. Not waited for: messages of one worker arrive in order."""
        self._ledger.record.remote(current_row.get(), call, key, answer)


@dataclass(frozen=True, slots=True)
class _Held(Reservation):
    number: int


class LedgerBudget(Budget):
    """The one budget, as a worker sees it."""

    def __init__(self, ledger: Any, worker: str):
        super().__init__()
        self._ledger, self._name = ledger, worker

    def reserve(self, *, prompt_chars: int, max_tokens: int | None, price: Price | None) -> Reservation | None:
        """Hold what the call may use at most; None when it is to ask again, as calls in flight hold too much.

        Raises BudgetSpentError when no further call may be made.
        """
        import ray

        answer = ray.get(self._ledger.reserve.remote(self._name, prompt_chars, max_tokens, price))
        if isinstance(answer, str):
            raise BudgetSpentError(answer)
        if answer is None:
            return None
        number, held = answer
        return _Held(held.tokens, held.usd, number)

    def settle(self, reservation: Reservation, *, tokens: int, usd: float | None) -> None:
        """Replace a reservation by what the call used."""
        assert isinstance(reservation, _Held)
        self._ledger.settle.remote(self._name, reservation.number, tokens, usd)

    def fail(self, error: InputError) -> None:
        """Refuse every further call of every worker."""
        self._ledger.fail.remote(str(error))


class LedgerLimit(CallLimit):
    """The one limit of calls in flight to a place, as a worker sees it."""

    def __init__(self, ledger: Any, worker: str, spec: ModelSpec, largest: int):
        super().__init__(largest)
        self._ledger, self._name, self._place = ledger, worker, (spec.model, spec.api_base)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the allowed places."""
        number = await self._ledger.enter.remote(self._name, self._place)
        try:
            yield
        finally:
            self._ledger.leave.remote(self._name, number)

    def refused(self, seconds: float) -> None:
        """The server asked, after this time, for fewer calls."""
        self._ledger.paced.remote(self._place, True, seconds)

    def answered(self, seconds: float) -> None:
        """One call was answered after this time."""
        self._ledger.paced.remote(self._place, False, seconds)


class LedgerLimits(Limits):
    """The limits of all places, as a worker sees them."""

    def __init__(self, ledger: Any, worker: str, largest: int):
        super().__init__(largest)
        self._ledger, self._name = ledger, worker

    def of(self, spec: ModelSpec) -> CallLimit:
        """The limit of the place where this model is served."""
        place = (spec.model, spec.api_base)
        return self._limits.setdefault(place, LedgerLimit(self._ledger, self._name, spec, self._largest))
