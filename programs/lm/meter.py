"""What one attempt at a call used: read from the answer, priced, settled with the budget, written to the journal."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from programs.lm.budget import Budget, Reservation
from programs.lm.call.transport import Exchange
from programs.lm.models import ModelSpec, known_price
from programs.lm.servers.cassette import cassette_line, recorder
from programs.lm.usage import Call, PromptBound, TextSize, estimated_tokens

log = logging.getLogger(__name__)
# A request that was given up on may have been billed all the same; an error response is not.
MAYBE_BILLED = ("timeout", "connection", "cancelled")
# The outcome of a call that was cancelled before it was sent: nothing to journal, nothing to pay.
UNSENT = "unsent"
# No model writes more in one answer, thoughts included.
_LONGEST_ANSWER_TOKENS = 200_000
# What litellm adds for searches, audio or long prompts: a call with claims beyond that is priced by its tokens alone.
_MOST_TIMES_DEARER, _MOST_EXTRAS_USD = 10.0, 0.25
# No tokeniser makes more than one token of a byte, and templates add a few.
_TEMPLATE_TOKENS = 1000
# A server that counts fewer tokens of a long prompt, by bytes of ASCII and of other scripts, has not read it all.
_CUT_ASCII, _CUT_OTHER = 10, 30


class Journal(Protocol):
    """Where calls are recorded and where answers of unfinished work are found again."""

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""

    def open(self, call: Call) -> int:
        """Write down one attempt before it is sent, with what it may cost; returns its number."""

    def record(
        self, call: Call, *, key: str, answer: str | None, opened: int | None = None, line: str | None = None
    ) -> None:
        """Keep one attempt and, when it was answered, its answer; it takes the place of what was `opened`. `line` is
        the call as a cassette has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as it came. `text` is None when there is none; `elsewhere` is where else the answer may stand, with
    its name, when the text is empty; `filtered` when the provider cut it off for its content. Tokens are the server's
    counts, 0 where it gives none; `uncounted_tokens` are those of its total that are in neither count (thoughts, with
    some servers); `listed_cost` is what litellm says that it costs."""

    text: str | None
    cut_off: bool = False
    filtered: bool = False
    elsewhere: tuple[str, str] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    uncounted_tokens: int = 0
    listed_cost: float | None = None

    @property
    def written(self) -> str:
        """What the model wrote, wherever it stands."""
        return self.text or ("" if self.elsewhere is None else self.elsewhere[1])


def read_answer(raw: Any) -> Answer:
    """What litellm's response says; of several choices the first."""
    usage = getattr(raw, "usage", None)
    (choice, *_) = getattr(raw, "choices", None) or [None]
    prompt, completion = (_count(getattr(usage, name, 0)) for name in ("prompt_tokens", "completion_tokens"))
    thoughts = _count(getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", 0))
    total = max(_count(getattr(usage, "total_tokens", 0)), prompt + thoughts)
    return Answer(
        text=None if choice is None else choice.message.content or "",
        cut_off=getattr(choice, "finish_reason", None) == "length",
        filtered=getattr(choice, "finish_reason", None) == "content_filter",
        elsewhere=None if choice is None or choice.message.content else _elsewhere(choice.message),
        prompt_tokens=prompt,
        completion_tokens=completion,
        uncounted_tokens=max(0, total - prompt - completion) if prompt and completion else 0,
        cached_tokens=_count(getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", 0)),
        listed_cost=getattr(raw, "_hidden_params", {}).get("response_cost"),
    )


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt at a call, filled in as it goes.

    `held` is reserved for it, `opened` its number in the journal from before it was sent, `wire` what went over it.
    `kept` is the answer's text where it is of use, and `detail` what is wrong with it where it is not. `error` is what
    was raised instead of an answer, `fault` what that means for the call. `said` is what a cassette's line has of it,
    beside the model and the tokens.
    """

    key: str
    prompt: TextSize
    held: Reservation
    opened: int | None = None
    wire: Exchange = field(default_factory=Exchange)
    outcome: str = UNSENT
    seconds: float = 0.0
    answer: Answer | None = None
    kept: str | None = None
    detail: str = ""
    error: Exception | None = None
    fault: Exception | None = None
    said: Mapping[str, Any] | None = None


class Meter:
    """Counts one model's calls in one role against the budget, and keeps them in the journal."""

    def __init__(self, role: str, spec: ModelSpec, journal: Journal | None, budget: Budget):
        self.role, self.spec, self.price = role, spec, known_price(spec)
        self._journal, self._budget = journal, budget
        self.bound = PromptBound()
        self._overrun = 0
        self._told_of_estimates = self._told_of_cuts = False

    def longest_answer(self, max_tokens: int | None) -> int | None:
        """Tokens to reserve for an answer: a server that has written more than it was allowed may do so again."""
        return max_tokens and max(max_tokens, self._overrun)

    def stored(self, key: str) -> str | None:
        """The text of the stored answer to a request, if any."""
        found = None if self._journal is None else self._journal.find(key)
        return None if found is None else str(json.loads(found)[0])

    def replayed(self, key: str) -> None:
        """A stored answer was used, which costs nothing."""
        if self._journal is not None:
            call = Call(role=self.role, model=self.spec.name, outcome="replayed")
            self._journal.record(call, key=key, answer=None)

    def open(self, held: Reservation) -> int | None:
        """Write down what one attempt may cost, before it is sent: a run that is killed meanwhile is charged that."""
        if self._journal is None:
            return None
        call = Call(
            role=self.role,
            model=self.spec.name,
            outcome="open",
            cost_usd=0.0 if self.spec.is_local else None,
            reserved_tokens=held.tokens,
            reserved_usd=held.usd if self.price and not self.spec.is_local else None,
        )
        return self._journal.open(call)

    def charge(self, tried: Attempt) -> None:
        """Settle what was reserved for an attempt, and write it to the journal and the cassette.

        An answer that never came may have been written, and billed, all the same: it counts as what was reserved. One
        that was produced and lost on the way (the wire is `billable`), or that cannot be read, certainly was.
        """
        answer, held = tried.answer, tried.held
        prompt, completion = (0, 0) if answer is None else self._tokens(answer, tried.prompt, held)
        given_up = answer is None and (tried.wire.billable or tried.outcome in MAYBE_BILLED)
        cost = self._cost(answer, prompt, completion, given_up)
        self._budget.settle(held, tokens=held.tokens if given_up else prompt + completion, usd=cost)
        if tried.outcome == UNSENT:
            return
        call = Call(
            role=self.role,
            model=self.spec.name,
            outcome=tried.outcome,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=0 if answer is None else _cached(answer, prompt),
            cost_usd=cost,
            seconds=tried.seconds,
            reserved_tokens=held.tokens if given_up else 0,
            reserved_usd=held.usd if given_up and self.price and not self.spec.is_local else None,
        )
        line = None
        if tried.said is not None and (self._journal is not None or self.spec.record is not None):
            line = cassette_line(**tried.said, model=self.spec.name, prompt_tokens=prompt, completion_tokens=completion)
        if self._journal is not None:
            kept = None if tried.kept is None else json.dumps([tried.kept], ensure_ascii=False)
            self._journal.record(call, key=tried.key, answer=kept, opened=tried.opened, line=line)
        if line is not None and self.spec.record is not None:
            # After the store, from which a run that goes on completes the cassette.
            recorder(self.spec.record).add(line)

    def _cost(self, answer: Answer | None, prompt: int, completion: int, given_up: bool) -> float | None:
        """USD of one attempt, None when it is not known.

        At least the price of the model that was asked, whichever model the answer says it is from.
        """
        if self.spec.is_local:
            return 0.0
        if answer is None:
            return None if given_up else 0.0
        if self.price is None:
            return None
        cached, price = _cached(answer, prompt), self.price
        cached_price = price.prompt if price.cached is None else price.cached
        own = (prompt - cached) * price.prompt + cached * cached_price + completion * price.completion
        # litellm knows what else some providers charge for (searches, writing to the cache); it prices no estimates.
        counted = (prompt, completion) == (answer.prompt_tokens, answer.completion_tokens)
        listed = answer.listed_cost if counted else None
        believed = _MOST_TIMES_DEARER * own + _MOST_EXTRAS_USD
        return max(own, listed) if listed is not None and listed <= believed else own

    def _tokens(self, answer: Answer, size: TextSize, held: Reservation) -> tuple[int, int]:
        """Prompt and completion tokens of an answer; estimated from the texts where the server counts none, or counts
        what cannot be."""
        written = TextSize.of(answer.written)
        longest = _LONGEST_ANSWER_TOKENS if self.spec.max_tokens is None else 2 * held.tokens
        longest = max(longest, sum(written) + _TEMPLATE_TOKENS)
        sums = (answer.completion_tokens, answer.completion_tokens + answer.uncounted_tokens)
        completion = max(count if count <= longest else 0 for count in sums)
        prompt = answer.prompt_tokens
        if prompt > sum(size) + _TEMPLATE_TOKENS:
            prompt = 0
        if not prompt and not self._told_of_estimates:
            self._told_of_estimates = True
            log.warning(
                "%s %s reports no token counts: tokens and cost are estimates from the lengths of the texts",
                self.role,
                self.spec.name,
            )
        estimate = estimated_tokens(size)
        if (
            0 < prompt < size.ascii // _CUT_ASCII + size.other // _CUT_OTHER
            and estimate > _TEMPLATE_TOKENS
            and not self._told_of_cuts
        ):
            self._told_of_cuts = True
            log.warning(
                "%s %s counts %d tokens of a prompt of about %d: the server may cut prompts (for Ollama see num_ctx)",
                self.role,
                self.spec.name,
                prompt,
                estimate,
            )
        if prompt:
            self.bound.learn(size, prompt)
        prompt, completion = prompt or estimate, completion or estimated_tokens(written)
        if prompt + completion > held.tokens:
            # A token has at least a character: a false count cannot make every later reservation grow.
            self._overrun = max(self._overrun, min(completion, sum(written)))
        return prompt, completion


def _elsewhere(message: Any) -> tuple[str, str] | None:
    """Where some servers put an answer instead of the message's content, and what stands there."""
    for call in getattr(message, "tool_calls", None) or []:
        if arguments := getattr(getattr(call, "function", None), "arguments", None):
            return "a tool call", str(arguments)
    thoughts = getattr(message, "reasoning_content", None)
    return ("reasoning_content", thoughts) if isinstance(thoughts, str) and thoughts else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _cached(answer: Answer, prompt: int) -> int:
    """Prompt tokens that came from the provider's cache; more of them than there are is no count."""
    return answer.cached_tokens if answer.cached_tokens <= prompt else 0
