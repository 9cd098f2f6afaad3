from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import write_json
from data.row_files import write_rows
from evals.diagnostics.information import information_order
from tests.evals.synthetic import TableEncoder, generated, mined, row


def write_ablation(folder: Path, means: dict[str, float]) -> None:
    """Arm n has n mined negatives a row; zero-shot has no rows."""
    interval = {"low": 0.0, "high": 1.0}
    arms = {name: {"seeds": 2, "measures": {"ndcg@10": interval | {"mean": mean}}} for name, mean in means.items()}
    write_json(folder / "ablation.json", {"format": 1, "arms": arms, "missing": {}, "against_mined": {}})
    for number, name in enumerate(means):
        arm = folder / "arms" / name / "seed-0"
        write_json(arm / "scores.json", {"arm": name})
        if name != "zero-shot":
            negatives = [mined(f"passage {n} word") for n in range(number)] + [generated("one more")]
            write_rows(arm / "rows.jsonl", [row(r, negatives) for r in range(3)])


def test_more_information_and_a_better_score_go_together(tmp_path: Path) -> None:
    write_ablation(tmp_path, {"zero-shot": 0.1, "a": 0.2, "b": 0.3, "c": 0.4, "d": 0.5})
    found = information_order(tmp_path, TableEncoder(), temperature=1.0)
    assert list(found.information) == ["a", "b", "c", "d"]
    assert found.prediction.tau == 1.0
    assert found.prediction.p_value == pytest.approx(1 / 24)


def test_too_few_arms_and_no_ablation_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        information_order(tmp_path, TableEncoder(), temperature=1.0)
    write_ablation(tmp_path, {"zero-shot": 0.1, "a": 0.2, "b": 0.3})
    with pytest.raises(InputError, match="at least 3 arms"):
        information_order(tmp_path, TableEncoder(), temperature=1.0)
    with pytest.raises(InputError, match="did not measure 'map'"):
        information_order(tmp_path, TableEncoder(), temperature=1.0, measure="map")
