"""A language model in one role of a run: retried, paced, metered, never asked twice for what the store still has.

DSPy hands a request to an engine and takes its response: `complete(request) -> response` is the one way to a model, and
all that a call costs is decided there. `RoleLM` is the thin door that DSPy 3.4 needs in front of it.
"""

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NoReturn

import dspy
from dspy import lm15
from dspy.utils.exceptions import LMUnexpectedError

from data.base.errors import InputError
from data.base.text import clean_text, content_id
from programs.lm.bridge import wait_for
from programs.lm.budget import Budget, Reservation
from programs.lm.call.lessons import Lessons
from programs.lm.call.reading import LONGEST_ANSWER_CHARS, current_reader
from programs.lm.call.request import request_messages, request_parameters
from programs.lm.call.sender import LiveSender, Sender
from programs.lm.call.transport import exchange
from programs.lm.faults import PASSING_LOSSES, CallError, RunStoppedError, transient_kind, user_error, without_keys
from programs.lm.meter import MAYBE_BILLED, Answer, Attempt, Journal, Meter
from programs.lm.models import ModelSpec, abilities, call_settings
from programs.lm.pacing import AdaptiveConcurrency, retry_delay
from programs.lm.usage import TextSize

log = logging.getLogger(__name__)

# A call that does not fit into the budget beside those in flight looks again after this long, then after twice as long.
_LOOK_AGAIN_S, _LONGEST_LOOK_S = 0.02, 0.5
# So many calls that fail for good, one after another, mean that nothing answers.
_HOPELESS_CALLS = 10
# So long a server may answer nothing but that it is asked too often, before the run stops.
_LONGEST_PAUSE_S = 3600.0
# The model that gave the latest answer in this context: with fallbacks, not always the one that was asked.
answered_by: ContextVar[str] = ContextVar("answered_by", default="")
# Tells apart requests that are to be answered anew although they are the same; DSPy keeps it out of the request.
_rollout: ContextVar[int | None] = ContextVar("rollout", default=None)


