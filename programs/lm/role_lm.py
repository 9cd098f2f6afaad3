"""A language model in one role of a run: retried, paced, metered, never asked twice for what the store still has."""

import asyncio
import functools
import json
import random
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.exceptions import DSPyError, LMRateLimitError
from litellm._internal_context import is_internal_call

from data.base.errors import InputError
from data.base.text import clean_text, content_id
from programs.lm.budget import Budget, Reservation
from programs.lm.faults import PASSING_LOSSES, CallError, RunStoppedError, final_fault, retried_loss
from programs.lm.meter import Journal, Meter, finish_reason, text_of
from programs.lm.models import Abilities, ModelSpec, abilities, client_settings
from programs.lm.pacing import CallLimit, retry_delay

# DSPy's adapters hand messages to the model they were given; that it passes them on to a fallback is no use of the old
# interface by us.
warnings.filterwarnings("ignore", message="Passing OpenAI-style message dictionaries", category=DeprecationWarning)
# No answer of these programs is near this long; parsing such a thing would block every other call.
_LONGEST_ANSWER_CHARS = 200_000
# A call that does not fit into the budget beside those in flight looks again after this long, then after twice as long.
_LOOK_AGAIN_S, _LONGEST_LOOK_S = 0.02, 0.5
# So many calls that fail for good, one after another, mean that nothing answers.
_HOPELESS_CALLS = 10
# The model that gave the latest answer in this context: with fallbacks, not always the one that was asked.
answered_by: ContextVar[str] = ContextVar("answered_by", default="")
# Where dspy hands over the raw answer of the call that runs in this context (see `update_history`).
_raw_answers: ContextVar[list[dict[str, Any]] | None] = ContextVar("raw_answers", default=None)


@dataclass(frozen=True, slots=True)
class _Send:
    kwargs: dict[str, Any]
    held: Reservation


