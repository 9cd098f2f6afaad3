"""Which surface features give generated text away: length, openings, n-grams, each with its direction.

Whether a difference is chance is asked of one generated and one corpus passage of each row, drawn once: a topic that
only some queries have is then no artefact, nor is a word that all generated passages of a row share, being made from
one text, and without a real difference either sign is as likely. Means over unequal numbers of passages have no such
symmetry, and raise false alarms. Axes: P passages, R rows, F features.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from data.base.stats import Floats, max_randomisation_p_values
from evals.diagnostics.embedded_rows import Bools, Ints
from evals.diagnostics.probes import auc_interval

_WORD = re.compile(r"\w+|[^\w\s]")
_MIN_SHARE_OF_ROWS = 0.05
_LEVEL = 0.05
# Of fewer rows, even the one order of signs that all rows share comes up by chance more often than the level.
FEWEST_ROWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One feature by which generated text differs.

    kind: length, opening or n-gram. strength: 0 to 1, |2 AUC - 1| of the feature alone (for a word: the difference of
    the two shares). generated, corpus: mean number of words, or the share of passages that have it. p_value: corrected
    for all features that were looked at.
    """

    kind: str
    name: str
    generated: float
    corpus: float
    strength: float
    p_value: float = 1.0

    def __str__(self) -> str:
        if self.kind == "length":
            longer = "longer" if self.generated > self.corpus else "shorter"
            return f"generated passages are {longer}: {self.generated:.0f} words on average against {self.corpus:.0f}"
        verb = "opens" if self.kind == "opening" else "occurs in"
        return f"“{self.name}” {verb} {self.generated:.0%} of generated and {self.corpus:.0%} of corpus passages"


def find_artefacts(
    texts_P: Sequence[str], is_generated_P: Bools, row_P: Ints, *, most: int = 12, seed: int = 0
) -> list[Artefact]:
    """The strongest artefacts whose difference is beyond chance given all features, strongest first.

    None where fewer than `FEWEST_ROWS` rows have both kinds of passages.
    """
    words_P = [_WORD.findall(text.casefold()) for text in texts_P]
    if len(rows_with_both(is_generated_P, row_P)) < FEWEST_ROWS:
        return []
    pairs_R2 = _one_pair_a_row(is_generated_P, row_P, seed)
    found, differences = [], []
    for artefacts, difference_RF in (
        _length(np.array([len(words) for words in words_P], dtype=np.float64), is_generated_P, row_P, pairs_R2),
        _shares("opening", [_openings(words) for words in words_P], is_generated_P, pairs_R2),
        _shares("n-gram", [_ngrams(words) for words in words_P], is_generated_P, pairs_R2),
    ):
        found += artefacts
        differences.append(difference_RF)
    p_values = max_randomisation_p_values(sparse.csr_matrix(sparse.hstack(differences)), seed=seed)
    kept = [
        replace(artefact, p_value=p_value)
        for artefact, p_value in zip(found, p_values.tolist(), strict=True)
        if p_value < _LEVEL
    ]
    # Of phrases that are equally telling, the longest says most.
    order = sorted(kept, key=lambda a: (-round(a.strength, 3), -len(a.name.split()), a.kind != "opening", a.name))
    return _without_parts(order)[:most]


def rows_with_both(is_generated_P: Bools, row_P: Ints) -> Ints:
    """The rows that have generated and corpus passages."""
    return np.intersect1d(row_P[is_generated_P], row_P[~is_generated_P])


def _one_pair_a_row(is_generated_P: Bools, row_P: Ints, seed: int) -> Ints:
    """[R, 2]: for each row with both, one generated and one corpus passage."""
    shuffled_P = np.random.default_rng(seed).permutation(len(row_P))
    sides = []
    for side_P in (is_generated_P, ~is_generated_P):
        passages = shuffled_P[side_P[shuffled_P]]
        rows, first = np.unique(row_P[passages], return_index=True)
        sides.append(dict(zip(rows.tolist(), passages[first].tolist(), strict=True)))
    paired = rows_with_both(is_generated_P, row_P).tolist()
    return np.array([[side[row] for side in sides] for row in paired], dtype=np.int64)


def _openings(words: list[str]) -> set[str]:
    return {" ".join(words[:n]) for n in (1, 2, 3) if len(words) >= n}


def _ngrams(words: list[str]) -> set[str]:
    return {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}


def _shares(
    kind: str, features_P: list[set[str]], is_generated_P: Bools, pairs_R2: Ints
) -> tuple[list[Artefact], sparse.csr_matrix]:
    """What is often there, still without a p-value, and its difference in each pair."""
    vectorizer = CountVectorizer(analyzer=sorted, binary=True)
    matrix_PF = sparse.csr_matrix(vectorizer.fit_transform(features_P), dtype=np.float64)
    difference_RF = matrix_PF[pairs_R2[:, 0]] - matrix_PF[pairs_R2[:, 1]]
    # A phrase of few rows is a topic, not a habit.
    rows_F = np.asarray((difference_RF != 0).sum(axis=0)).ravel()
    often = np.flatnonzero(rows_F >= max(3, _MIN_SHARE_OF_ROWS * len(pairs_R2)))
    generated_F, corpus_F = (
        np.asarray(matrix_PF[side_P].sum(axis=0)).ravel() / side_P.sum() for side_P in (is_generated_P, ~is_generated_P)
    )
    names = vectorizer.get_feature_names_out()
    found = [
        Artefact(kind=kind, name=str(names[f]), generated=float(generated_F[f]), corpus=float(corpus_F[f]),
                 strength=float(abs(generated_F[f] - corpus_F[f])))
        for f in often
    ]  # fmt: skip
    return found, sparse.csr_matrix(difference_RF[:, often])


def _length(
    words_P: Floats, is_generated_P: Bools, row_P: Ints, pairs_R2: Ints
) -> tuple[list[Artefact], sparse.csr_matrix]:
    found = Artefact(
        kind="length",
        name="words",
        generated=float(words_P[is_generated_P].mean()),
        corpus=float(words_P[~is_generated_P].mean()),
        strength=abs(2 * auc_interval(words_P, is_generated_P, row_P, num_resamples=1).mean - 1),
    )
    return [found], sparse.csr_matrix(words_P[pairs_R2] @ np.array([[1.0], [-1.0]]))


def _without_parts(artefacts: list[Artefact]) -> list[Artefact]:
    """Leave out a phrase that is part of, or holds, a stronger one of nearly the same shares: one habit, one line."""
    kept: list[Artefact] = []
    for artefact in artefacts:
        padded = f" {artefact.name} "
        told = any(
            "length" not in (other.kind, artefact.kind)
            and (padded in f" {other.name} " or f" {other.name} " in padded)
            and abs(other.generated - artefact.generated) < 0.05
            and abs(other.corpus - artefact.corpus) < 0.05
            for other in kept
        )
        if not told:
            kept.append(artefact)
    return kept
