"""A language model in one role of a run: retried, paced, metered, never asked twice for what the store still has."""

import asyncio
import json
import random
import time
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import dspy
from dspy.utils.exceptions import DSPyError, LMRateLimitError

from data.errors import InputError
from data.text import content_id
from programs.budget import Budget
from programs.faults import PASSING_LOSSES, CallError, RunStoppedError, final_fault, retried_loss
from programs.lms import ModelSpec, client_settings, known_price
from programs.pacing import CallLimit, retry_delay
from programs.usage import Call

# No answer of these programs is near this long; parsing such a thing would block every other call.
_LONGEST_ANSWER_CHARS = 200_000
# So many calls that fail for good, one after another, mean that nothing answers.
_HOPELESS_CALLS = 10
# Where dspy hands over the raw answer of the call that runs in this context (see `update_history`).
_raw_answers: ContextVar[list[dict[str, Any]] | None] = ContextVar("raw_answers", default=None)


class Journal(Protocol):
    """Where calls are recorded and where answers of unfinished work are found again."""

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""

    def record(self, call: Call, *, key: str, answer: str | None) -> None:
        """Keep one attempt and, when it was answered, its answer."""


@dataclass(frozen=True, slots=True)
class _Send:
    kwargs: dict[str, Any]


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
    good (a counted loss) and InputError when no other call could succeed either (key, model, quota).
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
    ):
        super().__init__(**client_settings(spec))
        self.role, self.spec = role, spec
        self.price = known_price(spec)
        self._retries, self._limit, self._journal = retries, limit, journal
        self._budget = budget or Budget()
        self._rng = random.Random(seed)
        self._failed_in_a_row, self._answered_once = 0, False

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
        steps = self._steps(prompt, messages, kwargs)
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

    async def acall(self, prompt: str | None = None, *, messages: Any = None, **kwargs: Any) -> list[Any]:
        steps = self._steps(prompt, messages, kwargs)
        try:
            action = next(steps)
            while True:
                if isinstance(action, _Wait):
                    await asyncio.sleep(action.seconds)
                    action = steps.send(None)
                else:
                    async with self._slot():
                        result = await self._asend(prompt, messages, action.kwargs)
                    action = steps.send(result)
        except StopIteration as stop:
            return list(stop.value)

    def _slot(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._limit is None else self._limit.slot()

    def _steps(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> _Steps:
        """What to do for one call, independent of whether it is awaited or blocks."""
        key = self._key(prompt, messages, kwargs)
        stored = self._journal.find(key) if self._journal else None
        if stored is not None:
            return self._replay(key, stored)
        kwargs, attempt, widened = dict(kwargs), 0, False
        while True:
            result = yield from self._paid(prompt, messages, kwargs)
            if isinstance(result, _Answer):
                if _finish_reason(result.raw) != "length":
                    return self._accept(key, result)
                # The same request would be cut off at the same place and paid again: ask once for a longer one.
                self._record(key, "truncated", result.seconds, raw=result.raw)
                limit = kwargs.get("max_tokens") or self.kwargs.get("max_tokens")
                if widened or not limit:
                    raise CallError("truncated", f"the answer was cut off at {limit} tokens")
                kwargs["max_tokens"], widened = limit * 2, True
                continue
            loss = retried_loss(result.error)
            fault = final_fault(result.error, role=self.role, model=self.spec.name)
            self._record(key, fault.loss if isinstance(fault, CallError) else "refused", result.seconds)
            if isinstance(result.error, LMRateLimitError) and self._limit:
                self._limit.refused()
            if loss is None or attempt >= self._retries:
                if isinstance(fault, InputError):
                    self._budget.fail(fault)
                self._give_up(fault)
                raise fault from None
            yield _Wait(retry_delay(attempt, getattr(result.error, "retry_after", None), self._rng))
            attempt += 1

    def _paid(
        self, prompt: str | None, messages: Any, kwargs: dict[str, Any]
    ) -> Generator[_Send | _Wait, _Answer | _Failure | None, _Answer | _Failure]:
        """Send one attempt under the budget: reserved before, settled after, whatever comes of it."""
        chars = len(prompt or "") + sum(len(str(message.get("content"))) for message in messages or ())
        max_tokens = kwargs.get("max_tokens") or self.kwargs.get("max_tokens")
        reservation = self._budget.reserve(prompt_chars=chars, max_tokens=max_tokens, price=self.price)
        # A call that is cancelled on the way may have been billed in full.
        used: tuple[int, float | None] = (reservation.tokens, None)
        try:
            result = yield _Send(kwargs)
            assert result is not None
            if isinstance(result, _Answer):
                usage = result.raw.get("usage") or {}
                tokens = _count(usage.get("prompt_tokens")) + _count(usage.get("completion_tokens"))
                used = (tokens, self._cost("ok", result.raw))
            else:
                used = (0, self._cost(retried_loss(result.error) or "", None))
        finally:
            self._budget.settle(reservation, tokens=used[0], usd=used[1])
        return result

    def _send(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> _Answer | _Failure:
        raw: list[dict[str, Any]] = []
        token, started = _raw_answers.set(raw), time.monotonic()
        try:
            outputs = super().__call__(prompt, messages=messages, **kwargs)
        except DSPyError as error:
            return _Failure(error, time.monotonic() - started)
        finally:
            _raw_answers.reset(token)
        return _Answer(outputs, raw[0], time.monotonic() - started)

    async def _asend(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> _Answer | _Failure:
        raw: list[dict[str, Any]] = []
        token, started = _raw_answers.set(raw), time.monotonic()
        try:
            outputs = await super().acall(prompt, messages=messages, **kwargs)
        except DSPyError as error:
            return _Failure(error, time.monotonic() - started)
        except asyncio.CancelledError:
            self._record("", "cancelled", time.monotonic() - started)
            raise
        finally:
            _raw_answers.reset(token)
        return _Answer(outputs, raw[0], time.monotonic() - started)

    def _accept(self, key: str, answer: _Answer) -> list[Any]:
        texts = [_text(output) for output in answer.outputs]
        size = sum(map(len, texts))
        if size > _LONGEST_ANSWER_CHARS:
            self._record(key, "oversized", answer.seconds, raw=answer.raw)
            raise CallError("malformed", f"the answer has {size} characters")
        self._record(key, "ok", answer.seconds, raw=answer.raw, answer=json.dumps(texts, ensure_ascii=False))
        self._failed_in_a_row, self._answered_once = 0, True
        if self._limit:
            self._limit.answered()
        return texts

    def _give_up(self, fault: Exception) -> None:
        """Stop the run when one call after another fails for good: there is nothing to gain from the other rows."""
        self._failed_in_a_row += 1
        hopeless = isinstance(fault, CallError) and (fault.loss in PASSING_LOSSES or not self._answered_once)
        if hopeless and self._failed_in_a_row >= _HOPELESS_CALLS:
            stopped = RunStoppedError(
                f"{self.role} {self.spec.name}: {self._failed_in_a_row} calls in a row gave up, the last with "
                f"{fault}; what is finished is kept, run the same command again to go on"
            )
            self._budget.fail(stopped)
            raise stopped from None

    def _replay(self, key: str, stored: str) -> list[Any]:
        assert self._journal is not None
        self._journal.record(Call(role=self.role, model=self.spec.name, outcome="replayed"), key=key, answer=None)
        return list(json.loads(stored))

    def _record(
        self, key: str, outcome: str, seconds: float, *, raw: dict[str, Any] | None = None, answer: str | None = None
    ) -> None:
        if self._journal is None:
            return
        usage = (raw or {}).get("usage") or {}
        call = Call(
            role=self.role,
            model=self.spec.name,
            outcome=outcome,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            cached_tokens=_count(_field(usage.get("prompt_tokens_details"), "cached_tokens")),
            cost_usd=self._cost(outcome, raw),
            seconds=seconds,
        )
        self._journal.record(call, key=key, answer=answer)

    def _cost(self, outcome: str, raw: dict[str, Any] | None) -> float | None:
        if self.spec.free:
            return 0.0
        if raw is None:
            # An error response is not billed; a request that was given up on may have been.
            return None if outcome in ("timeout", "connection", "cancelled") else 0.0
        return None if self.price is None else raw.get("cost")

    def _key(self, prompt: str | None, messages: Any, kwargs: dict[str, Any]) -> str:
        settings = {**self.kwargs, **kwargs}
        varying = {name: settings[name] for name in ("rollout_id", "temperature") if settings.get(name) is not None}
        return content_id(self.spec.name, json.dumps([prompt, messages, varying], ensure_ascii=False, default=str))


def _text(output: Any) -> str:
    text = output.get("text") if isinstance(output, dict) else output
    return text if isinstance(text, str) else ""


def _finish_reason(raw: dict[str, Any]) -> str | None:
    choices = _field(raw.get("response"), "choices") or [None]
    reason = _field(choices[0], "finish_reason")
    return reason if isinstance(reason, str) else None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
