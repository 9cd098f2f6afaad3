"""The ablation as one picture: every arm's mean with its interval, as an SVG file that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.files import atomic_writer
from evals.ablation_arms import MINED
from evals.charts import axis_of, ticks
from evals.retrieval import LABELS

_NAMES, _PANEL, _GAP, _LINE, _TOP, _BOTTOM = 270, 250, 30, 30, 44, 44
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.tick, .note { font-size: 11px; fill: #57606a }
.head { font-weight: 600 }
.grid { stroke: #d0d7de } .mined { stroke: #57606a; stroke-dasharray: 4 3 }
.span { stroke: #0969da; stroke-width: 3; stroke-linecap: round } .point { fill: #0969da }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .tick, .note { fill: #9198a1 } .page { fill: #0d1117 }
  .grid { stroke: #30363d } .mined { stroke: #9198a1 } .span { stroke: #4493f8 } .point { fill: #4493f8 }
}
"""


def write_ablation_plot(path: Path, result: Mapping[str, Any], measures: Sequence[str]) -> None:
    """Draw what `just ablate` found (ablation.json). Raises InputError when the file cannot be written."""
    with atomic_writer(path) as file:
        file.write(str(ablation_plot(result, measures)) + "\n")


def ablation_plot(result: Mapping[str, Any], measures: Sequence[str]) -> Markup:
    """One line an arm, one panel a measure; the dashed line is the mean of mined only."""
    arms = result["arms"]
    width = _NAMES + len(measures) * (_PANEL + _GAP)
    height = _TOP + len(arms) * _LINE + _BOTTOM
    parts = [Markup('<rect class="page" width="{}" height="{}"/>').format(width, height)]
    parts += [_text("name", 12, _line(number) + 5, "start", name) for number, name in enumerate(arms)]
    for number, measure in enumerate(measures):
        parts += _panel(_NAMES + number * (_PANEL + _GAP), arms, measure)
    test = result["test"]
    note = f"{test['queries']} test queries over {test['passages']} passages; 95% intervals over seeds and queries"
    parts.append(_text("note", 12, height - 12, "start", f"{note}; dashed: mined only"))
    spoken = "; ".join(f"{name}: {_words(arm, measures)}" for name, arm in arms.items())
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">'
        "<style>{}</style>{}</svg>"
    ).format(width, height, width, spoken, Markup(_STYLE), Markup("").join(parts))


def _panel(left: float, arms: Mapping[str, Any], measure: str) -> list[Markup]:
    values = {name: arm["measures"][measure] for name, arm in arms.items()}
    low, high = axis = axis_of([value[end] for value in values.values() for end in ("low", "high")])

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * _PANEL, 1)

    bottom = _line(len(arms)) - _LINE / 2
    vertical = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    parts = [_text("head", left, _TOP - 22, "start", LABELS[measure])]
    for tick in ticks(*axis, most=5):
        parts.append(vertical.format("grid", x(tick), x(tick), _TOP - 8, bottom))
        parts.append(_text("tick", x(tick), bottom + 14, "middle", f"{tick:g}"))
    if MINED in values:
        parts.append(vertical.format("mined", *[x(values[MINED]["mean"])] * 2, _TOP - 8, bottom))
    for number, value in enumerate(values.values()):
        span = Markup('<line class="span" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(span.format(x(value["low"]), x(value["high"]), _line(number), _line(number)))
        parts.append(Markup('<circle class="point" cx="{}" cy="{}" r="5"/>').format(x(value["mean"]), _line(number)))
    return parts


def _line(number: int) -> float:
    return _TOP + number * _LINE + _LINE / 2


def _text(css: str, x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(css, x, y, anchor, text)


def _words(arm: Mapping[str, Any], measures: Sequence[str]) -> str:
    found = [(LABELS[measure], arm["measures"][measure]) for measure in measures]
    return ", ".join(f"{name} {value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})" for name, value in found)
