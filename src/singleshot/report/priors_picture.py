"""Default boxes before and after a fit as one picture: sizes of objects with the shapes over them, matched by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from singleshot.datasets.statistics import Cover
from singleshot.errors import printable
from singleshot.extras import needs
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_coverage import best_iou, prior_grids, prior_shapes
from singleshot.report.data_picture import draw_sides, draw_sizes


def draw_priors(
    path: str | Path, title: str, boxes: np.ndarray, tables: Sequence[tuple[PriorSpec, Cover]], iou_min: float
) -> None:
    """Write a PNG with a column for each table. boxes: float [M, 4] in parts of the input.

    Raises MissingExtraError without matplotlib.
    """
    with needs("report", "the picture"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 9.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(2, len(tables), squeeze=False).T
    for (top, low), (table, _), word in zip(columns, tables, ("before", "after"), strict=True):
        sides = np.array(table.image[::-1])
        boxes_px = boxes * np.tile(sides, 2)
        draw_sizes(figure, top, boxes_px, prior_shapes(table) * sides, f"{word}: {table.count} priors", table.image)
        draw_sides(low, boxes_px, best_iou(boxes, prior_grids(table)) >= iou_min, iou_min, word)
    figure.suptitle(printable(title, 110), fontsize=13).set_parse_math(False)  # a "$" in a name is no formula
    figure.savefig(path, format="png")
