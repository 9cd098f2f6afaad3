"""`just ablate`: train every arm with several seeds, keep every query's score, and say what differs from mined only."""

import contextlib
import ctypes
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.base.cli import config_dict, text_table
from data.base.errors import InputError, shown
from data.base.files import atomic_writer, folder_lock, numbered_lines, read_json_object, write_json
from data.base.options import shared_options
from data.base.outputs import at_work_in, claim_folder
from data.base.stats import Floats, Interval, holm, randomisation_p_value, seeds_and_queries_interval
from data.base.text import content_id
from data.readers.source import read_source
from data.records import Row
from data.retrieval_set import RetrievalSet
from data.row_files import write_rows
from evals.ablation.arms import MINED, ZERO_SHOT, Arm, arm_rows, arms_of, num_short, what_is_missing
from evals.ablation.config import AblateConfig
from evals.ablation.plot import ablation_plot
from evals.ablation.rows import ablation_rows
from evals.retrieval.measures import evaluate
from trainer.config import Recipe, TrainConfig
from trainer.encoder import Encoder
from trainer.encoder.options import EncoderOptions
from trainer.loop import train
from trainer.run.run_folder import TrainResult

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
SHOWN = ("ndcg@10", "accuracy@1")
LAST_STEP, BEST_ON_DEV = "last step", "best on dev"
P_VALUE_NOTE = (
    "p is about other queries, with the models as they were trained (Holm-corrected over the arms); the interval is "
    "about other training seeds as well: a difference counts where p is below 0.05 and the interval leaves out 0"
)
Scores = Mapping[str, Mapping[str, float]]  # by measure, then by query
Run = Mapping[str, Mapping[str, Scores]]  # of one arm and seed: by choice of weights, then by set of queries


def run_ablate(config: AblateConfig) -> dict[str, Any]:
    """Run what is not yet there, then print the tables and write ablation.json; returns what that holds.

    Resumable: a finished (arm, seed) leaves scores.json behind and is not trained again while its inputs are the same.
    Raises InputError.
    """
    inputs = [config.rows, config.naive_rows, config.dev, config.test, config.model]
    claim_folder("ablate", config.out, ("ablation.json", "ablation.svg", "arms"), inputs=inputs)
    with at_work_in(config.out), folder_lock(config.out):
        return _ablate(config)


def _ablate(config: AblateConfig) -> dict[str, Any]:
    start = time.monotonic()
    rows, naive = ablation_rows(config)
    test = read_source(config.test, config.test_split)
    sets = {found.name: found for found in (read_source(d, config.test_split) for d in config.transfer)}
    if len({test.name, *sets}) <= len(config.transfer):
        raise InputError(
            f"expected folders of different names, {test.name} among them, got {sorted(sets)}", field="transfer"
        )
    sets = {test.name: test} | sets
    slices = {file.stem: _read_slice(file, test) for file in config.slices}
    inputs = _inputs_key(config, list(sets.values()))
    generated = arm_rows("generated", rows, None, config.num_mined)
    missing, short, runs = dict[str, str](), dict[str, int](), dict[str, list[Run]]()
    finished = Counter[bool]()
    for arm in arms_of(config):
        if lack := what_is_missing(arm, rows, naive):
            missing[arm.name] = lack
            log.info("%s: %s", arm.name, lack)
            continue
        sharpness = arm.settings.get("grade_sharpness", 1.0)
        shown = None if arm.negatives is None else arm_rows(arm.negatives, rows, naive, config.num_mined, sharpness)
        if shown is not None and (count := num_short(shown, generated)):
            short[arm.name] = count
            log.warning("warning: %s", short_words(arm.name, count, len(rows)))
        # An untrained arm has no seeds: one score stands for all.
        seeds = range(1 if shown is None else config.seeds)
        scores = [_scores_of(arm, shown, seed, config, sets, inputs) for seed in seeds]
        runs[arm.name] = [run for run, _ in scores]
        finished.update(there for _, there in scores)
    if finished[True]:
        log.info("%d of %d runs were finished already and are not made again", finished[True], finished.total())
    chosen = list(runs[MINED][0])
    tables = {
        f"{found.name}, {weights}": _table(found, {a: [run[weights][name] for run in r] for a, r in runs.items()})
        for weights in reversed(chosen)
        for name, found in sets.items()
    } | {
        f"{name} of {test.name}, {weights}": _table(
            test, {a: [_only(run[weights][test.name], queries) for run in r] for a, r in runs.items()}
        )
        for weights in reversed(chosen)
        for name, queries in slices.items()
    }
    main = tables.pop(f"{test.name}, {chosen[-1]}")
    result = {
        "format": FORMAT_VERSION,
        "config": config_dict(config),
        "rows": len(rows),
        "short_rows": short,
        "missing": missing,
        **main,
        "tables": tables,
        "seconds_this_run": round(time.monotonic() - start, 1),
    }
    write_json(config.out / "ablation.json", result)
    with atomic_writer(config.out / "ablation.svg") as file:
        file.write(f"{ablation_plot(result, SHOWN)}\n")
    sys.stdout.write(ablation_table(result) + f"\nwritten: {config.out / 'ablation.json'} and ablation.svg\n")
    return result


