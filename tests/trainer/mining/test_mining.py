"""Mining end to end on a tiny encoder, and its choice of negatives on embeddings made by hand."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.base.errors import InputError
from data.readers.beir import write_beir
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows
from trainer.mining.advice import advice
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine, mine_rows
from trainer.mining.ranked import Ranker


def retrieval_set(texts: list[str], positives: list[int]) -> RetrievalSet:
    return RetrievalSet(
        name="t",
        passages={f"p{i}": text for i, text in enumerate(texts)},
        queries={"q": "the query"},
        qrels={"q": {f"p{i}": 1 for i in positives}},
    )


def mined(source: RetrievalSet, scores: list[float], **values: object) -> tuple[list[str], Counter[str]]:
    """Ids of the mined negatives when passage i scores scores[i]."""
    config = MineConfig(**({"data": "-", "out": "o.jsonl", "relative_margin": None} | values))  # type: ignore[arg-type]
    passages = np.array([[score, 1.0] for score in scores], np.float32)
    (row,), counts = mine_rows(list(source.rows()), source, np.array([[1.0, 0.0]], np.float32), passages, config)
    return [negative.id or "" for negative in row.negatives], counts


TEXTS = ["zero", "one", "two", "three", "four", "five"]


def test_best_ranked_first_without_the_positives() -> None:
    ids, counts = mined(retrieval_set(TEXTS, [1, 3]), [0.1, 0.9, 0.5, 0.4, 0.3, 0.2], num_negatives=3)
    assert ids == ["p2", "p4", "p5"]
    assert counts["kept"] == 4 and counts["positive"] == 2


def test_many_positives_do_not_eat_up_the_rank_window() -> None:
    ids, _ = mined(retrieval_set(TEXTS, [0, 1, 2, 3]), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], num_negatives=2, rank_to=2)
    assert ids == ["p4", "p5"]


@pytest.mark.parametrize(
    ("anchor", "kept"), [("nearest", ["p2", "p4"]), ("mean", ["p3", "p4", "p5"]), ("lowest", ["p5"])]
)
def test_margins_count_from_the_chosen_positive(anchor: str, kept: list[str]) -> None:
    # p0 and p1 are positives, which the query ranks first and last but one; p2 is like p0, p3 like p1.
    places = {"p0": (0.9, 1, 0), "p1": (0.3, 0, 1), "p2": (0.7, 1, 0), "p3": (0.5, 0, 1), "p4": (0.4, 1, 0),
              "p5": (0.2, 0.5, 0.5)}  # fmt: skip
    passages, query = np.array(list(places.values()), np.float32), np.array([[1.0, 0.0, 0.0]], np.float32)
    source = retrieval_set(TEXTS, [0, 1])
    config = MineConfig(data="-", out="o.jsonl", relative_margin=0.1, margin_anchor=anchor)  # type: ignore[arg-type]
    (row,), counts = mine_rows(list(source.rows()), source, query, passages, config)
    # p5 is as near to p0 as to p1: the one with the lower number.
    assert [n.id for n in row.negatives] == (kept if anchor != "nearest" else [*kept, "p5"])
    assert counts["relative_margin"] == 4 - len(row.negatives)


def many_positives(num_queries: int = 60, seed: int = 0) -> tuple[RetrievalSet, np.ndarray, np.ndarray]:
    """A corpus like Cranfield's: 1,000 passages, 2 to 20 positives a query, some of which it ranks far below others."""
    rng = np.random.default_rng(seed)
    passages = rng.normal(size=(1000, 32)).astype(np.float32)
    queries = rng.normal(size=(num_queries, 32)).astype(np.float32)
    qrels: dict[str, dict[str, int]] = {}
    for q, query in enumerate(queries):
        chosen = rng.choice(1000, size=rng.integers(2, 21), replace=False)
        passages[chosen] += rng.uniform(0, 1.2, size=(len(chosen), 1)).astype(np.float32) * query
        qrels[f"q{q}"] = {f"p{i}": 1 + n % 4 for n, i in enumerate(chosen.tolist())}
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    source = RetrievalSet(
        name="c",
        passages={f"p{i}": f"passage {i}" for i in range(1000)},
        queries={query_id: f"query {query_id}" for query_id in qrels},
        qrels=qrels,
    )
    return source, queries, passages


