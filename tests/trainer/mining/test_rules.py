"""The rules that keep false negatives out, one by one and together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.mining.rules import CODE, KEPT, RULES, Limits, apply_rules, score_ceilings


def codes(
    scores: list[float], limits: Limits, *, positive: float = 0.8, positives: str = "", same: str = ""
) -> list[str]:
    """Names of the rules that dropped each ranked passage; `positives` and `same` mark columns with an x."""
    width = len(scores)
    mark = [[c == "x" for c in text.ljust(width, "-")] for text in (positives, same)]
    found = apply_rules(
        np.array([scores], np.float32),
        np.array([mark[0]]),
        np.array([mark[1]]),
        np.array([[positive]], np.float32),
        limits,
    )
    return ["kept" if code == KEPT else RULES[code - 1] for code in found[0].tolist()]


def test_without_limits_only_positives_and_their_copies_go() -> None:
    assert codes([0.9, 0.8, 0.7, 0.6], Limits(), positives="-x", same="--x") == [
        "kept",
        "positive",
        "same_text",
        "kept",
    ]


def test_ranks_count_what_is_no_positive_and_no_copy() -> None:
    limits = Limits(rank_from=2, rank_to=3)
    assert codes([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], limits, positives="x-----", same="--x---") == [
        "positive", "rank_window", "same_text", "kept", "kept", "rank_window",
    ]  # fmt: skip


def test_absolute_margin_and_max_score() -> None:
    limits = Limits(absolute_margin=0.1, max_score=0.75)
    assert codes([0.78, 0.72, 0.69], limits, positive=0.8) == ["max_score", "absolute_margin", "kept"]


def test_a_margin_of_zero_still_drops_what_scores_like_the_positive() -> None:
    assert codes([0.9, 0.8, 0.79], Limits(absolute_margin=0.0), positive=0.8) == ["absolute_margin"] * 2 + ["kept"]
    assert codes([0.9, 0.8, 0.79], Limits(relative_margin=0.0), positive=0.8) == ["relative_margin"] * 2 + ["kept"]


def test_relative_margin_lies_below_the_positive_for_negative_scores_too() -> None:
    limits = Limits(relative_margin=0.1)
    assert codes([0.80, 0.73, 0.71], limits, positive=0.8) == ["relative_margin", "relative_margin", "kept"]
    # positive * (1 - margin) would be -0.45: a passage that beats the positive would pass.
    assert codes([-0.46, -0.54, -0.56], limits, positive=-0.5) == ["relative_margin", "relative_margin", "kept"]


@given(positive=st.floats(-1, 1, width=32), margin=st.floats(0, 1, width=32))
def test_ceilings_never_lie_above_the_positive(positive: float, margin: float) -> None:
    ceilings = score_ceilings(
        np.array([[positive]], np.float32), Limits(absolute_margin=margin, relative_margin=margin)
    )
    assert all(ceiling <= np.float32(positive) for ceiling in ceilings.values())


@given(
    scores=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    positive=st.floats(-1, 1, width=32),
    margins=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
)
def test_a_wider_margin_never_keeps_more(scores: list[float], positive: float, margins: tuple[float, float]) -> None:
    low, high = sorted(margins)
    ranked = sorted(scores, reverse=True)
    narrow = codes(ranked, Limits(relative_margin=low), positive=positive)
    wide = codes(ranked, Limits(relative_margin=high), positive=positive)
    assert all(n == "kept" for n, w in zip(narrow, wide, strict=True) if w == "kept")


def test_every_rule_has_a_code_of_its_own() -> None:
    assert sorted(CODE.values()) == list(range(1, len(RULES) + 1))


@pytest.mark.parametrize("width", [0, 1])
def test_no_ranked_passages(width: int) -> None:
    empty = np.empty((width, 0))
    assert (
        apply_rules(empty, empty.astype(bool), empty.astype(bool), np.zeros((width, 1), np.float32), Limits()).size == 0
    )
