"""Which surface features give generated text away: length, openings, n-grams, each with its direction.

Every feature is compared within rows (generated minus corpus passages of the same query), so that a topic that only
some queries have is no artefact. Axes: P passages, R rows, F features.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import norm
from sklearn.feature_extraction.text import CountVectorizer

from evals.embedded import Bools, Ints
from evals.probes import auc_interval
from evals.stats import Floats, Interval, holm

_WORD = re.compile(r"\w+|[^\w\s]")
_MIN_SHARE_OF_ROWS = 0.05
_LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One feature by which generated text differs.

    kind: length, opening or n-gram. strength: 0 to 1, |2 AUC - 1| of the feature alone (for a word: the difference of
    the two shares). generated, corpus: mean number of words, or the share of passages that have it. p_value: Holm.
    """

    kind: str
    name: str
    generated: float
    corpus: float
    strength: float
    p_value: float

    def __str__(self) -> str:
        if self.kind == "length":
            longer = "longer" if self.generated > self.corpus else "shorter"
            return f"generated passages are {longer}: {self.generated:.0f} words on average against {self.corpus:.0f}"
        verb = "opens" if self.kind == "opening" else "occurs in"
        return f"“{self.name}” {verb} {self.generated:.0%} of generated and {self.corpus:.0%} of corpus passages"


def find_artefacts(
    texts_P: Sequence[str], is_generated_P: Bools, row_P: Ints, *, most: int = 12, seed: int = 0
) -> list[Artefact]:
    """The strongest artefacts whose difference holds after Holm's correction over all features, strongest first."""
    words_P = [_WORD.findall(text.casefold()) for text in texts_P]
    paired = _rows_with_both(is_generated_P, row_P)
    if len(paired) < 2:
        return []
    found = _length(np.array([len(words) for words in words_P], dtype=np.float64), is_generated_P, row_P, paired, seed)
    found += _shares("opening", [_openings(words) for words in words_P], is_generated_P, row_P, paired)
    found += _shares("n-gram", [_ngrams(words) for words in words_P], is_generated_P, row_P, paired)
    adjusted = holm([artefact.p_value for artefact in found])
    kept = [
        Artefact(kind=a.kind, name=a.name, generated=a.generated, corpus=a.corpus, strength=a.strength, p_value=p_value)
        for a, p_value in zip(found, adjusted, strict=True)
        if p_value < _LEVEL
    ]
    # Of phrases that are equally telling, the longest says most.
    order = sorted(kept, key=lambda a: (-round(a.strength, 3), -len(a.name.split()), a.kind != "opening", a.name))
    return _without_parts(order)[:most]


def _rows_with_both(is_generated_P: Bools, row_P: Ints) -> Ints:
    return np.intersect1d(row_P[is_generated_P], row_P[~is_generated_P])


def _openings(words: list[str]) -> set[str]:
    return {" ".join(words[:n]) for n in (1, 2, 3) if len(words) >= n}


def _ngrams(words: list[str]) -> set[str]:
    return {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}


def _mean_difference(
    matrix_PF: sparse.csr_matrix, is_generated_P: Bools, row_P: Ints, paired: Ints
) -> sparse.csr_matrix:
    """[R, F]: mean of a feature over the generated passages of a row minus its mean over the corpus passages."""
    place = {int(row): number for number, row in enumerate(paired)}
    kept = np.flatnonzero(np.isin(row_P, paired))
    row_K = np.array([place[int(row)] for row in row_P[kept]])
    sign_K = np.where(is_generated_P[kept], 1.0, -1.0)
    counts = np.zeros((len(paired), 2))
    np.add.at(counts, (row_K, is_generated_P[kept].astype(int)), 1)
    weights_K = sign_K / counts[row_K, is_generated_P[kept].astype(int)]
    by_row = sparse.csr_matrix((weights_K, (row_K, kept)), shape=(len(paired), len(row_P)))
    return sparse.csr_matrix(by_row @ matrix_PF)


def _shares(kind: str, features_P: list[set[str]], is_generated_P: Bools, row_P: Ints, paired: Ints) -> list[Artefact]:
    vectorizer = CountVectorizer(analyzer=sorted, binary=True)
    matrix_PF = sparse.csr_matrix(vectorizer.fit_transform(features_P), dtype=np.float64)
    difference_RF = _mean_difference(matrix_PF, is_generated_P, row_P, paired)
    num_rows = len(paired)
    # A phrase of few rows is a topic, not a habit.
    rows_F = np.asarray((difference_RF != 0).sum(axis=0)).ravel()
    often = np.flatnonzero(rows_F >= max(3, _MIN_SHARE_OF_ROWS * num_rows))
    difference_RF, matrix_PF = difference_RF[:, often], matrix_PF[:, often]
    mean_F = np.asarray(difference_RF.mean(axis=0)).ravel()
    square_F = np.asarray(difference_RF.multiply(difference_RF).mean(axis=0)).ravel()
    error_F = np.sqrt(np.maximum(square_F - mean_F**2, 1e-12) / (num_rows - 1))
    p_F = 2 * norm.sf(np.abs(mean_F) / error_F)
    generated_F = np.asarray(matrix_PF[is_generated_P].mean(axis=0)).ravel()
    corpus_F = np.asarray(matrix_PF[~is_generated_P].mean(axis=0)).ravel()
    names = vectorizer.get_feature_names_out()[often]
    return [
        Artefact(kind=kind, name=str(names[f]), generated=float(generated_F[f]), corpus=float(corpus_F[f]),
                 strength=float(abs(mean_F[f])), p_value=float(p_F[f]))
        for f in range(len(often))
    ]  # fmt: skip


def _length(words_P: Floats, is_generated_P: Bools, row_P: Ints, paired: Ints, seed: int) -> list[Artefact]:
    difference_R = _mean_difference(sparse.csr_matrix(words_P[:, None]), is_generated_P, row_P, paired).toarray()[:, 0]
    error = difference_R.std(ddof=1) / np.sqrt(len(paired))
    p_value = float(2 * norm.sf(abs(difference_R.mean()) / error)) if error > 0 else float(difference_R.mean() == 0)
    auc: Interval = auc_interval(words_P, is_generated_P, row_P, num_resamples=100, seed=seed)
    return [
        Artefact(
            kind="length",
            name="words",
            generated=float(words_P[is_generated_P].mean()),
            corpus=float(words_P[~is_generated_P].mean()),
            strength=abs(2 * auc.mean - 1),
            p_value=p_value,
        )
    ]


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
