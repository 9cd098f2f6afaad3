"""`python -m evals diagnose`: every diagnostic on one set of rows, before and after training, in one file.

Writes diagnostics.json and scores.jsonl into a folder. A diagnostic that cannot be made says why in its place.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.base.cli import config_dict
from data.base.errors import BadRows, InputError
from data.base.files import read_json_object, write_json
from data.base.outputs import Outputs
from data.base.text import content_id
from data.records import Row
from data.row_files import read_rows, write_objects
from evals.diagnostics.audit import LABELS_FILE, agreement, read_labels, run_audit
from evals.diagnostics.config import DiagnoseConfig
from evals.diagnostics.embedded_rows import GENERATED, MINED, EmbeddedRows, embed_rows
from evals.diagnostics.gradient_drift import embedding_drift, parameter_drift
from evals.diagnostics.hardness import (
    hardness_by_disruption,
    hardness_by_source,
    infonce_weights,
    margin_histograms,
    mean_effective_negatives,
    similarity_by_grade,
)
from evals.diagnostics.source_leak import encoder_leak, leak_warnings, text_leak
from evals.diagnostics.table import diagnostics_text
from programs.synthesis.funnel import read_funnel
from programs.synthesis.store import read_syntheses, synthesis_folder
from trainer.encoder import Encoder

log = logging.getLogger(__name__)

FORMAT = 1
DIAGNOSTICS_FILE, SCORES_FILE = "diagnostics.json", "scores.jsonl"


def diagnose(config: DiagnoseConfig, *, show: bool = True) -> dict[str, Any]:
    """Make every diagnostic that the data allow; returns what diagnostics.json holds and, with `show`, prints it.

    Raises InputError.
    """
    config, rows_file, out = with_run_defaults(config)
    outputs = Outputs(
        "diagnose",
        [out / DIAGNOSTICS_FILE, out / SCORES_FILE],
        inputs=[rows_file, config.model, config.baseline],
        run=config.run,
        force=config.force,
    )
    bad_rows = BadRows(config.skip_bad_rows)
    rows = list(read_rows(rows_file, bad_rows))
    bad_rows.warn()
    if not rows:
        raise InputError("holds no rows", file=rows_file)
    labels_file = out / LABELS_FILE
    if config.audit:
        syntheses = {} if config.run is None else read_syntheses(_synthesis(config), rows)
        labels = run_audit(rows, labels_file, num=config.audit, seed=config.seed, syntheses=syntheses)
        if not config.model:
            found = try_diagnostic(lambda: agreement(labels))
            sys.stdout.write(f"{found.absent if isinstance(found, Absent) else found.sentence()}\n")
            return {}
    assert config.model is not None  # the config or the run folder has named one
    sample = sample_rows(rows, config.max_rows, config.seed)
    models = {"before": config.baseline, "after": config.model} if config.baseline else {"now": config.model}
    encoders: dict[str, dict[str, Any]] = {}
    embedded: dict[str, EmbeddedRows] = {}
    for when, name in models.items():
        encoders[when], embedded[when] = diagnose_encoder(sample, name, config)
    for when, margins in margin_histograms(embedded).items():
        encoders[when]["margins"] = margins
    latest = list(models)[-1]
    last = embedded[latest]
    text = try_diagnostic(lambda: text_leak(last, seed=config.seed))
    warnings = [] if isinstance(text, Absent) else leak_warnings(text, encoders[latest]["leak"])
    result: dict[str, Any] = to_json(
        {
            "format": FORMAT,
            "config": config_dict(config),
            "num_rows": len(rows),
            "num_rows_used": len(sample),
            "num_negatives": {"mined": last.count(MINED), "generated": last.count(GENERATED)},
            "text_leak": text,
            "encoders": encoders,
            "warnings": warnings,
            "funnel": try_diagnostic(lambda: read_funnel(_synthesis(config))),
            "audit": try_diagnostic(lambda: agreement(read_labels(labels_file, rows))),
        }
    )
    write_objects(out / SCORES_FILE, score_lines(sample, embedded))
    write_json(out / DIAGNOSTICS_FILE, result)
    outputs.record()
    if show:
        sys.stdout.write(diagnostics_text(result) + f"\nwritten: {out / DIAGNOSTICS_FILE}\n")
    return result


def with_run_defaults(config: DiagnoseConfig) -> tuple[DiagnoseConfig, Path, Path]:
    """The config with the encoders that its run folder names, the file of rows and the folder to write to.

    Raises InputError when something is neither given nor in the run folder.
    """
    if config.run is None:
        assert config.rows is not None and config.out is not None  # the config has seen to it
        return config, config.rows, config.out
    rows_file, out = config.rows or _synthesis(config) / "rows.jsonl", config.out or config.run / "diagnostics"
    if config.model is None and not config.audit:
        encoders = _encoders_of(config.run)
        if not encoders:
            raise InputError(f"--model: expected an encoder, as {config.run} has trained none")
        first, last = encoders[0], encoders[-1]
        config = replace(config, model=last, baseline=config.baseline or (first if first != last else None))
    if config.grade_sharpness is None and config.model is not None:
        config = replace(config, grade_sharpness=_trained_sharpness(Path(config.model)))
    return config, rows_file, out


def _trained_sharpness(model: Path) -> float | None:
    """Of graded relevance, where this is the model of a `train` run that had it, or the run's folder."""
    run = model.parent if model.name == "model" else model
    settings = read_json_object(run / "config.json", missing_ok=True)
    return settings.get("grade_sharpness") if settings.get("relevance") == "graded" else None


