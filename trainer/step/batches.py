"""From rows to batches: which texts a step encodes and which of them count for whom.

Axes: B rows, N candidates of a row (column 0 is the positive), P distinct passages of the batch.
Every choice (order, positive, samples) follows from seed, epoch and row, so that nothing must be saved to resume.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.base.text import same_text_key
from data.records import Negative, Row
from trainer.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row as one epoch uses it: a single positive, at most so many negatives, none equal to a known positive.

    `known_positives` holds the text keys of every positive that the data knows for this query, in any row. `grades`
    belong to `passages`: how relevant each is, 0 where it was not judged or its judgement is not used.
    """

    query: str
    positive: str
    mined: tuple[str, ...]
    generated: tuple[str, ...]
    known_positives: frozenset[str]
    grades: tuple[float, ...]

    @property
    def passages(self) -> tuple[str, ...]:
        """The row's candidates in the order of the columns: positive, mined, generated."""
        return (self.positive, *self.mined, *self.generated)


class Examples:
    """The rows, cleaned once of negatives that repeat a positive or each other, and drawn anew for each epoch."""

    def __init__(self, rows: Sequence[Row], config: TrainConfig):
        self._config = config
        positives: dict[str, set[str]] = {}
        for row in rows:
            known = positives.setdefault(same_text_key(row.query), set())
            known.update(same_text_key(passage.text) for passage in row.positives)
        self._known = {query: frozenset(keys) for query, keys in positives.items()}
        self.num_duplicates = 0
        self._rows = [self._without_duplicates(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def replace_mined(self, texts: Mapping[int, Sequence[str]]) -> int:
        """Give rows, by their place, other mined negatives; returns how many of them the row had not before.

        Batches that are drawn from now on have them, in the middle of an epoch too.
        """
        num_new = 0
        for i, mined in texts.items():
            row, before, _, _ = self._rows[i]
            num_new += len(set(mined) - {negative.text for negative in before})
            generated = [negative for negative in row.negatives if negative.source == "generated"]
            negatives = (*(Negative(text=text, source="mined") for text in mined), *generated)
            self._rows[i] = self._without_duplicates(replace(row, negatives=negatives))
        return num_new

    @property
    def num_negatives(self) -> tuple[int, int]:
        """Mined and generated negatives that one epoch uses."""
        config = self._config
        return (
            sum(min(len(mined), config.max_mined) for _, mined, _, _ in self._rows),
            sum(min(len(generated), config.max_generated) for _, _, generated, _ in self._rows),
        )

    @property
    def num_rows_without_negatives(self) -> int:
        return sum(
            not (mined[: self._config.max_mined] or generated[: self._config.max_generated])
            for _, mined, generated, _ in self._rows
        )

    @property
    def unjudged(self) -> list[Row]:
        """The rows with a generated negative that nobody judged: graded InfoNCE has no grade for it."""
        return [row for row, _, generated, _ in self._rows if any(n.relevance is None for n in generated)]

    def _without_duplicates(self, row: Row) -> tuple[Row, tuple[Negative, ...], tuple[Negative, ...], frozenset[str]]:
        known = self._known[same_text_key(row.query)]
        seen = set(known)
        kept: dict[str, list[Negative]] = {"mined": [], "generated": []}
        for negative in row.negatives:
            key = same_text_key(negative.text)
            if key in seen:
                self.num_duplicates += 1
                continue
            seen.add(key)
            kept[negative.source].append(negative)
        return row, tuple(kept["mined"]), tuple(kept["generated"]), known

    def epoch(self, epoch: int) -> Iterator[list[Example]]:
        """The batches of one epoch, in seeded order; the last one may be short."""
        order = list(range(len(self._rows)))
        random.Random(f"order {self._config.seed} {epoch}").shuffle(order)
        for start in range(0, len(order), self._config.batch_size):
            yield [self._example(i, epoch) for i in order[start : start + self._config.batch_size]]

    def _example(self, index: int, epoch: int) -> Example:
        row, mined, generated, known = self._rows[index]
        rng = random.Random(f"row {self._config.seed} {epoch} {index}")
        positive = rng.choice(row.positives).text
        mined = _sample(mined, self._config.max_mined, rng)
        generated = _sample(generated, self._config.max_generated, rng)
        return Example(
            query=row.query,
            positive=positive,
            mined=tuple(negative.text for negative in mined),
            generated=tuple(negative.text for negative in generated),
            known_positives=known,
            grades=(
                1.0,
                *((n.relevance or 0.0) if self._config.grade_mined else 0.0 for n in mined),
                *(n.relevance or 0.0 for n in generated),
            ),
        )


def _sample(negatives: tuple[Negative, ...], most: int, rng: random.Random) -> tuple[Negative, ...]:
    if len(negatives) <= most:
        return negatives
    return tuple(negatives[i] for i in sorted(rng.sample(range(len(negatives)), most)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The texts of some rows, each distinct one once, and the masks that say who is whose candidate."""

    queries: list[str]
    passages: list[str]
    candidates_BN: Tensor
    valid_BN: Tensor
    generated_BN: Tensor
    grades_BN: Tensor
    in_batch_BP: Tensor | None


def make_batch(examples: Sequence[Example], in_batch: bool) -> Batch:
    """Lay out some rows; with `in_batch` every passage that is no known positive of a query is a negative for it."""
    position: dict[str, int] = {}
    lists = [[position.setdefault(text, len(position)) for text in e.passages] for e in examples]
    width = max(len(found) for found in lists)
    padding = [[0] * (width - len(found)) for found in lists]
    grades = [[*e.grades, *rest] for e, rest in zip(examples, padding, strict=True)]
    lengths_B = torch.tensor([len(found) for found in lists])
    mined_end_B = torch.tensor([1 + len(e.mined) for e in examples])
    columns_N = torch.arange(width)
    valid_BN = columns_N < lengths_B[:, None]
    return Batch(
        queries=[e.query for e in examples],
        passages=list(position),
        candidates_BN=torch.tensor([found + rest for found, rest in zip(lists, padding, strict=True)]),
        valid_BN=valid_BN,
        generated_BN=valid_BN & (columns_N >= mined_end_B[:, None]),
        grades_BN=torch.tensor(grades, dtype=torch.float32),
        in_batch_BP=_in_batch_mask(examples, lists, list(position)) if in_batch else None,
    )


def _in_batch_mask(examples: Sequence[Example], lists: list[list[int]], passages: list[str]) -> Tensor:
    keys = [same_text_key(text) for text in passages]
    mask_BP = torch.ones(len(examples), len(passages), dtype=torch.bool)
    for b, (example, own) in enumerate(zip(examples, lists, strict=True)):
        mask_BP[b, own] = False
        mask_BP[b, [p for p, key in enumerate(keys) if key in example.known_positives]] = False
    return mask_BP
