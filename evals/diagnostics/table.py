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


Line = tuple[str, Callable[[Found], str]]


def _interval(*names: str) -> Callable[[Found], str]:
    return lambda seen: interval(get_path(seen, *names))


def _number(*names: str, digits: int = 3) -> Callable[[Found], str]:
    def show(seen: Found) -> str:
        value = get_path(seen, *names)
        return "–" if value is None else f"{value:.{digits}f}"

    return show


def _degrees(seen: Found) -> str:
    angle = get_path(seen, "drift", "angle")
    return "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**angle) if angle else "–"


def _chance(seen: Found) -> str:
    score = get_path(seen, "leak", "score")
    return f"{score['chance']:.3f}, p = {score['p_value']:.3f}" if score else "–"


# Short enough for two encoders side by side on 80 columns.
DRIFT_LINES: tuple[Line, ...] = (
    ("gradient turned at query, degrees", _degrees),
    ("its length, with / without", _number("drift", "query_norm_ratio", digits=2)),
    ("gradient of whole model, degrees", _number("parameter_drift", "angle", digits=1)),
    ("  between halves of the rows", _number("parameter_drift", "chance_angle", digits=1)),
)
_LINES: tuple[Line, ...] = (
    ("leak: probe on embeddings, AUC", _interval("leak", "embedding_auc")),
    ("leak: information in score, nats", _interval("leak", "score", "estimate")),
    ("  by chance", _chance),
    *(
        (f"{words}: {source}", show("hardness", "by_source", source, field))
        for words, show, field in (
            ("above the positive", _interval, "above_positive"),
            ("InfoNCE weight", _number, "mass"),
            ("without effect", _number, "wasted"),
        )
        for source in ("mined", "generated")
    ),
    *DRIFT_LINES,
)


def diagnostics_text(result: Found) -> str:
    """The table over the encoders, one line for each absent part, and the warnings."""
    encoders = result["encoders"]
    header = ["mean [95% interval]", *encoders]
    grades = [
        (f"similarity, grade {grade}".replace("grade not", "not"), _interval("by_grade", grade, "similarity"))
        for grade in next(iter(encoders.values()))["by_grade"]
    ]
    lines = [[name, *(show(seen) for seen in encoders.values())] for name, show in (*_LINES, *grades)]
    words = get_path(result, "text_leak", "words_auc")
    lines.insert(0, ["leak: probe on words, AUC", *([interval(words)] * len(encoders))])
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
