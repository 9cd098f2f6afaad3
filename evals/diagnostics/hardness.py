"""How hard the negatives are for a retriever: their rank against the positive and the InfoNCE weight that they take.

Axes: P passages, R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.base.stats import Floats, Interval, bootstrap_interval, pooled_interval
from evals.diagnostics.embedded_rows import GENERATED, KINDS, MINED, POSITIVE, Bools, EmbeddedRows

WASTED_WEIGHT = 0.01
"""Below this InfoNCE weight a negative hardly moves the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardness:
    """The negatives of one source or kind.

    above_positive: share that scores at or above the row's positive, with a 95% interval over rows.
    margin: quantiles 5, 25, 50, 75, 95% of (score - the positive's score).
    weight: the same quantiles of the InfoNCE weight next to the positive and all negatives of the row.
    mass: mean over rows of the weight that all of them take together. wasted: share with a weight below 0.01.
    """

    count: int
    num_rows: int
    above_positive: Interval
    margin: tuple[float, ...]
    weight: tuple[float, ...]
    mass: float
    wasted: float


def infonce_weights(embedded: EmbeddedRows, *, temperature: float) -> Floats:
    """By passage, softmax(score / temperature) over the row's first positive and all its negatives.

    A row's other positives have weight 0.
    """
    row_P = embedded.row_P
    counts_P = embedded.kind_P != POSITIVE
    counts_P[embedded.positive_R] = True
    logits_P = np.where(counts_P, embedded.scores_P / temperature, -np.inf)
    highest_R = np.full(len(embedded.rows), -np.inf)
    np.maximum.at(highest_R, row_P, logits_P)
    weight_P = np.exp(logits_P - highest_R[row_P])
    total_R = np.zeros(len(embedded.rows))
    np.add.at(total_R, row_P, weight_P)
    return np.asarray(weight_P / total_R[row_P])


_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def hardness(embedded: EmbeddedRows, weight_P: Floats, selected_P: Bools) -> Hardness:
    """Hardness of the selected negatives, at least one, given the `infonce_weights` of all passages."""
    rows, row_index = np.unique(embedded.row_P[selected_P], return_inverse=True)
    margin, weight = embedded.margins_P[selected_P], weight_P[selected_P]
    above = (margin >= 0).astype(np.float64)
    mass_by_row = np.bincount(row_index, weights=weight)
    return Hardness(
        count=int(selected_P.sum()),
        num_rows=len(rows),
        above_positive=pooled_interval(np.bincount(row_index, weights=above), np.bincount(row_index)),
        margin=tuple(float(q) for q in np.quantile(margin, _QUANTILES)),
        weight=tuple(float(q) for q in np.quantile(weight, _QUANTILES)),
        mass=float(mass_by_row.mean()),
        wasted=float((weight < WASTED_WEIGHT).mean()),
    )


def hardness_by_source(embedded: EmbeddedRows, weight_P: Floats) -> dict[str, Hardness]:
    """One entry for each of `mined` and `generated` that occurs."""
    return {
        KINDS[kind]: hardness(embedded, weight_P, embedded.kind_P == kind)
        for kind in (MINED, GENERATED)
        if embedded.count(kind)
    }


def hardness_by_disruption(embedded: EmbeddedRows, weight_P: Floats) -> dict[str, Hardness]:
    """One entry for each kind of violation among the generated negatives."""
    disruption_P = np.array(
        [
            (embedded.negative(p).disruption or "unknown") if embedded.kind_P[p] == GENERATED else ""
            for p in range(len(embedded.kind_P))
        ],
        dtype=object,
    )
    return {name: hardness(embedded, weight_P, disruption_P == name) for name in sorted(set(disruption_P) - {""})}


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeSimilarity:
    """Passages of about one grade: their number, mean grade (None: not judged) and mean similarity to the query."""

    count: int
    grade: float | None
    similarity: Interval


def similarity_by_grade(embedded: EmbeddedRows) -> dict[str, GradeSimilarity]:
    """By grade to the nearest third (0, 1/3, 2/3, 1; a positive has 1), then "not judged"; {} where nothing is judged.

    Graded training should put the similarities into this order; InfoNCE pushes all below 1 down alike.
    """
    grade_P = np.array(
        [
            1.0 if kind == POSITIVE else np.nan if (found := embedded.negative(p).relevance) is None else found
            for p, kind in enumerate(embedded.kind_P)
        ]
    )
    if np.isnan(grade_P[embedded.kind_P != POSITIVE]).all():
        return {}
    thirds_P = np.round(3 * grade_P)
    groups = {name: thirds_P == number for number, name in enumerate(("0", "1/3", "2/3", "1"))}
    groups["not judged"] = np.isnan(grade_P)
    return {
        name: GradeSimilarity(
            count=int(chosen_P.sum()),
            grade=None if name == "not judged" else float(grade_P[chosen_P].mean()),
            similarity=pooled_interval(
                np.bincount(embedded.row_P[chosen_P], weights=embedded.scores_P[chosen_P]),
                np.bincount(embedded.row_P[chosen_P]),
            ),
        )
        for name, chosen_P in groups.items()
        if chosen_P.any()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Shares of the values in equal bins over [low, high]; values beyond fall into the outer bins."""

    low: float
    high: float
    shares: tuple[float, ...]


def histogram(values_N: Floats, low: float, high: float, num_bins: int = 30) -> Histogram:
    """The histogram of at least one value."""
    counts, _ = np.histogram(np.clip(values_N, low, high), bins=num_bins, range=(low, high))
    return Histogram(low=low, high=high, shares=tuple(float(c) / values_N.size for c in counts))


def margin_histograms(looks: Mapping[str, EmbeddedRows]) -> dict[str, dict[str, Histogram]]:
    """By encoder and source: where the negatives score against their positive, all on one range."""
    margins = {
        when: {KINDS[kind]: seen.margins_P[seen.kind_P == kind] for kind in (MINED, GENERATED) if seen.count(kind)}
        for when, seen in looks.items()
    }
    every = np.concatenate([values for by_kind in margins.values() for values in by_kind.values()])
    # The outermost hundredths go into the outer bins; the positive's own place is always in view.
    low, high = min(-0.05, *np.quantile(every, [0.01])), max(0.05, *np.quantile(every, [0.99]))
    return {
        when: {kind: histogram(values, float(low), float(high)) for kind, values in by_kind.items()}
        for when, by_kind in margins.items()
    }


def mean_effective_negatives(embedded: EmbeddedRows, weight_P: Floats) -> Interval:
    """exp(entropy) of a row's negative weights: how many share the work, 1 to their number; mean over rows."""
    values = []
    for row in np.unique(embedded.row_P[embedded.kind_P != POSITIVE]):
        weight = weight_P[(embedded.row_P == row) & (embedded.kind_P != POSITIVE)]
        if weight.sum() > 0:
            share = weight[weight > 0] / weight.sum()
            values.append(float(np.exp(-(share * np.log(share)).sum())))
    return bootstrap_interval(values)
