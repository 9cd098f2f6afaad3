"""The end of a run: the enriched rows, the summary, and the refusal when the verifier is unusable."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from data.base.errors import InputError
from data.base.files import write_json
from data.base.progress import progress_bar
from data.records import Row
from data.row_files import write_rows
from programs.feedback.hardness import HardnessSpread, RetrieverScorer, hardness_lines
from programs.lm.usage import RoleUsage
from programs.modules.candidates import negative_of
from programs.modules.row_judge import VERIFY
from programs.synthesis.agreement import PlaceEffect, agreement_lines
from programs.synthesis.calibration import MissedPositives, missed_lines, positive_refused
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.funnel import Funnel
from programs.synthesis.mined_verdicts import FalseNegatives, mined_lines, with_verdicts, without_old_verdicts
from programs.synthesis.store import RunStore
from programs.synthesis.workers import RowWork

log = logging.getLogger(__name__)


def write_results(
    config: SynthesizeConfig,
    rows: Iterable[Row],
    store: RunStore,
    seconds: float,
    *,
    program: str,
    layouts: Mapping[str, str],
    total: int,
    lowest_limit: int,
    agreed: dict[str, Any] | None = None,
    scorer: RetrieverScorer | None = None,
) -> dict[str, Any]:
    """Write rows.jsonl and summary.json; returns the summary. Rows whose own positive was refused are left out.

    `program` is how records name the program of the store, `layouts` are those of its roles.
    Raises InputError, and leaves no rows.jsonl, when the verifier is unusable or no row came through.
    """
    funnel, missed, mined, seen = Funnel(), MissedPositives(), FalseNegatives(), set[str]()
    places, spread = PlaceEffect(), HardnessSpread()
    target = config.out / "rows.jsonl"
    details: list[str] = []

    def enriched() -> Iterable[Row]:
        for row in rows:
            work = RowWork.of(row, config)
            synthesis = store.load(work.row_id)
            if synthesis is None:
                raise InputError("the rows changed while the run worked on them; run it again", file=config.rows)
            # Of a row that is there twice, with other mined negatives, the verdicts are on those of one.
            verdicts = synthesis.mined if synthesis.judged == work.judged else ()
            if first := work.row_id not in seen:
                # A row that is there twice was worked on once.
                seen.add(work.row_id)
                funnel.add(synthesis)
                missed.add(row, synthesis)
                places.add(synthesis)
            if synthesis.failure_detail and not details:
                details.append(synthesis.failure_detail)
            progress.update()
            if positive_refused(synthesis):
                continue
            if first:
                spread.add(synthesis)
            accepted = tuple(negative_of(candidate, program=program) for candidate in synthesis.accepted)
            requirements = synthesis.requirements or row.requirements
            if requirements != row.requirements:
                renewed = {place for place, verdict in zip(work.places, verdicts, strict=False) if verdict is not None}
                row = without_old_verdicts(row, renewed)
            row, done = with_verdicts(row, work.places[: len(verdicts)], verdicts, config.mined_relevant)
            if first:
                mined.add(verdicts[: work.num_mined], done)
            yield replace(row, negatives=row.negatives + accepted, requirements=requirements)
        # Raised inside the writer, so that rows.jsonl never takes its name.
        if funnel.condemns_verifier(config):
            raise refuse_unusable(config, funnel, missed, store, seconds)
        if funnel.rows_failed.total() == funnel.rows:
            words = f"none of the {funnel.rows} rows came through: {_counts(funnel.rows_failed)}"
            raise _refuse(config, funnel, missed, store, seconds, " ".join([words, *(f"({one})" for one in details)]))

    with progress_bar(total=total, unit="row", desc="write rows") as progress:
        write_rows(target, enriched())
    summary = {
        "funnel": funnel.as_dict(),
        "verifier": funnel.calibration(config.max_miss_rate).as_dict(),
        "missed_positives": asdict(missed),
        "mined": mined.as_dict(),
        "agreement": agreed,
        "places": places.as_dict(),
        "hardness": None if scorer is None else spread.as_dict(scorer),
        "usage": usage_summary(store.usage(), funnel.accepted),
        "usage_of_all_settings": usage_summary(store.usage(whole_folder=True), 0),
        "program": {"name": program, "key": store.program, "adapters": dict(layouts)},
        # config.json is that of the last start, which may have come to nothing; this is that of the rows.
        "profile": config.profile,
        "seconds_this_run": round(seconds, 3),
        "seconds_all_runs": round(_all_seconds(store, seconds), 3),
        "lowest_concurrency": lowest_limit,
        "rows_file": str(target),
    }
    write_json(config.out / "summary.json", summary)
    return summary


def refuse_unusable(
    config: SynthesizeConfig, funnel: Funnel, missed: MissedPositives, store: RunStore, seconds: float
) -> InputError:
    """Record that the verifier is unusable, show what it missed, and say what to do."""
    found = funnel.calibration(config.max_miss_rate).sentence()
    refusal = _refuse(config, funnel, missed, store, seconds, found)
    return InputError(
        f"{refusal.what}, so no negative was accepted; see the positives above, or keep them all the same with "
        "--accept-unusable-verifier"
    )


def _refuse(
    config: SynthesizeConfig, funnel: Funnel, missed: MissedPositives, store: RunStore, seconds: float, words: str
) -> InputError:
    """Record why there are no rows; the missed positives go to the log."""
    summary: dict[str, Any] = {
        "refused": words,
        "verifier": funnel.calibration(config.max_miss_rate).as_dict(),
        "missed_positives": asdict(missed),
        "usage": usage_summary(store.usage(), 0),
        "seconds_this_run": round(seconds, 3),
    }
    write_json(config.out / "summary.json", summary)
    (config.out / "rows.jsonl").unlink(missing_ok=True)
    for line in missed_lines(summary["missed_positives"]):
        log.warning("%s", line)
    return InputError(words)


def finished_so_far(config: SynthesizeConfig, rows: Iterable[Row], store: RunStore) -> tuple[Funnel, MissedPositives]:
    """The counts over the rows that are finished so far, and the missed positives among them."""
    funnel, missed, seen = Funnel(), MissedPositives(), set[str]()
    for row in rows:
        row_id = RowWork.of(row, config).row_id
        if row_id not in seen and (synthesis := store.load(row_id)) is not None:
            seen.add(row_id)
            funnel.add(synthesis)
            missed.add(row, synthesis)
    return funnel, missed


def _all_seconds(store: RunStore, seconds: float) -> float:
    """The seconds of this run and of those before it; a run that found everything finished adds next to nothing."""
    total = float(store.get_note("seconds") or 0) + seconds
    store.set_note("seconds", str(total))
    return total


def usage_summary(used: Mapping[str, RoleUsage], accepted: int) -> dict[str, Any]:
    """Tokens and cost by role, in all, and per accepted negative."""
    roles = {role: usage.as_dict() for role, usage in sorted(used.items())}
    tokens = sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in roles.values())
    given_up = sum(usage["calls_given_up_on"] for usage in roles.values())
    known = all(usage["cost_usd"] is not None for usage in roles.values())
    cost = sum(usage["cost_usd_known_part"] for usage in roles.values())
    if known:
        in_words = f"{cost:.4f} USD"
    elif any(usage["calls_of_unknown_price"] for usage in roles.values()):
        in_words = "unknown: no price is listed for a model that was used"
    else:
        more = sum(usage["cost_usd_of_calls_given_up_on"] for usage in roles.values())
        in_words = (
            f"at least {cost:.4f} USD (calls given up on: {given_up}, which may have been billed up to {more:.4f} USD)"
        )
    return {
        "roles": roles,
        "requests": sum(usage["requests"] for usage in roles.values()),
        "tokens": tokens,
        "tokens_per_accepted": tokens / accepted if accepted else None,
        "cost_usd": round(cost, 6) if known else None,
        "cost_in_words": in_words,
    }


def synthesis_table(summary: dict[str, Any]) -> str:
    """The funnel, the verifier's calibration and the cost, as lines of text."""
    funnel, usage = summary["funnel"], summary["usage"]
    failed, each = sum(funnel["rows_failed"].values()), usage["tokens_per_accepted"]
    lines = [("rows", f"{funnel['rows']}", f"{failed} failed: {_counts(funnel['rows_failed'])}" if failed else "")]
    if summary["program"]["name"] != VERIFY:
        planned_for = f"from {funnel['requirements']} requirements" if funnel["requirements"] else ""
        lost = {name.replace("_", " "): count for name, count in funnel["lost"].items() if count}
        lines += [
            ("negatives planned", f"{funnel['violations_planned']}", planned_for),
            *((f"  lost: {name}", f"{count}", "") for name, count in lost.items()),
            ("accepted", f"{funnel['accepted']}", _accepted_note(funnel)),
        ]
    if funnel["faults"]:
        lines.append(("faults on the way", f"{sum(funnel['faults'].values())}", _counts(funnel["faults"])))
    lines += [
        ("requests", f"{usage['requests']}", _requests_note(usage)),
        ("tokens", f"{usage['tokens']}", "" if each is None else f"{each:.0f} for each accepted negative"),
        ("cost", usage["cost_in_words"], _other_settings(summary)),
        ("seconds", f"{summary['seconds_this_run']:.1f}", ""),
    ]
    width = max(len(name) for name, _, _ in lines)
    table = "".join(f"{name:<{width}}  {value:>8}  {note}".rstrip() + "\n" for name, value, note in lines)
    verifiers = usage["roles"].get("verifier", {}).get("models", [])
    closing = mined_lines(summary["mined"], ", ".join(verifiers) or "the verifier")
    closing += hardness_lines(summary["hardness"], ", ".join(usage["roles"].get("generator", {}).get("models", [])))
    closing += agreement_lines(summary["agreement"], summary["places"])
    closing += [*missed_lines(summary["missed_positives"]), summary["verifier"]["in_words"]]
    if funnel["rows_left_out"]:
        closing.append(f"left out of the rows, since their own positive was refused: {funnel['rows_left_out']}")
    return "\n".join([table, *closing, f"written: {summary['rows_file']}", ""])


