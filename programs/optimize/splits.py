"""Train, dev and held-out rows without leakage between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.cluster.hierarchy import DisjointSet

from data.base.errors import InputError
from data.base.text import content_id, same_text_key
from data.records import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three disjoint sets of rows; no query or positive text occurs in two of them."""

    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    held_out: tuple[Row, ...]

    def parts(self) -> dict[str, tuple[Row, ...]]:
        """The three sets by name."""
        return {"train": self.train, "dev": self.dev, "held_out": self.held_out}

    def sizes(self) -> dict[str, int]:
        """How many rows each of them has."""
        return {name: len(rows) for name, rows in self.parts().items()}


def split_rows(rows: Sequence[Row], *, dev_share: float, held_out_share: float, seed: int) -> Split:
    """Split by groups: rows that share the text of their query or of a positive stay together.

    Which part a group falls into depends on its content and the seed alone, not on the order of the rows. Raises
    InputError when a part would be empty.
    """
    groups = _groups(rows)
    order = sorted(
        groups, key=lambda group: content_id(str(seed), *sorted({same_text_key(row.query) for row in group}))
    )
    if len(order) < 3:
        raise InputError(
            f"{len(rows)} rows with {len(order)} different queries and answers cannot be split into train, dev and "
            "held-out parts: at least 3 are needed",
            field="rows",
        )
    held_out, dev = (max(1, round(share * len(order))) for share in (held_out_share, dev_share))
    if held_out + dev >= len(order):
        held_out, dev = 1, 1
    return Split(
        held_out=_flat(order[:held_out]),
        dev=_flat(order[held_out : held_out + dev]),
        train=_flat(order[held_out + dev :]),
    )


def _flat(groups: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    return tuple(row for group in groups for row in group)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that share a text, or are held together by rows that do."""
    joined = DisjointSet(range(len(rows)))
    first_with: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        keys = [("query", same_text_key(row.query))]
        keys += [("passage", same_text_key(passage.text)) for passage in row.positives]
        for key in keys:
            joined.merge(index, first_with.setdefault(key, index))
    return [[rows[index] for index in sorted(group)] for group in joined.subsets()]