def short_words(arm: str, short: int, rows: int) -> str:
    """What an arm that sees fewer texts means for the comparison."""
    return (
        f"{arm}: {short} of {rows} rows have fewer texts than the arms with generated negatives, which may gain by "
        "that alone: mine more negatives a row"
    )


def _read_slice(file: Path, test: RetrievalSet) -> frozenset[str]:
    """Ids of test queries, one a line. Raises InputError for an unknown id, for none, and where none has a score."""
    found = frozenset(line.removesuffix("\n") for _, line in numbered_lines(file)) - {""}
    unknown = found - test.queries.keys()
    if unknown or not found:
        got = shown(min(unknown)) if unknown else "none"
        raise InputError(f"expected ids of test queries, one a line, got {got}", file=file)
    if not any(test.positives(query_id) for query_id in found):
        raise InputError("names no test query that has a relevant passage", file=file)
    return found


def _only(scores: Scores, query_ids: frozenset[str]) -> Scores:
    return {m: {q: value for q, value in by_query.items() if q in query_ids} for m, by_query in scores.items()}


def _inputs_key(config: AblateConfig, sets: Sequence[RetrievalSet]) -> str:
    """What all arms start from and are measured on, by content: a path may hold something else by now."""
    dev = [] if config.dev is None else [read_source(config.dev, config.dev_split)]
    return content_id(
        Encoder.load(config).fingerprint(),
        *(json.dumps([s.name, s.passages, s.queries, s.qrels, s.shared_ids], sort_keys=True) for s in [*sets, *dev]),
        BEST_ON_DEV if dev else LAST_STEP,
    )


def _scores_of(
    arm: Arm, rows: list[Row] | None, seed: int, config: AblateConfig, sets: Mapping[str, RetrievalSet], inputs: str
) -> tuple[Run, bool]:
    """The scores of one run, and whether an earlier start left them."""
    folder = config.out / "arms" / arm.name.replace(" + ", "+").replace(", ", "+").replace(" ", "-") / f"seed-{seed}"
    settings = _train_settings(arm, rows, seed, config)
    # Everything that decides the scores; a folder with another key is stale and is run again.
    key = content_id(
        json.dumps(settings, sort_keys=True), *(json.dumps(asdict(row), sort_keys=True) for row in rows or ()), inputs
    )
    done = folder / "scores.json"
    if (found := read_json_object(done, missing_ok=True)).get("key") == key:
        return dict(found["per_query"]), True
    log.info("== %s, seed %d", arm.name, seed)
    shutil.rmtree(folder, ignore_errors=True)
    per_query: dict[str, dict[str, Scores]] = {}

    def measure(weights: str, encoder: Encoder) -> None:
        per_query[weights] = {name: evaluate(encoder, found).per_query for name, found in sets.items()}

    if rows is None:
        measure(LAST_STEP, Encoder.load(config))
    else:
        files = folder / "rows.jsonl", folder / "train"
        trained = train_arm(arm, rows, seed, config, files, at_last_step=lambda encoder: measure(LAST_STEP, encoder))
    if config.dev is not None:
        if rows is None or trained.best_step == trained.steps:
            per_query[BEST_ON_DEV] = per_query[LAST_STEP]
        else:
            measure(BEST_ON_DEV, Encoder.load(config.with_model(trained.model)))
    write_json(done, {"key": key, "arm": arm.name, "seed": seed, "settings": settings, "per_query": per_query})
    if not config.keep_models:
        shutil.rmtree(folder / "train" / "model", ignore_errors=True)
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
    _return_freed_memory()
    return per_query, False


def _return_freed_memory() -> None:
    """Give the system what a training has freed: glibc keeps it in pieces, and eight trainings came to 6 GB."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def train_arm(
    arm: Arm,
    rows: list[Row],
    seed: int,
    config: AblateConfig,
    files: tuple[Path, Path],
    *,
    at_last_step: Callable[[Encoder], None] | None = None,
) -> TrainResult:
    """Write an arm's rows into the first of `files` and train on them into the second. Raises InputError."""
    write_rows(files[0], rows)
    settings = _train_settings(arm, rows, seed, config)
    return train(TrainConfig(rows=str(files[0]), out=str(files[1]), **settings), at_last_step=at_last_step)


