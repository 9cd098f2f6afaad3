"""One score, three adapters, and words for the predictor that is asked about."""

from dataclasses import replace

import dspy
import pytest

from data.readers.demo import demo_items
from data.records import Requirement, Verdict
from programs.feedback.labels import LabelledPassage, labelled_passages
from programs.feedback.metric import bool_metric, float_metric, gepa_metric, synthesis_judge, verifier_judge
from programs.feedback.row import row_feedback
from programs.feedback.score import Bands
from programs.modules.candidates import Candidate, Synthesis
from tests.fakes.closed_loop import WordsRetriever, closed_loop_rows

ROW = closed_loop_rows(1)[0]
REQUIREMENT = Requirement(id=1, kind="entity", statement="about the widget")


def candidate(text: str, *, accepted: bool = True) -> Candidate:
    return Candidate(
        requirement=REQUIREMENT,
        disruption="entity_shift",
        direction="another widget",
        fate="accepted" if accepted else "answers_query",
        text=text,
        verdict=Verdict(satisfied=(False, True), answers_query=not accepted, reason="r"),
    )


NEAR = candidate("The warranty of the gadget does last three years.")
FAR = candidate("Our canteen serves soup on Mondays.")
SYNTHESIS = Synthesis(requirements=(REQUIREMENT,), candidates=(NEAR, FAR))
EXAMPLE = dspy.Example(row=ROW)
JUDGE = synthesis_judge(WordsRetriever(), Bands(), None)


def prediction(synthesis: Synthesis = SYNTHESIS) -> dspy.Prediction:
    return dspy.Prediction(synthesis=synthesis)


def test_the_score_is_the_same_in_every_adapter() -> None:
    score = float_metric(JUDGE)(EXAMPLE, prediction())
    assert 0 < score < 1
    gepa = gepa_metric(JUDGE)
    for name in (None, "extract", "violate", "verify"):
        assert gepa(EXAMPLE, prediction(), None, name, None).score == score
    accept = bool_metric(JUDGE, threshold=score)
    assert accept(EXAMPLE, prediction()) == score
    assert accept(EXAMPLE, prediction(), trace=[]) is True
    assert bool_metric(JUDGE, threshold=score + 0.01)(EXAMPLE, prediction(), trace=[]) is False


def test_a_row_scores_the_mean_of_what_was_planned() -> None:
    feedback = row_feedback(ROW, SYNTHESIS, WordsRetriever(), Bands())
    assert feedback.score == pytest.approx(sum(one.score for one in feedback.assessed) / 2)
    unwritten = replace(FAR, fate="not_written", text="", verdict=None)
    half = row_feedback(ROW, Synthesis(candidates=(NEAR, unwritten)), WordsRetriever(), Bands())
    assert half.score == pytest.approx(half.assessed[0].score / 2)
    failed = row_feedback(ROW, Synthesis(failure="extract_malformed"), WordsRetriever(), Bands())
    assert failed.score == 0
    assert "extract malformed" in failed.words("extract")


def test_words_are_about_the_predictor_and_its_output() -> None:
    gepa = gepa_metric(JUDGE)
    about_far = gepa(EXAMPLE, prediction(), None, "violate", [(None, {}, dspy.Prediction(negative=FAR.text))]).feedback
    about_near = gepa(
        EXAMPLE, prediction(), None, "violate", [(None, {}, dspy.Prediction(negative=NEAR.text))]
    ).feedback
    assert "teaches nothing" in about_far
    assert "teaches nothing" not in about_near
    plan = gepa(EXAMPLE, prediction(), None, "extract", None).feedback
    assert plan.count("another widget") == 2


def test_a_relevant_negative_counts_for_nothing() -> None:
    relevant = candidate(NEAR.text, accepted=False)
    assert JUDGE(EXAMPLE, prediction(Synthesis(candidates=(relevant,))))[0] == 0


@pytest.mark.parametrize(
    ("satisfied", "answers", "score"),
    [((True, False), False, 1.0), ((True, True), False, 0.75), ((True, False), True, 0.5), ((False, True), True, 0.0)],
)
def test_verdicts_are_judged_by_their_label(satisfied: tuple[bool, ...], answers: bool, score: float) -> None:
    label = LabelledPassage(
        query="q", requirements=("1. a", "2. b"), passage="p", relevant=False, satisfied=(True, False)
    )
    verdict = Verdict(satisfied=satisfied, answers_query=answers, reason="r")
    found, words = verifier_judge(dspy.Example(known=[label]), dspy.Prediction(verdicts=[verdict]))
    assert found == score
    assert words(None, None).startswith("Wrong" if answers else "Right")
    unjudged = replace(label, satisfied=None)
    assert verifier_judge(dspy.Example(known=[unjudged]), dspy.Prediction(verdicts=[verdict]))[0] == float(not answers)
    assert verifier_judge(dspy.Example(known=[label]), dspy.Prediction(verdicts=[None]))[0] == 0
    # A line-up counts as the mean of its verdicts, and the words go through it.
    both, words = verifier_judge(dspy.Example(known=[label, label]), dspy.Prediction(verdicts=[verdict, None]))
    assert both == score / 2
    assert "Passage 2. There was no usable verdict" in words(None, None)


def test_labels_of_the_demo_are_its_positives_and_judged_negatives() -> None:
    labels = [label for item in demo_items() for label in labelled_passages(item.row)]
    assert len(labels) == 120 + 394
    assert sum(label.relevant for label in labels) == 120
    # Where nothing is judged, mined near misses stand in; rows without requirements say nothing.
    assert labelled_passages(ROW) == []
    mined = labelled_passages(replace(ROW, requirements=(REQUIREMENT,)))
    assert [(label.relevant, label.satisfied) for label in mined] == [(True, (True,))] + [(False, None)] * 3
