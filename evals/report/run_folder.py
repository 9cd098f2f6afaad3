"""What a run folder holds, for the report: every part that is there, and why another one is not.

Knows the folders of `demo`, `synthesize`, `train`, `diagnose` and `ablate`, in any mixture.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import read_json_object
from data.records import Row
from data.row_files import read_objects, read_rows
from evals.ablation.ablate import P_VALUE_NOTE, read_ablation, short_words
from evals.diagnostics.audit import LABELS_FILE, agreement, read_labels
from evals.diagnostics.diagnose import DIAGNOSTICS_FILE, FORMAT, SCORES_FILE
from programs.modules.candidates import Synthesis
from programs.synthesis.funnel import shown_funnel
from programs.synthesis.store import read_syntheses, synthesis_folder

# Of an ablation, which compares every measure for every arm, these are shown.
_COMPARED = ("ndcg@10", "accuracy@1", "siblings")


@dataclass(slots=True, kw_only=True)
class RunFolder:
    """The parts of a run; one that is None has its reason in `absent`.

    results: {"arms": {arm: {measure: interval}}, "comparisons": {name: {measure: {difference, p_value}}}, "spread":
    what the intervals are over, "notes": lines}, all on held-out queries. curves: by training, the lines of its
    metrics.jsonl. audit: an Agreement. scores: [content id of a query][encoder][content id of a passage].
    """

    path: Path
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    synthesis: dict[str, Any] | None = None
    funnel: dict[str, Any] | None = None
    syntheses: dict[str, Synthesis] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    diagnostics: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def read_run_folder(path: str | Path) -> RunFolder:
    """Read every part. Raises InputError when the folder is missing or holds nothing that a report could show."""
    path = Path(path)
    if not path.is_dir():
        raise InputError("expected a run folder", file=path)
    run = RunFolder(path=path)
    synthesis = synthesis_folder(path)
    _try(run, "curves", lambda: _read_curves(run))
    _try(run, "synthesis", lambda: _read_synthesis(run, synthesis))
    _try(run, "rows", lambda: _read_rows(run, synthesis))
    _try(run, "candidates", lambda: _read_candidates(run, synthesis))
    _try(run, "results", lambda: _read_results(run))
    _try(run, "diagnostics", lambda: _read_diagnostics(run))
    _try(run, "scores", lambda: _read_scores(run))
    _try(run, "audit", lambda: _read_audit(run))
    order = ["this run", "synthesis"]
    for name, folder in {"this run": path, "synthesis": synthesis}.items():
        if folder is not None and (folder / "config.json").is_file() and (name == "this run" or folder != path):
            run.configs[name] = read_json_object(folder / "config.json")
    run.configs = {name: run.configs[name] for name in [*order, *run.configs] if name in run.configs}
    if not (run.synthesis or run.rows or run.results or run.curves or run.diagnostics):
        raise InputError(
            "holds no run that this version knows: expected an out folder of demo, synthesize, train, ablate, diagnose",
            file=path,
        )
    return run


def _try(run: RunFolder, name: str, read: Callable[[], None]) -> None:
    try:
        read()
    except InputError as error:
        run.absent[name] = str(error)


def _read_synthesis(run: RunFolder, folder: Path | None) -> None:
    if folder is None:
        raise InputError("no synthesis is in this folder")
    run.synthesis = read_json_object(folder / "summary.json")
    run.funnel = shown_funnel(run.synthesis, folder / "summary.json", num_used(run.configs.values()))


def num_used(configs: Iterable[Mapping[str, Any]]) -> int | None:
    """Most generated negatives that an epoch of one of these trainings draws on; None where no training is known."""
    found = []
    for config in configs:
        rows, most = config.get("rows"), config.get("max_generated")
        if isinstance(rows, str) and isinstance(most, int) and Path(rows).is_file():
            found.append(sum(min(most, len(row.of_source("generated"))) for row in read_rows(rows)))
    return max(found, default=None)


def _read_candidates(run: RunFolder, folder: Path | None) -> None:
    if folder is None:
        raise InputError("no synthesis is in this folder")
    run.syntheses = read_syntheses(folder, run.rows)


def _read_rows(run: RunFolder, folder: Path | None) -> None:
    files = [(folder or run.path) / "rows.jsonl", run.path / "rows.jsonl"]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError("no rows.jsonl is in this folder")
    run.rows = list(read_rows(found))
    if not run.rows:
        raise InputError("holds no rows", file=found)


def _read_results(run: RunFolder) -> None:
    if (run.path / "ablation.json").is_file():
        file, convert = run.path / "ablation.json", _ablation_results
        summary = read_ablation(run.path)
    else:
        file, convert = run.path / "summary.json", _demo_results
        summary = read_json_object(file) if file.is_file() else {}
        if not isinstance(summary.get("test"), Mapping):
            raise InputError("no comparison of trained models is in this folder")
    try:
        run.results = convert(summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"its results are in a form that this version does not know ({error})", file=file) from error
    if isinstance(summary.get("config"), Mapping):
        run.configs["this run"] = dict(summary["config"])


def _interval(value: Mapping[str, Any]) -> dict[str, float]:
    return {end: float(value[end]) for end in ("mean", "low", "high")}


def _demo_results(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spread": "queries",
        "arms": {
            str(arm): {str(measure): _interval(found) for measure, found in by_measure.items()}
            for arm, by_measure in summary["test"].items()
        },
        "comparisons": {
            str(name): {
                str(measure): {"difference": _interval(pair["difference"]), "p_value": float(pair["p_value"])}
                for measure, pair in by_measure.items()
            }
            for name, by_measure in summary.get("comparisons", {}).items()
        },
        "notes": [],
    }


def _ablation_results(summary: Mapping[str, Any]) -> dict[str, Any]:
    seeds = max(int(arm["seeds"]) for arm in summary["arms"].values())
    return {
        "spread": f"queries and {seeds} training seeds",
        "arms": {
            str(name): {str(measure): _interval(found) for measure, found in arm["measures"].items()}
            for name, arm in summary["arms"].items()
        },
        "comparisons": {
            f"{name} against mined": {
                str(measure): {"difference": _interval(pair), "p_value": float(pair["p_holm"])}
                for measure, pair in by_measure.items()
                if measure in _COMPARED
            }
            for name, by_measure in summary["against_mined"].items()
        },
        "notes": [f"{P_VALUE_NOTE}."]
        + [
            f"{short_words(str(name), int(short), int(summary['rows']))}."
            for name, short in summary.get("short_rows", {}).items()
        ]
        + [f"{name}: {why}." for name, why in summary["missing"].items()],
    }


def _read_curves(run: RunFolder) -> None:
    alone = {run.path / "metrics.jsonl": "training", run.path / "train" / "metrics.jsonl": "train"}
    names = {file: name for file, name in alone.items() if file.is_file()}
    names |= {file: file.parent.name for file in sorted(run.path.glob("train/*/metrics.jsonl"))}
    # Of an ablation's arms the first seed stands for all.
    names |= {file: file.parents[2].name for file in sorted(run.path.glob("arms/*/seed-0/train/metrics.jsonl"))}
    for file, name in names.items():
        points = [value for _, value in read_objects(file) if isinstance(value, dict) and "step" in value]
        if points:
            run.curves[name.replace("_", " ")] = points
        config = file.parent / "config.json"
        if config.is_file():
            run.configs[f"training: {name.replace('_', ' ')}"] = read_json_object(config)
    if not run.curves:
        raise InputError("no training is in this folder")


def _diagnostics_folder(run: RunFolder) -> Path:
    folders = (run.path / "diagnostics", run.path)
    return next((folder for folder in folders if (folder / DIAGNOSTICS_FILE).is_file()), folders[0])


def _read_diagnostics(run: RunFolder) -> None:
    file = _diagnostics_folder(run) / DIAGNOSTICS_FILE
    if not file.is_file():
        raise InputError("no diagnostics have been made")
    found = read_json_object(file)
    if found.get("format") != FORMAT:
        raise InputError(
            f"has format {json.dumps(found.get('format'))}, expected {FORMAT}: run `diagnose` again", file=file
        )
    run.diagnostics = found


def _read_audit(run: RunFolder) -> None:
    saved = (run.diagnostics or {}).get("audit")
    if not run.rows and isinstance(saved, Mapping) and "absent" not in saved:
        run.audit = dict(saved)
        return
    # From the labels themselves, which may be newer than the diagnosis.
    run.audit = asdict(agreement(read_labels(_diagnostics_folder(run) / LABELS_FILE, run.rows)))


def _read_scores(run: RunFolder) -> None:
    file = _diagnostics_folder(run) / SCORES_FILE
    if not file.is_file():
        raise InputError("no diagnostics have been made")
    for line, value in read_objects(file):
        try:
            by_encoder = run.scores.setdefault(str(value["query"]), {})
            for when, scores in value["scores"].items():
                by_encoder.setdefault(when, {}).update({text: float(score) for text, score in scores.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError("not a line of scores: run `diagnose` again", file=file, line=line) from error
