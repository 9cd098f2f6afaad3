"""Mining end to end on a tiny encoder, and its choice of negatives on embeddings made by hand."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.base.errors import InputError
from data.readers.beir import write_beir
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine, mine_rows


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


def test_margins_count_from_the_lowest_positive() -> None:
    ids, counts = mined(
        retrieval_set(TEXTS, [0, 1]), [0.9, 0.5, 0.7, 0.48, 0.44, 0.1], relative_margin=0.1, num_negatives=5
    )
    assert ids == ["p4", "p5"]
    assert counts["relative_margin"] == 2


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


def test_mine_writes_rows_and_report(tiny_bert: Path, tmp_path: Path) -> None:
    source = write_source(tmp_path / "beir")
    config = MineConfig(
        data=str(tmp_path / "beir"), out=str(tmp_path / "rows.jsonl"), model=str(tiny_bert), num_negatives=3,
        rank_to=6, relative_margin=0.01, device="cpu",
    )  # fmt: skip
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


def test_report_names_the_setting_to_change(tiny_bert: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "beir")
    report = mine(
        MineConfig(
            data=str(tmp_path / "beir"),
            out=str(tmp_path / "rows.jsonl"),
            model=str(tiny_bert),
            device="cpu",
            absolute_margin=1.9,
            relative_margin=None,
        )
    )
    assert report.queries_empty == 4 and report.taken == 0
    assert "--absolute-margin (now 1.9)" in report.advice
    assert "4 with none" in report.summary()


def test_a_place_that_an_approximate_index_left_empty_is_no_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_empty(queries, k):  # type: ignore[no-untyped-def]
        return np.array([[0.9, 0.5, -np.inf]], np.float32), np.array([[0, 2, -1]])

    monkeypatch.setattr("trainer.mining.mine._search", lambda *_: half_empty)
    ids, counts = mined(retrieval_set(TEXTS, [0]), [0.9, 0.1, 0.5, 0.1, 0.1, 0.1])
    assert ids == ["p2"] and counts["kept"] == 1 and counts["rank_window"] == 1


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
