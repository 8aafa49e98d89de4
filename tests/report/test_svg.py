"""Charts as inline SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from singleshot.report.svg import Axis, Line, Mark, bar_chart, line_chart, ticks, unit_axis

X = np.arange(5.0)


def paths(chart) -> list[str]:
    """Of the chart's lines, without the legend's."""
    (svg,) = [one for one in ET.fromstring(str(chart)).iter("svg") if one.get("role") == "img"]
    return [one.get("d") for one in svg.iter("path")]


def points(path: str) -> list[list[float]]:
    return [[float(v) for v in pair.split()] for pair in path.lstrip("M").split("L")]


def test_values_lie_where_the_axes_say() -> None:
    (path,) = paths(line_chart([Line("a", X, X / 4)], Axis("x"), unit_axis("y")))
    places = points(path)
    assert places[0] == [54.0, 232.0]
    assert places[-1] == [410.0, 10.0]
    assert places[2] == [232.0, 121.0]


def test_what_is_not_known_is_passed_over_and_a_line_without_values_is_said_so() -> None:
    nan = float("nan")
    chart = line_chart(
        [Line("a", X, np.array([0, nan, nan, 1, nan])), Line("b", X, np.full(5, nan))], Axis("x"), Axis("y")
    )
    assert [len(points(path)) for path in paths(chart)] == [2]
    assert "b (not measured)" in chart
    assert "a (not measured)" not in chart
    assert line_chart([Line("b", X, np.full(5, nan))], Axis("x"), Axis("y")) == '<p class="none">not measured</p>'
    assert "not measured" in line_chart([], Axis("x"), Axis("y"))


def test_epochs_are_marked_at_whole_numbers() -> None:
    chart = line_chart([Line("a", X[:3] + 1, X[:3])], Axis("epoch", whole=True), unit_axis("y"))
    (svg,) = [one for one in ET.fromstring(str(chart)).iter("svg") if one.get("role") == "img"]
    words = [one.text for one in svg.iter("text")]
    assert [word for word in words if word in ("1", "1.5", "2", "2.5", "3")] == ["1", "1", "2", "3"]  # 1 of y


def test_names_are_escaped() -> None:
    name = "<script>alert('x')</script>&\""
    chart = line_chart([Line(name, X, X), Line("b", X, X)], Axis(name), Axis("y"), Mark(2.0, name))
    assert "<script" not in chart
    assert chart.count("&lt;script&gt;") >= 4
    assert "<script" not in bar_chart([name], [1.0], [name])
    ET.fromstring(str(chart))


def test_many_points_become_few_and_keep_the_ends() -> None:
    x = np.arange(100_000.0)
    (path,) = paths(line_chart([Line("a", x, x)], Axis("x"), Axis("y")))
    places = points(path)
    assert len(places) <= 300
    assert places[0][0] == 54.0
    assert places[-1][0] == 410.0


def test_one_value_and_equal_values_are_drawn() -> None:
    dot = line_chart([Line("a", X[:1], X[:1])], Axis("x"), Axis("y"))
    assert paths(dot)[0].endswith("h.01")
    assert 'class="line dot c0"' in dot
    assert "line dot" not in line_chart([Line("a", X, X)], Axis("x"), Axis("y"))
    assert paths(line_chart([Line("a", X, X * 0)], Axis("x"), Axis("y")))
    values = np.array([1.0, 0.0, 100.0, 1e4, 1.0])
    (path,) = paths(line_chart([Line("a", X, values)], Axis("x"), Axis("y", log=True)))
    assert len(points(path)) == 4  # 0 has no place on it


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 6e-5), (3, 33), (-2.5, 7), (0, 123456)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert min(found) >= low - 1e-9
    assert max(found) <= high + 1e-9
