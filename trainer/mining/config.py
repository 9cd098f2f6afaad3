"""The options of mining."""

from typing import Annotated, Literal

from data.base.errors import require
from data.base.options import Bound, Count, Finite, NotNegative, Seed, options
from data.base.outputs import ForceOption
from data.readers.pairs import PairOptions
from trainer.encoder.options import EncoderOptions

CandidateSource = Literal["dense", "bm25", "hybrid"]
MarginAnchor = Literal["nearest", "mean", "lowest"]
RowsFile = Annotated[str, Bound("a file name that ends in .jsonl", lambda name: name.endswith(".jsonl"))]


@options
class MineConfig(EncoderOptions, PairOptions, ForceOption):
    """Mine hard negatives for the queries of a retrieval data set with an encoder."""

    data: str
    """Queries, corpus and judgements: a BEIR folder, pairs .jsonl, a data set folder, hub:ORG/NAME or mteb:TASK."""

    out: RowsFile
    """Training rows to write (.jsonl); the report goes beside it as OUT.report.json."""

    split: str = "train"
    """Split of the data."""

    num_negatives: Count = 15
    """Negatives per query; fewer where the rules leave fewer."""

    source: CandidateSource = "dense"
    """Where candidates come from: the model's nearest passages (dense), shared words (bm25, which needs no model), or
    both, joined by reciprocal rank (hybrid)."""

    rescore: str | None = None
    """Cross-encoder that scores the candidates and the positives: a folder or hub name of sentence-transformers or
    transformers; the margins and the highest score then count on its scores (None: off)."""

    rank_from: Count = 1
    """First rank that may be taken, 1 for the best passage that is not a positive."""

    rank_to: int = 100
    """Last rank that may be taken."""

    max_score: Finite | None = None
    """Highest score of a negative (None: no bound). Scores are those of `rescore` if given, else the model's
    similarity, or BM25's with source=bm25."""

    absolute_margin: NotNegative | None = None
    """A negative scores below the positive minus this, in units of the scores (None: off)."""

    relative_margin: NotNegative | None = 0.05
    """A negative scores below the positive minus this share of its size (0.05: 5 %; None: off)."""

    margin_anchor: MarginAnchor = "nearest"
    """Of several positives, the one that margins count from: the one that the passage is most similar to (nearest), the
    mean of their scores, or the lowest. One positive that the encoder ranks low leaves few negatives with lowest."""

    sampling: Literal["top", "random"] = "top"
    """Which of the passages left: the best-ranked (top), or a seeded sample (random)."""

    seed: Seed = 0
    """Seed of random sampling; a query's sample does not depend on the other queries."""

    backend: Literal["auto", "exact", "ivf"] = "auto"
    """Search for the nearest passages: exact, or approximate (ivf); auto is exact up to a million passages."""

    cache: str | None = None
    """Folder that keeps embeddings for later runs with the same model, prompts and texts (None: not kept)."""

    skip_bad_rows: bool = False
    """Count and skip bad rows of the data instead of stopping at the first."""

    def __post_init__(self) -> None:
        require(self.rescore is None or bool(self.rescore.strip()), "rescore", "the name of a model", self.rescore)
        require(self.rank_to >= self.rank_from, "rank-to", f"at least --rank-from ({self.rank_from})", self.rank_to)
