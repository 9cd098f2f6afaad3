"""The options of an evaluation."""

from pathlib import Path
from typing import Annotated, Literal

from data.base.options import Bound, options
from data.base.outputs import ForceOption
from data.readers.pairs import PairOptions
from trainer.encoder.options import EncoderOptions

# Where `report` looks for an evaluation in a run folder.
EVAL_FILE = "eval.json"
TableFile = Annotated[
    Path, Bound("a name that ends in .csv or .parquet", lambda path: path.suffix in (".csv", ".parquet"))
]


@options
class EvalConfig(EncoderOptions, PairOptions, ForceOption):
    """Score an encoder on judged queries: nDCG@10, MRR@10, recall, MAP and accuracy@1, with 95% intervals."""

    model: str

    data: str
    """Judged queries: BEIR folder, .jsonl file of pairs, data set folder, hub:ORG/NAME or mteb:TASK."""

    split: str = "test"
    """Split of the data."""

    baseline: str | None = None
    """A second encoder to compare with, query by query (None: no comparison)."""

    out: Path | None = None
    """JSON file for means, intervals, slices, per-query scores, and with a baseline the wins and losses; `report` shows
    RUN/eval.json (None: not written)."""

    per_query: TableFile | None = None
    """.csv or .parquet file with one line a query and model (None: not written)."""

    rows: Path | None = None
    """Rows whose requirements say which kinds a query has, matched by query text, for slices (None: by length only)."""

    slice_measure: Literal["ndcg@10", "mrr@10", "recall@10", "recall@100", "map", "accuracy@1"] = "ndcg@10"
    """Measure of the table by kind of query and of the wins and losses; the JSON file has them all."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""