def _encoders_of(run: Path) -> list[str]:
    """The encoders of a run in the order of training, the untrained one first; empty where it has trained none."""
    models = read_json_object(run / "summary.json", missing_ok=True).get("models")
    if isinstance(models, dict) and models:
        return [str(model) for model in models.values()]
    trained = run / "train"
    if not (trained / "model").is_dir():
        return []
    untrained = read_json_object(trained / "config.json", missing_ok=True).get("model")
    return [str(model) for model in (untrained, trained / "model") if model]


def _synthesis(config: DiagnoseConfig) -> Path:
    if config.run is None:
        raise InputError("no run folder was named (--run)")
    folder = synthesis_folder(config.run)
    if folder is None:
        raise InputError("holds no synthesis: expected the out folder of `synthesize` or `demo`", file=config.run)
    return folder


def sample_rows(rows: list[Row], most: int, seed: int) -> list[Row]:
    """At most so many rows in their order (0: all); rows with generated negatives are taken first."""
    if not most or len(rows) <= most:
        return rows
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    order.sort(key=lambda i: not rows[i].of_source("generated"))
    return [rows[i] for i in sorted(order[:most])]


def diagnose_encoder(rows: list[Row], name: str, config: DiagnoseConfig) -> tuple[dict[str, Any], EmbeddedRows]:
    """All that one encoder shows."""
    encoder = Encoder.load(config.with_model(name))
    log.info("%s: encoding %d rows", name, len(rows))
    embedded = embed_rows(rows, encoder, progress=True)
    weight_P = infonce_weights(embedded, temperature=config.temperature)
    found = {
        "model": name,
        "precision": encoder.precision,
        "hardness": {
            "by_source": hardness_by_source(embedded, weight_P),
            "by_disruption": hardness_by_disruption(embedded, weight_P),
            "effective_negatives": mean_effective_negatives(embedded, weight_P),
        },
        "by_grade": similarity_by_grade(embedded),
        "leak": try_diagnostic(lambda: encoder_leak(embedded, num_permutations=config.permutations, seed=config.seed)),
        "drift": try_diagnostic(
            lambda: embedding_drift(
                embedded,
                temperature=config.temperature,
                normalized=encoder.settings.normalize,
                grade_sharpness=config.grade_sharpness,
            )
        ),
        "parameter_drift": try_diagnostic(lambda: _parameter_drift(rows, encoder, config)),
    }
    return found, embedded


def _parameter_drift(rows: list[Row], encoder: Encoder, config: DiagnoseConfig) -> Any:
    if not config.parameter_rows:
        raise InputError("left out (--parameter-rows 0)")
    log.info("%s: gradients of the whole model on %d rows", encoder.name, config.parameter_rows)
    return parameter_drift(
        rows,
        encoder,
        temperature=config.temperature,
        grade_sharpness=config.grade_sharpness,
        num_rows=config.parameter_rows,
        seed=config.seed,
    )


def score_lines(rows: list[Row], embedded: dict[str, EmbeddedRows]) -> list[dict[str, Any]]:
    """One line a row: by encoder, the score of each passage under the content id of its text.

    By text, as the rows that the report shows may be others, or the same in another order.
    """
    lines: list[dict[str, Any]] = [
        {"query_id": row.query_id, "query": content_id(row.query), "scores": {when: {} for when in embedded}}
        for row in rows
    ]
    for when, seen in embedded.items():
        for r, text, score in zip(seen.row_P.tolist(), seen.texts_P, seen.scores_P.tolist(), strict=True):
            lines[r]["scores"][when][content_id(text)] = round(score, 4)
    return lines


@dataclass(frozen=True, slots=True)
class Absent:
    """In place of a diagnostic that the data do not allow: why."""

    absent: str


def try_diagnostic(make: Callable[[], Any]) -> Any:
    """One diagnostic, or Absent where the data do not allow it."""
    try:
        return make()
    except InputError as error:
        return Absent(str(error))


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and numpy numbers as JSON holds them; NaN and infinity become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_json(item) for name, item in asdict(value).items()}
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
