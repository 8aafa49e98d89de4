"""The end of an SSD whose boxes a network decodes itself, operation by operation: heads, default boxes and variances.

OpenVINO and ONNX files without DetectionOutput. Each number of each head gets a number of its own, which shows where
it goes; then offsets are put in, and the boxes that come out are held to SSD's decoding (its paper, equation 2):
centre + variance * offset * size, size * exp(variance * offset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.importers.decoded_places import end_places
from singleshot.weights.importers.fused_graph import Shape
from singleshot.weights.importers.graph_tail import ACTIVATIONS, MAX_NUMBERS, Tail
from singleshot.weights.importers.openvino_constants import Constants
from singleshot.weights.readers.openvino_ir import IrNetwork, Node

_LANDMARKS = 10  # columns of a face's five points, which are left out
_EXACT, _SAME_CENTRE = 1e-4, 1e-3  # of an offset's effect; of centres in a line, as parts of the image
# What four numbers mean -> how centre x, centre y, width and height follow, as a matrix.
_FORMS: dict[str, np.ndarray] = {
    "x0 y0 x1 y1": np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]]),
    "y0 x0 y1 x1": np.array([[0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0], [0, -1, 0, 1], [-1, 0, 1, 0]]),
    "cx cy w h": np.eye(4),
    "cy cx h w": np.eye(4)[[1, 0, 3, 2]],
    "x0 y0 w h": np.array([[1, 0, 0.5, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]),
}


Grid = tuple[tuple[int, int], int]  # rows and columns of a map, boxes of a cell


class HeadOrder(NamedTuple):
    """One map's heads. location, confidence: the nodes that give them; location_rows [n * 4], confidence_rows
    [n * columns]: which of their channels our heads' outputs are; several nodes are refused."""

    location: int
    confidence: int
    location_rows: tuple[int, ...]
    confidence_rows: tuple[int, ...]


class DecodedEnd(NamedTuple):
    """heads: of each map, largest first; per_cell: boxes of a cell; columns: of scores; background: 0, or -1 for none;
    table: default boxes as corners in 0..1 and variances [2, P * 4], map by map, row by row; None where the file
    does not have them."""

    heads: tuple[HeadOrder, ...]
    per_cell: tuple[int, ...]
    columns: int
    background: int
    table: np.ndarray | None
    thresholds: Thresholds
    points: bool = False  # whether there are points of faces, too


