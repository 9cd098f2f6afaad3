"""The arms of an ablation: which negatives each sees and which training settings it changes, and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.base.errors import InputError
from data.records import Row

ZERO_SHOT, MINED, NAIVE, COUNTERFACTUAL = "zero-shot", "mined", "mined + naive", "mined + counterfactual"

# InfoNCE alone, where every negative counts the same: what each arm changes is seen against this.
_PLAIN: dict[str, Any] = {"entropy_weight": 0.0, "generated_weight": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """`rows` is None for the arm that does not train; `settings` are TrainConfig fields that this arm sets. `short`
    counts the rows that have fewer negatives than in the arms with generated ones, as too few were mined.
    """

    name: str
    rows: list[Row] | None
    settings: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    short: int = 0


def entropy_arm(weight: float) -> str:
    """The name of the arm with the query-view entropy term at this weight."""
    return f"{COUNTERFACTUAL} + entropy {weight:g}"


def share_arm(share: float) -> str:
    """The name of the arm whose generated negatives take at most this share of a row's softmax."""
    return f"{COUNTERFACTUAL}, share {share:g}"


def weight_arm(weight: float) -> str:
    """The name of the arm whose generated negatives count for this much each in InfoNCE."""
    return f"{COUNTERFACTUAL}, weight {weight:g}"


def build_arms(
    rows: Sequence[Row],
    naive_rows: Sequence[Row] | None,
    *,
    num_mined: int,
    entropy_weights: Sequence[float] = (),
    shares: Sequence[float] = (),
    weights: Sequence[float] = (),
) -> list[Arm]:
    """All arms in the order of the table. Every trained arm has, row by row, the same number of texts, or counts the
    rows in which it falls `short` of that.

    `naive_rows` are the same rows with naively written negatives (None: that arm says what it lacks). Raises InputError
    when a row of them is unknown or no row has a generated negative.
    """
    if not any(row.of_source("generated") for row in rows):
        raise InputError("no row has a generated negative: run `just synthesize` first", field="rows")
    arms = [
        Arm(name=ZERO_SHOT, rows=None),
        Arm(name=MINED, rows=mined_arm(rows, num_mined), settings=_PLAIN),
        _naive_arm(rows, naive_rows, num_mined),
    ]
    changes: dict[str, dict[str, float]] = {COUNTERFACTUAL: {}}
    changes |= {entropy_arm(weight): {"entropy_weight": weight} for weight in entropy_weights}
    changes |= {share_arm(share): {"max_generated_share": share} for share in shares}
    changes |= {weight_arm(weight): {"generated_weight": weight} for weight in weights}
    mixed = mixed_arm(rows, num_mined)
    arms += [Arm(name=name, rows=mixed, settings=_PLAIN | change) for name, change in changes.items()]
    return [replace(arm, short=_num_short(arm.rows or (), mixed)) for arm in arms]


def _num_short(rows: Sequence[Row], mixed: Sequence[Row]) -> int:
    return sum(len(row.negatives) < len(full.negatives) for row, full in zip(rows, mixed, strict=False))


def _naive_arm(rows: Sequence[Row], naive_rows: Sequence[Row] | None, num_mined: int) -> Arm:
    if naive_rows is None:
        return Arm(name=NAIVE, rows=None, missing="no LM given")
    by_id = {row.query_id: row for row in naive_rows}
    unknown = [row.query_id for row in rows if row.query_id not in by_id]
    if unknown:
        raise InputError(f"lacks the query {unknown[0]!r} of the other rows", field="naive-rows")
    matched = []
    for row in rows:
        naive = by_id[row.query_id]
        # As many generated negatives as the counterfactual row has; where naive ones ran short, mined ones fill up.
        generated = naive.of_source("generated")[: len(row.of_source("generated"))]
        fill = len(row.of_source("generated")) - len(generated)
        matched.append(replace(row, negatives=row.of_source("mined")[: num_mined + fill] + generated))
    return Arm(name=NAIVE, rows=matched, settings=_PLAIN)


def mined_arm(rows: Iterable[Row], num_mined: int) -> list[Row]:
    """Each row with as many mined negatives as `mixed_arm` has negatives in all, best-ranked first.

    Without this the arm with generated negatives would also see more texts, and a gain could be theirs.
    A row with fewer mined negatives than that keeps all it has (an ablation counts such rows).
    """
    return [
        replace(row, negatives=row.of_source("mined")[: num_mined + len(row.of_source("generated"))]) for row in rows
    ]


def mixed_arm(rows: Iterable[Row], num_mined: int) -> list[Row]:
    """Each row with its first `num_mined` mined negatives and all its generated ones."""
    return [replace(row, negatives=row.of_source("mined")[:num_mined] + row.of_source("generated")) for row in rows]
