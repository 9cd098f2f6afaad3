"""Training rows with the embeddings of their texts, laid flat: what every diagnostic looks at.

Axes: R rows, P passages of all rows, D width. Passage p belongs to row `row_P[p]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.base.errors import InputError
from data.base.stats import Floats
from data.base.text import same_text_key
from data.records import Negative, Row

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
KINDS = ("positive", "mined", "generated")
POSITIVE, MINED, GENERATED = range(3)


class TextEncoder(Protocol):
    """What is asked of an encoder: texts in, one float vector a text out (trainer.encoder.Encoder fits)."""

    def encode(self, texts: Sequence[str], role: Any, *, progress: bool = False) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedRows:
    """The rows, one vector a query and one a passage.

    queries_RD, passages_PD: float64. texts_P: passage texts. kind_P: POSITIVE, MINED or GENERATED.
    position_P: the negative's position in `row.negatives`, or the positive's in `row.positives`.
    """

    rows: tuple[Row, ...]
    queries_RD: Floats
    passages_PD: Floats
    texts_P: tuple[str, ...]
    row_P: Ints
    kind_P: Ints
    position_P: Ints

    @property
    def scores_P(self) -> Floats:
        """Similarity (inner product) of each passage with the query of its row."""
        return np.asarray(np.einsum("pd,pd->p", self.queries_RD[self.row_P], self.passages_PD))

    @property
    def margins_P(self) -> Floats:
        """Score of each passage minus that of its row's first positive."""
        scores_P = self.scores_P
        return np.asarray(scores_P - scores_P[self.positive_R][self.row_P])

    @property
    def positive_R(self) -> Ints:
        """Index of each row's first positive. Training draws one at a time; the first stands for any."""
        return np.flatnonzero((self.kind_P == POSITIVE) & (self.position_P == 0))

    def negative(self, passage: int) -> Negative:
        """The record of a passage that is not a positive."""
        return self.rows[int(self.row_P[passage])].negatives[int(self.position_P[passage])]

    def count(self, kind: int) -> int:
        """Passages of one kind."""
        return int((self.kind_P == kind).sum())


def embed_rows(rows: Sequence[Row], encoder: TextEncoder, *, progress: bool = False) -> EmbeddedRows:
    """Encode each distinct text once. Negatives that repeat a positive or each other within a row are left out.

    Raises InputError when there are no rows or no negatives, or when the encoder gives values that are not finite.
    """
    if not rows:
        raise InputError("there are no rows to look at: expected at least one")
    found = []
    for number, row in enumerate(rows):
        seen = set()
        positives = [(POSITIVE, place, passage.text) for place, passage in enumerate(row.positives)]
        negatives = [(KINDS.index(n.source), place, n.text) for place, n in enumerate(row.negatives)]
        for kind, place, text in positives + negatives:
            key = same_text_key(text)
            if kind == POSITIVE or key not in seen:
                found.append((text, number, kind, place))
            seen.add(key)
    texts, *numbers = zip(*found, strict=True)
    row_P, kind_P, position_P = (np.array(each, dtype=np.int64) for each in numbers)
    if (kind_P == POSITIVE).all():
        raise InputError("none of the rows has a negative: expected rows as `mine` or `synthesize` write them")
    return EmbeddedRows(
        rows=tuple(rows),
        queries_RD=_encode_distinct([row.query for row in rows], lambda t: encoder.encode(t, "query")),
        passages_PD=_encode_distinct(texts, lambda t: encoder.encode(t, "document", progress=progress)),
        texts_P=texts,
        row_P=row_P,
        kind_P=kind_P,
        position_P=position_P,
    )


def _encode_distinct(texts: Sequence[str], encode: Callable[[list[str]], Any]) -> Floats:
    place: dict[str, int] = {}
    index = [place.setdefault(text, len(place)) for text in texts]
    vectors = np.asarray(encode(list(place)), dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise InputError("the encoder gives NaN or infinity for some texts")
    return np.asarray(vectors[index])
