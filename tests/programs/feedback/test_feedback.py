"""The retriever's feedback: closed forms, then the properties that an optimiser relies on."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from programs.feedback.score import Bands, Facts, assess, band, corpus_style, describe, infonce_weights, mined_level

BANDS = Bands()
similarity = st.floats(-1, 1)
facts_of = st.builds(
    Facts,
    similarity=similarity,
    positive=similarity,
    mined=st.lists(similarity, max_size=8),
    siblings=st.lists(similarity, max_size=4),
    relevant=st.sampled_from([True, False, None]),
    target_broken=st.booleans(),
    kept=st.integers(0, 3),
    others=st.just(3),
    style_fit=st.floats(0, 1),
)
valid = facts_of.map(lambda facts: replace(facts, relevant=False, target_broken=True))


def test_weights_in_closed_form() -> None:
    assert infonce_weights(0.5, [0.5], 0.05) == pytest.approx([0.5])
    assert infonce_weights(0.3, [0.3] * 7, 0.05) == pytest.approx([1 / 8] * 7)
    assert infonce_weights(0.0, [0.05 * math.log(3)], 0.05) == pytest.approx([0.75])
    assert mined_level([0.4, 0.4], 0.05) == pytest.approx(0.4)
    assert mined_level([], 0.05) is None


def test_a_score_by_hand() -> None:
    facts = Facts(
        similarity=0.6, positive=0.6, mined=[0.6], siblings=[0.95], relevant=False, target_broken=True,
        kept=1, others=2, style_fit=0.8,
    )  # fmt: skip
    parts = assess(facts, BANDS)
    assert (parts.validity, parts.band, parts.surgical, parts.style) == (1, 1, 0.5, 0.8)
    assert parts.signal == pytest.approx(1 / 3)
    assert parts.mined_weight == pytest.approx(1 / 3)
    assert parts.distinct == pytest.approx(0.5)
    assert parts.score == pytest.approx(0.5 / 3 + 0.2 * 0.5 + 0.15 * 0.5 + 0.15 * 0.8)


@given(facts_of)
def test_every_part_and_the_score_are_bounded(facts: Facts) -> None:
    parts = assess(facts, BANDS)
    for value in (parts.validity, parts.band, parts.signal, parts.surgical, parts.distinct, parts.style, parts.score):
        assert 0 <= value <= 1


@given(facts_of, st.sampled_from([True, None]))
def test_nothing_without_a_verdict_of_irrelevance(facts: Facts, relevant: bool | None) -> None:
    assert assess(replace(facts, relevant=relevant), BANDS).score == 0
    assert assess(replace(facts, target_broken=False), BANDS).score == 0


@given(valid, similarity)
def test_closer_to_the_boundary_is_never_worth_less_up_to_the_margin(facts: Facts, other: float) -> None:
    low, high = sorted((facts.similarity, other))
    assume(high <= facts.positive + BANDS.margin)
    near, far = assess(replace(facts, similarity=high), BANDS), assess(replace(facts, similarity=low), BANDS)
    assert near.signal >= far.signal
    assert near.score >= far.score - 1e-12


@given(valid, st.floats(0, 1), st.floats(0, 1))
def test_far_above_the_positive_is_suspicious(facts: Facts, nearer: float, farther: float) -> None:
    low, high = sorted((nearer, farther))
    edge = facts.positive + BANDS.margin
    assert band(edge + high, facts.positive, None, BANDS) <= band(edge + low, facts.positive, None, BANDS)
    assert band(edge + BANDS.reach + 0.01, facts.positive, None, BANDS) == 0


@given(valid, st.integers(0, 2))
def test_more_kept_requirements_a_better_style_and_more_distance_are_worth_more(facts: Facts, kept: int) -> None:
    assert assess(replace(facts, kept=kept + 1), BANDS).score >= assess(replace(facts, kept=kept), BANDS).score
    assert assess(replace(facts, style_fit=1.0), BANDS).score >= assess(facts, BANDS).score
    assert assess(replace(facts, siblings=[]), BANDS).score >= assess(facts, BANDS).score


@given(valid, st.randoms(use_true_random=False))
def test_order_does_not_matter(facts: Facts, random: "object") -> None:
    mined, siblings = list(facts.mined), list(facts.siblings)
    random.shuffle(mined)  # type: ignore[attr-defined]
    random.shuffle(siblings)  # type: ignore[attr-defined]
    shuffled = assess(replace(facts, mined=mined, siblings=siblings), BANDS)
    assert shuffled.score == pytest.approx(assess(facts, BANDS).score, abs=1e-12)


@given(valid)
def test_an_irrelevant_mined_negative_far_below_changes_nothing(facts: Facts) -> None:
    assume(facts.mined)
    below = min(*facts.mined, facts.positive, facts.similarity) - 2.0
    more = assess(replace(facts, mined=[*facts.mined, below]), BANDS)
    assert more.score == pytest.approx(assess(facts, BANDS).score, abs=1e-9)


@given(facts_of)
def test_words_name_what_is_wrong(facts: Facts) -> None:
    parts = assess(facts, BANDS)
    words = describe(facts, parts, BANDS)
    assert ("answers the query, so it is no negative" in words) is (facts.relevant is True)
    assert ("other requirements: keep those" in words) is (parts.surgical < 1)
    assert ("clearly above the known answer" in words) is (facts.similarity > facts.positive + BANDS.margin)


def test_style_is_the_spread_of_the_corpus() -> None:
    corpus = [f"Title\nThis is sentence {number}. It is followed by another one." for number in range(20)]
    style = corpus_style(corpus)
    assert style is not None
    assert style.fit(corpus[3]) == 1
    assert style.fit("x") < style.fit(corpus[3] + " One more here.") <= 1
    assert style.fit("word " * 3000) < 0.5
    assert corpus_style([]) is None
    lone = corpus_style(["A short passage."])
    assert lone is not None
    assert lone.fit("A short passage.") == 1
