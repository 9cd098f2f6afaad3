"""`just eval`: score one encoder on judged queries, or compare two query by query."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.base.cli import config_dict, text_table
from data.base.errors import BadRows, InputError
from data.base.files import atomic_path, write_json
from data.base.outputs import Outputs
from data.base.stats import Interval, bootstrap_interval, compare_paired
from data.base.text import num_words, same_text_key
from data.readers.source import read_source
from data.records import REQUIREMENT_KINDS, Row
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows
from evals.retrieval.by_query import Evaluated, summary, wins_and_losses
from evals.retrieval.config import EvalConfig
from evals.retrieval.measures import LABELS, RetrievalScores
from trainer.encoder import Encoder

log = logging.getLogger(__name__)
# Upper bounds in words; web queries are mostly short, claims and questions longer.
_LENGTHS = ((5, "1 to 5 words"), (10, "6 to 10 words"), (20, "11 to 20 words"))
_LONGEST = "21 words and more"
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def evaluate(config: EvalConfig, *, show: bool = False) -> dict[str, Any]:
    """Write means, intervals, slices and per-query scores where asked, with `show` print tables. Raises InputError.

    Returns what the file of `out` holds: config, num_queries, num_passages, means and intervals by measure, slices,
    per_query scores by measure and query id, and with a baseline the same of it and the comparisons.
    """
    say: Callable[[str], object] = sys.stdout.write if show else lambda _: None
    inputs = [config.data, config.corpus, config.model, config.baseline, config.rows]
    outputs = Outputs("eval", [config.out, config.per_query], inputs=inputs, force=config.force)
    bad_rows = BadRows(config.skip_bad_rows)
    retrieval_set = read_source(config.data, config.split, bad_rows, config)
    slices = by_length(retrieval_set.queries)
    if config.rows is not None:
        rows = list(read_rows(config.rows, bad_rows))
        if not rows:
            raise InputError("holds no rows", file=config.rows)
        kinds = by_requirement_kind(retrieval_set.queries, rows)
        if not kinds:
            log.warning("%s lists no requirements of any query of %s: no slices by kind", config.rows, config.data)
        slices |= kinds
    encoder, baseline = Encoder.load(config), None
    # Before the corpus is encoded, which may take hours.
    other = None if config.baseline is None else Encoder.load(config.with_model(config.baseline))
    model = Evaluated.of(encoder.name, encoder, retrieval_set, progress=True)
    if other is not None:
        baseline = Evaluated.of(other.name, other, retrieval_set, progress=True)
    result = {
        "config": config_dict(config),
        "num_queries": len(next(iter(model.scores.per_query.values()))),
        "num_passages": len(retrieval_set.passages),
        **_measured(model.scores, slices),
    }
    if baseline is not None:
        result["baseline"] = _measured(baseline.scores, slices) | {
            "comparisons": {
                measure: asdict(compare_paired(baseline.scores.per_query[measure], found))
                for measure, found in model.scores.per_query.items()
            }
        }
    result["precision"] = encoder.precision
    say(
        f"{retrieval_set.name}: {result['num_queries']} queries over {result['num_passages']} passages; "
        f"mean [95% interval]\n{_measures_table(result)}\n\n"
        f"{LABELS[config.slice_measure]} by kind of query\n{_slices_table(result, config.slice_measure, slices)}\n"
    )
    if baseline is not None:
        result["by_query"] = wins_and_losses(retrieval_set, baseline, model, config.slice_measure)
        say(f"\n{summary(result['by_query'])}\n")
    if config.skip_bad_rows:
        say(bad_rows.summary() + "\n")
    if config.out is not None:
        write_json(config.out, result)
        say(f"written: {config.out}\n")
    if config.per_query is not None:
        scores = {config.model: model.scores} | ({} if baseline is None else {str(config.baseline): baseline.scores})
        write_per_query(config.per_query, retrieval_set, scores)
        say(f"written: {config.per_query}\n")
    outputs.record()
    return result


def _measured(scores: RetrievalScores, slices: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "means": scores.means(),
        "intervals": {measure: asdict(scores.interval(measure)) for measure in scores.per_query},
        "slices": {
            name: {
                measure: asdict(bootstrap_interval(values))
                for measure in scores.per_query
                if (values := scores.of_queries(measure, query_ids))
            }
            for name, query_ids in slices.items()
        },
        "per_query": scores.per_query,
    }


def _measures_table(result: Mapping[str, Any]) -> str:
    baseline = result.get("baseline")
    header = ["measure", result["config"]["model"]]
    lines = [[LABELS[measure], str(Interval.of(found))] for measure, found in result["intervals"].items()]
    if baseline is not None:
        header += [result["config"]["baseline"], "difference", "p"]
        for line, (measure, pair) in zip(lines, baseline["comparisons"].items(), strict=True):
            found, difference = Interval.of(baseline["intervals"][measure]), Interval.of(pair["difference"])
            line += [str(found), f"{difference:+}", f"{pair['p_value']:.4f}"]
    return text_table(header, lines)


def _slices_table(result: Mapping[str, Any], measure: str, slices: Mapping[str, list[str]]) -> str:
    header, encoders, lines = ["queries", "count", result["config"]["model"]], [result], []
    if "baseline" in result:
        header.append(result["config"]["baseline"])
        encoders.append(result["baseline"])
    for name, query_ids in slices.items():
        if count := len(result["per_query"][measure].keys() & set(query_ids)):
            found = [str(Interval.of(each["slices"][name][measure])) for each in encoders]
            lines.append([name, str(count), *found])
    return text_table(header, lines)


def write_per_query(path: Path, retrieval_set: RetrievalSet, scores: Mapping[str, RetrievalScores]) -> None:
    """One line a query and model with every measure, as .csv or .parquet. Raises InputError."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    def cell(text: str) -> str:
        # A spreadsheet would take it for a formula.
        return f"'{text}" if path.suffix == ".csv" and text.startswith(_FORMULA_SIGNS) else text

    lines = [
        {"model": cell(model), "query_id": cell(query_id), "query": cell(retrieval_set.queries[query_id])}
        | {measure: found.per_query[measure][query_id] for measure in found.per_query}
        for model, found in scores.items()
        for query_id in next(iter(found.per_query.values()))
    ]
    with atomic_path(path) as new:
        (parquet.write_table if path.suffix == ".parquet" else csv.write_csv)(pa.Table.from_pylist(lines), new)


def by_length(queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Query ids by number of words; slices without a query are left out."""
    slices: dict[str, list[str]] = {name: [] for name in (*(name for _, name in _LENGTHS), _LONGEST)}
    for query_id, text in queries.items():
        words = num_words(text)
        slices[next((name for most, name in _LENGTHS if words <= most), _LONGEST)].append(query_id)
    return {name: found for name, found in slices.items() if found}


def by_requirement_kind(queries: Mapping[str, str], rows: Iterable[Row]) -> dict[str, list[str]]:
    """Query ids by the kinds of requirement that `rows` (matched by query text) list for them; a query that has
    several kinds is in several slices."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(same_text_key(row.query), set()).update(r.kind for r in row.requirements)
    slices = {
        f"needs {kind}": [qid for qid, text in queries.items() if kind in kinds.get(same_text_key(text), ())]
        for kind in REQUIREMENT_KINDS
    }
    return {name: found for name, found in slices.items() if found}
