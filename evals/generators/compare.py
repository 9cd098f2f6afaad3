"""The same rows through several generators: one synthesis run each, one leaderboard."""

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from data.base.errors import InputError
from data.base.files import atomic_writer, read_json_object, write_json
from data.base.options import shared_options
from data.base.stats import wilson_interval
from data.records import Row
from data.row_files import read_rows
from evals.generators.config import CompareConfig
from programs.feedback.retriever import EncoderRetriever, Retriever
from programs.feedback.row import RowFeedback, row_feedback
from programs.feedback.score import Bands, corpus_style
from programs.lm.models import is_hosted, provider_of
from programs.lm.servers.local import PREFIX
from programs.modules.candidates import synthesis_of_row
from programs.options import WritingOptions
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import mined_rows, synthesize
from trainer.encoder import Encoder

_RESAMPLES = 500
_FOLDS = 5

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
                **shared_options(config, WritingOptions)
                # Without a hosted model in its own place the key would be the verifier's.
                | {"api_key_env": config.api_key_env if is_hosted(name) else None},
                rows=config.rows,
                out=folder,
                lm=name,
                # A second draft is the verifier's merit as well; what is compared is the first.
                repairs=0,
                canary_share=1.0,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A value with its 95% interval; None where it cannot be known."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3) -> str:
        """As a cell of the table."""
        if self.value is None:
            return "unknown"
        span = "" if self.low is None or self.high is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{span}"


def measures(summary: Mapping[str, Any], feedback: Sequence[RowFeedback], rows: Sequence[Row]) -> dict[str, Measure]:
    """Everything the leaderboard shows of one model. `rows` are the enriched ones."""
    funnel, usage = summary["funnel"], summary["usage"]
    accepted, planned = funnel["accepted"], funnel["violations_planned"]
    roles = usage["roles"].values()
    answered = sum(role["answered"] for role in roles)
    unread = sum(count for name, count in funnel["faults"].items() if name.endswith(("_malformed", "_truncated")))
    weights = [[one.parts.signal for one in row.assessed if one.parts and one.parts.validity] for row in feedback]
    return {
        "acceptance_rate": _share(accepted, planned),
        "infonce_weight": _row_mean(weights),
        "surgical_rate": _share(funnel["accepted_surgical"], accepted),
        "source_leak_auc": source_leak(rows),
        "parse_failure_rate": _share(unread, answered),
        "tokens_per_accepted": _per_accepted(usage["tokens"], [len(group) for group in weights]),
        "usd_per_accepted": _per_accepted(usage["cost_usd"], [len(group) for group in weights]),
        "seconds_per_accepted": Measure(value=summary["seconds_all_runs"] / accepted if accepted else None),
    }


def source_leak(rows: Sequence[Row]) -> Measure:
    """AUC of telling generated from mined negatives by their words alone (logistic regression on a bag of words,
    cross-validated with whole rows held out). 0.5 is what should be: the words give the origin away no better than
    chance. Unknown without both kinds in at least five rows.
    """
    kept = [row for row in rows if row.of_source("mined") and row.of_source("generated")]
    if len(kept) < _FOLDS:
        return Measure(value=None)
    texts = [negative.text for row in kept for negative in row.negatives]
    labels = np.array([negative.source == "generated" for row in kept for negative in row.negatives])
    groups = np.array([number for number, row in enumerate(kept) for _ in row.negatives])
    counts = CountVectorizer(binary=True).fit_transform(texts)
    scores = cross_val_predict(
        LogisticRegression(max_iter=1000, class_weight="balanced"),
        counts,
        labels,
        groups=groups,
        cv=GroupKFold(_FOLDS),
        method="decision_function",
    )

    def auc(chosen: Sequence[int]) -> float | None:
        members = np.concatenate([np.flatnonzero(groups == number) for number in chosen])
        return float(roc_auc_score(labels[members], scores[members]))

    return _bootstrap(len(kept), auc)


def _share(hits: int, trials: int) -> Measure:
    if not trials:
        return Measure(value=None)
    # Several attempts at one answer can each fail to be read; the share then reaches past the answers it is of.
    low, high = wilson_interval(min(hits, trials), trials)
    return Measure(value=hits / trials, low=low, high=high)


def _row_mean(groups: Sequence[Sequence[float]]) -> Measure:
    """The mean over all values, with an interval over whole rows, whose values belong together."""

    def mean(chosen: Sequence[int]) -> float | None:
        values = [value for number in chosen for value in groups[number]]
        return sum(values) / len(values) if values else None

    return _bootstrap(len(groups), mean)


def _per_accepted(total: float | None, accepted_by_row: Sequence[int]) -> Measure:
    """`total` divided by the accepted negatives; the interval is that of their number, over rows."""
    if total is None:
        return Measure(value=None)
    per_row = total / len(accepted_by_row) if accepted_by_row else 0.0

    def rate(chosen: Sequence[int]) -> float | None:
        accepted = sum(accepted_by_row[number] for number in chosen)
        return per_row * len(chosen) / accepted if accepted else None

    return _bootstrap(len(accepted_by_row), rate)


def _bootstrap(size: int, statistic: Callable[[Sequence[int]], float | None]) -> Measure:
    value = statistic(range(size)) if size else None
    if value is None:
        return Measure(value=None)
    rng = random.Random(0)
    found = [statistic(rng.choices(range(size), k=size)) for _ in range(_RESAMPLES)]
    known = sorted(one for one in found if one is not None)
    return Measure(value=value, low=known[int(0.025 * len(known))], high=known[int(0.975 * (len(known) - 1))])