def _train_settings(arm: Arm, rows: list[Row] | None, seed: int, config: AblateConfig) -> dict[str, Any]:
    if rows is None:
        return shared_options(config, EncoderOptions)
    most = max((len(row.negatives) for row in rows), default=0)
    return {
        **shared_options(config, EncoderOptions),
        "dev": config.dev,
        "dev_split": config.dev_split,
        **shared_options(config, Recipe),
        # The arms decide how many negatives a row has; sampling here would undo their balance.
        "max_mined": most,
        "max_generated": most,
        "seed": seed,
        **arm.settings,
    }


def _table(test: RetrievalSet, runs: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """What one table is made of: every arm's means with intervals, and its difference from mined only."""
    return {
        # Queries without a relevant passage have no score.
        "test": {
            "name": test.name,
            "queries": len(next(iter(runs[ZERO_SHOT][0].values()))),
            "passages": len(test.passages),
        },
        "arms": {name: _summary(scores) for name, scores in runs.items()},
        "against_mined": _against_mined(runs),
        "per_query": runs,
    }


def _matrix(scores: Sequence[Scores], measure: str) -> Floats:
    """Scores [S seeds, Q queries] of one arm, queries in a fixed order."""
    queries = sorted(scores[0][measure])
    return np.array([[by_measure[measure][query] for query in queries] for by_measure in scores])


def _summary(scores: Sequence[Scores]) -> dict[str, Any]:
    by_measure = {measure: _matrix(scores, measure) for measure in scores[0]}
    return {
        "seeds": len(scores),
        "measures": {measure: asdict(seeds_and_queries_interval(found)) for measure, found in by_measure.items()},
        "seed_means": {measure: found.mean(axis=1).tolist() for measure, found in by_measure.items()},
    }


def _against_mined(runs: Mapping[str, Sequence[Scores]]) -> dict[str, dict[str, Any]]:
    """Every other arm minus mined only, paired by query (means over seeds), Holm-corrected within a measure."""
    others = [name for name in runs if name != MINED]
    found: dict[str, dict[str, Any]] = {name: {} for name in others}
    for measure in runs[MINED][0]:
        mined_SQ = _matrix(runs[MINED], measure)
        p_values = []
        for name in others:
            # An untrained arm is the same for every seed; trained arms are paired seed by seed.
            difference_SQ = _matrix(runs[name], measure) - mined_SQ
            p_values.append(randomisation_p_value(difference_SQ.mean(axis=0)))
            found[name][measure] = asdict(seeds_and_queries_interval(difference_SQ)) | {"p": p_values[-1]}
        for name, corrected in zip(others, holm(p_values), strict=True):
            found[name][measure]["p_holm"] = corrected
    return found


def ablation_table(result: Mapping[str, Any]) -> str:
    """What the command ends with, one table a set of queries: each arm's means and its difference from mined only."""
    notes = [f"{name}: {missing}" for name, missing in result["missing"].items()]
    notes += [short_words(name, short, result["rows"]) for name, short in result["short_rows"].items()]
    main_title = f"{result['test']['name']}: {_test_words(result)}; mean [95% interval over seeds and queries]"
    tables = [main_title, _arms_table(result)]
    for title, table in result["tables"].items():
        tables += ["", f"{title}: {_test_words(table)}", _arms_table(table)]
    return "\n".join([*tables, "", P_VALUE_NOTE, *notes])


def _test_words(table: Mapping[str, Any]) -> str:
    return f"{table['test']['queries']} queries over {table['test']['passages']} passages"


def _arms_table(table: Mapping[str, Any]) -> str:
    tables = []
    for measure in SHOWN:
        lines = []
        for name, arm in table["arms"].items():
            pair = table["against_mined"].get(name, {}).get(measure)
            compared = ["", ""] if pair is None else [f"{Interval.of(pair):+}", f"{pair['p_holm']:.3f}"]
            lines.append([name, str(arm["seeds"]), str(Interval.of(arm["measures"][measure])), *compared])
        tables.append(text_table(["arm", "seeds", measure, "against mined", "p (Holm)"], lines))
    return "\n\n".join(tables)


def read_ablation(folder: str | Path) -> dict[str, Any]:
    """ablation.json of a folder. Raises InputError when there is none or it has another format."""
    path = Path(folder) / "ablation.json"
    result = read_json_object(path)
    if result.get("format") != FORMAT_VERSION:
        raise InputError(f"has format {result.get('format')!r}, this version reads {FORMAT_VERSION}", file=path)
    if ZERO_SHOT not in result.get("arms", {}):
        raise InputError("holds no arms", file=path)
    return result
