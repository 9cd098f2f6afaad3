"""What a run folder holds, for the report: every part that is there, and why another one is not.

Knows the folders of `demo`, `synthesize`, `train`, `eval`, `diagnose` and `ablate`, in any mixture.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import read_json_object
from data.records import Row
from data.row_files import read_objects, read_rows
from evals.ablation.ablate import P_VALUE_NOTE, read_ablation, short_words
from evals.diagnostics.audit import LABELS_FILE, Agreement, agreement, read_labels
from evals.diagnostics.diagnose import DIAGNOSTICS_FILE, FORMAT, SCORES_FILE
from evals.retrieval.config import EVAL_FILE
from programs.modules.candidates import Synthesis
from programs.synthesis.agreement import agreement_lines
from programs.synthesis.funnel import shown_funnel
from programs.synthesis.store import read_syntheses, synthesis_folder

# Of an ablation, which compares every measure for every arm, these are shown.
_COMPARED = ("ndcg@10", "accuracy@1", "siblings")


@dataclass(slots=True, kw_only=True)
class RunParts:
    """The parts of a run; one that is None or empty has its reason in `absent`, under its name.

    results: {"arms": {arm: {measure: interval}}, "comparisons": {name: {measure: {difference, p_value}}}, "spread":
    what the intervals are over, "notes": lines, "by_query": what `wins_and_losses` gives or None, "config"}, on
    held-out queries. curves: by training, the lines of its
    metrics.jsonl. scores: [content id of a query][encoder][content id of a passage].
    """

    path: Path
    synthesis_path: Path | None
    results: dict[str, Any] | None = None
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    synthesis: dict[str, Any] | None = None
    funnel: dict[str, Any] | None = None
    rows: list[Row] = field(default_factory=list)
    candidates: dict[str, Synthesis] = field(default_factory=dict)
    diagnostics: dict[str, Any] | None = None
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    audit: Agreement | None = None
    absent: dict[str, str] = field(default_factory=dict)


def read_run_folder(path: str | Path) -> RunParts:
    """Read every part. Raises InputError when the folder is missing or holds nothing that a report could show."""
    path = Path(path)
    if not path.is_dir():
        raise InputError("expected a run folder", file=path)
    run = RunParts(path=path, synthesis_path=synthesis_folder(path))
    for part, read in _READERS.items():
        try:
            setattr(run, part, read(run))
        except InputError as error:
            run.absent[part] = str(error)
    if not (run.synthesis or run.rows or run.results or run.curves or run.diagnostics):
        raise InputError(
            "holds no run that this version knows: expected an out folder of demo, synthesize, train, ablate, "
            f"diagnose, or the {EVAL_FILE} of eval",
            file=path,
        )
    return run


def _results(run: RunParts) -> dict[str, Any]:
    for name, convert in {"ablation.json": _of_ablation, "summary.json": _of_demo, EVAL_FILE: _of_eval}.items():
        file = run.path / name
        if not file.is_file():
            continue
        found = read_ablation(run.path) if convert is _of_ablation else read_json_object(file)
        # Other commands write a summary, too.
        if convert is _of_demo and not isinstance(found.get("test"), Mapping):
            continue
        try:
            return convert(found) | {"config": dict(found.get("config", {}))}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            words = f"its results are in a form that this version does not know ({error})"
            raise InputError(words, file=file) from error
    raise InputError(f"no comparison of trained models is in this folder, nor an {EVAL_FILE}")


def _interval(value: Mapping[str, Any]) -> dict[str, float]:
    return {end: float(value[end]) for end in ("mean", "low", "high")}


def _intervals(by_measure: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {measure: _interval(found) for measure, found in by_measure.items()}


def _of_demo(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spread": "queries",
        "arms": {arm: _intervals(by_measure) for arm, by_measure in summary["test"].items()},
        "comparisons": {name: _pairs(found) for name, found in summary.get("comparisons", {}).items()},
        "notes": [],
        "by_query": summary.get("by_query"),
    }


def _of_eval(result: Mapping[str, Any]) -> dict[str, Any]:
    config, baseline = result["config"], result.get("baseline")
    model, other = str(config["model"]), str(config.get("baseline"))
    arms = {} if baseline is None else {other: _intervals(baseline["intervals"])}
    return {
        "spread": "queries",
        "arms": arms | {model: _intervals(result["intervals"])},
        "comparisons": {} if baseline is None else {f"{model} against {other}": _pairs(baseline["comparisons"])},
        "notes": [f"{config['data']}, {config['split']}: {result['num_queries']} queries"],
        "by_query": result.get("by_query"),
    }


def _pairs(by_measure: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        measure: {"difference": _interval(pair["difference"]), "p_value": float(pair["p_value"])}
        for measure, pair in by_measure.items()
    }


def _of_ablation(summary: Mapping[str, Any]) -> dict[str, Any]:
    short = summary.get("short_rows", {})
    return {
        "spread": f"queries and {max(int(arm['seeds']) for arm in summary['arms'].values())} training seeds",
        "arms": {name: _intervals(arm["measures"]) for name, arm in summary["arms"].items()},
        "comparisons": {
            f"{name} against mined": {
                measure: {"difference": _interval(pair), "p_value": float(pair["p_holm"])}
                for measure, pair in by_measure.items()
                if measure in _COMPARED
            }
            for name, by_measure in summary["against_mined"].items()
        },
        "by_query": None,
        "notes": [
            P_VALUE_NOTE,
            *(short_words(str(name), int(count), int(summary["rows"])) for name, count in short.items()),
            *(f"{name}: {why}" for name, why in summary["missing"].items()),
        ],
    }


def _trainings(path: Path) -> dict[str, Path]:
    """By name, the folders that hold a training's metrics; of an ablation's arms the first seed stands for all."""
    found = {"training": path, "train": path / "train"}
    found |= {file.parent.name: file.parent for file in sorted(path.glob("train/*/metrics.jsonl"))}
    found |= {file.parents[2].name: file.parent for file in sorted(path.glob("arms/*/seed-0/train/metrics.jsonl"))}
    return {name.replace("_", " "): folder for name, folder in found.items() if (folder / "metrics.jsonl").is_file()}


def _curves(run: RunParts) -> dict[str, list[dict[str, Any]]]:
    curves = {
        name: [
            line.value
            for line in read_objects(folder / "metrics.jsonl")
            if isinstance(line.value, dict) and "step" in line.value
        ]
        for name, folder in _trainings(run.path).items()
    }
    if not any(curves.values()):
        raise InputError("no training is in this folder")
    return {name: points for name, points in curves.items() if points}


def _configs(run: RunParts) -> dict[str, dict[str, Any]]:
    folders = {"this run": run.path}
    if run.synthesis_path not in (None, run.path):
        folders["synthesis"] = run.synthesis_path
    folders |= {f"training: {name}": folder for name, folder in _trainings(run.path).items() if folder != run.path}
    compared = {"this run": run.results["config"]} if run.results and run.results["config"] else {}
    files = {name: folder / "config.json" for name, folder in folders.items()}
    return compared | {name: read_json_object(file) for name, file in files.items() if file.is_file()}


def _synthesis_path(run: RunParts) -> Path:
    if run.synthesis_path is None:
        raise InputError("no synthesis is in this folder")
    return run.synthesis_path


def _funnel(run: RunParts) -> dict[str, Any]:
    file = _synthesis_path(run) / "summary.json"
    summary = run.synthesis or {}
    found = shown_funnel(summary, file, num_used(run.configs.values()))
    return found | {"agreement": agreement_lines(summary.get("agreement"), summary.get("places", {}))}


def num_used(configs: Iterable[Mapping[str, Any]]) -> int | None:
    """Most generated negatives that an epoch of one of these trainings draws on; None where no training is known."""
    found = []
    for config in configs:
        rows, most = config.get("rows"), config.get("max_generated")
        if isinstance(rows, str) and isinstance(most, int) and Path(rows).is_file():
            found.append(sum(min(most, len(row.of_source("generated"))) for row in read_rows(rows)))
    return max(found, default=None)


def _rows(run: RunParts) -> list[Row]:
    files = [(run.synthesis_path or run.path) / "rows.jsonl", run.path / "rows.jsonl"]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError("no rows.jsonl is in this folder")
    rows = list(read_rows(found))
    if not rows:
        raise InputError("holds no rows", file=found)
    return rows


def _diagnostics_file(run: RunParts, name: str) -> Path:
    """A file of `diagnose`, which writes into RUN/diagnostics unless told otherwise."""
    folders = (run.path / "diagnostics", run.path)
    return next((folder for folder in folders if (folder / DIAGNOSTICS_FILE).is_file()), folders[0]) / name


def _diagnostics(run: RunParts) -> dict[str, Any]:
    file = _diagnostics_file(run, DIAGNOSTICS_FILE)
    if not file.is_file():
        raise InputError("no diagnostics have been made")
    found = read_json_object(file)
    if found.get("format") != FORMAT:
        raise InputError(
            f"has format {json.dumps(found.get('format'))}, expected {FORMAT}: run `diagnose` again", file=file
        )
    return found


def _scores(run: RunParts) -> dict[str, dict[str, dict[str, float]]]:
    file = _diagnostics_file(run, SCORES_FILE)
    if not file.is_file():
        raise InputError("no diagnostics have been made")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for line in read_objects(file):
        try:
            by_encoder = found.setdefault(str(line.value["query"]), {})
            for when, scores in line.value["scores"].items():
                by_encoder.setdefault(when, {}).update({text: float(score) for text, score in scores.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise line.fault("not a line of scores: run `diagnose` again") from error
    return found


def _audit(run: RunParts) -> Agreement:
    saved = (run.diagnostics or {}).get("audit", {})
    if not run.rows and "labelled" in saved:
        return Agreement(**saved)
    # From the labels themselves, which may be newer than the diagnosis.
    return agreement(read_labels(_diagnostics_file(run, LABELS_FILE), run.rows))


# In this order: the configs name the rows that were trained on, which the funnel ends with.
_READERS: dict[str, Callable[[RunParts], Any]] = {
    "results": _results,
    "curves": _curves,
    "configs": _configs,
    "synthesis": lambda run: read_json_object(_synthesis_path(run) / "summary.json"),
    "funnel": _funnel,
    "rows": _rows,
    "candidates": lambda run: read_syntheses(_synthesis_path(run), run.rows),
    "diagnostics": _diagnostics,
    "scores": _scores,
    "audit": _audit,
}
