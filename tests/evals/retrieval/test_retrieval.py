import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.base.errors import InputError
from data.retrieval_set import RetrievalSet
from evals.retrieval.config import EvalConfig
from evals.retrieval.evaluate import evaluate as evaluate_command
from evals.retrieval.evaluate import write_per_query
from evals.retrieval.measures import LABELS, MEASURES, evaluate, score, score_run, tells_siblings_apart
from trainer.run.dev import rank_corpus

# q1 finds its positive second, q2 never, q3 has two positives of different grade, q4 has no positive.
QRELS = {"q1": {"a": 1, "b": 0}, "q2": {"c": 1}, "q3": {"a": 2, "c": 1}, "q4": {"a": 0}}
RUN = {
    "q1": {"b": 0.9, "a": 0.8, "c": 0.1},
    "q3": {"c": 0.9, "b": 0.8, "a": 0.7},
    "q4": {"a": 1.0},
}


def test_measures_by_hand() -> None:
    scores = score_run(RUN, QRELS)
    assert set(scores.per_query) == set(MEASURES) < set(LABELS)
    assert scores.per_query["mrr@10"] == {"q1": 0.5, "q2": 0.0, "q3": 1.0}
    assert scores.per_query["accuracy@1"] == {"q1": 0.0, "q2": 0.0, "q3": 1.0}
    assert scores.per_query["recall@10"] == {"q1": 1.0, "q2": 0.0, "q3": 1.0}
    assert scores.per_query["map"]["q3"] == pytest.approx((1 + 2 / 3) / 2)
    ideal = 2 + 1 / math.log2(3)
    assert scores.per_query["ndcg@10"]["q3"] == pytest.approx((1 + 2 / math.log2(4)) / ideal)
    assert scores.mean("mrr@10") == pytest.approx(0.5)
    assert scores.means()["accuracy@1"] == pytest.approx(1 / 3)
    interval = scores.interval("mrr@10")
    assert interval.low <= interval.mean == 0.5 <= interval.high


def test_equal_to_pytrec_eval_with_ties() -> None:
    import pytrec_eval

    rng = random.Random(0)
    for _ in range(50):
        passages = [f"p{i}" for i in range(30)]
        queries = [f"q{i}" for i in range(5)]
        qrels = {q: {p: rng.choice([0, 0, 1, 2]) for p in rng.sample(passages, 12)} | {"p0": 1} for q in queries}
        # Few distinct scores, so that ties are the rule.
        run = {q: {p: rng.choice([0.1, 0.2, 0.3, 0.4]) for p in rng.sample(passages, 25)} for q in queries}
        names = {
            "ndcg@10": "ndcg_cut_10",
            "recall@10": "recall_10",
            "recall@100": "recall_100",
            "map": "map",
            "accuracy@1": "success_1",
            "mrr@10": "recip_rank",
        }
        expected = pytrec_eval.RelevanceEvaluator(
            qrels, {"ndcg_cut.10", "recall.10,100", "map", "success.1", "recip_rank"}
        ).evaluate(run)
        for values in expected.values():
            values["recip_rank"] *= values["recip_rank"] >= 0.1
        found = score_run(run, qrels).per_query
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx({q: expected[q][theirs] for q in queries}), ours


def test_a_tie_is_broken_alike_for_every_measure() -> None:
    for passage_id, first in (("a", 0.0), ("b", 1.0)):
        found = score_run({"q": {"a": 1.0, "b": 1.0}}, {"q": {passage_id: 1}}).per_query
        assert found["accuracy@1"]["q"] == first
        assert found["mrr@10"]["q"] == found["map"]["q"] == (1 + first) / 2


