"""What one attempt at a call used: read from the answer, priced, settled with the budget, written to the journal."""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from programs.lm.budget import Budget, Reservation
from programs.lm.models import ModelSpec, known_price
from programs.lm.usage import Call, estimated_tokens

log = logging.getLogger(__name__)
# A request that was given up on may have been billed all the same; an error response is not.
_MAYBE_BILLED = ("timeout", "connection", "cancelled")
# The outcome of a call that was cancelled before it was sent: nothing to journal, nothing to pay.
UNSENT = "unsent"
# No prompt and no answer is near this long; a server that counts so many does not count.
_ABSURD_TOKENS = 10**9


class Journal(Protocol):
    """Where calls are recorded and where answers of unfinished work are found again."""

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""

    def record(self, call: Call, *, key: str, answer: str | None) -> None:
        """Keep one attempt and, when it was answered, its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as it came. `text` is None when there is none; tokens are the server's counts, 0 where it gives none;
    `listed_cost` is what litellm says that it costs."""

    text: str | None
    cut_off: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    listed_cost: float | None = None


def read_answer(raw: Any) -> Answer:
    """What litellm's response says; of several choices the first."""
    usage = getattr(raw, "usage", None)
    (choice, *_) = getattr(raw, "choices", None) or [None]
    return Answer(
        text=None if choice is None else choice.message.content or "",
        cut_off=getattr(choice, "finish_reason", None) == "length",
        prompt_tokens=_count(getattr(usage, "prompt_tokens", 0)),
        completion_tokens=_count(getattr(usage, "completion_tokens", 0)),
        cached_tokens=_count(getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", 0)),
        listed_cost=getattr(raw, "_hidden_params", {}).get("response_cost"),
    )


class Meter:
    """Counts one model's calls in one role against the budget, and keeps them in the journal."""

    def __init__(self, role: str, spec: ModelSpec, journal: Journal | None, budget: Budget):
        self.role, self.spec, self.price = role, spec, known_price(spec)
        self._journal, self._budget = journal, budget
        self._told_of_estimates = False

    def replay(self, key: str) -> str | None:
        """The stored answer to a request, if any; using it is journalled and costs nothing."""
        found = None if self._journal is None else self._journal.find(key)
        if found is not None:
            self.journal(Call(role=self.role, model=self.spec.name, outcome="replayed"), key)
        return found

    def knows(self, key: str) -> bool:
        """Whether this request has a stored answer."""
        return self._journal is not None and self._journal.find(key) is not None

    def charge(
        self,
        key: str,
        outcome: str,
        held: Reservation,
        seconds: float,
        *,
        prompt_chars: int = 0,
        answer: Answer | None = None,
        kept: str | None = None,
    ) -> None:
        """Settle what was reserved for one attempt and write the attempt to the journal, with what is `kept` of it.

        An answer that never came may have been written, and billed, all the same: it counts as what was reserved.
        """
        prompt, completion = (0, 0) if answer is None else self._tokens(answer, prompt_chars)
        cost = self._cost(outcome, answer, prompt, completion)
        given_up = answer is None and cost is None
        self._budget.settle(held, tokens=held.tokens if given_up else prompt + completion, usd=cost)
        if outcome == UNSENT:
            return
        call = Call(
            role=self.role,
            model=self.spec.name,
            outcome=outcome,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=0 if answer is None else answer.cached_tokens,
            cost_usd=cost,
            seconds=seconds,
            reserved_tokens=held.tokens if given_up else 0,
            reserved_usd=held.usd if given_up and self.price else None,
        )
        self.journal(call, key, kept)

    def journal(self, call: Call, key: str, kept: str | None = None) -> None:
        """Write one attempt to the journal."""
        if self._journal is not None:
            self._journal.record(call, key=key, answer=kept)

    def _cost(self, outcome: str, answer: Answer | None, prompt: int, completion: int) -> float | None:
        """USD of one attempt, None when it is not known."""
        if self.spec.is_local:
            return 0.0
        if answer is None:
            return None if outcome in _MAYBE_BILLED else 0.0
        if self.price is None:
            return None
        # litellm knows discounts for cached prompts; what it cannot price it calls zero or None, and it prices no
        # estimates.
        counted = (prompt, completion) == (answer.prompt_tokens, answer.completion_tokens)
        listed = answer.listed_cost if counted else None
        return listed or prompt * self.price.prompt + completion * self.price.completion

    def _tokens(self, answer: Answer, prompt_chars: int) -> tuple[int, int]:
        """Prompt and completion tokens of an answer; estimated from the texts where the server counts none."""
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if not prompt and not self._told_of_estimates:
            self._told_of_estimates = True
            log.warning(
                "%s %s reports no token counts: tokens and cost are estimates, at four characters a token",
                self.role,
                self.spec.name,
            )
        return prompt or estimated_tokens(prompt_chars), completion or estimated_tokens(len(answer.text or ""))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < _ABSURD_TOKENS else 0
