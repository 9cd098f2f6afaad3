"""What an optimisation will take at most, said before its first call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from programs.feedback.labels import labelled_passages
from programs.lm.budget import Budget
from programs.lm.models import ModelSpec, known_price
from programs.modules.synthesizer import Synthesizer
from programs.optimize.config import OptimizeConfig
from programs.optimize.splits import Split

_CHARS_PER_TOKEN = 4
_ANSWER_TOKENS = {"generator": 240, "verifier": 60, "reflector": 800}
_REFLECTION_PROMPT_TOKENS = 6000
# A reflection is asked for after each minibatch of three examples, run before and after it.
_ROLLOUTS_A_REFLECTION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Calls and tokens by role, and USD where every price is known."""

    calls: dict[str, int]
    tokens: dict[str, int]
    usd: float | None

    def sentence(self, budget: Budget) -> str:
        """One line for the log, with a warning when the budget will not do."""
        calls = ", ".join(f"{count} by the {role}" for role, count in self.calls.items() if count)
        tokens = sum(self.tokens.values())
        cost = "price unknown" if self.usd is None else f"about {self.usd:.2f} USD"
        short = []
        if budget.limit_tokens is not None and tokens > budget.limit_tokens - budget.spent_tokens:
            short.append(f"{budget.limit_tokens} tokens")
        if budget.limit_usd is not None and self.usd is not None and self.usd > budget.limit_usd - budget.spent_usd:
            short.append(f"{budget.limit_usd:g} USD")
        end = f"; the budget of {' and '.join(short)} will end it earlier" if short else ""
        return f"projected: up to {sum(self.calls.values())} calls ({calls}), {tokens} tokens, {cost}{end}"

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        return {"calls": self.calls, "tokens": self.tokens, "usd": self.usd}


def project(
    config: OptimizeConfig, split: Split, program: Synthesizer, specs: Mapping[str, Sequence[ModelSpec]]
) -> Projection:
    """Upper estimates from the sizes of the split, the length of its texts, and the number of rollouts."""
    rows = [*split.train, *split.dev, *split.held_out]
    share = (len(split.train) + 2 * len(split.dev) + 2 * len(split.held_out)) / len(rows)
    calls = {"generator": 0, "verifier": 0, "reflector": 0}
    if config.parts in ("verifier", "both"):
        labels = sum(bool(row.requirements) for row in rows) or len(rows)
        if program.verify_by == "one-by-one":
            known = sum(len(labelled_passages(row)) for row in rows)
            labels = known or sum(len(row.positives) + len(row.negatives) for row in rows)
        calls["generator"] += sum(not row.requirements for row in rows)
        calls["verifier"] += round(labels * share) + config.rollouts
    if config.parts in ("generator", "both"):
        runs = round(len(rows) * share) + config.rollouts
        calls["generator"] += runs * (1 + (1 if program.batched else config.negatives_per_row))
        calls["verifier"] += runs * (1 if program.verify_by == "line-up" else config.negatives_per_row)
    if "reflector" in specs:
        parts = 2 if config.parts == "both" else 1
        calls["reflector"] = parts * max(1, config.rollouts // _ROLLOUTS_A_REFLECTION)
    passage = sum(len(row.positives[0].text) + len(row.query) for row in rows) / len(rows)
    systems = [program.adapters[name].format_system_message(asked) for name, asked in program.signatures.items()]
    prompt = int((sum(map(len, systems)) / 3 + 3 * passage) / _CHARS_PER_TOKEN)
    prompts = {"generator": prompt, "verifier": prompt, "reflector": _REFLECTION_PROMPT_TOKENS}
    tokens = {role: count * (prompts[role] + _ANSWER_TOKENS[role]) for role, count in calls.items()}
    usd: float | None = 0.0
    for role, (spec, *_) in specs.items():
        price = known_price(spec)
        if price is None or usd is None:
            usd = None
            continue
        usd += calls[role] * (prompts[role] * price.prompt + _ANSWER_TOKENS[role] * price.completion)
    return Projection(calls=calls, tokens=tokens, usd=usd)
