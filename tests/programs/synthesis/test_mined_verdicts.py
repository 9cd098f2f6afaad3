"""What the verdicts on mined negatives make of a row, and the share of false negatives by rank."""

from dataclasses import replace

import pytest

from data.base.stats import wilson_interval
from data.readers.recorded import bundled_rows
from data.records import Negative, Passage, Row, Verdict, row_content_id
from programs.synthesis.mined_verdicts import (
    FalseNegatives,
    mined_lines,
    nearest_mined,
    with_verdicts,
    without_old_verdicts,
)

ANSWERS, NOT = Verdict(answers_query=True, satisfied=(True,)), Verdict(answers_query=False, satisfied=(False,))
ROW = Row(
    query="q",
    positives=(Passage(id="p", text="the answer"),),
    negatives=(
        Negative(text="far", source="mined", score=0.1),
        Negative(text="written", source="generated"),
        Negative(text="near", source="mined", id="d7", score=0.9),
        Negative(text="unknown", source="mined"),
        Negative(text="middle", source="mined", score=0.5),
    ),
)


def test_the_nearest_come_first_and_those_without_a_score_last() -> None:
    assert nearest_mined(ROW, 9) == (2, 4, 0, 3)
    assert nearest_mined(ROW, 2) == (2, 4)
    assert nearest_mined(ROW, 0) == ()


def test_a_mined_passage_that_answers_becomes_a_further_positive() -> None:
    row, done = with_verdicts(ROW, (2, 4, 0), (ANSWERS, NOT, None), "promote")
    assert row.positives == (*ROW.positives, Passage(id="d7", text="near", verdict=ANSWERS, source="mined"))
    assert [(n.text, n.relevance) for n in row.negatives] == [
        ("far", None), ("written", None), ("unknown", None), ("middle", 0.0)
    ]  # fmt: skip
    assert done == {"promoted": 1}
    assert row_content_id(row) == row_content_id(ROW)


def test_it_may_be_left_out_or_kept_and_what_was_written_is_never_promoted() -> None:
    row, done = with_verdicts(ROW, (2,), (ANSWERS,), "drop")
    assert (row.positives, "near" in {n.text for n in row.negatives}, done) == (ROW.positives, False, {"dropped": 1})
    row, done = with_verdicts(ROW, (2,), (ANSWERS,), "keep")
    assert (row.negatives[2].relevance, len(row.negatives), done) == (1.0, 5, {"kept": 1})
    row, done = with_verdicts(ROW, (1,), (ANSWERS,), "promote")
    assert (row.positives, len(row.negatives), done) == (ROW.positives, 4, {"generated_dropped": 1})


def test_verdicts_on_requirements_that_are_replaced_leave_a_grade() -> None:
    half = Verdict(answers_query=False, satisfied=(True, False), reason="r")
    negatives = tuple(replace(one, verdict=half) for one in ROW.negatives[:2]) + ROW.negatives[2:]
    row = without_old_verdicts(replace(ROW, negatives=negatives), {1})
    assert row.negatives[0].verdict == replace(half, satisfied=()) and row.negatives[0].relevance == 0.5
    assert row.negatives[1:] == negatives[1:]


def test_false_negatives_by_rank() -> None:
    found = FalseNegatives()
    found.add([ANSWERS, NOT, None])
    found.add([NOT, ANSWERS])
    found.done["promoted"] = 2
    summary = found.as_dict()
    assert (summary["asked"], summary["judged"], summary["answering"], summary["rate"]) == (5, 4, 2, 0.5)
    assert [(one["rank"], one["answering"], one["judged"]) for one in summary["by_rank"]] == [(1, 1, 2), (2, 1, 2)]
    assert summary["by_rank"][0]["interval_95"] == pytest.approx(wilson_interval(1, 2))
    lines = mined_lines(summary, "recorded:demo")
    assert lines[0].startswith("false ones among the mined negatives: 2 of 4 (50.0%") and "promoted 2" in lines[0]
    assert lines[-1] == "mined negatives not judged: 1 (recorded:demo has no verdicts for them)"
    assert mined_lines(FalseNegatives().as_dict(), "openai/x") == []


def test_the_recorded_corpus_has_its_false_negatives_near_the_top() -> None:
    found = FalseNegatives()
    for row in bundled_rows("bundled:xquad-sentences", "counterfactual"):
        found.add(negative.verdict for negative in row.of_source("mined"))
    summary = found.as_dict()
    assert (summary["answering"], summary["judged"]) == (11, 1504)
    assert [one["answering"] for one in summary["by_rank"]] == [7, 3, 1, 0]
