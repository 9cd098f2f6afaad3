import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.stats import bootstrap_interval, compare_paired, holm, pooled_interval, randomisation_p_value


def exact_p_value(differences: list[float]) -> float:
    """Every assignment of signs, counted."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-12 for total in sums) / len(sums)


@pytest.mark.parametrize("differences", [[1.0] * 8, [0.5, -0.25, 1, 0.125, 0.3, 0.2, 0.1, 0.9], [1, -1, 1, -1]])
def test_the_randomisation_test_matches_the_exact_count(differences: list[float]) -> None:
    assert randomisation_p_value(differences, num_resamples=50_000) == pytest.approx(
        exact_p_value(differences), abs=0.01
    )


def test_no_difference_is_no_evidence() -> None:
    assert randomisation_p_value([0.0, 0.0, 0.0]) == 1.0
    assert randomisation_p_value([]) == 1.0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_p_values_are_probabilities_and_symmetric(differences: list[float]) -> None:
    value = randomisation_p_value(differences, num_resamples=2_000)
    assert 0 < value <= 1
    assert value == randomisation_p_value([-d for d in differences], num_resamples=2_000)


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = bootstrap_interval(rng.normal(0.3, 1, 60), num_resamples=1_000, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_bootstrap_of_equal_values_is_a_point() -> None:
    interval = bootstrap_interval([0.25] * 7)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_pairs_are_matched_by_query() -> None:
    first = {"a": 0.0, "b": 1.0}
    compared = compare_paired(first, {"b": 1.0, "a": 1.0})
    assert compared.difference.mean == 0.5
    assert not compared.significant
    with pytest.raises(ValueError, match="same queries"):
        compare_paired(first, {"a": 1.0})


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 with a running maximum.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_mean_over_rows_pools_their_values_and_resamples_whole_rows() -> None:
    values = [[1.0, 0.0], [1.0], [], [0.0, 0.0, 1.0]]
    found = pooled_interval([sum(row) for row in values], [len(row) for row in values])
    assert found.mean == pytest.approx(0.5) and 0 <= found.low < 0.5 < found.high <= 1
    # One row cannot differ from itself, however many values it has.
    alone = pooled_interval([3.0], [4])
    assert (alone.mean, alone.low, alone.high) == (0.75, 0.75, 0.75)
    with pytest.raises(ValueError, match="at least one value"):
        pooled_interval([0.0], [0])
