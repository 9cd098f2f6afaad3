"""The ablation as one picture: every arm against mined only, as an SVG file that needs nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data.base.stats import Interval
from evals.ablation.arms import MINED
from evals.charts import axis_of, svg_text, ticks
from evals.retrieval.measures import LABELS

_NAMES, _PANEL, _GAP, _LINE, _TOP, _BOTTOM = 270, 300, 40, 30, 44, 44
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


def ablation_plot(result: Mapping[str, Any], measures: Sequence[str]) -> Markup:
    """ablation.json drawn: a line an arm, a panel a measure, the difference from mined only (the dashed line).

    The arms' own means differ little beside the spread of the queries, which pairing by query takes out.
    """
    arms = result["against_mined"]
    width = _NAMES + len(measures) * (_PANEL + _GAP)
    height = _TOP + len(arms) * _LINE + _BOTTOM
    parts = [Markup('<rect class="page" width="{}" height="{}"/>').format(width, height)]
    parts += [svg_text("name", 12, _line(number) + 5, "start", name) for number, name in enumerate(arms)]
    for number, measure in enumerate(measures):
        mined = result["arms"][MINED]["measures"][measure]["mean"]
        title = f"{LABELS[measure]}: difference from {MINED} ({mined:.3f})"
        parts += _panel(_NAMES + number * (_PANEL + _GAP), title, [arm[measure] for arm in arms.values()])
    test = result["test"]
    note = f"{test['queries']} test queries over {test['passages']} passages; 95% intervals over seeds and queries"
    parts.append(svg_text("note", 12, height - 12, "start", note))
    spoken = "; ".join(f"{name}: {_words(arm, measures)}" for name, arm in arms.items())
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">'
        "<style>{}</style>{}</svg>"
    ).format(width, height, width, f"difference from {MINED}: {spoken}", Markup(_STYLE), Markup("").join(parts))


def _panel(left: float, title: str, differences: Sequence[Mapping[str, float]]) -> list[Markup]:
    ends = [difference[end] for difference in differences for end in ("low", "high")]
    low, high = axis = axis_of(ends, include=0.0)

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * _PANEL, 1)

    bottom = _line(len(differences)) - _LINE / 2
    vertical = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    parts = [svg_text("head", left, _TOP - 22, "start", title)]
    for tick in ticks(*axis, most=7):
        parts.append(vertical.format("grid", x(tick), x(tick), _TOP - 8, bottom))
        parts.append(svg_text("tick", x(tick), bottom + 14, "middle", f"{tick:+g}" if tick else "0"))
    parts.append(vertical.format("mined", x(0), x(0), _TOP - 8, bottom))
    for number, difference in enumerate(differences):
        span = Markup('<line class="span" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(span.format(x(difference["low"]), x(difference["high"]), _line(number), _line(number)))
        dot = Markup('<circle class="point" cx="{}" cy="{}" r="5"/>')
        parts.append(dot.format(x(difference["mean"]), _line(number)))
    return parts


def _line(number: int) -> float:
    return _TOP + number * _LINE + _LINE / 2


def _words(arm: Mapping[str, Any], measures: Sequence[str]) -> str:
    return ", ".join(f"{LABELS[measure]} {Interval.of(arm[measure]):+}" for measure in measures)
