"""The arms of an ablation as data: which negatives each one sees and which training settings it changes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.base.errors import InputError
from data.records import Row
from evals.ablation.config import AblateConfig
from programs.synthesis.mined_verdicts import with_verdicts

ZERO_SHOT, MINED, NAIVE, COUNTERFACTUAL = "zero-shot", "mined", "mined + naive", "mined + counterfactual"
# Where every negative counts the same: what each arm changes is seen against this.
INFONCE: Mapping[str, Any] = {"entropy_weight": 0.0, "generated_weight": 1.0}

# Where a generated negative counts for what its verdict says.
GRADED: Mapping[str, Any] = {**INFONCE, "relevance": "graded"}


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the table. `negatives` names an entry of NEGATIVES (None: the encoder is not trained); `settings`
    are the TrainConfig fields that this arm sets.
    """

    name: str
    negatives: str | None
    settings: Mapping[str, Any] = field(default_factory=lambda: INFONCE)


def arms_of(config: AblateConfig) -> list[Arm]:
    """All arms in the order of the table."""
    return [
        Arm(ZERO_SHOT, None),
        Arm(MINED, "mined"),
        Arm(NAIVE, "naive"),
        Arm(COUNTERFACTUAL, "generated"),
        *(
            Arm(f"{COUNTERFACTUAL} + entropy {weight:g}", "generated", {**INFONCE, "entropy_weight": weight})
            for weight in config.entropy_weights
        ),
        *(
            Arm(f"{COUNTERFACTUAL}, weight {weight:g}", "generated", {**INFONCE, "generated_weight": weight})
            for weight in config.generated_weights
        ),
        *(
            Arm(f"{name}, graded {sharpness:g}", negatives, {**GRADED, "grade_sharpness": sharpness})
            for name, negatives in ((COUNTERFACTUAL, "generated"), (NAIVE, "naive"))
            for sharpness in config.grade_sharpness
        ),
        *(_controls(config) if config.controls else ()),
    ]


# A generated negative that counts for this much takes no part in its own row's softmax; other rows still see it.
_NOTHING = 1e-9


def _controls(config: AblateConfig) -> Iterable[Arm]:
    """What else may be behind a difference: the entropy term, false mined negatives, a softer target, fewer of a row's
    own negatives.
    """
    for sharpness in config.grade_sharpness:
        graded = {**GRADED, "grade_sharpness": sharpness}
        for weight in config.entropy_weights:
            name = f"{COUNTERFACTUAL}, graded {sharpness:g} + entropy {weight:g}"
            yield Arm(name, "generated", {**graded, "entropy_weight": weight})
        yield Arm(f"{MINED}, labels smoothed as by graded {sharpness:g}", "smoothed", {**graded, "grade_mined": True})
    yield Arm(f"{MINED}, false ones promoted", "promoted")
    yield Arm(f"{COUNTERFACTUAL}, out of their own softmax", "generated", {**INFONCE, "generated_weight": _NOTHING})


def with_mined_only(row: Row, num_mined: int) -> Row:
    """As many mined negatives as the arms with generated ones have negatives in all, best-ranked first.

    Without this the arm with generated negatives would also see more texts, and a gain could be theirs. A row with
    fewer mined negatives than that keeps all it has (`num_short` counts such rows).
    """
    return replace(row, negatives=row.of_source("mined")[: num_mined + len(row.of_source("generated"))])


def with_generated(row: Row, written: Row, num_mined: int) -> Row:
    """The first `num_mined` mined negatives and as many generated ones of `written` as the row has of its own; where
    those ran short, mined ones fill up.
    """
    wanted = len(row.of_source("generated"))
    generated = written.of_source("generated")[:wanted]
    return replace(row, negatives=row.of_source("mined")[: num_mined + wanted - len(generated)] + generated)


def with_smoothed_labels(row: Row, num_mined: int, sharpness: float) -> Row:
    """As `with_mined_only`, the share of the target that graded relevance gives the generated negatives spread evenly
    over the mined ones.
    """
    shown = with_mined_only(row, num_mined)
    grades = [negative.relevance for negative in row.of_source("generated") if negative.relevance]
    if not grades or not shown.negatives:
        return shown
    share = sum(math.exp(sharpness * grade) for grade in grades) / len(shown.negatives)
    # A share below exp(0) would be a grade below 0: the smallest that counts stands for it.
    grade = max(math.log(share) / sharpness, 1e-6)
    return replace(shown, negatives=tuple(replace(n, grade=grade) for n in shown.negatives))


def with_promoted(row: Row, num_mined: int) -> Row:
    """As `with_mined_only`, those of its negatives that a verdict calls relevant made further positives."""
    shown = with_mined_only(row, num_mined)
    verdicts = [negative.verdict for negative in shown.negatives]
    return with_verdicts(shown, range(len(verdicts)), verdicts, "promote")[0]


# By name: what a row shows, given itself, the same row with naive negatives, the number of mined ones and the sharpness
# of graded relevance.
NEGATIVES: Mapping[str, Callable[[Row, Row, int, float], Row]] = {
    "mined": lambda row, naive, num_mined, sharpness: with_mined_only(row, num_mined),
    "generated": lambda row, naive, num_mined, sharpness: with_generated(row, row, num_mined),
    "naive": lambda row, naive, num_mined, sharpness: with_generated(row, naive, num_mined),
    "promoted": lambda row, naive, num_mined, sharpness: with_promoted(row, num_mined),
    "smoothed": lambda row, naive, num_mined, sharpness: with_smoothed_labels(row, num_mined, sharpness),
}


def arm_rows(
    negatives: str, rows: Sequence[Row], naive_rows: Iterable[Row] | None, num_mined: int, sharpness: float = 1.0
) -> list[Row]:
    """The training rows of an arm. Raises InputError when `naive_rows` lack a row, or none has a generated negative."""
    if not any(row.of_source("generated") for row in rows):
        raise InputError("no row has a generated negative: run `just synthesize` first", field="rows")
    naive = {row.query_id: row for row in (rows if naive_rows is None else naive_rows)}
    unknown = next((row.query_id for row in rows if row.query_id not in naive), None)
    if unknown is not None:
        raise InputError(f"lacks the query {unknown!r} of the other rows", field="naive-rows")
    return [NEGATIVES[negatives](row, naive[row.query_id], num_mined, sharpness) for row in rows]


def what_is_missing(arm: Arm, rows: Sequence[Row], naive_rows: Sequence[Row] | None) -> str:
    """What the rows, as they came, lack for the arm, in words; empty if nothing."""
    if arm.negatives == "naive" and naive_rows is None:
        return "no LM given"
    mined = (negative for row in rows for negative in row.of_source("mined"))
    if arm.negatives == "promoted" and not any(n.verdict and n.verdict.answers_query for n in mined):
        return "no mined negative with a verdict that it answers"
    shown = naive_rows if naive_rows is not None and arm.negatives == "naive" else rows
    generated = (negative for row in shown for negative in row.of_source("generated"))
    if arm.settings.get("relevance") == "graded" and any(negative.relevance is None for negative in generated):
        return "generated negatives without a verdict: just verify"
    return ""


def num_short(rows: Iterable[Row], generated: Iterable[Row]) -> int:
    """Rows that have fewer passages than in the arms with generated ones, as too few were mined."""

    def passages(row: Row) -> int:
        return len(row.positives) + len(row.negatives)

    return sum(passages(row) < passages(full) for row, full in zip(rows, generated, strict=True))
