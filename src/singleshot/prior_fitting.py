"""Fits a table of default boxes to the objects of a data set: sizes, aspect ratios and, where those do not do, places.

Which shapes a table should have is a problem of coverage under a budget: a shape on a map costs the map's cells and
gains what it adds to the objects' best IoU. Such gains only shrink as shapes are added, and taking the largest gain
per cost again and again comes close to the best choice (Khuller, Moss and Naor 1999, the budgeted maximum coverage
problem; Redmon and Farhadi 2017, section 2, choose shapes by IoU too, without places and maps). What was chosen is then
moved, shape by shape, as long as that helps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from singleshot.errors import ConfigError
from singleshot.prior_boxes import PriorSpec, cell_shapes
from singleshot.prior_coverage import IOU_MIN

# Objects that shapes are chosen by; of more a sample, fewer are taken several times at slightly other places. All count
# alike: with rare sizes counting more than they come, VOC2007's photos were found less well (benchmarks/README.md).
_SAMPLE = 4000
# An object's place within the image is moved by up to this part of its own side, and its size changed by up to this
# factor: by how much augmentation moves and zooms, or the next image does, and not what decides about a table.
_MOVED, _ZOOMED = 0.25, 1.15
# Widths and heights that are tried are this far apart, and the most common so many of their pairs.
_STEP, _MOST_SHAPES = 1.12, 160
# A map's largest root of an area, relative to that of the table's own shapes there: heads see so far around a cell. Its
# shortest side is the table's own: only a finer map separates objects that are thinner than a cell.
_BAND = 2.0
# Where in a cell priors may lie, in cells: in the middle, or denser than the cells (FaceBoxes, section 3.2), which is
# taken where the middles alone leave more than this share unmatched that it would match.
_PLACES, _WORTH = (0.25, 0.5, 0.75), 0.005
_MOST_PER_CELL = 12
# A shape that gains less than this per object is not worth its outputs.
_LEAST = 1e-4
_MOVES = (0.12, 0.06, 0.03, 0.015)  # of the logarithm of a side and, in cells, of a place


class _Shape(NamedTuple):
    """A prior of each cell of a map: width and height in parts of the input, centre in cells from the corner."""

    level: int
    width: float
    height: float
    x: float
    y: float


def fit_priors(
    boxes: np.ndarray, table: PriorSpec, *, iou_min: float = IOU_MIN, max_priors: int | None = None, seed: int = 0
) -> PriorSpec:
    """A table for the same input and maps that meets the boxes best: most of them matched, high mean IoU.

    Each map keeps at least one shape; none is thinner than the thinnest that it has in `table`, nor the root of its
    area more than twice its largest. The first map's may be smaller, the last one's larger. The same boxes and seed
    give the same table.

    Args:
        boxes: float [M, 4], corner form in parts of the input, as the network is to see them.
        table: Whose input, maps, steps, order and variances are kept.
        iou_min: The IoU from which a prior matches.
        max_priors: The most that there may be; None for as many as `table` has.
        seed: Of the sample and of small moves of its boxes.

    Raises:
        ConfigError: There are no boxes, or max_priors is fewer than one of each cell.
    """
    most = table.count if max_priors is None else max_priors
    cells = [rows * columns for rows, columns in table.grids]
    if most < sum(cells):
        raise ConfigError(f"--max-priors {most}: want at least {sum(cells)}, one of each cell of maps {table.maps}")
    sample = _sample(np.asarray(boxes, np.float64).reshape(-1, 4), np.random.default_rng(seed))
    if not len(sample):
        raise ConfigError("priors: no object to fit them to")
    fit = _Fit(sample, table, iou_min, most)
    middles, everywhere = fit.search((table.offset,)), None
    if fit.matched(middles) < 1 - _WORTH:
        everywhere = fit.search(_PLACES)
    if everywhere is not None and fit.matched(everywhere) - fit.matched(middles) > _WORTH:
        middles = everywhere
    return _to_spec(middles, table)


def _sample(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[_SAMPLE, 4] of the boxes that have an area, moved and zoomed a little within the input; [0, 4] of none."""
    size = boxes[:, 2:] - boxes[:, :2]
    boxes = boxes[(size > 0).all(axis=1)]
    boxes = boxes[np.lexsort(boxes.T)]  # in which order they come plays no part
    if not len(boxes):
        return boxes
    rounds = -(-_SAMPLE // len(boxes))
    chosen = np.concatenate([rng.permutation(len(boxes)) for _ in range(rounds)])[:_SAMPLE]
    low, high = boxes[chosen, :2], boxes[chosen, 2:]
    size, centre = high - low, (low + high) / 2
    zoom = np.exp(rng.uniform(-math.log(_ZOOMED), math.log(_ZOOMED), (len(chosen), 1)))
    centre = centre + size * rng.uniform(-_MOVED, _MOVED, (len(chosen), 2))
    size = np.minimum(size * zoom, 1)
    centre = centre.clip(size / 2, 1 - size / 2)
    return np.concatenate((centre - size / 2, centre + size / 2), axis=1)


class _Fit:
    """A search for shapes. boxes: [M, 4]; table: whose maps they are for; iou_min; most: priors that there may be."""

    def __init__(self, boxes: np.ndarray, table: PriorSpec, iou_min: float, most: int) -> None:
        self.boxes, self.table, self.iou_min, self.most = boxes, table, iou_min, most
        self.centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        self.half = (boxes[:, 2:] - boxes[:, :2]) / 2
        self.area = 4 * self.half.prod(axis=1)
        self.cells = [rows * columns for rows, columns in table.grids]
        self.bands = _bands(table)

    def overlap(self, level: int, axis: int, side: float, place: float) -> np.ndarray:
        """[M] what the nearest prior of that side covers of each box along x (axis 0) or y."""
        cells, pixels = self.table.grids[level][1 - axis], self.table.image[1 - axis]
        step = self.table.step(level)[1 - axis] / pixels
        centre = self.centre[:, axis]
        nearest = (np.rint(centre / step - place).clip(0, cells - 1) + place) * step
        far, half, own = np.abs(centre - nearest), side / 2, self.half[:, axis]
        covered: np.ndarray = np.minimum(np.minimum(2 * half, 2 * own), half + own - far).clip(0, None)
        return covered

    def iou(self, shape: _Shape) -> np.ndarray:
        """[M] best IoU with the priors of one shape."""
        inter = self.overlap(shape.level, 0, shape.width, shape.x) * self.overlap(shape.level, 1, shape.height, shape.y)
        iou: np.ndarray = inter / (shape.width * shape.height + self.area - inter)
        return iou

    def best(self, shapes: Sequence[_Shape]) -> np.ndarray:
        """[M] best IoU with the priors of any of the shapes."""
        best: np.ndarray = np.max([self.iou(shape) for shape in shapes], axis=0, initial=0.0)
        return best

    def worth(self, iou: np.ndarray) -> np.ndarray:
        """What objects are worth by their best IoU: more from iou_min on, with a slope that leads there."""
        slope: np.ndarray = ((iou - 0.8 * self.iou_min) / (0.2 * self.iou_min)).clip(0, 1)
        worth: np.ndarray = 3.0 * (iou >= self.iou_min) + 0.75 * slope + iou
        return worth

    def matched(self, shapes: Sequence[_Shape]) -> float:
        """Share of the objects that a prior matches."""
        return float((self.best(shapes) >= self.iou_min).mean())

    # ------------------------------------------------------------------------------------------ search

    def search(self, places: Sequence[float]) -> list[_Shape]:
        """Shapes for every map, with centres at those places in a cell each way."""
        candidates = self.candidates(places)
        worth = self.worth(self.table_of(candidates)).astype(np.float32)
        chosen = max((self.pick(candidates, worth, power) for power in (1.0, 0.5)), key=self.total)
        return self.refine(chosen, move_centres=len(places) > 1)

    def total(self, shapes: Sequence[_Shape]) -> float:
        return float(self.worth(self.best(shapes)).mean())

    def candidates(self, places: Sequence[float]) -> list[_Shape]:
        """The most common sizes of the boxes, on every map that they fit, at all of the places."""
        size = 2 * self.half
        steps, counts = np.unique(np.rint(np.log(size) / math.log(_STEP)), axis=0, return_counts=True)
        common = steps[np.sort(np.argsort(-counts, kind="stable")[:_MOST_SHAPES])]
        found = []
        for width, height in np.minimum(_STEP**common, 1.0).tolist():
            for level in range(len(self.bands)):
                if self.suits(level, width, height):
                    found += [_Shape(level, width, height, x, y) for y in places for x in places]
        return found

    def suits(self, level: int, width: float, height: float) -> bool:
        """Whether a map may have a shape."""
        (low, high), (rows, columns) = self.bands[level], self.table.image
        sides = width * columns, height * rows
        return low <= min(sides) and math.sqrt(math.prod(sides)) <= high

    def table_of(self, candidates: Sequence[_Shape]) -> np.ndarray:
        """float32 [candidates, M] best IoU with each alone."""
        along: dict[tuple[int, int, float, float], np.ndarray] = {}

        def part(level: int, axis: int, side: float, place: float) -> np.ndarray:
            key = level, axis, side, place
            if key not in along:
                along[key] = self.overlap(level, axis, side, place).astype(np.float32)
            return along[key]

        area = self.area.astype(np.float32)
        table = np.empty((len(candidates), len(area)), np.float32)
        for row, (level, width, height, x, y) in zip(table, candidates, strict=True):
            inter = part(level, 0, width, x) * part(level, 1, height, y)
            np.divide(inter, np.float32(width * height) + area - inter, out=row)
        return table

    def pick(self, candidates: Sequence[_Shape], worth: np.ndarray, power: float) -> list[_Shape]:
        """Greedily the candidate of the largest gain per cells ** power, while there is room for it; then every map
        that has none yet gets a square."""
        level = np.array([shape.level for shape in candidates], np.int64)
        cost = np.array(self.cells)[level]
        left, count = self.most - sum(self.cells), np.zeros(len(self.cells), np.int64)
        have, chosen = np.zeros(len(self.boxes), np.float32), []
        # Gains only shrink: a candidate whose last known gain is below the best fresh one need not be looked at again.
        gain = worth.mean(axis=1) if len(worth) else np.zeros(0)
        while True:
            # The first shape of a map has its room kept for it.
            open_ = (count[level] < _MOST_PER_CELL) & ((count[level] == 0) | (cost <= left)) & (gain > _LEAST)
            ranked = np.where(open_, gain / cost**power, -1.0)
            best, best_rank = -1, 0.0
            for k in np.argsort(-ranked, kind="stable"):
                if ranked[k] <= best_rank:
                    break
                gain[k] = np.maximum(worth[k] - have, 0).mean()
                rank = gain[k] / cost[k] ** power if gain[k] > _LEAST else 0.0
                if rank > best_rank:
                    best, best_rank = int(k), rank
            if best < 0:
                break
            here = level[best]
            left -= int(cost[best]) if count[here] else 0
            count[here] += 1
            have = np.maximum(have, worth[best])
            chosen.append(candidates[best])
        return chosen + [self.square(i) for i in range(len(self.cells)) if not count[i]]

    def square(self, level: int) -> _Shape:
        """For a map whose sizes no object has: its table's first shape."""
        width, height = cell_shapes(self.table, level)[0]
        rows, columns = self.table.image
        middle = self.table.offset
        return _Shape(level, min(width / columns, 1.0), min(height / rows, 1.0), middle, middle)

    def refine(self, shapes: list[_Shape], move_centres: bool) -> list[_Shape]:
        """Each shape in turn a little wider, narrower, higher, lower or elsewhere, as long as that is worth more."""
        shapes = list(shapes)
        each = np.array([self.iou(shape) for shape in shapes])
        for move in _MOVES:
            for k in range(len(shapes)):
                others = np.delete(each, k, axis=0).max(axis=0, initial=0.0)
                now = self.worth(np.maximum(others, each[k])).sum()
                for trial in self.near(shapes[k], move, move_centres):
                    iou = self.iou(trial)
                    worth = self.worth(np.maximum(others, iou)).sum()
                    if worth > now + 1e-9:
                        shapes[k], each[k], now = trial, iou, worth
        return shapes

    def near(self, shape: _Shape, move: float, move_centres: bool) -> list[_Shape]:
        """Shapes a little different that the map may have."""
        scales = [(w, h) for w in (-1, 0, 1) for h in (-1, 0, 1) if (w, h) != (0, 0)]
        found = []
        for w, h in scales:
            width, height = (min(s * math.exp(move * d), 1.0) for s, d in ((shape.width, w), (shape.height, h)))
            if self.suits(shape.level, width, height):
                found.append(shape._replace(width=width, height=height))
        if move_centres:
            for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                at = shape._replace(x=shape.x + x * 2 * move, y=shape.y + y * 2 * move)
                found += [at] if min(at.x, at.y) >= 0 and max(at.x, at.y) <= 1 else []
        return found


def _bands(table: PriorSpec) -> list[tuple[float, float]]:
    """Of each map the least short side of its shapes and their largest root of an area, with room; in pixels."""
    shapes = [cell_shapes(table, i) for i in range(len(table.maps))]
    bands = [(min(map(min, one)), _BAND * max(math.sqrt(w * h) for w, h in one)) for one in shapes]
    first, last = min(bands)[0], max(high for _, high in bands)
    return [(0.0 if low == first else low, math.inf if high == last else high) for low, high in bands]


def _to_spec(shapes: Sequence[_Shape], table: PriorSpec) -> PriorSpec:
    """A spec of the shapes, those of a map by size; centres only where one is not the middle."""
    height, width = table.image
    levels = [sorted(s for s in shapes if s.level == i) for i in range(len(table.maps))]
    boxes = tuple(tuple((round(s.width * width, 3), round(s.height * height, 3)) for s in level) for level in levels)
    centres = tuple(tuple((round(s.x, 4), round(s.y, 4)) for s in level) for level in levels)
    moved = any(centre != (table.offset, table.offset) for level in centres for centre in level)
    return PriorSpec(
        image_size=table.image_size,
        maps=table.maps,
        min_sizes=(),
        max_sizes=(),
        ratios=(),
        steps=table.steps,
        offset=table.offset,
        variances=table.variances,
        shapes=boxes,
        order=table.order,
        centres=centres if moved else None,
    )
