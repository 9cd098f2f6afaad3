"""The retriever as feedback sees it: similarities of passages to a query and to each other."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.encoder import Encoder, Role

Vector = npt.NDArray[np.float32]
# Optimisers look at the same rows again and again; embeddings of so many texts are kept.
_KEPT = 20_000


class Retriever(Protocol):
    """What embeds queries and passages; similarities are dot products of its embeddings."""

    name: str

    def embed(self, texts: Sequence[str], role: Role) -> list[Vector]:
        """One embedding [D] a text, in order."""


class EncoderRetriever:
    """An encoder with a memory. Safe to use from several threads."""

    def __init__(self, encoder: Encoder):
        self.name = encoder.name
        self._encoder = encoder
        self._known: OrderedDict[tuple[str, Role], Vector] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], role: Role) -> list[Vector]:
        """One embedding [D] a text, in order."""
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if (text, role) not in self._known]
            if new:
                for text, vector in zip(new, self._encoder.encode(new, role), strict=True):
                    self._known[text, role] = vector
            found = [self._known[text, role] for text in texts]
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found


def cosine(first: Vector, second: Vector) -> float:
    """Cosine similarity of two embeddings [D]; 0 when one of them is zero."""
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norms if norms else 0.0
