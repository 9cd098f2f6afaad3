"""Which surface features give generated text away: length, openings, n-grams, each with its direction.

Whether a difference is chance is asked of one generated and one corpus passage of each row, drawn once: a topic that
only some queries have is then no artefact, nor is a word that all generated passages of a row share, being made from
one text, and without a real difference either sign is as likely. Means over unequal numbers of passages have no such
symmetry, and raise false alarms. Axes: P passages, R rows, F features.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from data.base.stats import max_randomisation_p_values
from data.base.text import is_spaceless, num_words, tokens
from evals.diagnostics.embedded_rows import Bools, Ints
from evals.diagnostics.probes import auc_interval

_MIN_SHARE_OF_ROWS = 0.05
_LEVEL = 0.05
_LONGEST = 24  # tokens of a phrase that is named
_SAME_PASSAGES = 0.7
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
    """The strongest artefacts whose difference is beyond chance given all features, strongest first, one a habit.

    None where fewer than `FEWEST_ROWS` rows have both kinds of passages.
    """
    if len(rows_with_both(is_generated_P, row_P)) < FEWEST_ROWS:
        return []
    words_P = [[token[0] for token in tokens(text.casefold())] for text in texts_P]
    length_P1 = np.array([[num_words(text)] for text in texts_P], dtype=np.float64)
    pairs_R2 = _one_pair_a_row(is_generated_P, row_P, seed)
    by_kind = {"opening": _often("opening", words_P, pairs_R2), "n-gram": _often("n-gram", words_P, pairs_R2)}
    features_PF = sparse.csc_matrix(sparse.hstack([length_P1, *(has_PF for _, has_PF in by_kind.values())]))
    names = [("length", "words")] + [(kind, name) for kind, (found, _) in by_kind.items() for name in found]
    p_values = max_randomisation_p_values(
        sparse.csr_matrix(features_PF[pairs_R2[:, 0]] - features_PF[pairs_R2[:, 1]]), seed=seed
    )
    generated_F, corpus_F = (
        np.asarray(features_PF[side].sum(axis=0)).ravel() / side.sum() for side in (is_generated_P, ~is_generated_P)
    )
    strength_F = np.abs(generated_F - corpus_F)
    strength_F[0] = abs(2 * auc_interval(length_P1[:, 0], is_generated_P, row_P, num_resamples=1).mean - 1)
    times = generated_F[0] / corpus_F[0]
    kept = [
        f
        for f in np.flatnonzero(p_values < _LEVEL).tolist()
        if f == 0 or not _told_by_length(generated_F[f], corpus_F[f], times)
    ]
    # Of phrases that are equally telling, the longest says most.
    kept.sort(
        key=lambda f: (-round(strength_F[f], 3), -len(names[f][1].split()), names[f][0] != "opening", names[f][1])
    )
    told: dict[int, str] = {}
    for f in kept:
        kind, name = names[f]
        in_other = any(
            f" {name} " in f" {phrase} " or _same_habit(features_PF, f, g) for g, phrase in told.items() if g
        )
        if f == 0 or not in_other:
            told[f] = _whole_phrase(kind, name, words_P) if f else name
    return [
        Artefact(
            kind=names[f][0], name=_as_written(phrase), generated=float(generated_F[f]), corpus=float(corpus_F[f]),
            strength=float(strength_F[f]), p_value=float(p_values[f]),
        )
        for f, phrase in list(told.items())[:most]
    ]  # fmt: skip


def _told_by_length(generated: float, corpus: float, times: float) -> bool:
    """Whether texts of so many times the length would have a common word in about that share of passages anyway."""
    expected = 1 - (1 - corpus) ** times
    # Half as much again, as neither share is known exactly.
    low, high = sorted((corpus, corpus + 1.5 * (expected - corpus)))
    return bool(low <= generated <= high)


def _same_habit(features_PF: sparse.csc_matrix, first: int, second: int) -> bool:
    """Whether two phrases stand in nearly the same passages: parts of one phrase, or one way of writing."""
    both = features_PF[:, first].multiply(features_PF[:, second]).sum()
    return bool(both >= _SAME_PASSAGES * (features_PF[:, first].sum() + features_PF[:, second].sum() - both))


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


def _openings(words: list[str]) -> list[str]:
    return [" ".join(words[:n]) for n in (1, 2, 3) if len(words) >= n]


def _ngrams(words: list[str]) -> list[str]:
    return sorted({" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)})


_PHRASES: dict[str, Callable[[list[str]], list[str]]] = {"opening": _openings, "n-gram": _ngrams}


def _often(kind: str, words_P: list[list[str]], pairs_R2: Ints) -> tuple[list[str], sparse.csr_matrix]:
    """The phrases in which enough pairs differ, and which passages have them [P, F]; one of few rows is a topic."""
    vectorizer = CountVectorizer(analyzer=_PHRASES[kind], binary=True)
    has_PF = sparse.csr_matrix(vectorizer.fit_transform(words_P), dtype=np.float64)
    differing_F = np.asarray((has_PF[pairs_R2[:, 0]] != has_PF[pairs_R2[:, 1]]).sum(axis=0)).ravel()
    often = np.flatnonzero(differing_F >= max(3, _MIN_SHARE_OF_ROWS * len(pairs_R2)))
    return [str(name) for name in vectorizer.get_feature_names_out()[often]], sparse.csr_matrix(has_PF[:, often])


def _whole_phrase(kind: str, name: str, words_P: list[list[str]]) -> str:
    """The phrase with the words that nearly always stand before and after it."""
    phrase = name.split(" ")
    while len(phrase) < _LONGEST:
        size = len(phrase)
        before, after = Counter[str](), Counter[str]()
        for words in words_P:
            for i in range(1 if kind == "opening" else len(words)):
                if words[i : i + size] == phrase:
                    before[words[i - 1] if i else ""] += 1
                    after[words[i + size] if i + size < len(words) else ""] += 1
        (last, last_count), (first, first_count) = after.most_common(1)[0], before.most_common(1)[0]
        if last and last_count >= 0.95 * after.total():
            phrase = [*phrase, last]
        elif first and first_count >= 0.95 * before.total():
            phrase = [first, *phrase]
        else:
            break
    return " ".join(phrase)


def _as_written(phrase: str) -> str:
    """Characters of a script without spaces stand side by side."""
    words = phrase.split(" ")
    gaps = ("" if is_spaceless(first) and is_spaceless(second) else " " for first, second in pairwise(words))
    return words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True))
