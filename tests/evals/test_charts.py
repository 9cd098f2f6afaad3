import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.charts import axis_of, histogram_chart, interval_track, line_chart, ticks, track_axis


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside_the_range_and_are_few(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert len(found) <= 12
    # Far less than a pixel may be missing, so that 0 is not lost to rounding.
    slack = 1e-6 * width + 1e-9 * abs(low) + 1e-12
    assert all(low - slack <= tick <= low + width + slack for tick in found)


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 3) == [3]
    assert ticks(0, math.nan) == [0]


def test_charts_are_well_formed_and_escape_their_texts() -> None:
    evil = '"><script>alert(1)</script>'
    charts = [
        histogram_chart(
            {"mined": {"low": -1, "high": 1, "shares": [0.5, 0.5]}}, x_label=evil, marker=evil, summary=evil
        ),
        line_chart([("a1", [(0, 1), (1, 2), (2, math.nan)])], x_label=evil, summary=evil, dots=True),
    ]
    for chart in charts:
        root = ElementTree.fromstring(str(chart))
        assert root.get("aria-label") == evil
        assert not list(root.iter("script"))
        assert any(text.text == evil for text in root.iter("text"))


def test_nothing_to_draw_is_an_empty_chart() -> None:
    assert line_chart([("a1", [])], x_label="", summary="") == ""
    assert histogram_chart({}, x_label="", marker="", summary="") == ""


@pytest.mark.parametrize("points", [[(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0)]])
def test_a_single_or_constant_value_does_not_divide_by_zero(points: list) -> None:
    assert "polyline" in line_chart([("a1", points)], x_label="x", summary="s")
    assert "left:" in interval_track(1.0, 1.0, 1.0, (1.0, 1.0), "a1", 1.0)


def test_tracks_stay_on_their_scale() -> None:
    assert "left:100.0%;width:0.0%" in interval_track(9, 9, 9, (0, 1), "a1", None)
    assert axis_of([], include=0.5)[0] < 0.5
    assert axis_of([]) == (0.0, 1.0)
    assert '<b style="left:40.0%">0.4</b>' in track_axis((0.0, 1.0))