class EndReader:
    """One network's end. Raises CheckpointError where it is not an SSD's."""

    def __init__(
        self, network: IrNetwork, constants: Constants, shapes: Mapping[int, Shape], maps: Sequence[int], image: Shape
    ) -> None:
        """shapes: of the network's maps; maps: those that the heads give, nodes of `shapes`."""
        self.network, self.nodes, self.constants, self.image = network, network.nodes, constants, image
        self.where = constants.where
        self.ends = end_places(network)
        self.places, self.suppressing = self.ends.places, self.ends.suppressing
        self.maps = {i: shapes[i] for i in maps}
        self.tail = Tail(self.nodes, constants, self.places, self.maps, shapes, (image.width, image.height))
        self.starts, total = {}, 1
        for i, shape in self.maps.items():
            self.starts[i] = total
            total += shape.channels * shape.height * shape.width
        if total > MAX_NUMBERS:
            raise CheckpointError(f"{self.where}: heads of {total} numbers (at most {MAX_NUMBERS} are read)")
        self.total = total  # one more than the largest number
        self.bare = False  # whether scores come without an activation

    def read(self) -> DecodedEnd:
        """Heads, default boxes and variances."""
        values = self.tail.run(self._filled(np.arange(self.total, dtype=np.float64)))
        box_place, score_places = self._boxes_and_scores(values)
        count = values[box_place].size // 4
        scores, background, activation = self._scores(values, score_places, count)
        offsets = self._offsets(values, box_place, count)
        rows, per_cell, pairs = self._by_cell(offsets, scores)
        grids = [self.maps[location][1:] for location, _ in pairs]
        boxes, variances, columns = self._decoding(box_place, offsets, rows, list(zip(grids, per_cell, strict=True)))
        heads = self._heads(offsets[:, columns][rows], scores[rows], per_cell, pairs)
        table = None
        if boxes is not None:
            corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
            table = np.stack([corners.reshape(-1), np.tile(variances, len(boxes))])
        points = any(values[place].shape[-1:] == (_LANDMARKS,) for place in self.places)
        return DecodedEnd(heads, per_cell, scores.shape[1], background, table, self._thresholds(activation), points)

    def _refused(self, reason: str) -> CheckpointError:
        """For the caller to raise."""
        return CheckpointError(
            f"{self.where}: {printable(reason, 160)}; want the checkpoint that it was converted from"
        )

    # ------------------------------------------------------------------------------------------ numbers in, numbers out

    def _filled(self, flat: np.ndarray) -> dict[int, np.ndarray]:
        """Numbers by their places as the maps' values."""
        return {
            i: flat[self.starts[i] : self.starts[i] + shape.channels * shape.height * shape.width].reshape(1, *shape)
            for i, shape in self.maps.items()
        }

    def _is_pure(self, values: np.ndarray) -> bool:
        """Whether an array holds numbers of places, each once at most, and nothing else."""
        if values.dtype.kind != "f" or not bool(((values >= 1) & (values < self.total)).all()):
            return False
        flat = values.reshape(-1)
        return bool((flat == np.floor(flat)).all()) and len(np.unique(flat)) == flat.size

    def _boxes_and_scores(
        self, values: Mapping[tuple[int, int], np.ndarray]
    ) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        if self.ends.pairs:
            return self.places[0], self.places[1::2]
        touched = [place for place in dict.fromkeys(self.places) if place[0] in self.tail.touched]
        active = [place for place in touched if self.tail.is_active(place[0])]
        if not active:  # scores as they are: the softmax is in the project's code
            plain = [p for p in touched if values[p].ndim > 1 and values[p].shape[-1] not in (4, _LANDMARKS)]
            self.bare = len(plain) == 1
            active = plain if self.bare else []
        other = [p for p in touched if p not in active and values[p].shape[-1:] == (4,) and values[p].size > 4]
        if self.bare and not other:
            raise self._refused(
                f"gives boxes and scores in one output of {values[active[0]].shape[-1]} columns, and which are which is"
                " in its project's code"
            )
        if len(active) != 1 or len(other) != 1:
            raise self._refused(
                f"ends in {len(active)} outputs of scores and {len(other)} of boxes, not one of each as an SSD"
            )
        return other[0], active

    # ------------------------------------------------------------------------------------------ scores

    def _scores(
        self, values: Mapping[tuple[int, int], np.ndarray], places: Sequence[tuple[int, int]], count: int
    ) -> tuple[np.ndarray, int, str]:
        """Places of each box's scores [P, columns], the background first where there is one; which column that is, or
        -1; the activation."""
        active = sorted({i for place in places for i in self.tail.activations(place[0])})
        kinds = {"softmax"} if self.bare else {ACTIVATIONS[self.nodes[i].kind] for i in active}
        if len(kinds) != 1:
            raise self._refused(
                f"its scores come of {' and '.join(sorted(kinds)) or 'no activation'}, want softmax or sigmoid"
            )
        parts = [np.atleast_2d(np.squeeze(values[place])) for place in places]
        if not self.ends.pairs:
            parts = [part if part.shape[-1] == count and part.shape[0] != count else part.T for part in parts]
        if any(part.ndim != 2 or part.shape[1] != count for part in parts):
            raise self._refused(f"its scores have shape {values[places[0]].shape} for {count} boxes")
        scores = np.concatenate(parts).T
        if len(parts) > 1:  # classes are suppressed one by one, in whatever order
            scores = scores[:, np.argsort(scores[0])]
        if not self._is_pure(scores):
            raise self._refused("its scores are not those of one output for each box and class")
        scores = scores.astype(np.int64)
        kind = kinds.pop()
        if self.bare:
            return scores, 0, "softmax"
        rows = [self._rows(i, values[self.nodes[i].takes[0]], kind, scores.shape[1]) for i in active]
        if any(row is None for row in rows):
            if kind == "softmax":
                raise self._refused("its softmax goes over something other than a box's classes")
            return scores, -1, kind
        every = np.concatenate([row for row in rows if row is not None]).astype(np.int64)
        row_of, column_of = np.full(self.total, -1), np.full(self.total, -1)
        row_of[every] = np.arange(len(every))[:, None]
        column_of[every] = np.arange(every.shape[1])
        own, columns = row_of[scores], column_of[scores]
        missing = sorted(set(range(every.shape[1])) - set(columns[0].tolist()))
        if (own != own[:, :1]).any() or (own < 0).any() or (columns != columns[0]).any() or len(missing) > 1:
            raise self._refused("its scores are not those of one output for each box and class")
        if missing:
            return np.concatenate([every[own[:, 0], missing[0]][:, None], scores], axis=1), 0, kind
        return scores, 0 if kind == "softmax" else -1, kind

    def _rows(self, i: int, x: np.ndarray, kind: str, columns: int) -> np.ndarray | None:
        """What one activation takes, a row for each box: [rows, columns]; None where its rows are no box's classes."""
        node = self.nodes[i]
        axis = node.whole("axis", 1) % x.ndim if kind == "softmax" else x.ndim - 1
        if node.flag("rest") and axis != x.ndim - 1:
            return None
        if x.shape[axis] not in (columns, columns + 1) or not self._is_pure(x):
            return None
        return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])

    # ------------------------------------------------------------------------------------------ boxes

    def _offsets(self, values: Mapping[tuple[int, int], np.ndarray], end: tuple[int, int], count: int) -> np.ndarray:
        """Places of each box's four offsets [P, 4]: of the last array on the way to the boxes that holds just those."""
        way = self.tail.way_to(end[0])
        for place in sorted((p for p in values if p[0] in way), reverse=True):
            found = values[place]
            if found.size != 4 * count or not self._is_pure(found):
                continue
            flat = np.squeeze(found)
            if flat.ndim == 2 and flat.shape[0] == 4 != flat.shape[1]:
                flat = flat.T
            if flat.ndim == 1 or flat.shape[-1] == 4:
                return flat.reshape(count, 4).astype(np.int64)
        raise self._refused("its boxes are not of one set of offsets, four for each")

    def _by_cell(
        self, offsets: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Rows of boxes map by map and cell by cell, boxes of a cell in their own order; boxes of a cell; the nodes of
        each map's locations and scores, largest map first."""
        pairs: dict[tuple[int, int], np.ndarray] = {}
        nodes = [self._node_of(values) for values in (offsets, scores)]
        cells = [self._cell_of(values, own) for values, own in zip((offsets, scores), nodes, strict=True)]
        if (cells[0] != cells[1]).any():
            raise self._refused("its boxes and scores are of different cells")
        for location in np.unique(nodes[0]):
            mine = np.flatnonzero(nodes[0] == location)
            confidence = np.unique(nodes[1][mine])
            if len(confidence) != 1:
                raise self._refused("a map's boxes have scores of several layers")
            pairs[int(location), int(confidence[0])] = mine
        order = sorted(pairs, key=lambda pair: (-self._area(pair[0]), pairs[pair][0]))
        rows, per_cell = [], []
        for pair in order:
            mine, area = pairs[pair], self._area(pair[0])
            if len(mine) % area:
                raise self._refused(f"{len(mine)} boxes on a map of {area} cells")
            rows.append(mine[np.argsort(cells[0][mine], kind="stable")])
            per_cell.append(len(mine) // area)
            if (cells[0][rows[-1]] != np.repeat(np.arange(area), per_cell[-1])).any():
                raise self._refused("a map has cells without boxes")
        return np.concatenate(rows), tuple(per_cell), tuple(order)

    def _area(self, i: int) -> int:
        return self.maps[i].height * self.maps[i].width

    def _node_of(self, places: np.ndarray) -> np.ndarray:
        """The node that each row's numbers come from [P]."""
        keys = list(self.starts)
        starts = np.array([self.starts[i] for i in keys])
        own = np.searchsorted(starts, places, side="right") - 1
        if (own != own[:, :1]).any():
            raise self._refused("a box has numbers of several layers")
        found: np.ndarray = np.array(keys)[own[:, 0]]
        return found

    def _cell_of(self, places: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """The cell of each row, row by row of its map [P]."""
        starts = np.array([self.starts[int(i)] for i in nodes])[:, None]
        areas = np.array([self._area(int(i)) for i in nodes])[:, None]
        cells = (places - starts) % areas
        if (cells != cells[:, :1]).any():
            raise self._refused("a box has numbers of several cells")
        found: np.ndarray = cells[:, 0]
        return found

    def _decoding(
        self, end: tuple[int, int], offsets: np.ndarray, rows: np.ndarray, grids: Sequence[Grid]
    ) -> tuple[np.ndarray | None, np.ndarray, list[int]]:
        """Default boxes by rows, cx cy w h in 0..1, None where offsets come out as they are; the four variances; which
        offsets are x, y, width and height."""
        random = np.random.default_rng(0).uniform(-0.5, 0.5, len(offsets))
        plain = self._run(end, offsets, None, random)
        moved = [self._run(end, offsets, k, random) for k in range(4)]
        if not np.isfinite(plain).all() or all(abs(b - plain).max() == 0 for b in moved):
            raise self._refused("its boxes do not follow from its offsets")
        if all(np.array_equal(b, np.where(np.arange(4) == k, random[:, None], 0)) for k, b in enumerate(moved)):
            return None, np.ones(4), [0, 1, 2, 3]
        for form in _FORMS.values():
            base = plain @ form.T
            if not (base[:, 2:] > 0).all():
                continue
            effects = np.stack([self._effect(base, b @ form.T, random) for b in moved])
            columns = [int(np.argmax(abs(effects[:, j]))) for j in range(4)]
            used = effects[columns, range(4)]
            rest = effects.copy()
            rest[columns, range(4)] = 0
            if sorted(columns) != [0, 1, 2, 3] or not (used > 0).all() or not (abs(rest) < _EXACT).all():
                continue
            base = base[rows]
            if abs(base[:, :2]).max() > 2:
                base = base / np.array([self.image.width, self.image.height] * 2)
            if _in_lines(base, grids):
                return base, np.round(used, 6), columns
        raise self._refused("its boxes follow from its offsets in another way than an SSD's")

    def _run(self, end: tuple[int, int], offsets: np.ndarray, column: int | None, numbers: np.ndarray) -> np.ndarray:
        """Boxes [P, 4] of offsets that are 0, but for one of the four."""
        flat = np.zeros(self.total)
        if column is not None:
            flat[offsets[:, column]] = numbers
        return self.tail.run(self._filled(flat))[end].astype(np.float64).reshape(-1, 4)

    @staticmethod
    def _effect(base: np.ndarray, boxes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """By how much an offset of 1 moves centre x and y, in widths and heights, and the logs of both; NaN where that
        is not in proportion."""
        if not (boxes[:, 2:] > 0).all():
            return np.full(4, np.nan)
        found = np.concatenate([(boxes[:, :2] - base[:, :2]) / base[:, 2:], np.log(boxes[:, 2:] / base[:, 2:])], axis=1)
        factors = (found * numbers[:, None]).sum(axis=0) / (numbers**2).sum()
        wrong = abs(found - factors * numbers[:, None]).max(axis=0) > _EXACT
        result: np.ndarray = np.where(wrong, np.nan, factors)
        return result

    # ------------------------------------------------------------------------------------------ what is made of it

    def _heads(
        self, offsets: np.ndarray, scores: np.ndarray, per_cell: Sequence[int], pairs: Sequence[tuple[int, int]]
    ) -> tuple[HeadOrder, ...]:
        """offsets, scores: places by rows, x y w h and background first."""
        found, start = [], 0
        for (location, confidence), n in zip(pairs, per_cell, strict=True):
            area = self._area(location)
            mine = slice(start, start + n * area)
            start += n * area
            channels = [
                ((places[mine] - self.starts[i]) // area).reshape(area, -1)
                for i, places in ((location, offsets), (confidence, scores))
            ]
            if any((rows != rows[0]).any() for rows in channels):
                raise self._refused("a map's cells take different channels of its heads")
            found.append(HeadOrder(location, confidence, *(tuple(map(int, rows[0])) for rows in channels)))
        return tuple(found)

    def _thresholds(self, activation: str) -> Thresholds:
        """What NonMaxSuppression says; Caffe's values where it does not, and where there is none."""
        found = []
        for number, default in ((2, 0.0), (3, 0.45), (4, 0.01)):
            values = {self._number(node, number, default) for node in self.suppressing} or {default}
            if len(values) > 1:
                raise self._refused(f"its classes are suppressed in several ways ({sorted(values)})")
            found.append(values.pop())
        most, iou, score = found
        kept = None if not 1 <= most < NO_CAP else int(most)
        iou, score = (round(min(max(value, 0.0), 1.0), 6) for value in (iou, score))
        return Thresholds(
            score_min=score,
            nms_iou=iou,
            per_class=NO_CAP if self.suppressing else 400,
            keep_per_class=kept,
            activation=activation,
            clip=(0.0, 1.0) in self.tail.limits,
        )

    def _number(self, node: Node, number: int, default: float) -> float:
        if number >= len(node.takes) or node.takes[number][0] < 0:
            return default
        value = float(self.constants.input(node, number).reshape(-1)[0])
        return value if np.isfinite(value) else default


def _in_lines(boxes: np.ndarray, grids: Sequence[Grid]) -> bool:
    """Whether centres of a column have one x, and those of a row one y."""
    start = 0
    for (height, width), n in grids:
        own = boxes[start : start + height * width * n].reshape(height, width, n, 4)
        start += height * width * n
        if np.ptp(own[..., 0], axis=0).max() > _SAME_CENTRE or np.ptp(own[..., 1], axis=1).max() > _SAME_CENTRE:
            return False
    return True
