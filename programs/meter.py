"""What one attempt at a call used: read from the raw answer, priced, written to the journal."""

from typing import Any, Protocol

from programs.lms import ModelSpec, known_price
from programs.usage import Call

# A request that was given up on may have been billed all the same; an error response is not.
_MAYBE_BILLED = ("timeout", "connection", "cancelled")


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
        answer: str | None = None,
    ) -> None:
        """Write one attempt to the journal; `raw` is what dspy keeps of an answer, None when there was none."""
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
            cost_usd=0.0 if outcome == "replayed" else self.cost(outcome, raw),
            seconds=seconds,
        )
        self._journal.record(call, key=key, answer=answer)

    def cost(self, outcome: str, raw: dict[str, Any] | None) -> float | None:
        """USD of one attempt, None when it is not known."""
        if self.spec.free:
            return 0.0
        if raw is None:
            return None if outcome in _MAYBE_BILLED else 0.0
        return None if self.price is None else raw.get("cost")


def tokens_of(raw: dict[str, Any]) -> int:
    """Prompt and completion tokens of an answer."""
    usage = raw.get("usage") or {}
    return _count(usage.get("prompt_tokens")) + _count(usage.get("completion_tokens"))


def finish_reason(raw: dict[str, Any]) -> str | None:
    """Why the answer ended, as the provider says."""
    choices = _field(raw.get("response"), "choices") or [None]
    reason = _field(choices[0], "finish_reason")
    return reason if isinstance(reason, str) else None


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
