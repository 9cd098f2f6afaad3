"""Compiling one part of the program: baseline, search, choice on dev, before and after on held-out examples."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import dspy

from data.base.errors import InputError
from data.base.stats import Interval, bootstrap_interval
from programs.feedback.metric import Judge
from programs.lm.budget import Budget, BudgetSpentError
from programs.modules.predictors import Frozen
from programs.modules.synthesizer import Synthesizer
from programs.optimize.config import OptimizeConfig
from programs.optimize.optimizers import compile_program

log = logging.getLogger(__name__)

# Few-shot prompts are longer than the uncompiled ones that the baseline was measured with.
_AFTER_COSTS_MORE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Mean scores before and after on the same held-out examples, and the 95% interval of their difference."""

    before: float
    after: float
    difference: Interval
    examples: int

    def sentence(self) -> str:
        """The finding in words."""
        low, high = self.difference.low, self.difference.high
        change = f"{self.before:.4f} before, {self.after:.4f} after ({low:+.4f} to {high:+.4f}, 95% paired)"
        verdict = "better" if low > 0 else "WORSE" if high < 0 else "no significant gain"
        return f"{change}: {verdict} on {self.examples} held-out examples"


def compare(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> HeldOut:
    """Scores of the same examples before and after."""
    differences = [late - early for early, late in zip(before, after, strict=True)]
    interval = bootstrap_interval(differences, seed=seed)
    return HeldOut(before=_mean(before), after=_mean(after), difference=interval, examples=len(differences))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One part before and after. `held_out` is None when the budget or Ctrl-C left nothing to measure it with.

    `search_ended_by` says what ended the search before it was done: a part of the budget is kept for the measurement.
    """

    name: str
    examples: dict[str, int]
    dev_before: float
    dev_after: float | None
    kept_uncompiled: bool
    held_out: HeldOut | None
    why_not_measured: str | None = None
    search_ended_by: str | None = None

    def sentence(self) -> str:
        """The outcome in words."""
        if self.dev_before == 1 and self.kept_uncompiled:
            return f"{self.name}: already right on every example; the uncompiled prompt stays"
        if self.kept_uncompiled:
            return (
                f"{self.name}: nothing found that is better on dev ({self.dev_before:.4f}); the uncompiled prompt stays"
            )
        if self.held_out is None:
            return f"{self.name}: before and after could not be measured on held-out rows: {self.why_not_measured}"
        return f"{self.name}: {self.held_out.sentence()}"

    def as_dict(self) -> dict[str, Any]:
        """For summary.json and the manifest."""
        held = self.held_out
        return {
            "examples": self.examples,
            "dev": {"before": self.dev_before, "after": self.dev_after},
            "kept_uncompiled": self.kept_uncompiled,
            "held_out": None
            if held is None
            else {
                "before": held.before,
                "after": held.after,
                "difference_interval_95": [held.difference.low, held.difference.high],
                "examples": held.examples,
                "significant": held.difference.leaves_out_zero,
            },
            "search_ended_by": self.search_ended_by,
            "in_words": self.sentence(),
        }


def compile_part(
    name: str,
    program: dspy.Module,
    judge: Judge,
    examples: Mapping[str, Sequence[dspy.Example]],
    reflector: dspy.LM | None,
    budget: Budget,
    config: OptimizeConfig,
) -> tuple[StageResult, dspy.Module]:
    """Compile `program` on examples["train"] and ["dev"]; returns the result and the better program of the two.

    Raises InputError when there is nothing to learn from: too few examples, or the same score on all of them.
    """
    train, dev, held_out = examples["train"], examples["dev"], examples["held_out"]
    if len(train) < 2 or not dev or not held_out:
        raise InputError(
            f"the {name} has {len(train)} training, {len(dev)} dev and {len(held_out)} held-out examples: at least 2, "
            "1 and 1 are needed",
            field="rows",
        )
    log.info("%s: measuring the uncompiled prompt", name)
    tokens, usd = budget.spent_tokens, budget.spent_usd
    before = evaluate(program, held_out, judge, config.concurrency)
    dev_before = evaluate(program, dev, judge, config.concurrency)
    baseline = evaluate(program, train, judge, config.concurrency)
    sizes = {part: len(each) for part, each in examples.items()}
    result = StageResult(
        name=name, examples=sizes, dev_before=_mean(dev_before), dev_after=None, kept_uncompiled=False, held_out=None
    )
    values = {round(score, 9) for score in (*baseline, *dev_before)}
    if values == {1.0}:
        return replace(result, dev_after=1.0, kept_uncompiled=True), program
    if len(values) == 1:
        raise InputError(
            f"every example of the {name} scores {baseline[0]:.4f}: a constant metric teaches nothing", field="rows"
        )
    measured_again = (len(held_out) + len(dev)) / (len(held_out) + len(dev) + len(train))
    times = measured_again * _AFTER_COSTS_MORE
    budget.keep_back(tokens=int((budget.spent_tokens - tokens) * times), usd=(budget.spent_usd - usd) * times)
    log.info("%s: searching with %s", name, config.optimizer)
    compiled = compile_program(
        program, judge, train=train, dev=dev, baseline=baseline, reflector=reflector, budget=budget, config=config
    )
    _restore_models(compiled, program)
    result = replace(result, search_ended_by=budget.refusal)
    budget.release()
    if not _changed(compiled, program):
        return replace(result, dev_after=result.dev_before, kept_uncompiled=True), program
    dev_after: float | None = None
    try:
        dev_after = _mean(evaluate(compiled, dev, judge, config.concurrency))
        # A tie keeps the compiled prompt: the search preferred it on its own examples.
        if dev_after < result.dev_before:
            return replace(result, dev_after=dev_after, kept_uncompiled=True), program
        after = evaluate(compiled, held_out, judge, config.concurrency)
    except BudgetSpentError as error:
        # Its own measure speaks for it: gepa and mipro chose it on dev, bootstrap its demonstrations on train.
        return replace(result, dev_after=dev_after, why_not_measured=str(error)), compiled
    return replace(result, dev_after=dev_after, held_out=compare(before, after, seed=config.seed)), compiled


def evaluate(program: dspy.Module, examples: Sequence[dspy.Example], judge: Judge, threads: int) -> list[float]:
    """Every example's score, in order. Raises InputError when no call can succeed, or the budget is spent."""

    def score(example: dspy.Example) -> float:
        return judge(example, program(**example.inputs()))[0]

    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="evaluate") as pool:
        return list(pool.map(score, examples))


def freeze_verifier(program: Synthesizer) -> Synthesizer:
    """A copy of the program whose `verify` no optimiser sees."""
    frozen: Synthesizer = program.deepcopy()
    frozen.verify = Frozen(frozen.verify)
    return frozen


def _restore_models(compiled: dspy.Module, original: dspy.Module) -> None:
    """Some optimisers hand back predictors without their models."""
    models = {name: predictor.lm for name, predictor in original.named_predictors()}
    for name, value in vars(compiled).items():
        if name in models:
            value.lm = models[name]


def _changed(compiled: dspy.Module, original: dspy.Module) -> bool:
    for name, predictor in original.named_predictors():
        other = vars(compiled)[name]
        if other.signature.instructions != predictor.signature.instructions or other.demos != predictor.demos:
            return True
    return False


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
