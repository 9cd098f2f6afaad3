"""Small inline SVG charts: colours come from the page's CSS classes, texts are escaped, each has a spoken summary."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

_WIDTH, _HEIGHT = 440, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 10, 10, 34


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high (1, 2 or 5 times a power of ten apart), at most about `most` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Maps data to the plot area and draws the axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        return round(_LEFT + (value - low) / ((high - low) or 1) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self._y
        return round(_HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def draw(self, content: Sequence[Markup], x_label: str, y_format: str, summary: str) -> Markup:
        left, bottom = _LEFT, _HEIGHT - _BOTTOM
        grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts = []
        for tick in ticks(*self._y, most=5):
            parts.append(grid.format(left, _WIDTH - _RIGHT, self.y(tick), self.y(tick)))
            parts.append(svg_text("tick", left - 5, self.y(tick) + 4, "end", format(tick, y_format)))
        parts += [
            svg_text("tick", self.x(tick), bottom + 15, "middle", f"{tick:g}") for tick in ticks(*self._x, most=7)
        ]
        axis = Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            left, _WIDTH - _RIGHT, bottom, bottom
        )
        label = svg_text("label", (left + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, "middle", x_label)
        return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            _WIDTH, _HEIGHT, summary, Markup("").join([*parts, *content, axis, label])
        )


def svg_text(css: str, x: float, y: float, anchor: str, text: str) -> Markup:
    """An escaped text element; `anchor` is start, middle or end."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(css, x, round(y, 1), anchor, text)


def histogram_chart(series: Mapping[str, Mapping[str, Any]], *, x_label: str, marker: str, summary: str) -> Markup:
    """Outlined histograms over one range: CSS class -> {low, high, shares}. `marker` names the line at 0."""
    if not series:
        return Markup("")
    low, high = (next(iter(series.values()))[end] for end in ("low", "high"))
    top = max(max(found["shares"]) for found in series.values()) or 1.0
    frame = _Frame((low, high), (0, top * 1.08))
    content = []
    for css, found in series.items():
        shares = found["shares"]
        width = (high - low) / len(shares)
        points = [f"{frame.x(low)},{frame.y(0)}"]
        for number, share in enumerate(shares):
            points += [f"{frame.x(low + (number + side) * width)},{frame.y(share)}" for side in (0, 1)]
        points.append(f"{frame.x(high)},{frame.y(0)}")
        content.append(Markup('<polygon class="area {}" points="{}"/>').format(css, " ".join(points)))
    if low < 0 < high:
        line = Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        content.append(line.format(frame.x(0), _TOP, frame.y(0)))
        right = frame.x(0) > 0.75 * _WIDTH
        content.append(
            svg_text("label", frame.x(0) + (-5 if right else 5), _TOP + 9, "end" if right else "start", marker)
        )
    return frame.draw(content, x_label, ".0%", summary)


def line_chart(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, x_label: str, summary: str, dots: bool = False
) -> Markup:
    """Lines of (x, y) points: (CSS class, points). Points that are not finite are left out."""
    kept = [(css, [p for p in points if all(map(math.isfinite, p))]) for css, points in series]
    every = [point for _, points in kept for point in points]
    if not every:
        return Markup("")
    low, high = min(y for _, y in every), max(y for _, y in every)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    frame = _Frame((min(x for x, _ in every), max(x for x, _ in every)), (low - room, high + room))
    content = []
    for css, points in kept:
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
        content.append(Markup('<polyline class="line {}" points="{}"/>').format(css, path))
        if dots:
            content += [
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(css, frame.x(x), frame.y(y))
                for x, y in points
            ]
    return frame.draw(content, x_label, ".3g", summary)


def interval_track(
    mean: float, low: float, high: float, axis: tuple[float, float], css: str, mark: float | None
) -> Markup:
    """A dot with its interval on a horizontal scale, as wide as its place; `mark` is a reference line."""

    def percent(value: float) -> float:
        start, end = axis
        return round(100 * min(1.0, max(0.0, (value - start) / ((end - start) or 1))), 2)

    reference = "" if mark is None else Markup('<i class="ref" style="left:{}%"></i>').format(percent(mark))
    return Markup(
        '<span class="track" role="img" aria-label="{} from {} to {}">{}'
        '<i class="span {}" style="left:{}%;width:{}%"></i><i class="point {}" style="left:{}%"></i></span>'
    ).format(
        f"{mean:.3f}", f"{low:.3f}", f"{high:.3f}", reference, css, percent(low),
        round(percent(high) - percent(low), 2), css, percent(mean),
    )  # fmt: skip


def interval_tracks(
    lines: Sequence[tuple[str, str, Mapping[str, float], str]],
    *,
    axis: tuple[float, float],
    mark: float | None = None,
    ends: bool = True,
) -> Markup:
    """Tracks under each other on one scale: (name, CSS class, {mean, low, high}, text); with `ends`, numbers below."""
    line = Markup('<div{}><span class="name">{}</span>{}<span class="figures">{}</span></div>')
    rows = [
        line.format("", name, interval_track(**found, axis=axis, css=css, mark=mark), text)
        for name, css, found, text in lines
    ]
    if ends:
        rows.append(line.format(Markup(' aria-hidden="true"'), "", track_axis(axis), ""))
    return Markup('<div class="tracks">{}</div>').format(Markup("").join(rows))


def track_axis(axis: tuple[float, float]) -> Markup:
    """Numbers under a group of tracks."""
    start, end = axis
    labels = [
        Markup('<b style="left:{}%">{}</b>').format(round(100 * (tick - start) / (end - start), 2), f"{tick:g}")
        for tick in ticks(start, end, most=7)
    ]
    return Markup('<span class="ends">{}</span>').format(Markup("").join(labels))


def axis_of(values: Sequence[float], *, include: float | None = None) -> tuple[float, float]:
    """A common scale for tracks with a little room at both ends."""
    every = [value for value in [*values, *([] if include is None else [include])] if math.isfinite(value)]
    if not every:
        return 0.0, 1.0
    room = (max(every) - min(every)) * 0.06 or 0.05
    return min(every) - room, max(every) + room
