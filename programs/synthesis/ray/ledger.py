"""The one process that a run on Ray shares: the run store, the budget over all workers, and how many calls may fly.

Workers reach it through `Remote`, which stands in for the store's journal, the budget and the call limits of a run in
one process. A worker that falls silent is taken for lost: what it had reserved counts as spent, since it may have been
billed, and its places are free again.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from data.base.errors import InputError
from programs.lm.budget import Budget, Reservation
from programs.lm.models import ModelSpec, Price
from programs.lm.pacing import AdaptiveConcurrency
from programs.lm.usage import Call
from programs.modules.candidates import Synthesis
from programs.synthesis.config import SynthesizeConfig
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
    held: list[Reservation] = field(default_factory=list)
    slots: dict[Place, list[AsyncExitStack]] = field(default_factory=lambda: defaultdict(list))


class Ledger:
    """Runs as a Ray actor on the machine of the run folder. Every method is short and runs on the actor's one loop."""

    def __init__(self, config: SynthesizeConfig, program: str, lost_after_s: float):
        self._config, self._lost_after_s = config, lost_after_s
        self._store = RunStore(config.out / "store.sqlite", program=program)
        self._budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        self._budget.add_spent(self._store.usage(whole_folder=True).values())
        self._limits: dict[Place, AdaptiveConcurrency] = {}
        self._workers: dict[str, _Worker] = {}
        self._under_way: dict[str, str] = {}
        self._finished: set[str] = set()
        self._funnel = Funnel()
        self._condemned = False

    async def beat(self, worker: str, pid: int) -> None:
        """A worker's sign of life; also notices those that have given none for long."""
        now = time.monotonic()
        self._workers.setdefault(worker, _Worker(pid, now)).seen = now
        for name, other in list(self._workers.items()):
            if now - other.seen > self._lost_after_s:
                await self._forget(name)

    async def _forget(self, worker: str) -> None:
        lost = self._workers.pop(worker)
        for reservation in lost.held:
            self._budget.settle(reservation, tokens=reservation.tokens, usd=None)
        for slots in lost.slots.values():
            for slot in slots:
                await slot.aclose()
        self._under_way = {row: by for row, by in self._under_way.items() if by != worker}

    async def take(self, worker: str, row_id: str, judged: str) -> Taken:
        """Whether this worker is to work on the row: "yours" from now on, "finished", or "under way" (ask again later:
        its worker may be lost all the same, or the row fail there)."""
        # A copy with other mined negatives is done with the first one, or each start would make both anew.
        if row_id in self._finished or self._store.is_finished(row_id, judged=judged):
            self._finished.add(row_id)
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

    async def open(self, row_id: str, call: Call) -> int:
        """One attempt into the books before it is sent. If it is never settled, the next start charges it."""
        current_row.set(row_id)
        return self._store.open(call)

    async def record(
        self,
        row_id: str,
        call: Call,
        key: str,
        answer: str | None,
        opened: int | None = None,
        line: str | None = None,
    ) -> None:
        """One attempt at a call into the books."""
        current_row.set(row_id)
        self._store.record(call, key=key, answer=answer, opened=opened, line=line)

    async def finish(self, row_id: str, synthesis: Synthesis) -> None:
        """A row's outcome into the store. The first one stays: a row has one outcome, however often it was run."""
        self._under_way.pop(row_id, None)
        self._finished.add(row_id)
        if self._store.is_finished(row_id, judged=synthesis.judged):
            return
        self._store.finish(row_id, synthesis)
        self._funnel.add(synthesis)
        if self._funnel.condemns_verifier(self._config):
            self._condemned = True
            self._budget.close("the verifier is unusable")

    async def reserve(
        self, worker: str, prompt_tokens: int, max_tokens: int | None, price: Price | None
    ) -> Reservation | None:
        """What the call may use at most, held; None when it is to ask again. Raises why no further call is made."""
        held = self._budget.reserve(prompt_tokens=prompt_tokens, max_tokens=max_tokens, price=price)
        if held is not None:
            self._worker(worker).held.append(held)
        return held

    async def settle(self, worker: str, reservation: Reservation, tokens: int, usd: float | None) -> None:
        """What the call used. One of a worker that was given up for lost is settled already."""
        held = self._worker(worker).held
        if reservation in held:
            held.remove(reservation)
            self._budget.settle(reservation, tokens=tokens, usd=usd)

    async def fail(self, reason: str) -> None:
        """No call can succeed any more."""
        self._budget.fail(InputError(reason))

    async def enter(self, worker: str, place: Place) -> None:
        """Wait for one of the places in flight."""
        slot = AsyncExitStack()
        await slot.enter_async_context(self._limit(place).slot())
        self._worker(worker).slots[place].append(slot)

    async def leave(self, worker: str, place: Place) -> None:
        """Give a place back. Those of a worker that was given up for lost are free already."""
        if slots := self._worker(worker).slots[place]:
            await slots.pop().aclose()

    async def paced(self, place: Place, refused: bool, seconds: float, retry_after: float = 0.0) -> None:
        """A server answered after this time, or asked for fewer calls, and for none for so long."""
        limit = self._limit(place)
        limit.refused(seconds, retry_after) if refused else limit.answered(seconds)

    async def state(self) -> dict[str, Any]:
        """What the driver shows and decides on."""
        return {
            "funnel": self._funnel,
            "condemned": self._condemned,
            "refusal": self._budget.refusal,
            "lowest": min((int(limit.lowest) for limit in self._limits.values()), default=self._config.concurrency),
            "busy": sorted({self._workers[name].pid for name in self._under_way.values() if name in self._workers}),
        }

    async def close(self) -> None:
        """Release the store to the driver."""
        self._store.close()

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker(0, time.monotonic()))

    def _limit(self, place: Place) -> AdaptiveConcurrency:
        return self._limits.setdefault(place, AdaptiveConcurrency(self._config.concurrency))


