"""Two ways to ask whether passages give their source away: mutual information of a number, AUC of a linear probe.

Axes: P passages, R groups (rows: a query with its passages). Everything is grouped by row, as passages of one row
resemble each other: no row is in two folds, labels are permuted within rows, intervals resample rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.base.errors import InputError
from data.base.stats import Floats, Interval
from data.base.text import tokens
from evals.diagnostics.embedded_rows import Bools, Ints

_NEIGHBOURS = 3
_JACKKNIFE_PARTS = 20
_FOLDS = 5
_MIN_EACH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """Mutual information in nats between the source and a number.

    estimate: with a 95% jackknife interval (the bootstrap repeats points, which misleads an estimate from neighbours).
    chance: mean of the estimate when sources are shuffled within rows; chance_high: its 95% quantile.
    p_value: share of shuffles that reach the estimate. ceiling: entropy of the source, the most it could be.
    """

    estimate: Interval
    chance: float
    chance_high: float
    p_value: float
    ceiling: float


def check_two_sources(is_generated_P: Bools) -> None:
    """Raise InputError unless there are at least five passages of each source."""
    num_generated = int(is_generated_P.sum())
    num_natural = len(is_generated_P) - num_generated
    if min(num_generated, num_natural) < _MIN_EACH:
        raise InputError(
            f"a source-leak probe needs at least {_MIN_EACH} generated and {_MIN_EACH} corpus passages to tell apart, "
            f"got {num_generated} and {num_natural}"
        )


def source_information(
    values_P: Floats, is_generated_P: Bools, row_P: Ints, *, num_permutations: int = 200, seed: int = 0
) -> Information:
    """How much a number (like the query-passage score) says about the source, by nearest neighbours (Ross, 2014).

    Raises InputError when one of the sources is missing.
    """
    check_two_sources(is_generated_P)
    rng = np.random.default_rng(seed)
    estimate = _mutual_information(values_P, is_generated_P, seed)
    shuffled = [
        _mutual_information(values_P, permute_within(is_generated_P, row_P, rng), seed) for _ in range(num_permutations)
    ]
    share = is_generated_P.mean()
    return Information(
        estimate=_jackknife(values_P, is_generated_P, row_P, estimate, rng, seed),
        chance=float(np.mean(shuffled)),
        chance_high=float(np.quantile(shuffled, 0.95)),
        p_value=(1 + sum(value >= estimate for value in shuffled)) / (1 + num_permutations),
        ceiling=float(-share * np.log(share) - (1 - share) * np.log(1 - share)),
    )


def _mutual_information(values_P: Floats, is_generated_P: Bools, seed: int) -> float:
    information = mutual_info_classif(
        values_P[:, None], is_generated_P, discrete_features=False, n_neighbors=_NEIGHBOURS, random_state=seed
    )
    return float(information[0])


def permute_within(labels_P: Bools, row_P: Ints, rng: np.random.Generator) -> Bools:
    """The labels shuffled among the passages of each row; every row keeps its counts."""
    shuffled_P = rng.permutation(len(labels_P))
    # Both orders go row by row; within a row one is the given order and the other a random one.
    given, random = np.argsort(row_P, kind="stable"), shuffled_P[np.argsort(row_P[shuffled_P], kind="stable")]
    permuted = np.empty_like(labels_P)
    permuted[given] = labels_P[random]
    return permuted


def _jackknife(
    values_P: Floats, is_generated_P: Bools, row_P: Ints, estimate: float, rng: np.random.Generator, seed: int
) -> Interval:
    groups = np.unique(row_P)
    parts = np.array_split(rng.permutation(groups), min(_JACKKNIFE_PARTS, len(groups)))
    left_out = []
    for part in parts:
        kept = ~np.isin(row_P, part)
        if 1 < is_generated_P[kept].sum() < kept.sum() - 1:
            left_out.append(_mutual_information(values_P[kept], is_generated_P[kept], seed))
    if len(left_out) < 2:
        return Interval(mean=estimate, low=0.0, high=float("inf"))
    error = float(np.sqrt((len(left_out) - 1) * np.var(left_out)))
    return Interval(mean=estimate, low=max(0.0, estimate - 1.96 * error), high=estimate + 1.96 * error)


def embedding_probe(vectors_PD: Floats, is_generated_P: Bools, row_P: Ints, *, seed: int = 0) -> Interval:
    """AUC of a linear probe on embeddings; 0.5 is chance, 1 means that the source can be read off."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced"))
    return _cross_validated_auc(probe, vectors_PD, is_generated_P, row_P, seed)


