import json
from pathlib import Path

import pytest

from data.readers.demo import demo_items
from data.records import Passage, Requirement, Row
from data.row_files import write_rows
from evals.retrieval.config import EvalConfig
from evals.retrieval.evaluate import by_length, by_requirement_kind, evaluate

QUERIES = {"a": "one two three", "b": "x " * 10, "c": "x " * 11, "d": "x " * 40, "e": "w"}


def test_every_query_is_in_one_length() -> None:
    slices = by_length(QUERIES)
    assert slices == {
        "1 to 5 words": ["a", "e"],
        "6 to 10 words": ["b"],
        "11 to 20 words": ["c"],
        "21 words and more": ["d"],
    }
    assert by_length({"a": "one"}) == {"1 to 5 words": ["a"]}
    # Without spaces between words, their number is told from the characters.
    queries = {
        "zh": "请问如何在不删除现有文件的情况下恢复九十天前被移除的团队共享文件夹",
        "th": "กู้คืนไฟล์",
        "ja": "東京駅",
    }
    assert by_length(queries) == {"1 to 5 words": ["th", "ja"], "11 to 20 words": ["zh"]}


def test_rows_of_other_queries_are_said_to_give_no_slices(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for items, said in ((demo_items()[1:2], True), (demo_items()[:1], False)):
        caplog.clear()
        write_rows(tmp_path / "rows.jsonl", [item.row for item in items])
        (tmp_path / "pairs.jsonl").write_text(
            json.dumps({"query": demo_items()[0].row.query, "positive": "p"}), encoding="utf-8"
        )
        evaluate(EvalConfig(model=str(tiny_bert), data=f"{tmp_path}/pairs.jsonl", rows=tmp_path / "rows.jsonl"))
        assert ("lists no requirements of any query of" in caplog.text) is said


def test_requirement_kinds_are_matched_by_text() -> None:
    def row(query: str, *kinds: str) -> Row:
        requirements = tuple(Requirement(id=i, kind=kind, statement="s") for i, kind in enumerate(kinds, start=1))
        return Row(query_id="other", query=query, positives=(Passage(id="p", text="t"),), requirements=requirements)

    rows = [row("ONE two  three", "entity", "intent", "entity"), row("w", "entity"), row("unknown", "relation")]
    assert by_requirement_kind(QUERIES, rows) == {"needs entity": ["a", "e"], "needs intent": ["a"]}
