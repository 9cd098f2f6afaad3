"""Config."""

import math
from dataclasses import dataclass
from typing import Literal

from data.base.errors import require
from trainer.encoder.model_files import BUNDLED_MODEL
from trainer.mining.rules import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig:
    """Mine hard negatives for the queries of a retrieval data set with an encoder."""

    data: str
    """Queries, corpus and judgements: a BEIR folder, pairs .jsonl, a data set folder, hub:ORG/NAME or mteb:TASK."""

    out: str
    """Training rows to write (.jsonl); the report goes beside it as OUT.report.json."""

    split: str = "train"
    """Split of the data."""

    model: str = BUNDLED_MODEL
    """Encoder that ranks: bundled:all-MiniLM-L6-v2, a local folder, or a hub name (org/name)."""

    revision: str | None = None
    """Revision of a hub model (None: its main branch)."""

    num_negatives: int = 15
    """Negatives per query; fewer where the rules leave fewer."""

    rank_from: int = 1
    """First rank that may be taken, 1 for the best passage that is not a positive."""

    rank_to: int = 100
    """Last rank that may be taken."""

    max_score: float | None = None
    """Highest similarity of a negative (None: no bound)."""

    absolute_margin: float | None = None
    """A negative scores below the query's lowest positive minus this, in units of similarity (None: off)."""

    relative_margin: float | None = 0.05
    """A negative scores below the query's lowest positive minus this share of its size (0.05: 5 %; None: off)."""

    sampling: Literal["top", "random"] = "top"
    """Which of the passages left: the best-ranked (top), or a seeded sample (random)."""

    seed: int = 0
    """Seed of random sampling; a query's sample does not depend on the other queries."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    dimensions: int | None = None
    """Numbers that an embedding is cut to, as sentence-transformers' truncate_dim does (None: the model's own)."""

    query_prompt: str | None = None
    """Instruction in front of every query (None: the model's own, which may be none)."""

    document_prompt: str | None = None
    """Instruction in front of every passage (None: the model's own, which may be none)."""

    backend: Literal["auto", "torch", "faiss", "ivf", "hnsw"] = "auto"
    """Exact search by torch or faiss, approximate by ivf or hnsw; auto is torch up to a million passages, then ivf."""

    cache: str | None = None
    """Folder that keeps embeddings for later runs with the same model, prompts and texts (None: not kept)."""

    device: str | None = None
    """Device of the encoder, like cpu or cuda:0 (None: a GPU if there is one)."""

    skip_bad_rows: bool = False
    """Count and skip bad rows of the data instead of stopping at the first."""

    def __post_init__(self) -> None:
        self._check("num_negatives", self.num_negatives >= 1, "at least 1")
        self._check("dimensions", self.dimensions is None or self.dimensions >= 1, "at least 1")
        self._check("rank_from", self.rank_from >= 1, "at least 1")
        self._check("rank_to", self.rank_to >= self.rank_from, f"at least --rank-from ({self.rank_from})")
        for name in ("absolute_margin", "relative_margin"):
            margin = getattr(self, name)
            self._check(name, margin is None or (math.isfinite(margin) and margin >= 0), "a number of at least 0")
        self._check("max_score", self.max_score is None or math.isfinite(self.max_score), "a finite number")
        self._check("out", self.out.endswith(".jsonl"), "a file name that ends in .jsonl")

    def _check(self, name: str, right: bool, expected: str) -> None:
        require(right, name, expected, getattr(self, name))

    @property
    def limits(self) -> Limits:
        return Limits(
            rank_from=self.rank_from,
            rank_to=self.rank_to,
            max_score=self.max_score,
            absolute_margin=self.absolute_margin,
            relative_margin=self.relative_margin,
        )