def test_many_positives_leave_next_to_no_query_without_negatives() -> None:
    source, queries, passages = many_positives()
    rows = list(source.rows())
    for row in rows:
        grades = [source.qrels[row.query_id][passage.id] for passage in row.positives]
        assert grades == sorted(grades, reverse=True)
    empty = {}
    for anchor in ("nearest", "lowest"):
        config = MineConfig(data="-", out="o.jsonl", margin_anchor=anchor)
        mined_now, _ = mine_rows(rows, source, queries, passages, config)
        empty[anchor] = sum(not row.negatives for row in mined_now)
    assert empty["lowest"] > len(rows) / 2
    assert empty["nearest"] <= 0.03 * len(rows)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"margin_anchor": "lowest"}, "margin-anchor=nearest (now lowest)"),
        ({"absolute_margin": 1.2, "rank_to": 1000}, "absolute-margin=0.6 (now 1.2)"),
        ({"rank_to": 5, "relative_margin": None}, "rank-to=25 (now 5)"),
    ],
)
def test_the_advice_names_what_helps_and_how_much(settings: dict[str, Any], named: str) -> None:
    source, queries, passages = many_positives()
    rows = list(source.rows())
    config = MineConfig(**({"data": "-", "out": "o.jsonl"} | settings))
    before, _ = mine_rows(rows, source, queries, passages, config)
    words = advice(before, queries, Ranker(source, passages, queries, config), config)
    assert named in words
    name, value = named.partition(" ")[0].split("=")
    flag = name.replace("-", "_")
    changed = replace(config, **{flag: type(getattr(config, flag))(value)})
    after, _ = mine_rows(rows, source, queries, passages, changed)
    more = [len(new.negatives) - len(old.negatives) for new, old in zip(after, before, strict=True)]
    assert sum(more) > 0
    assert f"would bring {sum(more)} more to {sum(m > 0 for m in more)} of them" in words
    assert f"leave {sum(not row.negatives for row in after)} with none" in words


def test_the_advice_says_when_the_corpus_is_too_small() -> None:
    source = retrieval_set(TEXTS, [0, 1])
    config = MineConfig(data="-", out="o.jsonl", relative_margin=0.0)
    query, passages = np.ones((1, 1), np.float32), np.linspace(1, 0.1, 6, dtype=np.float32)[:, None]
    rows, _ = mine_rows(list(source.rows()), source, query, passages, config)
    assert "too few other passages" in advice(rows, query, Ranker(source, passages, query, config), config)


