"""Splits without leakage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.base.errors import InputError
from data.base.text import same_text_key
from data.records import Passage, Row
from programs.optimize.splits import Split, split_rows

words = st.integers(0, 30)


def row(number: int, query: int, passage: int) -> Row:
    return Row(
        query_id=f"{number}", query=f"Q {query}", positives=(Passage(id=f"p{passage}", text=f"text  {passage}"),)
    )


def keys(rows: tuple[Row, ...]) -> set[str]:
    return {same_text_key(r.query) for r in rows} | {same_text_key(p.text) for r in rows for p in r.positives}


def split(rows: list[Row], seed: int = 0) -> Split:
    return split_rows(rows, dev_share=0.25, held_out_share=0.25, seed=seed)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=40), st.integers(0, 5))
def test_no_text_is_in_two_parts_and_no_row_is_lost(pairs: list[tuple[int, int]], seed: int) -> None:
    rows = [row(number, query, passage) for number, (query, passage) in enumerate(pairs)]
    try:
        parts = split(rows, seed)
    except InputError as error:
        assert "cannot be split" in str(error)
        return
    groups = [parts.train, parts.dev, parts.held_out]
    assert all(groups)
    assert sorted(r.query_id for part in groups for r in part) == sorted(r.query_id for r in rows)
    for first in range(3):
        for second in range(first):
            assert not keys(groups[first]) & keys(groups[second])


def test_the_split_does_not_depend_on_the_order() -> None:
    rows = [row(number, number, number) for number in range(40)]
    there, back = split(rows), split(rows[::-1])
    assert there.sizes() == {"train": 20, "dev": 10, "held_out": 10}
    for name in ("train", "dev", "held_out"):
        assert {r.query_id for r in getattr(there, name)} == {r.query_id for r in getattr(back, name)}
    assert {r.query_id for r in split(rows, seed=1).dev} != {r.query_id for r in there.dev}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_rows(count: int) -> None:
    with pytest.raises(InputError, match="at least 3 are needed"):
        split([row(number, number, number) for number in range(count)])
