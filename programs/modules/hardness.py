"""How hard an accepted draft is for a retriever, as the program that writes drafts is told it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

BandPlace = Literal["below", "within", "above"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardness:
    """What a retriever makes of a draft.

    `weight`: its InfoNCE weight beside the row's positives and mined negatives, 0 to 1. `similarity`: to the query;
    `positive`: that of the nearest positive. `place`: where it lies, seen from the band that was asked for. `words`:
    what this means, and what to change.
    """

    weight: float
    similarity: float
    positive: float
    place: BandPlace
    words: str = ""


class Scorer(Protocol):
    """Scores drafts; `key` is all that decides its scores, as JSON takes it."""

    @property
    def key(self) -> Sequence[str | float]: ...

    async def score(
        self, query: str, positives: Sequence[str], mined: Sequence[str], drafts: Sequence[str]
    ) -> list[Hardness]:
        """The hardness of each draft of one row, beside its positives and mined negatives."""