class RoleEngine:
    """One model in one role, asynchronously.

    Rate limits, 5xx, timeouts and lost connections are retried `retries` times; a rate limit that lasts longer is
    waited out where no fallback takes over. Raises CallError when a call fails for good (a counted loss) and InputError
    when no other call could succeed either (key, model, quota). A call that fails for good goes to `fallbacks` in turn,
    each budgeted and recorded as the model that it is.
    """

    def __init__(
        self,
        role: str,
        spec: ModelSpec,
        retries: int,
        limit: AdaptiveConcurrency | None,
        journal: Journal | None,
        seed: int,
        budget: Budget,
        fallbacks: Sequence["RoleEngine"],
        sender: Sender | None = None,
    ):
        self.role, self.spec = role, spec
        self._settings = call_settings(spec)
        self._meter = Meter(role, spec, journal, budget)
        self._retries, self._limit, self._budget = retries, limit, budget
        self._fallbacks = tuple(fallbacks)
        self._sender = sender or LiveSender(spec)
        self._rng = random.Random(seed)
        self._failed_in_a_row, self._answered_once = 0, False
        self._limited_since: float | None = None
        self._lessons = Lessons(spec)
        # Refusals since the last answer, by the instructions of the prompt.
        self._refusals: Counter[str] = Counter()

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """The answer of this model, or of the first fallback that gives one."""
        messages, parameters = request_messages(request), request_parameters(request.config)
        engines = [self, *self._fallbacks]
        if self._fallbacks:
            # One that has answered this very request before goes first: its answer is paid for.
            engines.sort(key=lambda each: each._meter.stored(each._key(messages, parameters)) is None)
        for engine in engines:
            try:
                text = await engine._text(messages, parameters)
            except CallError:
                if engine is engines[-1]:
                    raise
            else:
                answered_by.set(engine.spec.name)
                message = lm15.Message.assistant([lm15.TextPart(text)])
                return lm15.Response(
                    id=None, model=engine.spec.model, message=message, finish_reason="stop", usage=lm15.Usage()
                )
        raise AssertionError("the last one returns or raises")

    async def _text(self, messages: list[dict[str, str]], given: Mapping[str, Any]) -> str:
        """One call, until it is answered or fails for good."""
        key = self._key(messages, given)
        if (stored := await self._replayed(key)) is not None:
            return stored
        prompt = TextSize.of("".join(message["content"] for message in messages))
        wanted = {**self._settings, **given}
        retried, widened, plain_again = 0, False, False
        while True:
            parameters = self._lessons.applied(wanted, prompt)
            longest = parameters.get("max_tokens") or parameters.get("max_completion_tokens")
            tried = Attempt(key=key, prompt=prompt, held=await self._reserve(prompt, longest))
            await self._send(tried, messages, parameters)
            if tried.kept is not None:
                return tried.kept
            if tried.wire.streamed and not parameters.get("stream") and not plain_again:
                self._lessons.stream()
                continue
            if self._lessons.streams and tried.wire.billable and not tried.wire.streamed and not plain_again:
                # One stream does not make a server that only streams; nor does going to and fro help.
                self._lessons.streams, plain_again = False, True
                continue
            if tried.outcome == "truncated":
                # The same request would be cut off at the same place and paid again: ask once for a longer one.
                if widened or not longest:
                    raise CallError("truncated", f"the answer was cut off at {longest} tokens")
                wanted["max_tokens"], widened = longest * 2, True
                continue
            if tried.error is None:
                raise CallError("content_filter" if tried.outcome == "content_filter" else "malformed", tried.detail)
            if isinstance(tried.error, (lm15.InvalidRequestError, lm15.UnsupportedFeatureError)):
                self._lessons.learn(str(tried.error), parameters)
                if self._lessons.applied(wanted, prompt) != parameters:
                    continue
            await self._wait_after(tried, retried, messages)
            retried += 1

    def _key(self, messages: list[dict[str, str]], given: Mapping[str, Any]) -> str:
        temperature = given.get("temperature", self.spec.temperature)
        varying = {"rollout_id": _rollout.get(), "temperature": temperature}
        varying = {name: value for name, value in varying.items() if value is not None}
        return content_id(self.spec.key, json.dumps([None, messages, varying], ensure_ascii=False))

    async def _replayed(self, key: str) -> str | None:
        """The stored answer to a request, if there is one that can be read."""
        text, reader = self._meter.stored(key), current_reader()
        if text is None:
            return None
        if reader is not None:
            try:
                await reader.read(text)
            except CallError:
                # Kept by a version that did not read before it kept.
                return None
        self._meter.replayed(key)
        return text

    async def _reserve(self, prompt: TextSize, max_tokens: int | None) -> Reservation:
        """Hold a part of the budget for one attempt, as soon as it fits beside the calls in flight."""
        wait = _LOOK_AGAIN_S
        while True:
            held = self._budget.reserve(
                prompt_tokens=self._meter.bound.tokens(prompt),
                max_tokens=self._meter.longest_answer(max_tokens),
                price=self._meter.price,
            )
            if held is not None:
                return held
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_LOOK_S)

    async def _send(self, tried: Attempt, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> None:
        """Make an attempt: send it, read what comes, and settle what it used, also when it is cancelled."""
        started, arrived = time.monotonic(), False
        with exchange() as tried.wire:
            try:
                async with nullcontext() if self._limit is None else self._limit.slot():
                    if self._sender.if_cancelled in MAYBE_BILLED:
                        tried.opened = self._meter.open(tried.held)
                    # What stands when this is cancelled on the way: it may have been billed in full.
                    tried.outcome, started = self._sender.if_cancelled, time.monotonic()
                    answer = tried.answer = await self._sender.send(messages, parameters)
                arrived = True
                tried.outcome, tried.kept, tried.detail = await self._judge(answer)
                if not answer.text and parameters.get("stream") and not tried.wire.streamed:
                    tried.outcome, tried.kept = "malformed", None
                    tried.answer, tried.wire.billable = None, True
                elif not answer.text and not answer.prompt_tokens and tried.kept is None:
                    # A success that holds nothing is an answer that was lost, not one for nothing.
                    tried.answer, tried.wire.billable = None, True
                else:
                    tried.said = _said(messages, answer, tried.kept)
            except Exception as raised:  # noqa: BLE001 - whatever went wrong with a call is one of its outcomes
                tried.error = tried.wire.refused or raised
                tried.fault = user_error(tried.error, role=self.role, model=self.spec.name)
                tried.outcome = tried.fault.loss if isinstance(tried.fault, CallError) else "refused"
            finally:
                tried.seconds = time.monotonic() - started
                self._meter.charge(tried)
        if tried.error is None:
            self._answered(tried.seconds, messages)
        if arrived:
            self._sender.stored(messages, parameters)

    async def _judge(self, answer: Answer) -> tuple[str, str | None, str]:
        """The outcome of an answered attempt, the text when it is of use, and what is wrong with it."""
        if answer.cut_off:
            return "truncated", None, "the answer was cut off"
        lost = "content_filter" if answer.filtered else "malformed"
        where, text = "content", answer.text
        reader = current_reader()
        if not text and answer.elsewhere is not None and reader is not None:
            where, text = answer.elsewhere
        if text is None or (not text and answer.filtered):
            return lost, None, "the provider filtered the answer" if answer.filtered else "the answer has no text"
        if len(text) > LONGEST_ANSWER_CHARS:
            return "oversized", None, f"the answer has {len(text)} characters"
        # Half a character (a lone surrogate) can be stored in no file; a key that an answer repeats is to be in none.
        text = without_keys(clean_text(text))
        if reader is not None:
            try:
                await reader.read(text)
            except CallError as unreadable:
                found = "" if where == "content" else f"the content is empty, and {where} holds no answer: "
                return lost, None, f"{found}{unreadable.detail}"
        return "ok", text, ""

    def _answered(self, seconds: float, messages: list[dict[str, str]]) -> None:
        self._failed_in_a_row, self._answered_once, self._limited_since = 0, True, None
        self._refusals.pop(messages[0]["content"], None)
        if self._limit:
            self._limit.answered(seconds)

    async def _wait_after(self, tried: Attempt, retried: int, messages: list[dict[str, str]]) -> None:
        """Wait until a failed attempt may be made again. Raises its fault when it is made no more."""
        error, fault = tried.error, tried.fault
        assert error is not None and fault is not None
        wait = getattr(error, "retry_after", None) if tried.wire.retry_after is None else tried.wire.retry_after
        limited = isinstance(error, lm15.RateLimitError)
        if self._limit and limited:
            self._limit.refused(tried.seconds, wait or 0.0)
        paused = limited and retried >= self._retries and self._may_pause(str(fault))
        if transient_kind(error) is None or (retried >= self._retries and not paused):
            self._give_up(fault, messages)
            raise fault from None
        await asyncio.sleep(retry_delay(retried, wait, self._rng))

    def _may_pause(self, words: str) -> bool:
        """Whether a call whose retries are used up waits on for a rate limit to end. Raises RunStoppedError when it has
        lasted too long."""
        if self._fallbacks:
            return False
        now = time.monotonic()
        if self._limited_since is None:
            self._limited_since = now
            log.warning("%s %s: %s; the run waits until it is over", self.role, self.spec.name, words)
        if now - self._limited_since > _LONGEST_PAUSE_S:
            self._stop(f"nothing but rate limits for {_LONGEST_PAUSE_S / 60:.0f} minutes, the last {words}")
        return True

    def _give_up(self, fault: Exception, messages: list[dict[str, str]]) -> None:
        """Stop the run when no call can succeed, when one call after another fails for good, or when a prompt's
        instructions get nothing but refusals."""
        if isinstance(fault, InputError):
            self._budget.fail(fault)
        if self._fallbacks:
            return
        self._failed_in_a_row += 1
        hopeless = isinstance(fault, CallError) and (fault.loss in PASSING_LOSSES or not self._answered_once)
        if hopeless and self._failed_in_a_row >= _HOPELESS_CALLS:
            self._stop(f"{self._failed_in_a_row} calls in a row gave up, the last with {fault}")
        if isinstance(fault, CallError) and fault.loss == "request_refused":
            kind = messages[0]["content"]
            self._refusals[kind] += 1
            if self._refusals[kind] >= _HOPELESS_CALLS:
                self._stop(f"the server refused {self._refusals[kind]} requests of one kind, the last with {fault}")

    def _stop(self, words: str) -> NoReturn:
        stopped = RunStoppedError(
            f"{self.role} {self.spec.name}: {words}; what is finished is kept, run the same command again to go on"
        )
        self._budget.fail(stopped)
        raise stopped from None


def _said(messages: list[dict[str, str]], answer: Answer, kept: str | None) -> dict[str, Any] | None:
    """What a cassette's line has of an answered call; None where the answer has no text."""
    if answer.text is None:
        return None
    text, reader = without_keys(clean_text(answer.text)) if kept is None else kept, current_reader()
    return {
        "signature": "" if reader is None else reader.signature,
        "messages": messages,
        "outputs": None if reader is None else reader.outputs(text),
        "answer": text,
        "finish_reason": "length" if answer.cut_off else "content_filter" if answer.filtered else "stop",
    }


class _Blocking:
    """A RoleEngine for callers that block, and where DSPy looks for what the model takes."""

    def __init__(self, engine: RoleEngine):
        self._engine = engine
        # Found once: DSPy asks before each call.
        vars(self).update(abilities(engine.spec))

    def complete(self, request: lm15.Request) -> lm15.Response:
        """The engine's response."""
        return wait_for(self._engine.complete(request))


class RoleLM(dspy.LM):  # type: ignore[misc]
    """A RoleEngine as the language model that DSPy's modules and optimisers are given."""

    def __init__(
        self,
        role: str,
        spec: ModelSpec,
        retries: int = 5,
        limit: AdaptiveConcurrency | None = None,
        journal: Journal | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        fallbacks: Sequence["RoleLM"] = (),
        sender: Sender | None = None,
    ):
        self.role, self.spec = role, spec
        spares = [lm._async_engine_spec for lm in fallbacks]
        engine = RoleEngine(role, spec, retries, limit, journal, seed, budget or Budget(), spares, sender)
        super().__init__(spec.model, cache=False, num_retries=0, engine=_Blocking(engine), async_engine=engine)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._calling(kwargs):
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with self._calling(kwargs):
            return await super().acall(*args, **kwargs)

    @contextmanager
    def _calling(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Take the rollout past DSPy to the engine, and the engine's own errors back out of what DSPy makes of them."""
        token = _rollout.set({**self.kwargs, **kwargs}.get("rollout_id"))
        try:
            yield
        except LMUnexpectedError as error:
            if isinstance(error.__cause__, (CallError, InputError)):
                raise error.__cause__ from None
            raise
        finally:
            _rollout.reset(token)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RoleLM":
        # Optimisers copy programs; the copies share the one meter and the one limit.
        return self

    def dump_state(self) -> dict[str, Any]:
        """The name alone: models are injected by the run that loads a program."""
        return {"model": self.spec.name}

    def update_history(self, entry: dict[str, Any]) -> None:
        """Nothing: a history would grow with the run."""