class Remote:
    """The ledger as a worker sees it: journal, budget and limits of calls, and the limit of one `place`.

    What answers nothing is not waited for: messages of one worker arrive in order.
    """

    def __init__(self, ledger: Any, worker: str, place: Place | None = None):
        self._ledger, self._worker, self._place = ledger, worker, place

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""
        found: str | None = _answer(self._ledger.find.remote(current_row.get(), key))
        return found

    def open(self, call: Call) -> int:
        """Write down one attempt before it is sent; returns its number."""
        number: int = _answer(self._ledger.open.remote(current_row.get(), call))
        return number

    def record(
        self, call: Call, *, key: str, answer: str | None, opened: int | None = None, line: str | None = None
    ) -> None:
        """Keep one attempt."""
        self._ledger.record.remote(current_row.get(), call, key, answer, opened, line)

    def reserve(self, *, prompt_tokens: int, max_tokens: int | None, price: Price | None) -> Reservation | None:
        """As `Budget.reserve`."""
        held: Reservation | None = _answer(self._ledger.reserve.remote(self._worker, prompt_tokens, max_tokens, price))
        return held

    def settle(self, reservation: Reservation, *, tokens: int, usd: float | None) -> None:
        """Replace a reservation by what the call used."""
        self._ledger.settle.remote(self._worker, reservation, tokens, usd)

    def fail(self, error: InputError) -> None:
        """Refuse every further call of every worker."""
        self._ledger.fail.remote(str(error))

    def of(self, spec: ModelSpec) -> "Remote":
        """The limit of the place where this model is served."""
        return Remote(self._ledger, self._worker, (spec.model, spec.api_base))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the allowed places."""
        await self._ledger.enter.remote(self._worker, self._place)
        try:
            yield
        finally:
            self._ledger.leave.remote(self._worker, self._place)

    def refused(self, seconds: float, retry_after: float = 0.0) -> None:
        """The server asked, after this time, for fewer calls, and for none in the next `retry_after` seconds."""
        self._ledger.paced.remote(self._place, True, seconds, retry_after)

    def answered(self, seconds: float) -> None:
        """One call was answered after this time."""
        self._ledger.paced.remote(self._place, False, seconds)


def _answer(asked: Any) -> Any:
    import ray

    try:
        return ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        # The fault itself, as in one process, not Ray's account of where it was raised.
        raise error.cause from None
