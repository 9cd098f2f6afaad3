"""The closing tables that the commands of this room print."""

from typing import Any


def synthesis_table(summary: dict[str, Any]) -> str:
    """The funnel, the verifier's calibration and the cost, as lines of text."""
    funnel, usage = summary["funnel"], summary["usage"]
    failed = sum(funnel["rows_failed"].values())
    lines = [
        ("rows", f"{funnel['rows']}", "" if not failed else f"{failed} failed: {_counts(funnel['rows_failed'])}"),
        ("negatives planned", f"{funnel['violations_planned']}", _planned_note(funnel)),
        *((f"  lost: {name.replace('_', ' ')}", f"{count}", "") for name, count in funnel["lost"].items() if count),
        ("accepted", f"{funnel['accepted']}", _accepted_note(funnel)),
    ]
    if funnel["faults"]:
        lines.append(("faults on the way", f"{sum(funnel['faults'].values())}", _counts(funnel["faults"])))
    lines += [
        ("requests", f"{usage['requests']}", _requests_note(usage)),
        ("tokens", f"{usage['tokens']}", _per_accepted(usage)),
        ("cost", usage["cost_in_words"], ""),
        ("seconds", f"{summary['seconds_this_run']:.1f}", ""),
    ]
    width = max(len(name) for name, _, _ in lines)
    table = "".join(f"{name:<{width}}  {value:>8}  {note}".rstrip() + "\n" for name, value, note in lines)
    return f"{table}\n{summary['verifier']['in_words']}\nwritten: {summary['rows_file']}\n"


def _planned_note(funnel: dict[str, Any]) -> str:
    return f"from {funnel['requirements']} requirements" if funnel["requirements"] else ""


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
    faults: dict[str, int] = {}
    for role in usage["roles"].values():
        for name, count in role["faults"].items():
            faults[name] = faults.get(name, 0) + count
    notes = [_counts(faults)] if faults else []
    notes += [f"{replayed} more were answered from the store"] if replayed else []
    return "; ".join(notes)


def _per_accepted(usage: dict[str, Any]) -> str:
    per_accepted = usage["tokens_per_accepted"]
    return "" if per_accepted is None else f"{per_accepted:.0f} for each accepted negative"


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