def test_copies_of_a_positive_of_the_query_and_of_each_other_are_dropped() -> None:
    texts = ["The answer", "the  ANSWER", "The Query", "other", "Other", "last"]
    ids, counts = mined(retrieval_set(texts, [0]), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert ids == ["p3", "p5"]
    assert counts["same_text"] == 3


def test_random_sampling_is_seeded_and_differs_between_seeds() -> None:
    texts = [f"text {i}" for i in range(40)]
    source, scores = retrieval_set(texts, [0]), list(np.linspace(1, 0, 40))
    first, again, other = (
        mined(source, scores, sampling="random", num_negatives=5, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != mined(source, scores, num_negatives=5)[0]
    assert len(set(first)) == 5 and "p0" not in first


def write_source(folder: Path) -> RetrievalSet:
    topics = ["refund", "boiler", "ticket", "card"]
    details = ["days", "months", "owner", "fee", "winter"]
    passages = {f"{t}-{d}": f"{t} {d} plan" for t in topics for d in details}
    source = RetrievalSet(
        name="s",
        passages=passages,
        queries={t: f"how long {t} days" for t in topics},
        qrels={t: {f"{t}-days": 1} for t in topics},
    )
    write_beir(folder, source, "train")
    return source


def small_mining(folder: Path, model: Path, **values: Any) -> tuple[RetrievalSet, MineConfig]:
    """A corpus in `folder`/beir, and what is asked of mining it into `folder`/rows.jsonl on a CPU."""
    places = {"data": str(folder / "beir"), "out": str(folder / "rows.jsonl"), "model": str(model)}
    return write_source(folder / "beir"), MineConfig(**places, device="cpu", **values)


def test_mine_writes_rows_and_report(tiny_bert: Path, tmp_path: Path) -> None:
    source, config = small_mining(tmp_path, tiny_bert, num_negatives=3, rank_to=6, relative_margin=0.01)
    report = mine(config)
    rows = list(read_rows(config.out))
    assert [row.query_id for row in rows] == list(source.queries)
    for row in rows:
        assert all(n.source == "mined" and n.id is not None and n.score is not None for n in row.negatives)
        assert all(source.passages[n.id or ""] == n.text for n in row.negatives)
        assert not {n.id for n in row.negatives} & {p.id for p in row.positives}
        assert [n.score for n in row.negatives] == sorted((n.score or 0 for n in row.negatives), reverse=True)
    saved = json.loads((tmp_path / "rows.jsonl.report.json").read_text())
    assert saved["taken"] == report.taken == sum(len(row.negatives) for row in rows)
    assert report.ranked == report.kept + sum(report.dropped.values())
    assert report.queries_full + report.queries_short + report.queries_empty == report.queries == 4
    assert saved["config"]["rank_to"] == 6
    first = Path(config.out).read_bytes()
    mine(config)
    assert Path(config.out).read_bytes() == first


def test_data_without_a_query_to_mine_for_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    source, config = small_mining(tmp_path, tiny_bert, skip_bad_rows=True)
    write_beir(tmp_path / "beir", replace(source, qrels={q: {"gone": 1} for q in source.queries}), "train")
    with pytest.raises(InputError, match="has no query with a relevant passage that the corpus holds"):
        mine(config)
    assert not Path(config.out).exists()


def test_report_names_the_setting_to_change(tiny_bert: Path, tmp_path: Path) -> None:
    _, config = small_mining(tmp_path, tiny_bert, absolute_margin=1.9, relative_margin=None)
    report = mine(config)
    assert report.queries_empty == 4 and report.taken == 0
    assert "absolute-margin=" in report.advice and "(now 1.9)" in report.advice
    assert "4 with none" in report.summary()


def test_a_place_that_an_approximate_index_left_empty_is_no_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_empty(self, queries, k):  # type: ignore[no-untyped-def]
        return np.array([[0.9, 0.5, -np.inf]], np.float32), np.array([[0, 2, -1]])

    monkeypatch.setattr("trainer.mining.sources.Dense.search", half_empty)
    ids, counts = mined(retrieval_set(TEXTS, [0]), [0.9, 0.1, 0.5, 0.1, 0.1, 0.1])
    assert ids == ["p2"] and +counts == {"positive": 1, "kept": 1}


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"num_negatives": 0}, "--num-negatives"),
        ({"rank_from": 0}, "--rank-from"),
        ({"rank_from": 9, "rank_to": 8}, "--rank-to"),
        ({"relative_margin": -0.1}, "--relative-margin"),
        ({"absolute_margin": float("nan")}, "--absolute-margin"),
        ({"max_score": float("inf")}, "--max-score"),
        ({"out": "rows.csv"}, "--out"),
    ],
)
def test_bad_settings_name_their_flag(values: dict, flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        MineConfig(**({"data": "d", "out": "o.jsonl"} | values))
