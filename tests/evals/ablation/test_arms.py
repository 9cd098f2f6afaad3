from data.base.cli import text_table
from data.base.stats import compare_paired
from data.records import Negative, Passage, Row
from evals.ablation.arms import mined_arm, mixed_arm
from evals.demo.run import what_it_means

ROWS = [
    Row(
        query_id="1",
        query="q",
        positives=(Passage(id="p", text="p"),),
        negatives=(
            *(Negative(text=f"m{i}", source="mined") for i in range(6)),
            *(Negative(text=f"g{i}", source="generated") for i in range(2)),
        ),
    ),
    Row(
        query_id="2", query="r", positives=(Passage(id="p", text="p"),), negatives=(Negative(text="m", source="mined"),)
    ),
]


def texts(row: Row) -> list[str]:
    return [negative.text for negative in row.negatives]


def test_the_arms_have_equal_numbers_of_texts() -> None:
    mined, mixed = mined_arm(ROWS, 3), mixed_arm(ROWS, 3)
    assert [texts(row) for row in mixed] == [["m0", "m1", "m2", "g0", "g1"], ["m"]]
    assert [texts(row) for row in mined] == [["m0", "m1", "m2", "m3", "m4"], ["m"]]


def test_the_sentence_says_what_came_out() -> None:
    queries = [f"q{i}" for i in range(40)]
    low, high = dict.fromkeys(queries, 0.0), dict.fromkeys(queries, 1.0)
    assert what_it_means(compare_paired(low, high)).startswith("generated negatives made it better")
    assert what_it_means(compare_paired(high, low)).startswith("generated negatives made it worse")
    assert what_it_means(compare_paired(low, low)).startswith("no significant difference")


def test_a_table_is_aligned() -> None:
    assert text_table(["a", "bb"], [["ccc", "d"]]) == "a    bb\n---  --\nccc  d"
