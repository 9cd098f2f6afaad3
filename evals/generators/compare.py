"""The same rows through several generators: one synthesis run each, one leaderboard."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.base.cli import text_table
from data.base.errors import InputError
from data.base.files import atomic_writer, folder_lock, read_json_object, write_json
from data.base.options import shared_options
from data.base.outputs import at_work_in, claim_folder
from data.base.stats import Interval, pooled_interval, wilson_interval
from data.records import Row
from data.row_files import read_rows
from evals.diagnostics.probes import words_probe
from evals.generators.config import CompareConfig
from programs.feedback.retriever import EncoderRetriever, Retriever
from programs.feedback.row import RowFeedback, row_feedback
from programs.feedback.score import Bands, corpus_style
from programs.lm.models import is_hosted, provider_of
from programs.lm.servers.local import PREFIX
from programs.modules.candidates import synthesis_of_row
from programs.options import SendOptions, WritingOptions
from programs.preview.forecast import confirm
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import BatchesOutError, cancel_batches, mined_rows, synthesize
from trainer.encoder import Encoder

log = logging.getLogger(__name__)

Measure = dict[str, float | None]  # value, and low and high of its 95% interval; None where it cannot be known
UNKNOWN: Measure = {"value": None, "low": None, "high": None}
_FEWEST_ROWS = 5
WRITTEN = ("leaderboard.json", "leaderboard.md")

COLUMNS = {
    "acceptance_rate": ("accepted", 3),
    "infonce_weight": ("InfoNCE weight", 3),
    "surgical_rate": ("surgical", 3),
    "source_leak_auc": ("source leak AUC", 3),
    "parse_failure_rate": ("unreadable", 3),
    "tokens_per_accepted": ("tokens each", 0),
    "usd_per_accepted": ("USD each", 5),
    "seconds_per_accepted": ("seconds each", 2),
}


def compare(config: CompareConfig, retriever: Retriever | None = None) -> dict[str, Any]:
    """Run every model of `config.lms` and write leaderboard.json and leaderboard.md; returns the former.

    Ranked by acceptance rate times InfoNCE weight: what a planned violation is worth to the retriever on average. A
    model that cannot be used (its canaries fail, its budget ends) stays on the board with the reason. Raises InputError
    when none can be used, and BatchesOutError when batches go on without this run: with wait=False after every model's
    have been sent.
    """
    check_names(config, config.lms)
    rows = list(mined_rows(config.rows, config.max_rows))
    claim_folder("compare", config.out, WRITTEN, inputs=[config.rows, config.profile, config.retriever])
    with at_work_in(config.out), folder_lock(config.out):
        return _compare(config, rows, retriever)


def _compare(config: CompareConfig, rows: list[Row], retriever: Retriever | None) -> dict[str, Any]:
    retriever = retriever or EncoderRetriever(Encoder.load(config.retriever))
    board, out = [], []
    for name in config.lms:
        log.info("%s", name)
        try:
            board.append({"model": shown(name)} | _entry(config, name, rows, retriever))
        except BatchesOutError as left:
            if config.wait:
                raise
            out.append(f"{shown(name)}: {left}")
    if out:
        raise BatchesOutError("; ".join(out))
    if all(entry["unusable"] for entry in board):
        raise InputError("; ".join(f"{entry['model']}: {entry['unusable']}" for entry in board), field="lms")
    board.sort(key=lambda entry: -_worth(entry))
    result = {
        "rows": len(rows),
        "retriever": retriever.name,
        "board": board,
        "file": str(config.out / "leaderboard.md"),
    }
    write_json(config.out / "leaderboard.json", result)
    with atomic_writer(config.out / "leaderboard.md") as file:
        file.write(leaderboard_table(result))
    return result


def shown(name: str) -> str:
    """A model's name on the board: of a local one the file, not the place where it lies."""
    return f"{PREFIX}{Path(name).name}" if name.startswith(PREFIX) else name


def check_names(config: CompareConfig, names: Sequence[str]) -> None:
    """Raise InputError when one key would go to several providers, or two models would share a run folder."""
    if config.api_key_env is not None and config.api_base is None:
        providers = sorted({provider_of(name, "lms") for name in names if is_hosted(name)})
        if len(providers) > 1:
            raise InputError(
                f"{config.api_key_env} would be sent to {' and '.join(providers)}: leave it out, each provider has a "
                "variable of its own",
                field="api-key-env",
            )
    by_folder: dict[Path, str] = {}
    for name in names:
        folder = run_folder(config, name)
        other = by_folder.setdefault(folder, name)
        if other != name:
            raise InputError(f"{other} and {name} would share the run folder {folder}: rename a file", field="lms")


def run_folder(config: CompareConfig, name: str) -> Path:
    """Where the run of this model is kept."""
    return config.out / re.sub(r"[^A-Za-z0-9._-]+", "-", shown(name))


def cancel(config: CompareConfig) -> str:
    """Ask for every model's batches that are out to be cancelled; returns what was done, in words."""
    return "\n".join(cancel_batches(_run(config, name)) for name in config.lms)


def _run(config: CompareConfig, name: str) -> SynthesizeConfig:
    return SynthesizeConfig(
        **shared_options(config, WritingOptions)
        | shared_options(config, SendOptions)
        # Without a hosted model in its own place the key would be the verifier's.
        | {"api_key_env": config.api_key_env if is_hosted(name) else None},
        rows=config.rows,
        out=run_folder(config, name),
        lm=name,
        # A second draft is the verifier's merit as well; what is compared is the first.
        repairs=0,
        canary_share=1.0,
    )


