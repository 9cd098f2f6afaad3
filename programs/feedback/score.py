"""Retriever feedback: what the retriever that is being trained says about a generated negative, as one score and words.

Pure functions on numbers. A negative is worth its gradient: the InfoNCE weight that it would receive next to the
positive and the mined negatives. The score is

    validity * band * (0.5 signal + 0.2 surgical + 0.15 distinct + 0.15 style)

with every part in [0, 1], so a user can see why a score is what it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from data.base.text import num_words

SIGNAL, SURGICAL, DISTINCT, STYLE = 0.5, 0.2, 0.15, 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Where a negative's similarity to the query is worth something; all in units of similarity, temperature aside."""

    temperature: float = 0.05
    """Of the InfoNCE softmax; the one that the retriever is trained with."""

    margin: float = 0.05
    """This far above the positive, a negative starts to be suspicious: it may well be relevant after all."""

    reach: float = 0.2
    """Over this distance beyond a band's edge its worth falls to nothing."""

    slack: float = 0.1
    """This far below the level of the mined negatives, a negative starts to be wasted."""

    too_alike: float = 0.9
    """Siblings whose similarity is above this say the same; at 1 they are copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle nine tenths of a measure over passages of the corpus."""

    low: float
    high: float

    def fit(self, value: float) -> float:
        """1 inside, falling to 0 at one whole width (at least half the upper end) outside."""
        distance = max(self.low - value, value - self.high, 0.0)
        width = max(self.high - self.low, self.high / 2, 1e-9)
        return max(0.0, 1.0 - distance / width)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusStyle:
    """How passages of the corpus read: the spreads of their `_measures`."""

    spreads: tuple[Spread, ...]

    def fit(self, text: str) -> float:
        """How well a text keeps inside the corpus' spreads, in [0, 1]."""
        fits = [spread.fit(value) for spread, value in zip(self.spreads, _measures(text), strict=True)]
        return sum(fits) / len(fits)


