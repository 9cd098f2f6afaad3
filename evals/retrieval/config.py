"""Config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.base.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score an encoder on judged queries: nDCG@10, MRR@10, recall, MAP and accuracy@1, with 95% intervals."""

    model: str
    """Encoder: model folder, hub name, or bundled:all-MiniLM-L6-v2."""

    data: str
    """Judged queries: BEIR folder, .jsonl file of pairs, data set folder, hub:ORG/NAME or mteb:TASK."""

    split: str = "test"
    """Split of the data."""

    baseline: str | None = None
    """A second encoder to compare with, query by query (None: no comparison)."""

    out: Path | None = None
    """JSON file for means, intervals, slices and per-query scores (None: not written)."""

    per_query: Path | None = None
    """.csv or .parquet file with one line a query and model (None: not written)."""

    rows: Path | None = None
    """Rows whose requirements say which kinds a query has, matched by query text, for slices (None: by length only)."""

    slice_measure: Literal["ndcg@10", "mrr@10", "recall@10", "recall@100", "map", "accuracy@1"] = "ndcg@10"
    """Measure of the table by kind of query; the JSON file has them all."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    dimensions: int | None = None
    """Numbers that embeddings are cut to, in both models, as truncate_dim does (None: each model's own)."""

    query_prompt: str | None = None
    """Instruction in front of every query of both models (None: each model's own)."""

    document_prompt: str | None = None
    """Instruction in front of every passage of both models (None: each model's own)."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""

    def __post_init__(self) -> None:
        if self.per_query is not None and self.per_query.suffix not in (".csv", ".parquet"):
            raise InputError(f"--per-query: expected a name that ends in .csv or .parquet, got {self.per_query}")