def _entry(config: CompareConfig, name: str, rows: list[Row], retriever: Retriever) -> dict[str, Any]:
    folder = run_folder(config, name)
    try:
        summary = synthesize(_run(config, name), before=confirm)
    except BatchesOutError:
        raise
    except InputError as error:
        log.info("%s: %s", name, error)
        found = read_json_object(folder / "summary.json", missing_ok=True)
        # A summary that an earlier start left says nothing of this one.
        if found.get("refused") is None or found["refused"] not in str(error):
            found = {}
        return {"unusable": str(error), "usage": found.get("usage"), "verifier": found.get("verifier")}
    enriched = list(read_rows(folder / "rows.jsonl"))
    bands = Bands(temperature=config.ranking_temperature)
    style = corpus_style([negative.text for row in rows for negative in row.of_source("mined")])
    feedback = [row_feedback(row, synthesis_of_row(row), retriever, bands, style) for row in enriched]
    return {
        "unusable": None,
        "measures": measures(summary, feedback, enriched),
        "adapters": summary["program"]["adapters"],
        "verifier": summary["verifier"]["in_words"],
        "folder": str(folder),
    }


def _worth(entry: dict[str, Any]) -> float:
    if entry["unusable"]:
        return -1.0
    found = entry["measures"]
    return float((found["acceptance_rate"]["value"] or 0) * (found["infonce_weight"]["value"] or 0))


def leaderboard_table(result: dict[str, Any]) -> str:
    """The board as a Markdown table, models that could not be used below it with the reason."""
    header, rows = _cells(result)
    lines = [_title(result), "", *(f"| {' | '.join(line)} |" for line in [header, *rows])]
    lines.insert(3, "|---|" + "---|" * len(COLUMNS))
    return "\n".join([*lines, *(f"\n{line}" for line in _unusable(result))]) + "\n"


def leaderboard_text(result: dict[str, Any]) -> str:
    """The same for a terminal."""
    return "\n".join([_title(result), text_table(*_cells(result)), *_unusable(result), f"written: {result['file']}\n"])


def _title(result: dict[str, Any]) -> str:
    return f"{result['rows']} rows, InfoNCE weights under {result['retriever']}, values with 95% intervals"


def _cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    return ["model", *(title for title, _ in COLUMNS.values())], [
        [entry["model"], *(cell(entry["measures"][name], digits) for name, (_, digits) in COLUMNS.items())]
        for entry in result["board"]
        if not entry["unusable"]
    ]


def _unusable(result: dict[str, Any]) -> list[str]:
    return [f"{entry['model']}: not usable: {entry['unusable']}" for entry in result["board"] if entry["unusable"]]


def cell(measure: Measure, digits: int = 3) -> str:
    """A measure as the table shows it."""
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    if value is None:
        return "unknown"
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{Interval(mean=value, low=low, high=high):.{digits}f}"


def measures(summary: Mapping[str, Any], feedback: Sequence[RowFeedback], rows: Sequence[Row]) -> dict[str, Measure]:
    """Everything the leaderboard shows of one model. `rows` are the enriched ones."""
    funnel, usage = summary["funnel"], summary["usage"]
    accepted, planned = funnel["accepted"], funnel["violations_planned"]
    roles = usage["roles"].values()
    answered = sum(role["answered"] for role in roles)
    unread = sum(count for name, count in funnel["faults"].items() if name.endswith(("_malformed", "_truncated")))
    weights = [[one.parts.signal for one in row.assessed if one.parts and one.parts.validity] for row in feedback]
    num_accepted = [len(row) for row in weights]

    def per_accepted(total: float | None) -> Measure:
        return UNKNOWN if total is None else _pooled([total / len(weights)] * len(weights), num_accepted)

    return {
        "acceptance_rate": _share(accepted, planned),
        "infonce_weight": _pooled([sum(row) for row in weights], num_accepted),
        "surgical_rate": _share(funnel["accepted_surgical"], accepted),
        "source_leak_auc": source_leak(rows),
        "parse_failure_rate": _share(unread, answered),
        "tokens_per_accepted": per_accepted(usage["tokens"]),
        "usd_per_accepted": per_accepted(usage["cost_usd"]),
        "seconds_per_accepted": UNKNOWN | {"value": summary["seconds_all_runs"] / accepted if accepted else None},
    }


def source_leak(rows: Sequence[Row]) -> Measure:
    """AUC of telling generated from mined negatives by their words alone, as `diagnose` measures it: 0.5 is what should
    be, the words give the origin away no better than chance. Unknown without both kinds in at least five rows.
    """
    kept = [row for row in rows if row.of_source("mined") and row.of_source("generated")]
    if len(kept) < _FEWEST_ROWS:
        return UNKNOWN
    negatives = [(number, negative) for number, row in enumerate(kept) for negative in row.negatives]
    generated_P = np.array([negative.source == "generated" for _, negative in negatives])
    texts, row_P = [negative.text for _, negative in negatives], np.array([number for number, _ in negatives])
    return _known(words_probe(texts, generated_P, row_P))


def _known(found: Interval) -> Measure:
    return {"value": found.mean, "low": found.low, "high": found.high}


def _share(hits: int, trials: int) -> Measure:
    if not trials:
        return UNKNOWN
    # Several attempts at one answer can each fail to be read; the share then reaches past the answers it is of.
    low, high = wilson_interval(min(hits, trials), trials)
    return {"value": hits / trials, "low": low, "high": high}


def _pooled(sums_R: Sequence[float], counts_R: Sequence[int]) -> Measure:
    """Over whole rows, whose values belong together."""
    return _known(pooled_interval(sums_R, counts_R)) if sum(counts_R) else UNKNOWN
