"""What one attempt at a call used: read from the raw answer, priced, written to the journal."""

import logging
from typing import Any, Protocol

from programs.lm.budget import Reservation
from programs.lm.models import ModelSpec, known_price
from programs.lm.usage import Call, estimated_usage

log = logging.getLogger(__name__)
# A request that was given up on may have been billed all the same; an error response is not.
_MAYBE_BILLED = ("timeout", "connection", "cancelled")
# No prompt and no answer is near this long; a server that counts so many does not count.
_ABSURD_TOKENS = 10**9


class Journal(Protocol):
    """Where calls are recorded and where answers of unfinished work are found again."""

    def find(self, key: str) -> str | None:
        """The stored answer to the request with this key, if any."""

    def record(self, call: Call, *, key: str, answer: str | None) -> None:
        """Keep one attempt and, when it was answered, its answer."""


class Meter:
    """Counts one model's calls in one role."""

    def __init__(self, role: str, spec: ModelSpec, journal: Journal | None):
        self.role, self.spec, self.price = role, spec, known_price(spec)
        self._journal = journal
        self._told_of_estimates = False

    def find(self, key: str) -> str | None:
        """The stored answer to a request, if any."""
        return None if self._journal is None else self._journal.find(key)

    def record(
        self,
        key: str,
        outcome: str,
        seconds: float = 0.0,
        *,
        raw: dict[str, Any] | None = None,
        held: Reservation | None = None,
        answer: str | None = None,
    ) -> None:
        """Write one attempt to the journal; `raw` is what dspy keeps of an answer, None when there was none, and
        `held` what was reserved for it."""
        if self._journal is None:
            return
        prompt, completion = (0, 0) if raw is None else self._tokens(raw)
        cost = 0.0 if outcome == "replayed" else self._cost(outcome, raw)
        given_up = held if raw is None and cost is None else None
        usage = (raw or {}).get("usage") or {}
        call = Call(
            role=self.role,
            model=self.spec.name,
            outcome=outcome,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=_count(_field(usage.get("prompt_tokens_details"), "cached_tokens")),
            cost_usd=cost,
            seconds=seconds,
            reserved_tokens=given_up.tokens if given_up else 0,
            reserved_usd=given_up.usd if given_up and self.price else None,
        )
        self._journal.record(call, key=key, answer=answer)

    def used(self, outcome: str, raw: dict[str, Any] | None, held: Reservation) -> tuple[int, float | None]:
        """Tokens and USD of one attempt, the latter None when they are not known.

        An answer that never came may have been written, and billed, all the same: it counts as what was reserved.
        """
        cost = self._cost(outcome, raw)
        if raw is None:
            return (held.tokens if cost is None else 0), cost
        return sum(self._tokens(raw)), cost

    def _cost(self, outcome: str, raw: dict[str, Any] | None) -> float | None:
        """USD of one attempt, None when it is not known."""
        if self.spec.free:
            return 0.0
        if raw is None:
            return None if outcome in _MAYBE_BILLED else 0.0
        if self.price is None:
            return None
        prompt, completion = self._tokens(raw)
        # litellm knows discounts for cached prompts; what it cannot price it calls zero or None, and it prices no
        # estimates.
        listed = raw.get("cost") if (prompt, completion) == _counted(raw) else None
        return listed or prompt * self.price.prompt + completion * self.price.completion

    def _tokens(self, raw: dict[str, Any]) -> tuple[int, int]:
        """Prompt and completion tokens of an answer; estimated from the texts where the server counts none."""
        prompt, completion = _counted(raw)
        if prompt and completion:
            return prompt, completion
        messages = raw.get("messages") or [{"content": raw.get("prompt")}]
        estimate = estimated_usage({"messages": messages}, "".join(map(text_of, raw.get("outputs") or ())))
        if not prompt and not self._told_of_estimates:
            self._told_of_estimates = True
            log.warning(
                "%s %s reports no token counts: tokens and cost are estimates, at four characters a token",
                self.role,
                self.spec.name,
            )
        return prompt or estimate["prompt_tokens"], completion or estimate["completion_tokens"]


def text_of(output: Any) -> str:
    """The text of one of the outputs of a call; empty when it has none."""
    text = output.get("text") if isinstance(output, dict) else output
    return text if isinstance(text, str) else ""


def finish_reason(raw: dict[str, Any]) -> str | None:
    """Why the answer ended, as the provider says."""
    choices = _field(raw.get("response"), "choices") or [None]
    reason = _field(choices[0], "finish_reason")
    return reason if isinstance(reason, str) else None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _counted(raw: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens as the server counts them; 0 where it does not."""
    usage = raw.get("usage") or {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < _ABSURD_TOKENS else 0