def corpus_style(passages: Sequence[str]) -> CorpusStyle | None:
    """The style of a corpus from some of its passages; None without any."""
    if not passages:
        return None
    columns = zip(*(_measures(text) for text in passages), strict=True)
    return CorpusStyle(spreads=tuple(_spread(column) for column in columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about one negative.

    similarity: to the query; positive: the known positive's; mined: the mined negatives', any number.
    siblings: similarities of this negative to the row's other negatives. relevant and target_broken come from the
    verdict (None when there is none); kept: how many of the `others` other requirements still hold; style_fit in
    [0, 1].
    """

    similarity: float
    positive: float
    mined: Sequence[float] = ()
    siblings: Sequence[float] = ()
    relevant: bool | None = None
    target_broken: bool | None = None
    kept: int = 0
    others: int = 0
    style_fit: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTerms:
    """The parts of a score, each in [0, 1]; `mined_weight`, the largest of a mined negative, is for comparison."""

    validity: float
    band: float
    signal: float
    surgical: float
    distinct: float
    style: float
    mined_weight: float

    @property
    def score(self) -> float:
        """The one score in [0, 1]."""
        worth = SIGNAL * self.signal + SURGICAL * self.surgical + DISTINCT * self.distinct + STYLE * self.style
        return self.validity * self.band * worth


def infonce_weights(positive: float, negatives: Sequence[float], temperature: float) -> list[float]:
    """softmax(similarity / temperature) over [positive, *negatives], returned for the negatives: the size of each one's
    pull on the query (the gradient of InfoNCE with respect to its score, times the temperature)."""
    return _softmax([positive, *negatives], temperature)[1:]


def mined_level(mined: Sequence[float], temperature: float) -> float | None:
    """The similarity at which the mined negatives pull: their mean, each weighted by its share of their gradient.

    Unlike a median it does not move when irrelevant passages are added far below.
    """
    if not mined:
        return None
    shares = _softmax(mined, temperature)
    return math.fsum(share * similarity for share, similarity in zip(shares, mined, strict=True))


def band(similarity: float, positive: float, level: float | None, bands: Bands) -> float:
    """1 from the mined negatives' level (less the slack) to the positive (plus the margin), falling to 0 outside."""
    above = similarity - (positive + bands.margin)
    below = 0.0 if level is None else min(level, positive) - bands.slack - similarity
    return max(0.0, 1.0 - max(above, below, 0.0) / bands.reach)


def assess(facts: Facts, bands: Bands) -> ScoreTerms:
    """The parts of a negative's score."""
    *mined, own = infonce_weights(facts.positive, [*facts.mined, facts.similarity], bands.temperature)
    alike = max(facts.siblings, default=0.0)
    return ScoreTerms(
        validity=1.0 if facts.relevant is False and facts.target_broken else 0.0,
        band=band(facts.similarity, facts.positive, mined_level(facts.mined, bands.temperature), bands),
        signal=own,
        surgical=facts.kept / facts.others if facts.others else 1.0,
        distinct=min(1.0, max(0.0, (1.0 - alike) / (1.0 - bands.too_alike))),
        style=facts.style_fit,
        mined_weight=max(mined, default=0.0),
    )


def describe(facts: Facts, parts: ScoreTerms, bands: Bands, *, too_easy: bool = False) -> str:
    """What the parts mean, and what to change: the words that a reflecting model reads. `too_easy` where the user has
    said so of such a weight."""
    said = [_verdict_words(facts), _rank_words(facts, parts)]
    level = mined_level(facts.mined, bands.temperature)
    if facts.similarity > facts.positive + bands.margin:
        said.append(
            "It ranks clearly above the known answer, so it may well be relevant after all: move it further from what "
            "was asked."
        )
    elif too_easy or (parts.band < 1 and level is not None):
        compared = "passages that the retriever finds by itself" if facts.mined else "known answer"
        said.append(
            f"It ranks far below the {compared}, so it teaches nothing: keep more of "
            "the answer's subject and wording, and change only what breaks the target requirement."
        )
    if parts.surgical < 1:
        broken = facts.others - facts.kept
        said.append(f"It also breaks {broken} of the {facts.others} other requirements: keep those intact.")
    if parts.distinct < 1:
        said.append("It nearly repeats another negative of the same query: say something different.")
    if parts.style < 0.7:
        said.append("Its length or layout is unlike the corpus: match the sample passages.")
    return " ".join(said)


def _verdict_words(facts: Facts) -> str:
    if facts.relevant is None:
        return "There is no verdict on it, so it counts for nothing."
    if facts.relevant:
        return "The verifier finds that it answers the query, so it is no negative."
    if not facts.target_broken:
        return "The verifier finds that the target requirement still holds: it was not broken."
    return "The verifier agrees that it does not answer the query and that the target requirement is broken."


def _rank_words(facts: Facts, parts: ScoreTerms) -> str:
    harder = sum(similarity > facts.similarity for similarity in facts.mined)
    place = (
        f"{harder} of {len(facts.mined)} mined negatives rank above it, and the hardest of them has weight "
        f"{parts.mined_weight:.3f}"
        if facts.mined
        else "there are no mined negatives to compare it with"
    )
    return (
        f"The retriever gives it similarity {facts.similarity:.3f} (known answer {facts.positive:.3f}) and InfoNCE "
        f"weight {parts.signal:.3f}; {place}."
    )


def _softmax(similarities: Sequence[float], temperature: float) -> list[float]:
    top = max(similarities)
    powers = [math.exp((similarity - top) / temperature) for similarity in similarities]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _measures(text: str) -> tuple[float, float, float]:
    """Its length in characters, its sentences in words, and its lines."""
    words = max(1, num_words(text))
    sentences = max(1, sum(text.count(mark) for mark in ".!?。！？।؟"))
    return float(len(text)), words / sentences, float(text.count("\n") + 1)


def _spread(values: Sequence[float]) -> Spread:
    if len(values) < 5:
        return Spread(low=min(values) * 0.5, high=max(values) * 1.5)
    cuts = quantiles(values, n=20, method="inclusive")
    return Spread(low=cuts[0], high=cuts[-1])
