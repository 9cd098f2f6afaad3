"""Which ranked passages may serve as hard negatives: pure rules on scores and ranks.

Axes: Q queries, K ranked passages. A rule's code says why a passage was dropped; 0 means kept.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.encoder.encoder import Floats

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Codes = np.ndarray[Any, np.dtype[np.int8]]

KEPT = 0
# In the order in which the rules are asked: a passage that breaks two is counted for the first.
RULES = ("positive", "same_text", "rank_window", "max_score", "absolute_margin", "relative_margin")
CODE = {rule: code for code, rule in enumerate(RULES, start=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the rules, None or the full window when off; meanings as in MineConfig."""

    rank_from: int = 1
    rank_to: int | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None


def score_ceilings(anchor_QK: Floats, limits: Limits) -> dict[str, Floats]:
    """The score that a negative must stay below, for each margin rule that is on, by the positive's score.

    Absolute: positive - margin. Relative: positive - margin * |positive|, which lies below the positive for negative
    scores too (positive * (1 - margin) would lie above it).
    """
    ceilings = {}
    if limits.absolute_margin is not None:
        ceilings["absolute_margin"] = anchor_QK - np.float32(limits.absolute_margin)
    if limits.relative_margin is not None:
        ceilings["relative_margin"] = anchor_QK - np.float32(limits.relative_margin) * np.abs(anchor_QK)
    return ceilings


def apply_rules(
    scores_QK: Floats,
    is_positive_QK: Flags,
    is_same_text_QK: Flags,
    anchor_QK: Floats,
    limits: Limits,
) -> Codes:
    """The code of the first rule that each ranked passage breaks, 0 for those kept.

    `anchor_QK` is the score of the positive that a passage is compared with, or [Q, 1] where it is the query's own.
    Ranks count the passages that are neither positive nor of a positive's text, from 1 for the best. A
    passage must score strictly below the ceiling of each margin.
    """
    codes_QK = np.zeros(scores_QK.shape, dtype=np.int8)

    def drop(rule: str, broken_QK: Flags) -> None:
        codes_QK[broken_QK & (codes_QK == KEPT)] = CODE[rule]

    drop("positive", is_positive_QK)
    drop("same_text", is_same_text_QK)
    rank_QK = np.cumsum(codes_QK == KEPT, axis=1)
    outside = rank_QK < limits.rank_from
    if limits.rank_to is not None:
        outside |= rank_QK > limits.rank_to
    drop("rank_window", outside)
    if limits.max_score is not None:
        drop("max_score", scores_QK > np.float32(limits.max_score))
    for rule, ceiling_QK in score_ceilings(anchor_QK, limits).items():
        drop(rule, scores_QK >= ceiling_QK)
    return codes_QK