@dataclass(frozen=True, slots=True)
class _Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class _Answer:
    outputs: list[Any]
    raw: dict[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    seconds: float


_Steps = Generator[_Send | _Wait, _Answer | _Failure | None, list[Any]]


class RoleLM(dspy.LM):  # type: ignore[misc]
    """`dspy.LM` on litellm for one role (generator, verifier, reflector).

    Rate limits, 5xx, timeouts and lost connections are retried `retries` times. Raises CallError when a call fails for
    good (a counted loss) and InputError when no other call could succeed either (key, model, quota). A call that fails
    for good goes to `fallbacks` in turn, each budgeted and recorded as the model that it is.
    """

    def __init__(
        self,
        role: str,
        spec: ModelSpec,
        retries: int = 5,
        limit: CallLimit | None = None,
        journal: Journal | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        fallbacks: Sequence["RoleLM"] = (),
    ):
        super().__init__(**client_settings(spec))
        self.role, self.spec = role, spec
        self._meter = Meter(role, spec, journal)
        self._retries, self._limit = retries, limit
        self._budget = budget or Budget()
        self._fallbacks = tuple(fallbacks)
        self._rng = random.Random(seed)
        self._failed_in_a_row, self._answered_once = 0, False

    @property
    def engine(self) -> Abilities:
        """Where DSPy looks before each call for what the model takes: found once, or it is a fourteenth of a call."""
        return self._abilities

    @functools.cached_property
    def _abilities(self) -> Abilities:
        return abilities(self.spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RoleLM":
        # Optimisers copy programs; the copies share the one meter and the one limit.
        return self

    def update_history(self, entry: dict[str, Any]) -> None:
        """Take the raw answer for the meter instead of keeping a history that grows with the run."""
        answers = _raw_answers.get()
        if answers is not None:
            answers.append(entry)

    def _check_truncation(self, results: Any) -> None:
        """Truncated answers are handled and counted here, not logged by dspy."""

    def __call__(self, prompt: str | None = None, *, messages: Any = None, **kwargs: Any) -> list[Any]:
        for lm, last in self._chain(prompt, messages, kwargs):
            try:
                return lm._call(prompt, messages, kwargs)
            except CallError:
                if last:
                    raise
        raise AssertionError("a chain has a last model")

    async def acall(self, prompt: str | None = None, *, messages: Any = None, **kwargs: Any) -> list[Any]:
        for lm, last in self._chain(prompt, messages, kwargs):
            try:
                return await lm._acall(prompt, messages, kwargs)
            except CallError:
                if last:
                    raise
        raise AssertionError("a chain has a last model")

    def _chain(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> Iterator[tuple["RoleLM", bool]]:
        """This model and its fallbacks in order, each with whether it is the last one to try.

        One that has answered this very request before goes first: its answer is paid for.
        """
        models = [self, *self._fallbacks]
        for lm in models if self._fallbacks else ():
            if lm._meter.find(lm._key(prompt, messages, kwargs)) is not None:
                models = [lm]
                break
        for lm in models:
            yield lm, lm is models[-1]

    def _call(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> list[Any]:
        # Closed whatever happens, or another call could wait forever for what this one holds of the budget.
        with closing(self._steps(prompt, messages, kwargs)) as steps:
            try:
                action = next(steps)
                while True:
                    if isinstance(action, _Wait):
                        time.sleep(action.seconds)
                        action = steps.send(None)
                    else:
                        action = steps.send(self._send(prompt, messages, action.kwargs))
            except StopIteration as stop:
                return list(stop.value)

    async def _acall(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> list[Any]:
        with closing(self._steps(prompt, messages, kwargs)) as steps:
            try:
                action = next(steps)
                while True:
                    if isinstance(action, _Wait):
                        await asyncio.sleep(action.seconds)
                        action = steps.send(None)
                    else:
                        async with self._slot():
                            result = await self._asend(prompt, messages, action)
                        action = steps.send(result)
            except StopIteration as stop:
                return list(stop.value)

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._limit is None else self._limit.slot()

    def _steps(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> _Steps:
        """What to do for one call, independent of whether it is awaited or blocks."""
        key = self._key(prompt, messages, kwargs)
        stored = self._meter.find(key)
        if stored is not None:
            self._meter.record(key, "replayed")
            answered_by.set(self.spec.name)
            return list(json.loads(stored))
        kwargs, attempt, widened = dict(kwargs), 0, False
        while True:
            held = yield from self._reserved(prompt, messages, kwargs)
            result = yield from self._paid(kwargs, held)
            if isinstance(result, _Answer):
                if finish_reason(result.raw) != "length":
                    return self._accept(key, result)
                # The same request would be cut off at the same place and paid again: ask once for a longer one.
                self._meter.record(key, "truncated", result.seconds, raw=result.raw)
                limit = kwargs.get("max_tokens") or self.kwargs.get("max_tokens")
                if widened or not limit:
                    raise CallError("truncated", f"the answer was cut off at {limit} tokens")
                kwargs["max_tokens"], widened = limit * 2, True
                continue
            loss = retried_loss(result.error)
            fault = final_fault(result.error, role=self.role, model=self.spec.name)
            outcome = fault.loss if isinstance(fault, CallError) else "refused"
            self._meter.record(key, outcome, result.seconds, held=held)
            if isinstance(result.error, LMRateLimitError) and self._limit:
                self._limit.refused(result.seconds)
            if loss is None or attempt >= self._retries:
                if isinstance(fault, InputError):
                    self._budget.fail(fault)
                self._give_up(fault)
                raise fault from None
            yield _Wait(retry_delay(attempt, getattr(result.error, "retry_after", None), self._rng))
            attempt += 1

    def _reserved(
        self, prompt: str | None, messages: Any, kwargs: dict[str, Any]
    ) -> Generator[_Send | _Wait, _Answer | _Failure | None, Reservation]:
        """Hold a part of the budget for one attempt, as soon as it fits beside the calls in flight."""
        chars = len(prompt or "") + sum(len(str(message.get("content"))) for message in messages or ())
        max_tokens = kwargs.get("max_tokens") or self.kwargs.get("max_tokens")
        wait = _LOOK_AGAIN_S
        while True:
            held = self._budget.reserve(prompt_chars=chars, max_tokens=max_tokens, price=self._meter.price)
            if held is not None:
                return held
            yield _Wait(wait)
            wait = min(wait * 2, _LONGEST_LOOK_S)

    def _paid(
        self, kwargs: dict[str, Any], held: Reservation
    ) -> Generator[_Send | _Wait, _Answer | _Failure | None, _Answer | _Failure]:
        """Send one attempt and settle what was reserved for it, whatever comes of it."""
        # A call that is cancelled on the way may have been billed in full.
        used: tuple[int, float | None] = (held.tokens, None)
        try:
            result = yield _Send(kwargs, held)
            assert result is not None
            if isinstance(result, _Answer):
                used = self._meter.used("ok", result.raw, held)
            else:
                used = self._meter.used(retried_loss(result.error) or "", None, held)
        finally:
            self._budget.settle(held, tokens=used[0], usd=used[1])
        return result

    def _send(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> _Answer | _Failure:
        raw: list[dict[str, Any]] = []
        started = time.monotonic()
        token, quiet = _raw_answers.set(raw), is_internal_call.set(True)
        try:
            outputs = super().__call__(prompt, messages=messages, **kwargs)
        except DSPyError as error:
            return _Failure(error, time.monotonic() - started)
        finally:
            _raw_answers.reset(token)
            is_internal_call.reset(quiet)
        return _Answer(outputs, raw[0], time.monotonic() - started)

    async def _asend(self, prompt: str | None, messages: Any, action: _Send) -> _Answer | _Failure:
        raw: list[dict[str, Any]] = []
        started = time.monotonic()
        # litellm's own logging of each call costs a tenth of it, keeps prompts in memory and may write keys.
        token, quiet = _raw_answers.set(raw), is_internal_call.set(True)
        try:
            outputs = await super().acall(prompt, messages=messages, **action.kwargs)
        except DSPyError as error:
            return _Failure(error, time.monotonic() - started)
        except asyncio.CancelledError:
            self._meter.record("", "cancelled", time.monotonic() - started, held=action.held)
            raise
        finally:
            _raw_answers.reset(token)
            is_internal_call.reset(quiet)
        return _Answer(outputs, raw[0], time.monotonic() - started)

    def _accept(self, key: str, answer: _Answer) -> list[Any]:
        texts = [text_of(output) for output in answer.outputs]
        if not texts:
            self._meter.record(key, "malformed", answer.seconds, raw=answer.raw)
            raise CallError("malformed", "the answer has no text")
        size = sum(map(len, texts))
        if size > _LONGEST_ANSWER_CHARS:
            self._meter.record(key, "oversized", answer.seconds, raw=answer.raw)
            raise CallError("malformed", f"the answer has {size} characters")
        # Half a character (a lone surrogate) can be stored in no file.
        texts = [clean_text(text) for text in texts]
        self._meter.record(key, "ok", answer.seconds, raw=answer.raw, answer=json.dumps(texts, ensure_ascii=False))
        self._failed_in_a_row, self._answered_once = 0, True
        answered_by.set(self.spec.name)
        if self._limit:
            self._limit.answered(answer.seconds)
        return texts

    def _give_up(self, fault: Exception) -> None:
        """Stop the run when one call after another fails for good: there is nothing to gain from the other rows."""
        if self._fallbacks:
            return
        self._failed_in_a_row += 1
        hopeless = isinstance(fault, CallError) and (fault.loss in PASSING_LOSSES or not self._answered_once)
        if hopeless and self._failed_in_a_row >= _HOPELESS_CALLS:
            stopped = RunStoppedError(
                f"{self.role} {self.spec.name}: {self._failed_in_a_row} calls in a row gave up, the last with "
                f"{fault}; what is finished is kept, run the same command again to go on"
            )
            self._budget.fail(stopped)
            raise stopped from None

    def _key(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> str:
        settings = {**self.kwargs, **kwargs}
        varying = {name: settings[name] for name in ("rollout_id", "temperature") if settings.get(name) is not None}
        return content_id(self.spec.key, json.dumps([prompt, messages, varying], ensure_ascii=False, default=str))
