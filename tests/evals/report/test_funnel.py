from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import write_json
from programs.synthesis.funnel import read_funnel, shown_funnel


def summary(**changes: object) -> dict:
    funnel = {
        "rows": 10,
        "rows_failed": {"extract_refused": 1},
        "requirements": 30,
        "violations_planned": 40,
        "lost": {"not_written": 2, "copies_a_passage": 0, "not_verified": 1, "answers_query": 4, "target_kept": 3},
        "accepted": 30,
        "faults": {"malformed": 2},
    }
    verifier = {
        "canaries": 10, "missed": 1, "miss_rate": 0.1, "miss_rate_interval_95": [0.02, 0.4], "usable": True,
        "false_negative_upper_bound": 0.2, "in_words": "misses 1 of 10",
    }  # fmt: skip
    return {"funnel": funnel | changes, "verifier": verifier}


def test_what_is_lost_adds_up() -> None:
    found = shown_funnel(summary(), num_used=25)
    assert [(step["name"], step["count"]) for step in found["steps"]] == [
        ("rows", 10), ("requirements", 30), ("violations planned", 40), ("accepted", 30), ("used in training", 25),
    ]  # fmt: skip
    planned, accepted = found["steps"][2:4]
    assert planned["count"] - sum(planned["lost"].values()) == accepted["count"]
    assert planned["lost"] == {"not_written": 2, "not_verified": 1, "answers_query": 4, "target_kept": 3}
    assert accepted["lost"] == {"not_used": 5}
    assert found["calibration"]["in_words"] == "misses 1 of 10"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "not the summary of a synthesis"),
        ({"funnel": [], "verifier": {}}, "not the summary of a synthesis"),
        ({"funnel": {"rows": "many"}, "verifier": {}}, "not the summary of a synthesis"),
        (summary(rows=0), "had no rows"),
        (summary() | {"verifier": summary()["verifier"] | {"in_words": [None]}}, r"at verifier\.in_words"),
        ({"refused": "the verifier misses 5 of 6"}, "accepted nothing: the verifier misses 5 of 6"),
    ],
)
def test_other_and_empty_summaries_are_one_clear_line(tmp_path: Path, value: dict, message: str) -> None:
    write_json(tmp_path / "summary.json", value)
    with pytest.raises(InputError, match=message) as caught:
        read_funnel(tmp_path)
    assert "summary.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_summary() -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_funnel("no/such/folder")
