"""The same rows through several generators: one synthesis run each, one leaderboard."""

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import atomic_writer, read_json_object, write_json
from data.records import Row
from data.row_files import read_rows
from programs.compare_config import CompareConfig
from programs.config import SynthesizeConfig
from programs.feedback import Bands, corpus_style
from programs.leaderboard import Measure, measures
from programs.lms import provider_of
from programs.local_server import PREFIX
from programs.models import is_hosted
from programs.outcome import synthesis_of_row
from programs.retriever import EncoderRetriever, Retriever
from programs.row_feedback import row_feedback
from programs.run import mined_rows, synthesize
from trainer.encoder import Encoder

log = logging.getLogger(__name__)

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
    when none can be used.
    """
    names = config.lms.split()
    check_names(config, names)
    rows = list(mined_rows(config.rows, config.max_rows))
    retriever = retriever or EncoderRetriever(Encoder.load(config.retriever))
    board = []
    for name in names:
        log.info("%s", name)
        board.append({"model": shown(name)} | _entry(config, name, rows, retriever))
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


def check_names(config: CompareConfig, names: list[str]) -> None:
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


def _entry(config: CompareConfig, name: str, rows: list[Row], retriever: Retriever) -> dict[str, Any]:
    folder = run_folder(config, name)
    try:
        summary = synthesize(
            SynthesizeConfig(
                rows=config.rows,
                out=folder,
                lm=name,
                verifier_lm=config.verifier_lm,
                api_base=config.api_base,
                verifier_api_base=config.verifier_api_base,
                # Without a hosted model in its own place the key would be the verifier's.
                api_key_env=config.api_key_env if is_hosted(name) else None,
                profile=config.profile,
                adapter=config.adapter,
                negatives_per_row=config.negatives_per_row,
                # A second draft is the verifier's merit as well; what is compared is the first.
                repairs=0,
                max_rows=config.max_rows,
                canary_share=1.0,
                budget_usd=config.budget_usd,
                budget_tokens=config.budget_tokens,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                concurrency=config.concurrency,
                timeout_s=config.timeout_s,
                seed=config.seed,
            )
        )
    except InputError as error:
        log.info("%s: %s", name, error)
        refused = folder / "summary.json"
        found = read_json_object(refused) if refused.is_file() else {}
        # A summary that an earlier start left says nothing of this one.
        if found.get("refused") is None or found["refused"] not in str(error):
            found = {}
        return {"unusable": str(error), "usage": found.get("usage"), "verifier": found.get("verifier")}
    enriched = list(read_rows(folder / "rows.jsonl"))
    bands = Bands(temperature=config.ranking_temperature)
    style = corpus_style([text for row in rows for text in (n.text for n in row.of_source("mined"))])
    feedback = [row_feedback(row, synthesis_of_row(row), retriever, bands, style) for row in enriched]
    found_measures = measures(summary, feedback, enriched)
    return {
        "unusable": None,
        "measures": {key: asdict(measure) for key, measure in found_measures.items()},
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
    lines = [
        f"{result['rows']} rows, InfoNCE weights under {result['retriever']}, values with 95% intervals",
        "",
        "| model | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for entry in result["board"]:
        if not entry["unusable"]:
            cells = (Measure(**entry["measures"][name]).text(digits) for name, (_, digits) in COLUMNS.items())
            lines.append(f"| {entry['model']} | " + " | ".join(cells) + " |")
    lines += [f"\n{entry['model']}: not usable: {entry['unusable']}" for entry in result["board"] if entry["unusable"]]
    return "\n".join(lines) + "\n"
