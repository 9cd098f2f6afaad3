"""The settings of this room's commands: command line, saved config and test fixture in one."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """The main job on the demo data that ships with the project: no key, no network."""

    out: Path = Path("runs/demo")
    """Folder for every intermediate file and summary.json. What an earlier demo left there is replaced; a folder that
    holds such files of your own is refused."""

    model: str = "bundled:all-MiniLM-L6-v2"
    """Retriever that mines and is trained: model folder, hub name, or the bundled one."""

    lm: str = "recorded:demo"
    """Language model that writes and verifies: recorded answers for the demo's queries, or any litellm model string."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for `lm` (None: the provider's own)."""

    num_mined: int = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""

    epochs: int = 3
    """Passes over the 120 rows."""

    lr: float = 6e-5
    """Peak learning rate."""

    seed: int = 0
    """Seed of row order and dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseConfig:
    """Look for source leak, gradient drift, hardness, information and yield in rows with generated negatives."""

    run: Path | None = None
    """Folder of `synthesize` or `demo`, for yield, calibration and refused candidates (None: without them)."""

    rows: Path | None = None
    """Training rows with mined and generated negatives (None: the rows.jsonl that the run wrote)."""

    model: str | None = None
    """Encoder to look with: model folder, hub name or bundled:all-MiniLM-L6-v2 (None: what the run trained)."""

    baseline: str | None = None
    """Encoder before training, shown beside the model (None: what the run started from, else no comparison)."""

    out: Path | None = None
    """Folder for diagnostics.json, scores.jsonl and audit labels (None: RUN/diagnostics, where `report` looks)."""

    ablation: Path | None = None
    """Ablation folder: does the information score order its arms as their nDCG@10 did? (None: not asked)"""

    audit: int = 0
    """Passages to label by hand on this terminal, six in ten of them accepted negatives (0: none)."""

    temperature: float = 0.05
    """InfoNCE temperature of the weights and gradients, in units of similarity."""

    max_rows: int = 1000
    """Look at no more than this many rows, a seeded sample of those with generated negatives first (0: all)."""

    parameter_rows: int = 8
    """Rows on which the drift of the whole model's gradient is measured; by far the slowest part (0: leave it out)."""

    permutations: int = 200
    """Shuffles behind the chance level of the mutual information."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    seed: int = 0
    """Seed of samples, folds and shuffles."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""

    def __post_init__(self) -> None:
        for name in ("audit", "max_rows", "parameter_rows"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"--temperature: expected a number above 0, got {self.temperature}")
        if self.permutations < 19:
            raise InputError(f"--permutations: expected at least 19 (for p < 0.05), got {self.permutations}")
        if self.run is None:
            for name in ("rows", "out"):
                if getattr(self, name) is None:
                    raise InputError(f"--{name}: expected it, or a run folder (--run)")
            if not self.model and not self.audit:
                raise InputError("--model: expected an encoder (it may be left out only with --audit N)")
        if self.baseline and not self.model and self.run is None:
            raise InputError("--baseline: expected --model with it, the encoder to compare with")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """Make one HTML page of a run: results, yield, hardness, source leak, cost, and every negative to look at."""

    run: Path
    """Run folder: what demo, synthesize, train or diagnose wrote (diagnostics are looked for in RUN/diagnostics)."""

    out: Path | None = None
    """The page (None: report.html inside the run folder)."""

    title: str | None = None
    """Heading of the page (None: the folder's name)."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.is_dir():
            raise InputError(f"--out: expected a file name like report.html, got the folder {self.out}")
