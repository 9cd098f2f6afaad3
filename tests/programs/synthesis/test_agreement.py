"""Kappa by hand, the effect of the place, and the sample that is judged in both ways."""

from pathlib import Path

import numpy as np
import pytest

from data.base.errors import InputError
from data.records import Verdict
from programs.modules.candidates import Synthesis
from programs.synthesis.agreement import PlaceEffect, agreement, kappas, other_way
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.summary import synthesis_table
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Configured, Rows


def verdict(answers: bool, *satisfied: bool) -> Verdict:
    return Verdict(satisfied=satisfied, answers_query=answers)


def test_kappa_by_hand() -> None:
    # Agreement 0.7, by chance 0.5; none beyond chance; the opposite; undefined where both say yes to everything.
    tables = np.array([[20, 5, 10, 15], [25, 25, 25, 25], [0, 5, 5, 0], [0, 0, 0, 9]], dtype=float)
    assert kappas(tables) == pytest.approx([0.4, 0.0, -1.0, np.nan], nan_ok=True)


def test_agreement_of_two_judgements() -> None:
    rows = [
        [(verdict(True, True), verdict(True, True)), (verdict(False, False), verdict(False, True))],
        [(verdict(False, False), verdict(False, False))],
    ]
    found = agreement(rows)
    assert (found["rows"], found["answers_query"]["agree"], found["answers_query"]["kappa"]) == (2, 3, 1.0)
    assert (found["satisfied"]["pairs"], found["satisfied"]["agree"]) == (3, 2)
    low, high = found["satisfied"]["interval_95"]
    assert low <= found["satisfied"]["kappa"] <= high
    assert agreement([])["answers_query"]["kappa"] is None


def test_the_effect_of_the_place() -> None:
    places = PlaceEffect()
    mined = (verdict(False, True, True), verdict(False, False, True), verdict(False, False, False))
    places.add(Synthesis(mined=mined, mined_places=(1, 2, 3)))
    places.add(Synthesis(mined=mined, mined_places=(0, 0, 0)))
    assert {third: one["satisfied"] for third, one in places.as_dict().items()} == {
        "first": 1.0, "middle": 0.5, "last": 0.0
    }  # fmt: skip


def test_a_run_that_scores_drafts_has_another_way_too() -> None:
    scored = SynthesizeConfig(rows=Path("rows.jsonl"), retriever="bundled:all-MiniLM-L6-v2", hardness="0.1..1")
    assert (other_way(scored).verify, other_way(scored).retriever) == ("one-by-one", None)


def test_a_sample_is_judged_in_both_ways_once(made_rows: Rows, configured: Configured) -> None:
    with FakeModel() as server:
        config = configured(server, made_rows(4), agreement_sample=2, mined_relevant="keep")
        summary = synthesize(config)
        # A line-up a row; then the four drafts, the mined passage and the positive of two rows, one by one.
        assert [served.kind for served in server.log].count("verify") == 4 + 2 * 6
        asked = len(server.log)
        again = synthesize(config)
        assert len(server.log) == asked
    assert again["agreement"] == summary["agreement"]
    assert summary["agreement"]["answers_query"] | {"interval_95": None} == {
        "pairs": 12, "agree": 12, "kappa": 1.0, "interval_95": None
    }  # fmt: skip
    assert "12 of 12 agree (kappa 1.00" in synthesis_table(summary)
    # There are no earlier settings that the rest could have gone into.
    assert "other settings and second judgements in this folder included:" in synthesis_table(summary)
    assert "by place in the line-up: first third" in synthesis_table(summary)


def test_where_nothing_is_judged_there_is_no_sample(made_rows: Rows) -> None:
    SynthesizeConfig(rows=made_rows(1), method="naive", verify="line-up", agreement_sample=2)
    with pytest.raises(InputError, match="agreement-sample: expected 0 without --verify, as nothing is judged"):
        SynthesizeConfig(rows=made_rows(1), method="naive", agreement_sample=2)
