"""A data set as one picture: classes, box sizes against the priors, which sizes are matched, where objects lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.datasets.statistics import BoxTable, DataInfo, compared_rows, presets, spans
from singleshot.errors import printable
from singleshot.extras import needs
from singleshot.files import atomic_write
from singleshot.prior_coverage import IOU_MIN, best_iou, prior_grids, prior_shapes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = 24  # bars that can be read next to each other
_CELLS = 96  # of the map of places, each way
_TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_COUNTS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))


def draw_info(info: DataInfo, table: BoxTable, path: str | Path) -> None:
    """Write the picture of a data set to `path` as PNG; the priors are those of the model that info was made for.

    Raises MissingExtraError without matplotlib, ConfigError when it cannot write.
    """
    with needs("report", "the picture"):
        # The object interface alone: pyplot keeps global figures and picks a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    from singleshot.prior_tables import PRIORS

    figure = Figure(figsize=(12.0, 9.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    spec = PRIORS[presets()[info.model].priors]
    rows = compared_rows(table)
    boxes, plain = table.square[rows], ~table.difficult[rows]
    _draw_classes(top_left, info)
    px, label = info.input_px, f"priors of {info.model}"
    draw_sizes(figure, top_right, boxes * px, prior_shapes(spec) * px, label, (px, px))
    matched = best_iou(boxes[plain], prior_grids(spec)) >= IOU_MIN
    draw_sides(low_left, boxes[plain] * px, matched, IOU_MIN, label)
    low_left.set_ylabel("objects" if not info.chosen.difficult.objects else "objects, without difficult ones")
    _draw_places(figure, low_right, boxes, int(table.placed.sum()))
    title = figure.suptitle(
        f"{printable(info.source, 90)}: {info.total.images} images, {info.total.objects} objects, "
        f"{len(info.classes)} classes",
        fontsize=13,
    )
    title.set_parse_math(False)  # a "$" in a name is no formula
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # A class name in a script that the font lacks shows as boxes; no reason to fill the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(temporary, format="png")


def _draw_classes(axes: Axes, info: DataInfo) -> None:
    shown = info.classes[:_CLASSES]
    axes.barh(range(len(shown)), [one.objects for one in shown], color="C0", height=0.75)
    axes.set_yticks(range(len(shown)), [printable(one.name, 24) or "(no name)" for one in shown])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    for k, one in enumerate(shown):
        axes.annotate(
            f"{one.objects} ({one.share or 0.0:.1%})",
            (one.objects, k),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.margins(x=0.22)
    more = f" (the {len(shown)} most common)" if len(info.classes) > len(shown) else ""
    axes.set_title(f"objects of each class{more}")
    _bare(axes)


def draw_sizes(
    figure: Figure, axes: Axes, boxes_px: np.ndarray, shapes_px: np.ndarray, label: str, sides: tuple[int, int]
) -> None:
    """Width and height of boxes [M, 4] in pixels of the input, and over them the shapes [S, 2] of priors. sides: height
    and width of the input."""
    from matplotlib.colors import LogNorm

    longest = max(sides)
    width, height = (np.maximum(side, 1) for side in spans(boxes_px))
    low = min(float(side.min(initial=8)) for side in (width, height))
    edges = np.geomspace(low, longest, 61 if len(boxes_px) > 2000 else 31)
    counts, _, _ = np.histogram2d(np.minimum(width, edges[-1]), np.minimum(height, edges[-1]), bins=(edges, edges))
    counts = np.ma.masked_equal(counts.T, 0)
    # From below 1, so that a single object is not white on white.
    norm = LogNorm(0.3, max(float(counts.max()) if counts.count() else 0, 2.0))
    mesh = axes.pcolormesh(edges, edges, counts, norm=norm, cmap="Blues", rasterized=True)
    bar = figure.colorbar(mesh, ax=axes, label="objects", format="{x:g}")
    bar.ax.set_ylim(1)
    bar.minorticks_off()
    bar.set_ticks([tick for tick in _COUNTS if tick <= norm.vmax])
    axes.plot(*shapes_px.T, "x", color="C3", markersize=6, markeredgewidth=1.3, label=label)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color="0.6", linewidth=0.8)
    for scale, ticks in ((axes.set_xscale, axes.set_xticks), (axes.set_yscale, axes.set_yticks)):
        scale("log")
        ticks([tick for tick in _TICKS if low <= tick <= longest], minor=False)
        ticks([], minor=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    limits = (low, max(float(shapes_px.max(initial=1)), longest) * 1.06)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="width (px)", ylabel="height (px)")
    where = f"square of {longest} px" if sides[0] == sides[1] else f"input of {sides[0]} x {sides[1]} px"
    axes.set_title(f"box sizes in the {where}")
    axes.legend(loc="lower right", fontsize=9)


def draw_sides(axes: Axes, boxes_px: np.ndarray, matched: np.ndarray, iou_min: float, title: str) -> None:
    """Histogram of sqrt(area) of boxes [M, 4] in pixels of the input, split by whether a prior matches, bool [M]."""
    width, height = spans(boxes_px)
    side = np.maximum(np.sqrt(width * height), 1)
    edges = np.geomspace(float(side.min(initial=8)), float(side.max(initial=16)) * 1.0001, 41)
    axes.hist(
        [side[matched], side[~matched]],
        bins=list(edges),
        stacked=True,
        color=["C0", "C3"],
        label=[f"a prior matches (IoU >= {iou_min:g})", "none does"],
    )
    axes.set_xscale("log")
    axes.set_xticks([tick for tick in _TICKS if edges[0] <= tick <= edges[-1]])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("sqrt(width x height) in px of the input")
    axes.set_ylabel("objects")
    share = f": {matched.mean():.1%} matched" if len(matched) else ""
    axes.set_title(f"{title}{share}")
    axes.legend(fontsize=9)
    _bare(axes)


def _draw_places(figure: Figure, axes: Axes, boxes: np.ndarray, total: int) -> None:
    covered = coverage(boxes, _CELLS) / max(len(boxes), 1)
    image = axes.imshow(covered * 100, extent=(0, 1, 1, 0), cmap="magma", vmin=0)
    figure.colorbar(image, ax=axes, label="objects that cover the place (%)")
    axes.set_title("where objects lie in the image" + (f" ({len(boxes)} of {total})" if len(boxes) < total else ""))
    axes.set(xlabel="part of the width", ylabel="part of the height")


def coverage(boxes: np.ndarray, cells: int) -> np.ndarray:
    """float64 [cells, cells]: how many of the boxes [M, 4] (parts of the square) cover the centre of each cell."""
    # Each box adds 1 at its first cell and takes it back after its last; two running sums fill what lies between.
    x0, y0, x1, y1 = np.clip(np.ceil(boxes * cells - 0.5), 0, cells).astype(np.int64).T
    steps = np.zeros((cells + 1, cells + 1))
    for rows, columns, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(steps, (rows, columns), sign)
    return steps.cumsum(axis=0).cumsum(axis=1)[:cells, :cells]


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
