"""The arms of an ablation as data: which negatives each one sees and which training settings it changes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.base.errors import InputError
from data.records import Row
from evals.ablation.config import AblateConfig

ZERO_SHOT, MINED, NAIVE, COUNTERFACTUAL = "zero-shot", "mined", "mined + naive", "mined + counterfactual"
# Where every negative counts the same: what each arm changes is seen against this.
INFONCE: Mapping[str, Any] = {"entropy_weight": 0.0, "generated_weight": 1.0}

# Where a generated negative counts for what its verdict says.
GRADED: Mapping[str, Any] = {"entropy_weight": 0.0, "generated_weight": 1.0, "relevance": "graded"}


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
    ]


def with_mined_only(row: Row, num_mined: int) -> Row:
    """As many mined negatives as `with_generated` has negatives in all, best-ranked first.

    Without this the arm with generated negatives would also see more texts, and a gain could be theirs. A row with
    fewer mined negatives than that keeps all it has (`num_short` counts such rows).
    """
    return replace(row, negatives=row.of_source("mined")[: num_mined + len(row.of_source("generated"))])


def with_generated(row: Row, num_mined: int) -> Row:
    """The first `num_mined` mined negatives and all generated ones."""
    return replace(row, negatives=row.of_source("mined")[:num_mined] + row.of_source("generated"))


def with_naive(row: Row, naive: Row, num_mined: int) -> Row:
    """As many naive negatives as the row has generated ones; where naive ones ran short, mined ones fill up."""
    generated = naive.of_source("generated")[: len(row.of_source("generated"))]
    fill = len(row.of_source("generated")) - len(generated)
    return replace(row, negatives=row.of_source("mined")[: num_mined + fill] + generated)


# By name: what a row shows, given itself, the same row with naive negatives, and the number of mined ones.
NEGATIVES: Mapping[str, Callable[[Row, Row, int], Row]] = {
    "mined": lambda row, naive, num_mined: with_mined_only(row, num_mined),
    "generated": lambda row, naive, num_mined: with_generated(row, num_mined),
    "naive": with_naive,
}


def arm_rows(negatives: str, rows: Sequence[Row], naive_rows: Iterable[Row] | None, num_mined: int) -> list[Row]:
    """The training rows of an arm. Raises InputError when `naive_rows` lack a row, or none has a generated negative."""
    if not any(row.of_source("generated") for row in rows):
        raise InputError("no row has a generated negative: run `just synthesize` first", field="rows")
    naive = {row.query_id: row for row in (rows if naive_rows is None else naive_rows)}
    unknown = next((row.query_id for row in rows if row.query_id not in naive), None)
    if unknown is not None:
        raise InputError(f"lacks the query {unknown!r} of the other rows", field="naive-rows")
    return [NEGATIVES[negatives](row, naive[row.query_id], num_mined) for row in rows]


def what_is_missing(arm: Arm, rows: Iterable[Row]) -> str:
    """What the arm's rows lack for its settings, in words; empty if nothing."""
    generated = (negative for row in rows for negative in row.of_source("generated"))
    if arm.settings.get("relevance") == "graded" and any(negative.relevance is None for negative in generated):
        return "generated negatives without a verdict: just verify"
    return ""


def num_short(rows: Iterable[Row], generated: Iterable[Row]) -> int:
    """Rows that have fewer negatives than in the arms with generated ones, as too few were mined."""
    return sum(len(row.negatives) < len(full.negatives) for row, full in zip(rows, generated, strict=True))