def words_probe(texts_P: Sequence[str], is_generated_P: Bools, row_P: Ints, *, seed: int = 0) -> Interval:
    """AUC of a linear probe on which words and word pairs occur; 0.5 is chance."""
    probe = make_pipeline(
        CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=None, tokenizer=_words),
        LogisticRegression(C=0.1, solver="liblinear", class_weight="balanced"),
    )
    return _cross_validated_auc(probe, np.array(texts_P, dtype=object), is_generated_P, row_P, seed)


def _words(text: str) -> list[str]:
    return [token[0] for token in tokens(text)]


def _cross_validated_auc(probe: Any, features: Any, is_generated_P: Bools, row_P: Ints, seed: int) -> Interval:
    check_two_sources(is_generated_P)
    num_groups = len(np.unique(row_P))
    if num_groups < 2:
        raise InputError("a source-leak probe needs at least 2 rows: one to learn from, one to be tested on")
    score_P, fold_P = np.full(len(row_P), np.nan), np.full(len(row_P), -1)
    folds = StratifiedGroupKFold(n_splits=min(_FOLDS, num_groups), shuffle=True, random_state=seed)
    for number, (learned, tested) in enumerate(folds.split(np.zeros(len(row_P)), is_generated_P, row_P)):
        fold_P[tested] = number
        if 0 < is_generated_P[learned].sum() < len(learned):
            probe.fit(features[learned], is_generated_P[learned])
            score_P[tested] = probe.decision_function(features[tested])
    if np.isnan(score_P).any():
        raise InputError("a source-leak probe needs both sources in more than one row")
    return auc_interval(score_P, is_generated_P, row_P, fold_P, seed=seed)


def auc_interval(
    score_P: Floats,
    is_generated_P: Bools,
    row_P: Ints,
    fold_P: Ints | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve with a 95% bootstrap interval over rows; ties count one half.

    Only pairs of one fold are compared (scores of two probes have no common scale); None means one fold.
    Raises InputError when no fold has both sources.
    """
    _, row_P = np.unique(row_P, return_inverse=True)
    num_rows = int(row_P.max()) + 1
    # wins_RR[r, s]: how often a generated passage of row r scores above a corpus passage of row s.
    wins_RR, pairs_RR = np.zeros((num_rows, num_rows)), np.zeros((num_rows, num_rows))
    fold_P = np.zeros_like(row_P) if fold_P is None else fold_P
    for fold in np.unique(fold_P):
        generated, natural = (np.flatnonzero((fold_P == fold) & side_P) for side_P in (is_generated_P, ~is_generated_P))
        difference = score_P[generated][:, None] - score_P[natural][None, :]
        where = (row_P[generated][:, None], row_P[natural][None, :])
        np.add.at(wins_RR, where, (difference > 0) + 0.5 * (difference == 0))
        np.add.at(pairs_RR, where, 1.0)
    if pairs_RR.sum() == 0:
        raise InputError("no generated passage can be compared with a corpus passage: too few rows hold both")
    rng = np.random.default_rng(seed)
    weights_BR = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=num_resamples).astype(np.float64)
    wins = np.einsum("br,br->b", weights_BR @ wins_RR, weights_BR)
    pairs = np.einsum("br,br->b", weights_BR @ pairs_RR, weights_BR)
    low, high = np.quantile(wins[pairs > 0] / pairs[pairs > 0], [0.025, 0.975])
    return Interval(mean=float(wins_RR.sum() / pairs_RR.sum()), low=float(low), high=float(high))
