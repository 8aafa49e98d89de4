"""What `bench` measured as a chart: latency with its percentiles, rates, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleshot.errors import printable
from singleshot.extras import require
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A label and a colour for each kind of task, distinguishable with any kind of colour vision (Okabe and Ito 2008).
_KINDS = {
    "network": ("network", "#999999"),
    "detect": ("+ decoding and NMS", "#0072B2"),
    "memory": ("from memory", "#009E73"),
    "files": ("from files", "#D55E00"),
}
_ROW = 0.62  # inches for a candidate
_WIDE = 20.0  # times: from there on bars need a logarithmic axis to be seen


def need_chart() -> None:
    """Raise MissingExtraError where no chart can be drawn."""
    require("train", "the chart (--out)", "matplotlib")


def draw_bench(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the chart of a report of `run_bench` as PNG.

    Left milliseconds of a call at the smallest batch, a line from the median to the 99th percentile and a tick at the
    90th; right images per second at the best batch.

    Raises:
        ConfigError: It cannot be written.
        MissingExtraError: There is no matplotlib.
    """
    need_chart()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    candidates = [one for one in report["candidates"] if one["tasks"]]
    figure = Figure(figsize=(13, 2.2 + _ROW * max(len(candidates), 2)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    batch = str(report["batches"][0])
    _bars(left, [[_figures(one, kind, batch) for kind in _KINDS] for one in candidates], "p50_ms", spread=True)
    best = [[_figures(one, kind, str(one["best_batch"].get(kind))) for kind in _KINDS] for one in candidates]
    _bars(right, best, "images_per_s", spread=False)
    left.set_title(f"milliseconds, batch {batch} (to the 99th percentile)", fontsize=10)
    right.set_title("images per second at the best batch", fontsize=10)
    left.set_yticks(range(len(candidates)), [_label(one) for one in candidates], fontsize=8)
    left.invert_yaxis()
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(_KINDS), fontsize=9, frameon=False)
    chip = report["machine"]
    where = f"{chip['cores']} x {chip['processor']}" + (f", {chip['gpu']}" if chip["gpu"] else "")
    title = f"{printable(report['model'], 60)}: {printable(report['about'], 100)}\n{printable(where, 120)}"
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _figures(candidate: Mapping[str, Any], kind: str, batch: str) -> Mapping[str, float] | None:
    figures: Mapping[str, float] | None = candidate["tasks"].get(kind, {}).get(batch)
    return figures


def _label(candidate: Mapping[str, Any]) -> str:
    """Name, memory and start-up under it."""
    about = []
    if candidate["peak_mb"] is not None:
        about.append(f"{candidate['peak_mb']:.0f} MB")
    if candidate["start_s"] is not None:
        about.append(f"starts in {candidate['start_s']:.2g} s")
    return printable(candidate["name"], 64) + ("\n" + ", ".join(about) if about else "")


def _bars(axes: Axes, rows: Sequence[Sequence[Mapping[str, float] | None]], key: str, spread: bool) -> None:
    """A bar for every kind of task of every candidate, a row each; spread: percentiles at its end."""
    height = 0.8 / len(_KINDS)
    values = [one[key] for row in rows for one in row if one is not None]
    logarithmic = bool(values) and max(values) > _WIDE * min(values)
    if logarithmic:
        axes.set_xscale("log")
    for place, (label, colour) in enumerate(_KINDS.values()):
        at = [i for i, row in enumerate(rows) if row[place] is not None]
        measured = [row[place] for row in rows if row[place] is not None]
        y = [i + (place - (len(_KINDS) - 1) / 2) * height for i in at]
        widths = [one[key] for one in measured if one is not None]
        axes.barh(y, widths, height=0.9 * height, color=colour, label=label)
        for row, one in zip(y, measured, strict=True):
            assert one is not None
            end = one["p99_ms"] if spread else one[key]
            if spread:
                axes.plot([one["p50_ms"], end], [row, row], color="black", linewidth=0.8)
                axes.plot([one["p90_ms"]], [row], color="black", marker="|", markersize=4)
            axes.annotate(_short(one[key]), (end, row), (3, 0), textcoords="offset points", va="center", fontsize=6.5)
    if values:
        low = min(values) / 2 if logarithmic else 0
        top = max(max(one["p99_ms"], one[key]) if spread else one[key] for row in rows for one in row if one)
        axes.set_xlim(low, top * (1.8 if logarithmic else 1.15))
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def _short(value: float) -> str:
    """Three digits at most, none of them after hundreds."""
    return f"{value:.0f}" if value >= 99.5 or not math.isfinite(value) else f"{value:.3g}"
