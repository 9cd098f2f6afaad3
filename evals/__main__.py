"""`python -m evals COMMAND`: measure an encoder, or run the whole job on the demo data."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from data.cli import config_dict, run_command
from data.files import write_json
from data.jsonl import BadRows
from data.sources import read_source
from evals.demo import DemoConfig, run_demo
from evals.retrieval import MEASURES, evaluate
from evals.stats import compare_paired
from evals.table import text_table
from trainer.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score an encoder on judged queries: nDCG@10, MRR@10, recall, MAP and accuracy@1, with 95% intervals."""

    model: str
    """Encoder: model folder, hub name, or bundled:all-MiniLM-L6-v2."""

    data: str
    """Judged queries: BEIR folder, .jsonl file of pairs, data set folder or hub:ORG/NAME."""

    split: str = "test"
    """Split of the data."""

    baseline: str | None = None
    """A second encoder to compare with, query by query (None: no comparison)."""

    out: Path | None = None
    """JSON file for means, intervals and per-query scores (None: not written)."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""


def _eval(config: EvalConfig) -> None:
    bad_rows = BadRows() if config.skip_bad_rows else None
    retrieval_set = read_source(config.data, config.split, bad_rows)
    names = [config.model] + ([config.baseline] if config.baseline else [])
    scores = {
        name: evaluate(Encoder.load(name, max_length=config.max_length), retrieval_set, progress=True) for name in names
    }
    measured = scores[config.model]
    header = ["measure", config.model]
    lines = [[measure, str(measured.interval(measure))] for measure in MEASURES]
    result = {
        "config": config_dict(config),
        "num_queries": len(next(iter(measured.per_query.values()))),
        "num_passages": len(retrieval_set.passages),
        "means": measured.means(),
        "intervals": {measure: asdict(measured.interval(measure)) for measure in MEASURES},
        "per_query": measured.per_query,
    }
    if config.baseline:
        baseline = scores[config.baseline]
        compared = {m: compare_paired(baseline.per_query[m], measured.per_query[m]) for m in MEASURES}
        header += [config.baseline, "difference", "p"]
        for line, measure in zip(lines, MEASURES, strict=True):
            pair = compared[measure]
            line += [str(baseline.interval(measure)), str(pair.difference), f"{pair.p_value:.4f}"]
        result["baseline"] = {
            "means": baseline.means(),
            "per_query": baseline.per_query,
            "comparisons": {measure: asdict(pair) for measure, pair in compared.items()},
        }
    sys.stdout.write(
        f"{retrieval_set.name}: {result['num_queries']} queries over {len(retrieval_set.passages)} passages; "
        f"mean [95% interval]\n{text_table(header, lines)}\n"
    )
    if bad_rows is not None:
        sys.stdout.write(bad_rows.summary() + "\n")
    if config.out:
        write_json(config.out, result)


def main() -> int:
    """Run one command; returns the exit code."""
    return run_command("evals", {"eval": (EvalConfig, _eval), "demo": (DemoConfig, run_demo)})


if __name__ == "__main__":
    sys.exit(main())
