"""One model's calls as requests of waves: the Sender of `send=batch` and `send=files`, and a run's set of them."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import litellm
from dspy import lm15

from data.base.errors import InputError
from data.base.text import in_number, public_address
from programs.lm.batches.books import Wave, WaveBooks
from programs.lm.batches.lines import BatchAnswer, BatchRequest, batch_request
from programs.lm.batches.sender import WaveSender
from programs.lm.batches.services import BatchService, FolderBatches, ProviderBatches
from programs.lm.budget import Budget
from programs.lm.meter import UNSENT, Answer, read_answer
from programs.lm.models import ModelSpec
from programs.options import Send

log = logging.getLogger(__name__)
_LOST = "the batch ended before this request was worked on"


class WaveCalls:
    """Sends a model's attempts with the next wave. `whose` names the row that asks: equal requests of two rows are two.

    Raises lm15's errors as a live call would; a request that nobody worked on counts as a server's fault, so that it
    goes into the next wave, as often as the run retries.
    """

    if_cancelled = UNSENT

    def __init__(self, spec: ModelSpec, waves: WaveSender, whose: Callable[[], str]):
        self._spec, self._waves, self._whose = spec, waves, whose

    async def send(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> Answer:
        request = self._request(messages, parameters)
        answer = await self._waves.complete(request)
        if answer.body is None:
            self._waves.used(request)
            raise _error(answer)
        return read_answer(litellm.ModelResponse(**answer.body))

    def stored(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> None:
        self._waves.used(self._request(messages, parameters))

    def _request(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> BatchRequest:
        return batch_request(self._spec.model, messages, parameters, asker=self._whose())


_KINDS: Mapping[int, type[Exception]] = {
    401: lm15.AuthError, 403: lm15.AuthError, 404: lm15.UnsupportedModelError, 429: lm15.RateLimitError
}  # fmt: skip


def _error(answer: BatchAnswer) -> Exception:
    lost: type[Exception] = lm15.ServerError
    refused: type[Exception] = lm15.InvalidRequestError
    if answer.lost:
        return lost(f"{_LOST} ({answer.message})")
    return _KINDS.get(answer.status, lost if answer.status >= 500 else refused)(answer.message)


class Waves:
    """The waves of all models of a run, for `send` other than calls. Enter it in the loop that the run works in.

    `out` is the run folder: batches.sqlite keeps what is out, requests/ and responses/ are those of send=files.
    """

    def __init__(self, send: Send, out: Path, *, batch_size: int, whose: Callable[[], str], budget: Budget):
        self._send, self._out, self._batch_size, self._whose = send, out, batch_size, whose
        self._budget = budget
        self._books = WaveBooks(out / "batches.sqlite")
        self._senders: dict[tuple[str, str | None], WaveSender] = {}
        self._stack = AsyncExitStack()

    def sender(self, role: str, spec: ModelSpec) -> WaveCalls:
        """The Sender for a model. Raises InputError for one that batches cannot reach."""
        # Two servers may run models of one name; files do not say where they go.
        place = spec.key, spec.api_base if self._send == "batch" else None
        if place not in self._senders:
            taken = any(key == spec.key for key, _ in self._senders)
            address = "its provider" if spec.api_base is None else public_address(spec.api_base)
            target = f"{spec.name} at {address}" if taken else spec.name
            service = self._service(role, spec)
            self._senders[place] = WaveSender(service, self._books, target=target, batch_size=self._batch_size)
        return WaveCalls(spec, self._senders[place], self._whose)

    def _service(self, role: str, spec: ModelSpec) -> BatchService:
        if self._send == "files":
            return FolderBatches(self._out)
        if spec.is_local:
            raise InputError(f"{spec.name} runs on this machine and takes no batches: use send=calls", field="send")
        return ProviderBatches(spec, role)

    async def __aenter__(self) -> Self:
        for sender in self._senders.values():
            await self._stack.enter_async_context(sender)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()
        self._books.close()

    async def until_all_out(self) -> None:
        """Return when every request that can be made is out at the service."""
        while not (self.requests_out and all(sender.nothing_to_send for sender in self._senders.values())):
            await asyncio.sleep(0.2)

    @property
    def requests_out(self) -> int:
        """Requests in waves that have not come back."""
        return sum(len(wave.ids) for wave in self._waves())

    def progress(self) -> str:
        """Waves and requests out and back, the age of the oldest wave, and what is spent and reserved, in words."""
        waves = self._waves()
        oldest = max((time.time() - wave.made_at for wave in waves), default=0.0)
        age = f", oldest {oldest / 60:.0f} min" if oldest >= 60 else ""
        batches, requests = in_number(len(waves), "batch"), in_number(self.requests_out, "request")
        back = sum(sender.requests_back for sender in self._senders.values())
        return f"{batches} out with {requests}, {back} back{age}, {self._budget.state_in_words()}"

    def left_running(self) -> str:
        """What a run that ends before its waves says of them; empty when none is out."""
        waves = self._waves()
        if not waves:
            return ""
        names = ", ".join(wave.batch_id or wave.mark for wave in waves[:3]) + (", ..." if len(waves) > 3 else "")
        where = "" if self._send == "batch" else f"; their files are in {self._out / 'requests'}"
        batches, requests = in_number(len(waves), "batch"), in_number(self.requests_out, "request")
        return (
            f"{batches} with {requests} left running ({names}){where}: "
            "the same command fetches what came back and goes on, with cancel=true it cancels what is out"
        )

    def _waves(self) -> list[Wave]:
        return [wave for sender in self._senders.values() for wave in sender.waves]


async def cancel_waves(send: Send, out: Path, specs: Mapping[str, list[ModelSpec]]) -> int:
    """Ask for every wave of this run folder that is still out to be cancelled; returns how many."""
    waves = Waves(send, out, batch_size=1, whose=str, budget=Budget())
    for role, models in specs.items():
        for spec in models:
            waves.sender(role, spec)
    async with waves:
        return sum([await sender.cancel_all() for sender in waves._senders.values()])
