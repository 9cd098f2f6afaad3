"""Wilson's interval and what the canaries decide."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.base.stats import wilson_interval
from data.base.text import content_id
from data.row_files import read_rows
from programs.synthesis.calibration import Calibration
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run

counts = st.integers(1, 2000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


def calibration(missed: int, canaries: int, *, relevant: int = 0, judged: int = 100, accepted: int = 90) -> Calibration:
    return Calibration(
        canaries=canaries,
        missed=missed,
        judged=judged,
        called_relevant=relevant,
        accepted=accepted,
        max_miss_rate=0.2,
    )


def test_published_values() -> None:
    # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, trials, low, high in [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)
    ]:  # fmt: skip
        assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)


@given(counts)
def test_the_interval_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    hits, trials = case
    low, high = wilson_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    assert wilson_interval(trials - hits, trials) == pytest.approx((1 - high, 1 - low))


def test_nothing_is_known_without_trials() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert not calibration(0, 0).unusable
    assert calibration(0, 0).false_negative_bound == 1.0
    assert "not calibrated" in calibration(0, 0).sentence()


@pytest.mark.parametrize(
    ("missed", "canaries", "unusable"),
    [(0, 1, False), (1, 1, False), (2, 3, False), (19, 19, False), (7, 20, False), (8, 20, True), (1, 30, False),
     (6, 30, False), (12, 30, True), (34, 34, True), (0, 1000, False)],
)  # fmt: skip
def test_when_a_verifier_is_unusable(missed: int, canaries: int, unusable: bool) -> None:
    found = calibration(missed, canaries)
    assert found.unusable is unusable
    assert found.as_dict()["usable"] is not unusable
    assert ("not usable" in found.sentence()) is unusable
    assert ("no evidence" in found.sentence()) is (canaries < 20 and found.miss_interval[0] > 0.2)
    if missed:
        assert f"misses {missed} of {canaries} known positives" in found.sentence()


@pytest.mark.parametrize(
    ("missed", "canaries", "relevant", "judged", "undiscerning"),
    # The second is what a real model of 135 million parameters did.
    [(2, 12, 10, 40, False), (2, 12, 37, 41, True), (0, 12, 41, 41, False), (1, 9, 40, 40, False),
     (1, 10, 36, 40, True), (1, 10, 35, 40, False), (1, 10, 0, 0, False)],
)  # fmt: skip
def test_a_verifier_that_does_not_tell_them_apart_is_named(
    missed: int, canaries: int, relevant: int, judged: int, undiscerning: bool
) -> None:
    found = calibration(missed, canaries, relevant=relevant, judged=judged)
    assert found.undiscerning is undiscerning
    assert not found.unusable
    assert ("no larger share" in found.sentence()) is undiscerning


@given(counts, st.integers(0, 100))
def test_the_bound_grows_with_misses_and_with_relevant_candidates(case: tuple[int, int], relevant: int) -> None:
    missed, canaries = case
    bound = calibration(missed, canaries, relevant=relevant).false_negative_bound
    assert 0 <= bound <= 1
    if missed < canaries:
        assert calibration(missed + 1, canaries, relevant=relevant).false_negative_bound >= bound
    if relevant < 100:
        assert calibration(missed, canaries, relevant=relevant + 1).false_negative_bound >= bound


def test_the_bound_by_hand() -> None:
    found = calibration(0, 120, relevant=0, judged=394, accepted=380)
    miss, relevant = wilson_interval(0, 120)[1], wilson_interval(0, 394)[1]
    assert found.false_negative_bound == pytest.approx(miss * relevant / (1 - miss) * 394 / 380)


def test_the_bound_holds_with_repairs(made_rows: Rows, run: Run) -> None:
    def relevant(passage: str) -> bool:
        # Every first draft answers its query after all, no second one does.
        return "breaks requirement" not in passage or "This draft" in passage

    def noticed(passage: str) -> bool:
        return relevant(passage) and int(content_id(passage), 16) % 10 > 0

    with FakeModel(says_relevant=noticed) as server:
        summary, again = (run(server, made_rows(60)) for _ in range(2))
    accepted = [negative for row in read_rows(Path(summary["rows_file"])) for negative in row.of_source("generated")]
    wrong = sum(relevant(negative.text) for negative in accepted) / len(accepted)
    assert summary["funnel"]["accepted_after_repair"] > 0
    assert 0.05 < wrong <= summary["verifier"]["false_negative_upper_bound"] < 0.5
    # Also when it is worked out from the store.
    assert again["verifier"] == summary["verifier"]
