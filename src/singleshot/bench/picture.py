"""What `bench` measured as one picture: latency with its percentiles, rates, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleshot.errors import MissingExtraError, printable
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A colour for each task, told apart with any kind of colour vision (Okabe and Ito 2008).
_TASKS = {
    "network": ("network", "#999999"),
    "detect": ("+ decoding and NMS", "#0072B2"),
    "memory": ("from memory", "#009E73"),
    "files": ("from files", "#D55E00"),
}
_ROW = 0.62  # inches for a candidate
_WIDE = 20.0  # times: from there on bars need a logarithmic axis to be seen


def draw_bench(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the picture of a report of `bench` as PNG; its candidates are as bench.summary gives them.

    Left milliseconds of a call at the smallest batch, a line from the median to the 99th percentile and a tick at the
    90th; right images per second at the best batch. Raises MissingExtraError without matplotlib, ConfigError when it
    cannot write.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the picture needs matplotlib: pip install 'singleshot[train]'") from error
    candidates = [one for one in report["candidates"] if one["tasks"]]
    figure = Figure(figsize=(13, 2.2 + _ROW * max(len(candidates), 2)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    batch = str(report["batches"][0])
    _bars(left, [[_cell(one, task, batch) for task in _TASKS] for one in candidates], "p50_ms", spread=True)
    best = [[_cell(one, task, str(one["best_batch"].get(task))) for task in _TASKS] for one in candidates]
    _bars(right, best, "images_per_s", spread=False)
    left.set_title(f"milliseconds, batch {batch} (to the 99th percentile)", fontsize=10)
    right.set_title("images per second at the best batch", fontsize=10)
    left.set_yticks(range(len(candidates)), [_label(one) for one in candidates], fontsize=8)
    left.invert_yaxis()
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(_TASKS), fontsize=9, frameon=False)
    chip = report["machine"]
    where = f"{chip['cores']} x {chip['processor']}" + (f", {chip['gpu']}" if chip["gpu"] else "")
    title = f"{printable(report['model'], 60)}: {printable(report['about'], 100)}\n{printable(where, 120)}"
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _cell(candidate: Mapping[str, Any], task: str, batch: str) -> Mapping[str, float] | None:
    return candidate["tasks"].get(task, {}).get(batch)


def _label(candidate: Mapping[str, Any]) -> str:
    """Name, memory and start-up under it."""
    said = []
    if candidate["peak_mb"] is not None:
        said.append(f"{candidate['peak_mb']:.0f} MB")
    if candidate["start_s"] is not None:
        said.append(f"starts in {candidate['start_s']:.2g} s")
    return printable(candidate["name"], 64) + ("\n" + ", ".join(said) if said else "")


def _bars(axes: Axes, rows: Sequence[Sequence[Mapping[str, float] | None]], key: str, spread: bool) -> None:
    """A bar for every task of every candidate, a row each; spread: percentiles at its end."""
    height = 0.8 / len(_TASKS)
    values = [cell[key] for row in rows for cell in row if cell is not None]
    logarithmic = bool(values) and max(values) > _WIDE * min(values)
    if logarithmic:
        axes.set_xscale("log")
    for place, (label, colour) in enumerate(_TASKS.values()):
        at = [i for i, row in enumerate(rows) if row[place] is not None]
        cells = [row[place] for row in rows if row[place] is not None]
        y = [i + (place - (len(_TASKS) - 1) / 2) * height for i in at]
        widths = [cell[key] for cell in cells if cell is not None]
        axes.barh(y, widths, height=0.9 * height, color=colour, label=label)
        for row, cell in zip(y, cells, strict=True):
            assert cell is not None
            end = cell["p99_ms"] if spread else cell[key]
            if spread:
                axes.plot([cell["p50_ms"], end], [row, row], color="black", linewidth=0.8)
                axes.plot([cell["p90_ms"]], [row], color="black", marker="|", markersize=4)
            axes.annotate(_short(cell[key]), (end, row), (3, 0), textcoords="offset points", va="center", fontsize=6.5)
    if values:
        low = min(values) / 2 if logarithmic else 0
        top = max(max(cell["p99_ms"], cell[key]) if spread else cell[key] for row in rows for cell in row if cell)
        axes.set_xlim(low, top * (1.8 if logarithmic else 1.15))
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def _short(value: float) -> str:
    """Three digits at most, none of them after hundreds."""
    return f"{value:.0f}" if value >= 99.5 or not math.isfinite(value) else f"{value:.3g}"
