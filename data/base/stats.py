"""Intervals and tests for means over queries: bootstrap, paired randomisation, Holm's correction. Pure and seeded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Floats = NDArray[np.float64]
_RESAMPLES = 10_000
_BLOCK = 1_000  # resamples held in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, saved: Mapping[str, float]) -> Self:
        """The interval in a record that holds mean, low and high, as results on disk do."""
        return cls(mean=saved["mean"], low=saved["low"], high=saved["high"])

    @property
    def leaves_out_zero(self) -> bool:
        """Whether both ends lie on one side of 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, spec: str) -> str:
        """`spec` is one for numbers; "" and "+" mean three digits."""
        spec = spec if "." in spec else f"{spec}.3f"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def _percentile_interval(mean: float, resampled_B: Floats) -> Interval:
    tail = (1 - 0.95) / 2
    low, high = np.quantile(resampled_B, [tail, 1 - tail])
    return Interval(mean=float(mean), low=float(low), high=float(high))


def bootstrap_interval(values: Sequence[float] | Floats, *, num_resamples: int = _RESAMPLES, seed: int = 0) -> Interval:
    """95% percentile bootstrap interval of the mean. Raises ValueError for no values."""
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.size == 0:
        raise ValueError("an interval needs at least one value")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values_N[rng.integers(0, values_N.size, (min(_BLOCK, num_resamples - start), values_N.size))].mean(axis=1)
            for start in range(0, num_resamples, _BLOCK)
        ]
    )
    return _percentile_interval(values_N.mean(), means)


def randomisation_p_value(
    differences: Sequence[float] | Floats, *, num_resamples: int = _RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p-value of a paired randomisation test: could the sign of each query's difference be chance?

    Counts the observed assignment among the resamples, so that the value is never 0 (Smucker et al., CIKM 2007).
    """
    differences_N = np.asarray(differences, dtype=np.float64)
    # Queries without a difference stay the same under any sign.
    differences_N = differences_N[differences_N != 0]
    if differences_N.size == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    # Sums of equal terms differ in their last bits with the order of addition; a tie must count as a tie.
    observed = abs(differences_N.sum()) * (1 - 1e-12)
    at_least = 0
    for start in range(0, num_resamples, _BLOCK):
        signs = rng.integers(0, 2, (min(_BLOCK, num_resamples - start), differences_N.size)) * 2 - 1
        at_least += int((np.abs(signs @ differences_N) >= observed).sum())
    return (at_least + 1) / (num_resamples + 1)


def max_randomisation_p_values(
    differences_RF: sparse.csr_matrix, *, num_resamples: int = 1_000, seed: int = 0
) -> Floats:
    """Two-sided p-values [F features] of the same test for many features of R rows, corrected for their number.

    A feature is compared with the largest of all features under one draw of signs (Westfall and Young, 1993), in units
    of its root mean square, which no sign changes. Holm's correction of single tests would need as many resamples as
    there are features times twenty.
    """
    length_F = np.sqrt(np.asarray(differences_RF.multiply(differences_RF).sum(axis=0)).ravel())
    scaled_RF = sparse.csr_matrix(differences_RF.multiply(1 / np.where(length_F > 0, length_F, 1.0)))
    # As above, a tie must count as a tie.
    observed_F = np.abs(np.asarray(scaled_RF.sum(axis=0)).ravel()) * (1 - 1e-9)
    rng = np.random.default_rng(seed)
    largest = np.concatenate(
        [
            np.abs((rng.integers(0, 2, (len(block), scaled_RF.shape[0])) * 2 - 1) @ scaled_RF).max(axis=1)
            for block in np.array_split(np.arange(num_resamples), max(1, num_resamples // 100))
        ]
    )
    at_least_F = num_resamples - np.searchsorted(np.sort(largest), observed_F, side="left")
    return np.asarray((at_least_F + 1) / (num_resamples + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """The mean difference (second minus first) over the shared queries, its interval and its p-value."""

    difference: Interval
    p_value: float
    num_queries: int

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 0.05 (uncorrected) and the interval leaves out 0."""
        return self.p_value < 0.05 and self.difference.leaves_out_zero


def compare_paired(first: Mapping[str, float], second: Mapping[str, float]) -> PairedComparison:
    """Compare two systems' scores by query. Raises ValueError when they were not measured on the same queries."""
    if first.keys() != second.keys():
        raise ValueError("a paired comparison needs the same queries on both sides")
    differences = np.array([second[query_id] - first[query_id] for query_id in first])
    return PairedComparison(
        difference=bootstrap_interval(differences),
        p_value=randomisation_p_value(differences),
        num_queries=len(differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p-values that may be compared with one level for the whole family of tests."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def seeds_and_queries_interval(scores_SQ: Floats) -> Interval:
    """95% bootstrap interval of the mean of scores [S seeds, Q queries] that resamples seeds and queries alike.

    It says what another training seed and another draw of queries may give. Raises ValueError for no scores.
    """
    if scores_SQ.size == 0:
        raise ValueError("an interval needs at least one value")
    num_seeds, num_queries = scores_SQ.shape
    rng, means = np.random.default_rng(0), []
    for _ in range(_RESAMPLES // _BLOCK):
        # The mean over resampled seeds first: one vector of queries a resample, then resampled itself.
        by_query_BQ = np.mean(
            [scores_SQ[drawn_B] for drawn_B in rng.integers(0, num_seeds, (num_seeds, _BLOCK))], axis=0
        )
        means.append(np.take_along_axis(by_query_BQ, rng.integers(0, num_queries, by_query_BQ.shape), 1).mean(axis=1))
    return _percentile_interval(scores_SQ.mean(), np.concatenate(means))


def pooled_interval(sums_R: ArrayLike, counts_R: ArrayLike) -> Interval:
    """The mean of all values of R rows, given the sum and the number of each row's; the interval resamples rows, as the
    values of a row are alike. Raises ValueError without values.
    """
    sums, counts = np.asarray(sums_R, dtype=np.float64), np.asarray(counts_R, dtype=np.float64)
    if not counts.sum():
        raise ValueError("an interval needs at least one value")
    weights_BR = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 2_000)
    sums_B, counts_B = weights_BR @ sums, weights_BR @ counts
    return _percentile_interval(sums.sum() / counts.sum(), sums_B[counts_B > 0] / counts_B[counts_B > 0])


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion; (0, 1) without trials. Source: Wilson 1927."""
    if trials == 0 and hits == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes longer to import than all the rest that a command needs

    found = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