def _other_settings(summary: dict[str, Any]) -> str:
    """What the folder has cost where some of it went into work with other settings or a second way to judge."""
    everything = summary["usage_of_all_settings"]
    if everything["tokens"] == summary["usage"]["tokens"]:
        return ""
    return (
        f"other settings and second judgements in this folder included: {everything['tokens']} tokens, "
        f"{everything['cost_in_words']}"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())


def _accepted_note(funnel: dict[str, Any]) -> str:
    if not funnel["accepted"]:
        return ""
    if not funnel["requirements"]:
        return f"{funnel['acceptance_rate']:.1%} of the planned; nothing was verified"
    return (
        f"{funnel['acceptance_rate']:.1%} of the planned; {funnel['accepted_surgical']} keep every other requirement, "
        f"{funnel['accepted_after_repair']} after a second draft"
    )


def _requests_note(usage: dict[str, Any]) -> str:
    replayed = sum(role["replayed"] for role in usage["roles"].values())
    faults: Counter[str] = Counter()
    for role in usage["roles"].values():
        faults.update(role["faults"])
    notes = [_counts(faults)] if faults else []
    notes += [f"{replayed} more were answered from the store"] if replayed else []
    return "; ".join(notes)


def optimization_table(summary: dict[str, Any]) -> str:
    """Before and after of every part, and what it took."""
    lines = [part["in_words"] for part in summary["parts"].values()]
    lines += [f"{name}: not compiled: {why}" for name, why in summary["parts_not_compiled"].items()]
    calls = sum(usage["requests"] for usage in summary["usage"].values())
    replayed = sum(usage["replayed"] for usage in summary["usage"].values())
    usd = summary["spent"]["usd"]
    cost = "price unknown" if usd is None else f"{usd:.4f} USD"
    lines.append(
        f"spent: {summary['spent']['tokens']} tokens, {cost}, {calls} requests "
        f"({replayed} more answered from the store), {summary['seconds_this_run']:.1f} seconds"
    )
    if summary["ended_early"]:
        lines.append(
            f"ended early: {summary['ended_early']}; the same command (with a larger budget) goes on from here"
        )
    return "\n".join([*lines, f"written: {summary['program_folder']}", ""])
