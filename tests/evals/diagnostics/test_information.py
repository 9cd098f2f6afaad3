import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import InputError
from evals.diagnostics.embedded_rows import embed_rows
from evals.diagnostics.information import contrastive_information, predicts_order, row_information
from tests.evals.synthetic import TableEncoder, generated, mined, row


def test_orthogonal_negatives_add_up_and_equal_ones_do_not() -> None:
    gap, residual = np.zeros(2), np.ones(2)
    weight = 0.5  # consistency of a tie; locality and residual are 1
    apart = row_information(gap, residual, np.eye(2), 0.05)
    assert apart[0] == pytest.approx(2 * math.log(1 + weight) / math.log(2))
    assert apart[4] == pytest.approx(1)
    together = row_information(gap, residual, np.array([[1.0, 0], [1.0, 0]]), 0.05)
    assert together[0] == pytest.approx(math.log(1 + 2 * weight) / math.log(2))
    assert together[4] < 1


def test_the_weight_is_largest_where_the_positive_is_preferred_3_to_1() -> None:
    gaps = np.linspace(-0.5, 0.5, 101)
    information = [row_information(np.array([gap]), np.ones(1), np.ones((1, 2)), 0.05)[0] for gap in gaps]
    best = gaps[int(np.argmax(information))]
    assert best == pytest.approx(0.05 * math.log(3), abs=0.01)


@given(st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_every_part_stays_in_its_range(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    information, *parts = row_information(
        rng.normal(0, 1, count), rng.random(count), rng.normal(size=(count, 3)) * rng.integers(0, 2), 0.05
    )
    assert 0 <= information <= count + 1e-9
    assert all(0 <= value <= 1 for value in parts)


def test_words_of_the_query_lower_the_residual() -> None:
    rows = [row(0, [mined("query 0 repeated"), generated("nothing shared")])]
    embedded = embed_rows(rows, TableEncoder())
    found = contrastive_information(embedded, temperature=0.05)
    assert found.residual == pytest.approx(0.5)
    assert found.num_rows == 1


def test_a_perfect_order_and_its_p_value() -> None:
    arms = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 5.0, "e": 8.0}
    found = predicts_order(arms, {name: value**2 for name, value in arms.items()})
    assert found.tau == 1
    assert found.p_value == pytest.approx(1 / 120)
    assert predicts_order(arms, {name: -value for name, value in arms.items()}).tau == -1


def test_few_arms_cannot_confirm_anything_and_it_is_said() -> None:
    found = predicts_order({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3})
    assert found.p_value == found.smallest_p == pytest.approx(1 / 6)
    assert "too few to confirm anything" in str(found)


def test_many_arms_are_sampled_and_the_p_value_is_never_0() -> None:
    arms = {str(i): float(i) for i in range(12)}
    found = predicts_order(arms, arms, num_permutations=500)
    assert 0 < found.p_value < 0.01


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        ({"a": 1}, {"b": 1}, "same arms"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, "at least 3 arms"),
        ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 3}, "no order to predict"),
    ],
)
def test_what_has_no_order_is_one_clear_line(predicted: dict, measured: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predicts_order(predicted, measured)
