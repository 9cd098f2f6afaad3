"""Wins and losses by query: counts, order, what ranked first, and lines that fit a terminal."""

import json
from pathlib import Path

import pytest

from data.retrieval_set import RetrievalSet
from evals.report.config import ReportConfig
from evals.report.page import report
from evals.retrieval.by_query import Evaluated, summary, wins_and_losses
from evals.retrieval.measures import Run, score_run
from tests.evals.run_folders import EVIL

DATA = RetrievalSet(
    name="d",
    passages={"a": "right answer", "b": EVIL, "c": "another " * 200},
    queries={"q1": "first query", "q2": "second <b>query</b>", "q3": "third"},
    qrels={"q1": {"a": 1}, "q2": {"a": 1, "c": 2}, "q3": {"b": 1}},
)
OLD: Run = {"q1": {"b": 0.9, "a": 0.5}, "q2": {"c": 0.9, "a": 0.8, "b": 0.1}, "q3": {"b": 0.3, "a": 0.2}}
NEW: Run = {"q1": {"a": 0.9, "b": 0.5}, "q2": {"b": 0.9, "a": 0.8}, "q3": {"b": 0.3, "c": 0.2}}


def found() -> dict:
    old, new = (Evaluated(name=n, run=r, scores=score_run(r, DATA.qrels)) for n, r in (("old", OLD), ("new", NEW)))
    return wins_and_losses(DATA, old, new, "ndcg@10")


def test_the_largest_difference_comes_first_with_what_each_ranked_first() -> None:
    result = found()
    assert (result["better"], result["worse"], result["same"]) == (1, 1, 1)
    assert [one["id"] for one in result["queries"]] == ["q2", "q1"]
    lost, won = result["queries"]
    assert lost["difference"] < 0 < won["difference"] == pytest.approx(won["values"][1] - won["values"][0])
    assert won["values"][1] == 1 and [one["id"] for one in won["first"]] == ["b", "a"]
    assert [one["relevant"] for one in won["first"]] == [False, True]
    assert won["relevant"] == {"id": "a", "text": "right answer", "ranks": [2, 1], "num_relevant": 1}
    # The best graded of two; the new model did not retrieve it.
    assert (lost["relevant"]["id"], lost["relevant"]["ranks"], lost["relevant"]["num_relevant"]) == ("c", [1, None], 2)
    assert len(lost["relevant"]["text"]) <= 602 and lost["relevant"]["text"].endswith("…")


def test_the_summary_fits_the_terminal_and_names_gains_and_losses() -> None:
    lines = summary(found(), width=80).splitlines()
    assert lines[0] == "nDCG@10 by query: 1 better, 1 worse, 1 the same; the largest differences"
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("+0.369  first query") and "not relevant: " in lines[2]
    assert any(line.startswith("-") and "second <b>query</b>" in line for line in lines)
    assert "relevant: right answer" in lines[3]


def test_a_query_for_which_nothing_was_retrieved_has_no_first() -> None:
    old = Evaluated(name="old", run={}, scores=score_run({"q9": {"a": 1.0}}, DATA.qrels))
    new = Evaluated(name="new", run=NEW, scores=score_run(NEW, DATA.qrels))
    result = wins_and_losses(DATA, old, new, "accuracy@1")
    assert result["queries"][0]["first"][0] is None and result["worse"] == 0
    assert "0 worse" in summary(result, width=80)


def test_the_report_shows_them_escaped(tmp_path: Path) -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    pair = {"difference": interval, "p_value": 0.2}
    evaluation = {
        "config": {"model": "new", "baseline": "old", "data": "d", "split": "test"}, "num_queries": 3,
        "intervals": {"ndcg@10": interval}, "by_query": found(),
        "baseline": {"intervals": {"ndcg@10": interval}, "comparisons": {"ndcg@10": pair}},
    }  # fmt: skip
    (tmp_path / "eval.json").write_text(json.dumps(evaluation), encoding="utf-8")
    page = report(ReportConfig(run=tmp_path)).read_text(encoding="utf-8")
    assert "1 query better, 1 worse, 1 the same" in page
    assert "second &lt;b&gt;query&lt;/b&gt;" in page and "<b>query</b>" not in page
    assert "<script>window.hacked" not in page and "&lt;script&gt;window.hacked" in page
    assert page.index("second &lt;b&gt;") < page.index("first query")
    assert "the best graded of 2: ranked 1 by the baseline, nowhere by the model" in page
