"""Precision-recall curves of all classes as one picture."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.errors import printable
from singleshot.extras import needs
from singleshot.files import atomic_write
from singleshot.metrics import ClassResult, Curve, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# matplotlib's ten "tab10" colours, then the same ten dashed, dotted...: more hues look alike.
_COLOURS = 10
_LINES = ("-", "--", ":", "-.")
# A picture is some 700 pixels wide inside its frame; a curve has a point per detection, easily a million.
_MAX_POINTS = 2000
_LEGEND_ROWS = 26


def draw_curves(evaluation: Evaluation, path: str | Path) -> None:
    """Write precision-recall curves to `path` as PNG; a dot marks each class's greatest F1.

    Classes without ground truth have no curve. The legend gives the class's AP (AP50 for the COCO metric, since the
    curve is that of one IoU). Raises MissingExtraError without matplotlib, ConfigError when it cannot write.
    """
    with needs("report", "a picture of curves"):
        # The object interface alone: pyplot keeps global figures and picks a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    drawn = [i for i, curve in enumerate(evaluation.curves) if curve.truths]
    columns = max(1, math.ceil(len(drawn) / _LEGEND_ROWS))
    figure = Figure(figsize=(7.6 + 2.6 * columns, 6.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 1.6 if len(drawn) <= 6 else 1.0
    lines = [_draw_class(axes, evaluation.curves[i], evaluation.per_class[i], i, width) for i in drawn]
    _frame(axes, evaluation, bool(drawn))
    if drawn:
        title = f"{'AP50' if evaluation.metric == 'coco' else 'AP'}  class   (dot: best F1)"
        _legend(figure, lines, [_label(evaluation.per_class[i]) for i in drawn], title, columns)
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # A class name in a script that the font lacks shows as boxes; no reason to fill the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format="png")


def _draw_class(axes: Axes, curve: Curve, result: ClassResult, index: int, width: float) -> Line2D:
    recall, precision = curve.recall, curve.precision
    if len(recall) > _MAX_POINTS:
        some = np.linspace(0, len(recall) - 1, _MAX_POINTS).astype(int)
        recall, precision = recall[some], precision[some]
    colour = f"C{index % _COLOURS}"
    style = _LINES[index // _COLOURS % len(_LINES)]
    # From recall 0 at the first precision, so that a class found by its first detections has a visible line.
    recall = np.concatenate((np.zeros(min(1, len(recall))), recall))
    precision = np.concatenate((precision[:1], precision))
    (line,) = axes.plot(recall, precision, style, color=colour, linewidth=width)
    if result.f1 > 0:
        axes.plot(
            [result.recall],
            [result.precision],
            "o",
            color=colour,
            markersize=7,
            markeredgecolor="white",
            zorder=3,
        )
    return line


def _label(result: ClassResult) -> str:
    # The figure first: figures line up, and a name that begins with "_" would hide the entry from the legend.
    ap = result.ap if result.ap50 is None else result.ap50
    return f"{ap:.3f}  {printable(result.name, 24)}"


def _frame(axes: Axes, evaluation: Evaluation, any_curve: bool) -> None:
    axes.set_xlim(0.0, 1.005)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.grid(alpha=0.3)
    mean = "n/a" if math.isnan(evaluation.mean_ap) else f"{evaluation.mean_ap:.3f}"
    headline = "AP .5:.95" if evaluation.metric == "coco" else f"mAP ({evaluation.metric})"
    axes.set_title(f"{headline} {mean}, {evaluation.images} images, curves at IoU {evaluation.iou_min:g}")
    if not any_curve:
        axes.text(0.5, 0.5, "no ground truth", ha="center", va="center", transform=axes.transAxes)


def _legend(figure: Figure, lines: list[Line2D], labels: list[str], title: str, columns: int) -> None:
    legend = figure.legend(
        lines,
        labels,
        loc="outside right upper",
        ncols=columns,
        fontsize=9,
        title=title,
        title_fontsize=9,
        handlelength=2.6,
    )
    for text in legend.get_texts():
        # A "$" in a class name is no formula.
        text.set_parse_math(False)
