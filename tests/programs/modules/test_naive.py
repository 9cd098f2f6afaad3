"""The naive baseline: one plain prompt through the same store, budget and retries; nothing is verified."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.readers.recorded import bundled_rows
from data.row_files import read_rows
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.summary import synthesis_table
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run


def test_one_call_a_row_and_copies_are_dropped(made_rows: Rows, run: Run) -> None:
    with FakeModel() as server:
        summary, again = (run(server, made_rows(5), method="naive", negatives_per_row=3) for _ in range(2))
    assert Counter(served.kind for served in server.log) == {"write": 5}
    assert summary["funnel"]["accepted"] == again["funnel"]["accepted"] == 10
    assert summary["funnel"]["lost"]["copies_a_passage"] == 5
    assert summary["program"]["name"] == "naive"
    assert "nothing was verified" in synthesis_table(summary)
    assert "not calibrated" in summary["verifier"]["in_words"]
    for row in read_rows(Path(summary["rows_file"])):
        generated = row.of_source("generated")
        assert [negative.text for negative in generated] == [f"Naive passage {n} near {row.query}" for n in (1, 2)]
        assert {(negative.generator, negative.verdict, negative.program) for negative in generated} == {
            ("openai/fake", None, "naive")
        }


def test_with_a_verifier_it_takes_three_calls_and_has_verdicts(demo_rows: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rows": demo_rows, "method": "naive", "negatives_per_row": 3, "max_rows": 8}
    summary = synthesize(SynthesizeConfig(**settings, out=tmp_path / "judged", verify="line-up"))
    assert summary["usage"]["requests"] == 8 * 3
    assert summary["verifier"]["canaries"] == 8
    recorded = {row.query_id: row.negatives for row in bundled_rows("bundled:demo", "naive")}
    judged = list(read_rows(Path(summary["rows_file"])))
    for row in judged:
        assert {(n.text, n.verdict) for n in row.negatives} <= {(n.text, n.verdict) for n in recorded[row.query_id]}
        assert row.requirements
    assert sum(len(row.negatives) for row in judged) == summary["funnel"]["accepted"] == 24
    # It plans no violation, so that there is no other requirement to keep.
    assert summary["funnel"]["accepted_surgical"] == 0
    unjudged = synthesize(SynthesizeConfig(**settings, out=tmp_path / "unjudged"))
    assert (unjudged["usage"]["requests"], unjudged["verifier"]["canaries"]) == (8, 0)


def test_an_answer_with_too_few_is_asked_for_again_and_then_lost(made_rows: Rows, run: Run) -> None:
    words = "none of the 2 rows came through: write malformed 2"
    with FakeModel(fault=lambda number: "wrong_schema") as server, pytest.raises(InputError, match=words):
        run(server, made_rows(2), method="naive")
    assert len(server.log) == 2 * 3


def test_what_a_naive_run_cannot_have(made_rows: Rows, tmp_path: Path) -> None:
    rows = made_rows(1)
    with pytest.raises(InputError, match="expected none with --method naive"):
        SynthesizeConfig(rows=rows, method="naive", lm="openai/fake", program=tmp_path)


def test_rows_that_nothing_answered_are_asked_again(made_rows: Rows, run: Run) -> None:
    rows, healthy = made_rows(2), [False]
    with FakeModel(fault=lambda number: None if healthy[0] else "503") as server:
        with pytest.raises(InputError, match="write server error 2"):
            run(server, rows, method="naive", retries=0)
        healthy[0] = True
        assert run(server, rows, method="naive", retries=0)["funnel"]["rows_failed"] == {}
