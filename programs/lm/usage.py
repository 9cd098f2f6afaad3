"""What the calls of a run used: tokens, cost and faults, for each role, paid and replayed apart."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# What a prompt's bound adds to the most tokens a byte that were seen.
_MARGIN = 1.25
# A prompt with fewer bytes is mostly the chat's own tokens; one with a smaller share of other scripts says nothing of
# them.
_SHORTEST_TO_LEARN, _FEW = 400, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt at one call.

    `outcome` is "ok", "replayed" (answered from this folder's own store, nothing sent), "open" (sent, and not settled
    yet), "killed" (open when its process ended) or the name of a loss. Tokens
    are the provider's own counts, or estimates where it gives none; `cached_tokens` is the part of the prompt that it
    served from its prefix cache. `cost_usd` is None when it is not known. A call that was given up on may have been
    billed all the same: up to `reserved_tokens` and `reserved_usd` (None when the model's price is unknown).
    """

    role: str
    model: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    reserved_tokens: int = 0
    reserved_usd: float | None = None


@dataclass(slots=True)
class RoleUsage:
    """The sum over one role's calls."""

    models: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    replayed_tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    given_up_calls: int = 0

    def add(self, call: Call, times: int = 1) -> None:
        """Count `call`; with `times` > 1 its numbers are sums over that many calls."""
        self.models.add(call.model)
        self.outcomes[call.outcome] += times
        if call.outcome == "replayed":
            self.replayed_tokens += call.prompt_tokens + call.completion_tokens
            return
        self.prompt_tokens += call.prompt_tokens
        self.completion_tokens += call.completion_tokens
        self.cached_tokens += call.cached_tokens
        self.reserved_tokens += call.reserved_tokens
        if call.cost_usd is not None:
            self.cost_usd += call.cost_usd
        elif call.reserved_usd is not None:
            self.given_up_calls += times
            self.reserved_usd += call.reserved_usd
        else:
            self.unpriced_calls += times

    def as_dict(self) -> dict[str, Any]:
        """For summary.json; the cost is null when it is not known of every call.

        Calls that were given up on are in no total: what they may have cost at most stands beside it.
        """
        sent = {name: count for name, count in self.outcomes.items() if name != "replayed"}
        return {
            "models": sorted(self.models),
            "requests": sum(sent.values()),
            "answered": self.outcomes["ok"],
            "replayed": self.outcomes["replayed"],
            "faults": {name: count for name, count in sorted(sent.items()) if name != "ok"},
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_cached_by_provider": self.cached_tokens,
            "tokens_replayed": self.replayed_tokens,
            "cost_usd": None if self.unpriced_calls or self.given_up_calls else round(self.cost_usd, 6),
            "cost_usd_known_part": round(self.cost_usd, 6),
            "calls_of_unknown_price": self.unpriced_calls,
            "calls_given_up_on": self.given_up_calls,
            "cost_usd_of_calls_given_up_on": round(self.reserved_usd, 6),
            "tokens_of_calls_given_up_on": self.reserved_tokens,
        }


class TextSize(NamedTuple):
    """Bytes of a text in UTF-8, those of ASCII and those of other scripts apart: tokenisers treat them differently."""

    ascii: int
    other: int

    @classmethod
    def of(cls, text: str) -> "TextSize":
        """The size of a text; half characters count as one byte."""
        plain = len(text.encode("ascii", "ignore"))
        return cls(plain, len(text.encode("utf-8", "replace")) - plain)


def estimated_tokens(size: TextSize) -> int:
    """Tokens of a text that nobody has tokenised: four characters of English make one, and about one of Chinese,
    Japanese or Thai does."""
    return size.ascii // 4 + size.other // 3


class PromptBound:
    """The most tokens that a prompt makes, for one model; learnt from what its server counted.

    A token is at least a byte, in any script: that is the bound until something was counted. Then it is the most that a
    byte was seen to make, with a margin, for ASCII and for other scripts apart.
    """

    def __init__(self) -> None:
        self._ascii: float | None = None
        self._other: float | None = None

    def tokens(self, size: TextSize) -> int:
        """At most so many tokens."""
        rates = (1.0 if seen is None else min(1.0, _MARGIN * seen) for seen in (self._ascii, self._other))
        return 1 + math.ceil(sum(rate * part for rate, part in zip(rates, size, strict=True)))

    def learn(self, size: TextSize, tokens: int) -> None:
        """Take in what a server counted."""
        if sum(size) < _SHORTEST_TO_LEARN:
            return
        if size.other < _FEW * sum(size):
            self._ascii = max(self._ascii or 0.0, tokens / sum(size))
        else:
            rest = max(0.0, tokens - (self._ascii or 0.0) * size.ascii)
            self._other = max(self._other or 0.0, rest / size.other)


def estimated_usage(body: Mapping[str, Any], text: str) -> dict[str, int]:
    """Token counts of texts that nobody has tokenised."""
    prompt = estimated_tokens(TextSize.of("".join(message_text(message) for message in body["messages"])))
    completion = estimated_tokens(TextSize.of(text))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def message_text(message: Any) -> str:
    """The text of one chat message, whether it is a string or a list of parts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