class Letters:
    """Embeds a text as the share of each letter."""

    device = torch.device("cpu")

    def encode(self, texts: Sequence[str], role: str, **_: object) -> np.ndarray:
        counts_BD = np.array([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
        return counts_BD / np.linalg.norm(counts_BD, axis=1, keepdims=True)


SHARED = RetrievalSet(
    name="t",
    passages={"1": "aab", "2": "A title\nabb", "3": "ccd", "4": "aaab", "5": "abbb", "6": "cd"},
    # 1 and 2 are passages themselves; 3 only has the number of one, and its answer at that.
    queries={"1": "aab", "2": "abb", "3": "cddd"},
    qrels={"1": {"4": 1}, "2": {"5": 1}, "3": {"3": 1, "6": 1}},
)


def test_a_query_does_not_find_itself() -> None:
    encoder: Any = Letters()
    assert [SHARED.is_a_passage(query_id) for query_id in SHARED.queries] == [True, True, False]
    run = rank_corpus(encoder, SHARED, k=5)
    assert {query_id: len(found) for query_id, found in run.items()} == {"1": 5, "2": 5, "3": 5}
    assert "1" not in run["1"] and "2" not in run["2"] and "3" in run["3"]
    scores = evaluate(encoder, SHARED).per_query
    assert set(scores["accuracy@1"].values()) == {1.0}
    assert scores["recall@10"]["3"] == 1.0
    # A task of MTEB says itself whether ids are shared, and goes by them alone.
    assert not any(replace(SHARED, shared_ids=False).is_a_passage(query_id) for query_id in SHARED.queries)
    assert evaluate(encoder, replace(SHARED, shared_ids=False)).per_query["accuracy@1"]["1"] == 0.0
    assert all(replace(SHARED, shared_ids=True).is_a_passage(query_id) for query_id in SHARED.queries)
    assert evaluate(encoder, replace(SHARED, shared_ids=True)).per_query["recall@10"]["3"] == 0.5


def test_a_query_that_is_judged_to_answer_itself_stays() -> None:
    judged = replace(SHARED, qrels=SHARED.qrels | {"1": {"1": 1}})
    encoder: Any = Letters()
    assert not judged.is_a_passage("1")
    assert evaluate(encoder, judged).per_query["accuracy@1"]["1"] == 1.0


def test_siblings(tmp_path: Path) -> None:
    retrieval_set = RetrievalSet(
        name="t",
        passages={"a1": "", "a2": "", "b1": ""},
        queries={"q": "", "r": "", "s": "", "t": "", "u": ""},
        # The positive of "u" was a bad row that was skipped: the query counts for every measure.
        qrels={"q": {"a1": 1}, "r": {"a2": 1}, "s": {"a1": 1}, "t": {"b1": 0}, "u": {"gone": 1}},
        families={"a1": "a", "a2": "a", "b1": "b"},
    )
    run = {
        "q": {"b1": 0.9, "a1": 0.8, "a2": 0.7},  # a passage of another family does not count
        "r": {"a1": 0.9, "a2": 0.8},
        "s": {"a1": 0.5, "a2": 0.5},  # a tie is not telling apart
    }
    expected = {"q": 1.0, "r": 0.0, "s": 0.0, "u": 0.0}
    assert tells_siblings_apart(run, retrieval_set) == expected
    scores = score(run, retrieval_set)
    assert scores.per_query["siblings"] == expected
    write_per_query(tmp_path / "out.csv", retrieval_set, {"model": scores})
    assert "siblings" not in score(run, replace(retrieval_set, families={})).per_query


def test_a_baseline_that_cannot_be_loaded_is_said_before_the_model_ranks(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.retrieval.by_query.ranked", lambda *args, **options: pytest.fail("ranked first"))
    with pytest.raises(InputError, match=r"unknown model '\./nowhere'"):
        evaluate_command(EvalConfig(model=str(tiny_bert), data="bundled:demo", baseline="./nowhere"))


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    queries = {"q1": "=HYPERLINK(1)", "q3": "@SUM(1)"}
    qrels = {query_id: QRELS[query_id] for query_id in queries}
    held = RetrievalSet(name="x", passages={"a": "a"}, queries=queries, qrels=qrels)
    write_per_query(tmp_path / "out.csv", held, {"-model": score_run(RUN, qrels)})
    lines = (tmp_path / "out.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ['"\'-model"', '"q1"', '"\'=HYPERLINK(1)"'],
        ['"\'-model"', '"q3"', '"\'@SUM(1)"'],
    ]
