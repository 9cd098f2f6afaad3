"""`just ablate`: train every arm with several seeds, keep every query's score, and say what differs from mined only."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.base.cli import config_dict, text_table
from data.base.errors import InputError
from data.base.files import read_json_object, write_json
from data.base.options import shared_options
from data.base.stats import Floats, Interval, holm, randomisation_p_value, seeds_and_queries_interval
from data.base.text import content_id
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows, write_rows
from evals.ablation.arms import MINED, ZERO_SHOT, Arm, build_arms
from evals.ablation.config import AblateConfig
from evals.ablation.plot import write_ablation_plot
from evals.retrieval.measures import evaluate
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.encoder.options import EncoderOptions
from trainer.train import train

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
SHOWN = ("ndcg@10", "accuracy@1")
P_VALUE_NOTE = (
    "p is about other queries, with the models as they were trained (Holm-corrected over the arms); the interval is "
    "about other training seeds as well: a difference counts where p is below 0.05 and the interval leaves out 0"
)
Scores = dict[str, dict[str, float]]  # by measure, then by query


def run_ablate(config: AblateConfig) -> dict[str, Any]:
    """Run what is not yet there, then print the table and write ablation.json; returns what that holds.

    Resumable: a finished (arm, seed) leaves scores.json behind and is not trained again while its inputs are the same.
    Raises InputError.
    """
    rows = list(read_rows(config.rows))
    naive = None if config.naive_rows is None else list(read_rows(config.naive_rows))
    test = read_source(config.test, config.test_split)
    arms = build_arms(
        rows,
        naive,
        num_mined=config.num_mined,
        entropy_weights=config.entropy_weight_list,
        shares=config.share_list,
        weights=config.weight_list,
    )
    for arm in arms:
        if arm.short:
            log.warning("warning: %s", short_words(arm.name, arm.short, len(rows)))
    inputs = _inputs_key(config, test)
    runs: dict[str, list[Scores]] = {}
    start = time.monotonic()
    for arm in arms:
        if arm.missing:
            log.info("%s: %s", arm.name, arm.missing)
            continue
        # An untrained arm has no seeds: one score stands for all.
        seeds = range(config.seeds) if arm.rows is not None else range(1)
        runs[arm.name] = [_scores_of(arm, seed, config, test, inputs) for seed in seeds]
    result = {
        "format": FORMAT_VERSION,
        "config": config_dict(config),
        # Queries without a relevant passage have no score.
        "test": {
            "name": test.name,
            "queries": len(next(iter(runs[ZERO_SHOT][0].values()))),
            "passages": len(test.passages),
        },
        "rows": len(rows),
        "short_rows": {arm.name: arm.short for arm in arms if arm.short},
        "missing": {arm.name: arm.missing for arm in arms if arm.missing},
        "arms": {name: _summary(scores) for name, scores in runs.items()},
        "against_mined": _against_mined(runs),
        "per_query": runs,
        "seconds_this_run": round(time.monotonic() - start, 1),
    }
    write_json(config.out / "ablation.json", result)
    write_ablation_plot(config.out / "ablation.svg", result, SHOWN)
    sys.stdout.write(ablation_table(result) + f"\nwritten: {config.out / 'ablation.json'} and ablation.svg\n")
    return result


def short_words(arm: str, short: int, rows: int) -> str:
    """What an arm that sees fewer texts means for the comparison."""
    return (
        f"{arm}: {short} of {rows} rows have fewer texts than the arms with generated negatives, which may gain by "
        "that alone: mine more negatives a row"
    )


def _inputs_key(config: AblateConfig, test: RetrievalSet) -> str:
    """What all arms start from and are measured on, by content: a path may hold something else by now."""
    dev = None if config.dev is None else read_source(config.dev, config.dev_split)
    return content_id(
        Encoder.load(config).fingerprint(),
        *(json.dumps([s.passages, s.queries, s.qrels, s.shared_ids], sort_keys=True) for s in (test, dev) if s),
    )


def _scores_of(arm: Arm, seed: int, config: AblateConfig, test: RetrievalSet, inputs: str) -> Scores:
    folder = config.out / "arms" / arm.name.replace(" + ", "+").replace(", ", "+").replace(" ", "-") / f"seed-{seed}"
    settings = _train_settings(arm, seed, config)
    # Everything that decides the scores; a folder with another key is stale and is run again.
    key = content_id(
        json.dumps(settings, sort_keys=True),
        *(json.dumps(asdict(row), sort_keys=True) for row in arm.rows or ()),
        inputs,
    )
    done = folder / "scores.json"
    if done.is_file():
        found = read_json_object(done)
        if found.get("key") == key:
            return dict(found["per_query"])
    log.info("== %s, seed %d", arm.name, seed)
    shutil.rmtree(folder, ignore_errors=True)
    model = config.model
    if arm.rows is not None:
        write_rows(folder / "rows.jsonl", arm.rows)
        trained = train(TrainConfig(rows=str(folder / "rows.jsonl"), out=str(folder / "train"), **settings))
        model = trained.model
    scores = evaluate(Encoder.load(config.with_model(model)), test).per_query
    write_json(done, {"key": key, "arm": arm.name, "seed": seed, "settings": settings, "per_query": scores})
    if not config.keep_models:
        shutil.rmtree(folder / "train" / "model", ignore_errors=True)
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
    return scores


def _train_settings(arm: Arm, seed: int, config: AblateConfig) -> dict[str, Any]:
    if arm.rows is None:
        return shared_options(config, EncoderOptions)
    most = max((len(row.negatives) for row in arm.rows), default=0)
    return {
        **shared_options(config, EncoderOptions),
        "dev": config.dev,
        "dev_split": config.dev_split,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "temperature": config.temperature,
        "in_batch": config.in_batch,
        "dropout": config.dropout,
        "max_tokens_per_step": config.max_tokens_per_step,
        # The arms decide how many negatives a row has; sampling here would undo their balance.
        "max_mined": most,
        "max_generated": most,
        "seed": seed,
        **arm.settings,
    }


def _matrix(scores: Sequence[Scores], measure: str) -> Floats:
    """Scores [S seeds, Q queries] of one arm, queries in a fixed order."""
    queries = sorted(scores[0][measure])
    return np.array([[by_measure[measure][query] for query in queries] for by_measure in scores])


def _summary(scores: Sequence[Scores]) -> dict[str, Any]:
    return {
        "seeds": len(scores),
        "measures": {m: asdict(seeds_and_queries_interval(_matrix(scores, m))) for m in scores[0]},
        "seed_means": {m: _matrix(scores, m).mean(axis=1).tolist() for m in scores[0]},
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
    """The table that the command ends with: each arm's means, and its difference from mined only."""
    header = ["arm", "seeds"]
    for measure in SHOWN:
        header += [measure, "against mined", "p (Holm)"]
    lines = []
    for name, arm in result["arms"].items():
        cells = [name, str(arm["seeds"])]
        for measure in SHOWN:
            pair = result["against_mined"].get(name, {}).get(measure)
            cells.append(str(Interval.of(arm["measures"][measure])))
            cells += ["", ""] if pair is None else [f"{Interval.of(pair):+}", f"{pair['p_holm']:.3f}"]
        lines.append(cells)
    lines += [[name, "-", missing, *[""] * (len(header) - 3)] for name, missing in result["missing"].items()]
    test = result["test"]
    title = (
        f"{test['name']}: {test['queries']} queries over {test['passages']} passages; "
        "mean [95% interval over seeds and queries]"
    )
    notes = [short_words(name, short, result["rows"]) for name, short in result.get("short_rows", {}).items()]
    return "\n".join([title, text_table(header, lines), P_VALUE_NOTE, *notes])


def read_ablation(folder: str | Path) -> dict[str, Any]:
    """ablation.json of a folder. Raises InputError when there is none or it has another format."""
    path = Path(folder) / "ablation.json"
    result = read_json_object(path)
    if result.get("format") != FORMAT_VERSION:
        raise InputError(f"has format {result.get('format')!r}, this version reads {FORMAT_VERSION}", file=path)
    if ZERO_SHOT not in result.get("arms", {}):
        raise InputError("holds no arms", file=path)
    return result
