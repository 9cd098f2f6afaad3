"""Rows that look alike and differ in a number."""

from data.records import Negative, Passage, Row


def made_row(number: int) -> Row:
    """The made-up row with this number."""
    return Row(
        query_id=f"q{number}",
        query=f"what is thing {number}",
        positives=(Passage(id=f"p{number}", text=f"Thing {number} is the answer to question {number}."),),
        negatives=(Negative(text=f"A mined passage near thing {number}.", source="mined", id=f"m{number}"),),
    )
