"""What a format is: another trainer's layout of training rows, with its encoder and its decoder.

What a format cannot carry goes into a sidecar (data/formats/sidecar.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from data.base.fields import Line
from data.records import Negative, Passage, Row, Source


class Format(ABC):
    """One format.

    `carries` says in words what comes over. `fixed` names the origins of which every line has the same number of
    negatives. A `lossless` format needs no sidecar.
    """

    name: ClassVar[str]
    carries: ClassVar[str] = "texts"
    fixed: ClassVar[tuple[Source, ...]] = ()
    lossless: ClassVar[bool] = False

    def choose(self, row: Row, number: int) -> tuple[Negative, ...] | None:
        """The negatives that the format can hold, in its order, `number` of the fixed ones; None: not this row."""
        return row.negatives

    @abstractmethod
    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        """The row's lines."""

    @abstractmethod
    def decode(self, lines: Sequence[Line]) -> Row:
        """The row back, with content hashes for ids that are not carried; origins not carried are "mined".

        Raises InputError.
        """

    def same_row(self, first: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
        """Whether two lines of a file without a sidecar belong to one row."""
        return False

    def advice(self, num_negatives: int) -> str:
        """A line for the report about what the trainer has to be told; empty for none."""
        return ""


def passages(texts: Iterable[str]) -> tuple[Passage, ...]:
    """Passages whose ids are hashes of their texts."""
    return tuple(Passage(text=text) for text in texts)


def mined(texts: Iterable[str]) -> tuple[Negative, ...]:
    """Negatives of which nothing but the text is known."""
    return tuple(Negative(text=text, source="mined") for text in texts)
