"""The yield funnel of a synthesis run, from requirements to the negatives that training uses, each loss by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import read_json_object

LOSS_WORDS = {
    "not_written": "no usable draft was written",
    "copies_a_passage": "repeats the positive, a mined passage or a sibling",
    "not_verified": "no usable verdict",
    "answers_query": "the verifier says that it answers the query",
    "target_kept": "the requirement to be broken still holds",
    "not_used": "left out of training (duplicates, or more than a row may have)",
}


CALIBRATION_FIELDS = (
    "canaries", "missed", "miss_rate", "miss_rate_interval_95", "usable", "false_negative_upper_bound", "in_words"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelStep:
    """`count` things reached this step; `lost` names what did not go on from here, with counts."""

    name: str
    count: int
    lost: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """The steps in order and what the verifier's canaries say about the accepted negatives (CALIBRATION_FIELDS)."""

    steps: tuple[FunnelStep, ...]
    failed_rows: dict[str, int]
    faults: dict[str, int]
    calibration: dict[str, Any]


def read_funnel(run: str | Path, num_used: int | None = None) -> Funnel:
    """The funnel of a synthesis run folder; `num_used` is how many generated negatives training drew on, if known.

    Raises InputError when the folder holds no finished synthesis, an empty one, or another format.
    """
    return funnel_of(read_json_object(Path(run) / "summary.json"), file=Path(run) / "summary.json", num_used=num_used)


def funnel_of(summary: Mapping[str, Any], *, file: str | Path | None = None, num_used: int | None = None) -> Funnel:
    """The funnel that a synthesis summary describes."""
    if "refused" in summary:
        raise InputError(f"the synthesis accepted nothing: {summary['refused']}", file=file)
    try:
        counts, verifier = summary["funnel"], summary["verifier"]
        rows, planned, accepted = (int(counts[name]) for name in ("rows", "violations_planned", "accepted"))
        lost = {str(name): int(count) for name, count in counts["lost"].items() if count}
        failed = {str(name): int(count) for name, count in counts["rows_failed"].items()}
        faults = {str(name): int(count) for name, count in counts["faults"].items()}
        calibration = {name: verifier[name] for name in CALIBRATION_FIELDS}
        steps = [
            FunnelStep(name="rows", count=rows, lost=failed),
            FunnelStep(name="requirements", count=int(counts["requirements"]), lost={}),
            FunnelStep(name="violations planned", count=planned, lost=lost),
            FunnelStep(name="accepted", count=accepted, lost={}),
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not the summary of a synthesis that this version knows (at {error}): run `synthesize` again", file=file
        ) from error
    if rows == 0:
        raise InputError("the synthesis had no rows", file=file)
    if num_used is not None:
        steps[-1] = FunnelStep(
            name="accepted", count=accepted, lost={"not_used": accepted - num_used} if num_used < accepted else {}
        )
        steps.append(FunnelStep(name="used in training", count=num_used, lost={}))
    return Funnel(steps=tuple(steps), failed_rows=failed, faults=faults, calibration=calibration)
