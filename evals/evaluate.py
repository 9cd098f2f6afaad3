"""`just eval`: score one encoder on judged queries, or compare two query by query."""

import sys
from dataclasses import asdict

from data.cli import config_dict
from data.files import write_json
from data.jsonl import BadRows
from data.sources import read_source
from evals.config import EvalConfig
from evals.retrieval import MEASURES, evaluate
from evals.stats import compare_paired
from evals.table import text_table
from trainer.encoder import Encoder


def run_eval(config: EvalConfig) -> None:
    """Print the table; write means, intervals and per-query scores to `config.out`. Raises InputError."""
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
