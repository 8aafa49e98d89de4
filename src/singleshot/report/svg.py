"""Charts as inline SVG: they take the page's colours, so that they read in dark mode and in print, and weigh little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 38
COLOURS = 8  # that the style sheet has; then dashed ones
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_MAX_POINTS = 300


class Line(NamedTuple):
    """x, y: float [N], passed over where y is nan; strong: drawn thick, in the colour of text."""

    name: str
    x: np.ndarray
    y: np.ndarray
    strong: bool = False


class Axis(NamedTuple):
    """low, high: None for what the values need; log: powers of ten; whole: marked at whole numbers only."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False


def unit_axis(label: str) -> Axis:
    """From 0 to 1."""
    return Axis(label, 0.0, 1.0)


class Mark(NamedTuple):
    """A vertical line at x with a word."""

    x: float
    label: str


def line_chart(lines: Sequence[Line], x_axis: Axis, y_axis: Axis, mark: Mark | None = None) -> Markup:
    """A chart with its legend below; lines without a value are left out, of which the legend says so."""
    drawn = [line for line in lines if _finite(line, y_axis).any()]
    if not drawn:
        return Markup('<p class="none">not measured</p>')
    xs, ys = (_range([getattr(line, name)[_finite(line, y_axis)] for line in drawn], axis)
              for name, axis in (("x", x_axis), ("y", y_axis)))  # fmt: skip
    parts = [_grid(xs, ys, x_axis, y_axis)]
    if mark is not None:
        at = _place(np.array([mark.x]), xs, _LEFT, _WIDTH - _RIGHT, x_axis.log)[0]
        parts.append(Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            f"{at:.1f}", _TOP, _HEIGHT - _BOTTOM))  # fmt: skip
        side = "end" if at > _WIDTH * 0.7 else "start"
        parts.append(Markup('<text class="markword" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            f"{at + (-4 if side == 'end' else 4):.1f}", _TOP + 11, side, mark.label))  # fmt: skip
    # The strong line last, over the others.
    for i in sorted(range(len(lines)), key=lambda k: lines[k].strong):
        if any(lines[i] is one for one in drawn):
            parts.append(_path(lines[i], i, (xs, ys), (x_axis, y_axis)))
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{y_axis.label} against {x_axis.label}", Markup("").join(parts)
    )
    return Markup('<figure class="chart">{}{}</figure>').format(svg, _legend(lines, drawn) if len(lines) > 1 else "")


def bar_chart(names: Sequence[str], values: Sequence[float], words: Sequence[str]) -> Markup:
    """Horizontal bars as a table, so that names of any length and script have room; words: behind each bar."""
    most = max([*values, 1e-12])
    row = Markup(
        '<tr><th scope="row">{}</th><td class="bar"><i style="width:{}%"></i></td><td class="num">{}</td></tr>'
    )
    rows = (row.format(*one) for one in zip(names, (f"{90 * v / most:.1f}" for v in values), words, strict=True))
    return Markup('<table class="bars">{}</table>').format(Markup("").join(rows))


def _finite(line: Line, y_axis: Axis) -> np.ndarray:
    good: np.ndarray = np.isfinite(line.y) & np.isfinite(line.x) & ((line.y > 0) if y_axis.log else True)
    return good


def _range(values: Sequence[np.ndarray], axis: Axis) -> tuple[float, float]:
    together = np.concatenate(values)
    low = float(together.min()) if axis.low is None else axis.low
    high = float(together.max()) if axis.high is None else axis.high
    if axis.log:
        return 10 ** math.floor(math.log10(low) + 1e-9), max(10 ** math.ceil(math.log10(high) - 1e-9), low * 10)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _place(values: np.ndarray, span: tuple[float, float], start: float, end: float, log: bool) -> np.ndarray:
    low, high = (math.log10(one) for one in span) if log else span
    part: np.ndarray = ((np.log10(np.maximum(values, 1e-30)) if log else values) - low) / (high - low)
    placed: np.ndarray = start + np.clip(part, 0.0, 1.0) * (end - start)
    return placed


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high, some `most` of them."""
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * power >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _axis_ticks(span: tuple[float, float], axis: Axis) -> list[float]:
    if not axis.log:
        return [tick for tick in ticks(*span) if not axis.whole or tick == round(tick)]
    return [10.0**k for k in range(round(math.log10(span[0])), round(math.log10(span[1])) + 1)]


def _short(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def _grid(xs: tuple[float, float], ys: tuple[float, float], x_axis: Axis, y_axis: Axis) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in _axis_ticks(ys, y_axis):
        y = f"{_place(np.array([value]), ys, bottom, _TOP, y_axis.log)[0]:.1f}"
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y))
        parts.append(
            Markup('<text x="{}" y="{}" dy="4" text-anchor="end">{}</text>').format(_LEFT - 5, y, _short(value))
        )
    for value in _axis_ticks(xs, x_axis):
        x = f"{_place(np.array([value]), xs, _LEFT, right, x_axis.log)[0]:.1f}"
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _TOP, bottom))
        parts.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, bottom + 15, _short(value)))
    middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        middle[0], _HEIGHT - 6, x_axis.label))  # fmt: skip
    turned = '<text class="axis" x="12" y="{0}" text-anchor="middle" transform="rotate(-90 12 {0})">{1}</text>'
    parts.append(Markup(turned).format(middle[1], y_axis.label))
    return Markup("").join(parts)


def _path(line: Line, index: int, spans: tuple[tuple[float, float], ...], axes: tuple[Axis, Axis]) -> Markup:
    rows = np.flatnonzero(_finite(line, axes[1]))
    if len(rows) > _MAX_POINTS:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MAX_POINTS).astype(int))]
    x = _place(line.x[rows], spans[0], _LEFT, _WIDTH - _RIGHT, axes[0].log)
    y = _place(line.y[rows], spans[1], _HEIGHT - _BOTTOM, _TOP, axes[1].log)
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    is_dot = len(rows) == 1
    if is_dot:
        path += "h.01"
    return Markup('<path class="line{} {}" d="{}"{}><title>{}</title></path>').format(
        " dot" * is_dot, _colour(line, index), path, _dash(line, index), line.name
    )


def _colour(line: Line, index: int) -> str:
    return "strong" if line.strong else f"c{index % COLOURS}"


def _dash(line: Line, index: int) -> Markup:
    dash = "" if line.strong else _DASHES[index // COLOURS % len(_DASHES)]
    return Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")


def _legend(lines: Sequence[Line], drawn: Sequence[Line]) -> Markup:
    entry = Markup(
        '<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="line {}" d="M1 4H23"{}/></svg>{}{}</li>'
    )
    entries = [
        entry.format(
            _colour(line, i),
            _dash(line, i),
            escape(line.name),
            "" if any(line is one for one in drawn) else " (not measured)",
        )
        for i, line in enumerate(lines)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))
