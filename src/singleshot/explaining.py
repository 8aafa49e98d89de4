"""Where an image's detections come from: default box and cell of each, and what non-maximum suppression removed.

Detections are those of `postprocess.trace_detections`; nothing is decoded a second way here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleshot.boxes import Variances, iou
from singleshot.postprocess import Traced, trace_detections
from singleshot.prior_boxes import PriorSpec
from singleshot.records import RawOutput
from singleshot.thresholds import VOTE_SHARE, Thresholds


class Scene(NamedTuple):
    """What decides the detections of one image.

    raw: of a batch of one; priors: [P, 4] cx cy w h; show_min: the score from which a detection is shown; window: [4],
    where the image lies in the input, x0 y0 x1 y1 in 0..1 (a letterbox's bars lie outside).
    """

    raw: RawOutput
    priors: Tensor
    variances: Variances
    rules: Thresholds
    show_min: float
    window: Tensor

    def trace(self, wanted: Sequence[int] | None = None) -> Traced:
        """The detections that score at least `show_min`, not cut to the image.

        Weaker ones are not looked at: neither greedy suppression nor a limit on the best of them depends on those, and
        a box not on what scores less than a share of it.
        """
        share = 1.0 if self.rules.box_voting is None else VOTE_SHARE
        rules = replace(self.rules, score_min=max(self.rules.score_min, self._least(share)))
        (found,) = trace_detections(self.raw, self.priors, self.variances, rules, wanted)
        if self.rules.box_voting is None:
            return found
        shown = int((found.scores > max(self.rules.score_min, self._least(1.0))).sum())  # best first
        return Traced(*(values[:shown] for values in found))

    def _least(self, share: float) -> float:
        """The number before that share of `show_min`, which a score must be over."""
        return max(torch.nextafter(torch.tensor(self.show_min * share), torch.tensor(-1.0)).item(), 0.0)

    def visible(self, found: Traced) -> Traced:
        """Those that score at least `show_min` and have an area once they are cut to the image (`runtime.pixels`)."""
        boxes = cut(found.boxes, self.window)
        rows = (found.scores >= self.show_min) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return Traced(*(values[rows] for values in found._replace(boxes=boxes)))


def cut(boxes: Tensor, window: Tensor) -> Tensor:
    """Boxes [N, 4] cut to a window [4]."""
    return torch.minimum(torch.maximum(boxes, window[:2].repeat(2)), window[2:].repeat(2))


class RunnersUp(NamedTuple):
    """Candidates that NMS removed, best first: by [M], the detection that each lies over; iou [M] with that one."""

    removed: Traced
    by: Tensor
    iou: Tensor


def runners_up(candidates: Traced, kept: Traced, rules: Thresholds) -> RunnersUp:
    """Which of the candidates each kept detection removed: the best one that a candidate overlaps too much with.

    candidates: of `postprocess.trace_candidates` by these rules; kept: the detections, or the first of them. Candidates
    that none of them removed are left out. Suppression comes before box voting: IoUs are those of the boxes before it.
    """
    width = 1 + int(torch.cat([candidates.labels, kept.labels]).max()) if len(candidates.labels) else 1
    entered, stayed = (one.priors * width + one.labels for one in (candidates, kept))
    itself = torch.isin(entered, stayed)
    own = kept.boxes
    if rules.box_voting is not None and len(own):
        own = candidates.boxes[(stayed.unsqueeze(1) == entered).byte().argmax(dim=1)]
    overlaps = iou(own, candidates.boxes)
    clash = (overlaps > rules.nms_iou) & (kept.scores.unsqueeze(1) >= candidates.scores) & ~itself
    if not rules.class_agnostic:
        clash &= kept.labels.unsqueeze(1) == candidates.labels
    rows = clash.any(dim=0).nonzero().squeeze(1)
    by = clash[:, rows].byte().argmax(dim=0) if len(rows) else rows
    return RunnersUp(Traced(*(values[rows] for values in candidates)), by, overlaps[by, rows])


class Place(NamedTuple):
    """A default box among those of its model: map, row and column of the cell, and which box of the cell, from 0."""

    map: int
    row: int
    column: int
    box: int


def places_of(spec: PriorSpec, priors: Sequence[int] | np.ndarray) -> list[Place]:
    """The place of each prior by its number in `prior_table`."""
    numbers, (grids, per_cell) = np.asarray(priors, np.int64), (spec.grids, spec.per_cell)
    sizes = [rows * columns * boxes for (rows, columns), boxes in zip(grids, per_cell, strict=True)]
    ends = np.cumsum(sizes)
    maps = np.searchsorted(ends, numbers, side="right")
    found = []
    for number, index in zip(maps.tolist(), (numbers - (ends - sizes)[maps]).tolist(), strict=True):
        (rows, columns), boxes = grids[number], per_cell[number]
        if spec.order == "location":
            cell, box = divmod(index, boxes)
        else:
            box, cell = divmod(index, rows * columns)
        row, column = divmod(cell, columns)
        found.append(Place(number, row, column, box))
    return found
