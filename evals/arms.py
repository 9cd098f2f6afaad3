"""The same rows as seen by the arms of a comparison: equal steps and, row by row, an equal number of texts."""

from collections.abc import Iterable
from dataclasses import replace

from data.records import Row


def mined_arm(rows: Iterable[Row], num_mined: int) -> list[Row]:
    """Each row with as many mined negatives as `mixed_arm` has negatives in all, best-ranked first.

    Without this the arm with generated negatives would also see more texts, and a gain could be theirs.
    A row with fewer mined negatives than that keeps all it has (an ablation counts such rows).
    """
    return [
        replace(row, negatives=row.of_source("mined")[: num_mined + len(row.of_source("generated"))]) for row in rows
    ]


def mixed_arm(rows: Iterable[Row], num_mined: int) -> list[Row]:
    """Each row with its first `num_mined` mined negatives and all its generated ones."""
    return [replace(row, negatives=row.of_source("mined")[:num_mined] + row.of_source("generated")) for row in rows]
