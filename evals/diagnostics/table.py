"""What `diagnose` prints when it is done: the key figures before and after, what they mean, and the warnings."""

from collections.abc import Callable, Mapping
from typing import Any

from data.base.cli import text_table
from data.base.stats import Interval

Found = Mapping[str, Any]


def interval(value: Found | None) -> str:
    """mean [low, high], or a dash where there is none; an end that the data leave open is a dash, too."""
    if not value or value["mean"] is None:
        return "–"
    if value["low"] is None or value["high"] is None:
        low, high = ("–" if value[end] is None else f"{value[end]:.3f}" for end in ("low", "high"))
        return f"{value['mean']:.3f} [{low}, {high}]"
    return str(Interval.of(value))


def get_path(found: Any, *names: str) -> Any:
    """A value deep inside the diagnostics, or None where a part of the way is absent."""
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _share_above(source: str) -> Callable[[Found], str]:
    return lambda seen: interval(get_path(seen, "hardness", "by_source", source, "above_positive"))


def _number(*names: str, digits: int = 3) -> Callable[[Found], str]:
    def show(seen: Found) -> str:
        value = get_path(seen, *names)
        return "–" if value is None else f"{value:.{digits}f}"

    return show


def _information(seen: Found, name: str) -> str:
    value = get_path(seen, "leak", name)
    if not value:
        return "–"
    return f"{interval(value['estimate'])}, chance {value['chance']:.3f}, p = {value['p_value']:.3f}"


LINES: tuple[tuple[str, Callable[[Found], str]], ...] = (
    ("source leak: AUC of a probe on embeddings", lambda seen: interval(get_path(seen, "leak", "embedding_auc"))),
    ("source leak: information in the score, nats", lambda seen: _information(seen, "score")),
    ("share of mined negatives above the positive", _share_above("mined")),
    ("share of generated negatives above the positive", _share_above("generated")),
    ("InfoNCE weight of a row's mined negatives together", _number("hardness", "by_source", "mined", "mass")),
    ("InfoNCE weight of a row's generated ones together", _number("hardness", "by_source", "generated", "mass")),
    ("mined negatives without effect (weight < 0.01)", _number("hardness", "by_source", "mined", "wasted")),
    ("generated negatives without effect", _number("hardness", "by_source", "generated", "wasted")),
    ("gradient drift at the query, degrees", lambda seen: interval(get_path(seen, "drift", "angle"))),
    ("gradient norm, with generated / without", _number("drift", "query_norm_ratio", digits=2)),
    ("gradient drift of the whole model, degrees", _number("parameter_drift", "angle", digits=1)),
    ("  between halves of the rows, for comparison", _number("parameter_drift", "chance_angle", digits=1)),
)  # fmt: skip


def diagnostics_text(result: Found) -> str:
    """The table over the encoders, one line for each absent part, and the warnings."""
    encoders = result["encoders"]
    header = ["mean [95% interval]", *encoders]
    lines = [[name, *(show(seen) for seen in encoders.values())] for name, show in LINES]
    words = get_path(result, "text_leak", "words_auc")
    lines.insert(0, ["source leak: AUC of a probe on words (0.5: none)", *([interval(words)] * len(encoders))])
    counts = result["num_negatives"]
    head = (
        f"{result['num_rows_used']} of {result['num_rows']} rows, {counts['mined']} mined and "
        f"{counts['generated']} generated negatives\n"
    ) + "\n".join(f"{when}: {seen['model']}" for when, seen in encoders.items())
    absent = [f"{name}: {why}" for name, why in absences(result).items()]
    if few := get_path(result, "text_leak", "artefacts_absent"):
        absent.append(f"lengths, openings and phrases: {few}")
    warnings = [f"warning: {text}" for text in result["warnings"]]
    calibration = get_path(result, "funnel", "calibration")
    blocks = [head, text_table(header, lines), "\n".join(warnings), "\n".join(absent)]
    if calibration:
        blocks.append(calibration["in_words"])
    return "\n\n".join(block for block in blocks if block)


def absences(result: Found) -> dict[str, str]:
    """Why each absent part is absent, once for all encoders."""
    found = {name: result[name] for name in ("text_leak", "funnel", "audit")}
    for seen in result["encoders"].values():
        found |= {name: seen[name] for name in ("leak", "drift", "parameter_drift")}
    return {
        name.replace("_", " "): part["absent"]
        for name, part in found.items()
        if isinstance(part, Mapping) and "absent" in part
    }
