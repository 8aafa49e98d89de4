"""An Explanation as a picture: the whole image, then a panel for each missed object and each of the best detections.

Everywhere: a class's colour for a detection's box, white dashes for the default box it came from, an arrow from that
box's centre to the detection's, thin violet boxes for what NMS removed, a thin grid for the cells of its feature map,
thin outlines for the receptive field (light yellow by the layers, orange by gradient), green for labelled objects,
violet dots for the hardest negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.report.explanation import Corners, ExplainedDetection, ExplainedObject, Explanation
from singleshot.runtime.drawing import class_colours, display_name, put_text, text_colour, text_size

PANELS = 6  # of missed objects, and of detections
_WIDTH = 420  # pixels of a panel
_TEXT, _LINE = 15, 20  # pixels of letters, and of a line of them
_AROUND = 1.0  # a panel shows that many sides of its box on every side
_VIOLET, _WHITE, _BLACK, _GREEN = (190, 60, 210), (255, 255, 255), (20, 20, 20), (60, 220, 60)
_FIELD, _GRADIENT = (255, 235, 150), (255, 150, 0)
_LEGEND = (
    "Detection in its class's colour, with an arrow from the centre of its default box (white dashes); green: labelled;"
    " violet: removed by NMS, as dots hard negatives; yellow, orange: receptive field by layers, by gradient."
)
_LIMIT = 10_000  # pixels from the panel: what is drawn beyond would be cut anyway

Colour = tuple[int, int, int]


class _Panel:
    """A part of the image, enlarged, that takes boxes in pixels of the image."""

    def __init__(self, image: np.ndarray, window: Corners, width: int = _WIDTH) -> None:
        x0, y0, x1, y1 = window
        self._scale = width / max(x1 - x0, 1e-6)
        self._shift = np.array([x0, y0])
        rows = max(1, round((y1 - y0) * self._scale))
        place = np.array([[self._scale, 0, -x0 * self._scale], [0, self._scale, -y0 * self._scale]])
        # A pixel's middle is half a pixel from its corner, in both pictures.
        place[:, 2] += (self._scale - 1) / 2
        outside = cv2.BORDER_CONSTANT
        self.canvas = cv2.warpAffine(image, place, (width, rows), borderMode=outside, borderValue=(90, 90, 90))

    def _points(self, points: Sequence[Sequence[float]]) -> np.ndarray:
        found: np.ndarray = (np.asarray(points, np.float64) - self._shift) * self._scale
        whole: np.ndarray = np.nan_to_num(found).clip(-_LIMIT, _LIMIT).round().astype(np.int32)
        return whole

    def dot(self, corners: Corners, colour: Colour) -> None:
        """At the centre of a box."""
        (point,) = self._points([((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)]).tolist()
        cv2.circle(self.canvas, point, 2, colour, cv2.FILLED)

    def box(self, corners: Corners, colour: Colour, line: int = 1, rim: bool = False) -> None:
        """An outline; rim: with a dark or light one around it, which keeps it visible on any ground."""
        (x0, y0), (x1, y1) = self._points([corners[:2], corners[2:]]).tolist()
        if rim:
            cv2.rectangle(self.canvas, (x0, y0), (x1, y1), text_colour(colour), line + 2)
        cv2.rectangle(self.canvas, (x0, y0), (x1, y1), colour, line)

    def dashes(self, corners: Corners, colour: Colour, line: int = 2, step: int = 8) -> None:
        """A dashed outline, dark between the dashes."""
        (x0, y0), (x1, y1) = self._points([corners[:2], corners[2:]]).tolist()
        height, width = self.canvas.shape[:2]
        for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x0, y1), (x1, y1)), ((x0, y0), (x0, y1))):
            cv2.line(self.canvas, a, b, _BLACK, line)
            along = 0 if a[1] == b[1] else 1
            end = min(b[along], (width, height)[along])
            for start in range(a[along] + max(0, -a[along] // (2 * step)) * 2 * step, end, 2 * step):
                first, last = [*a], [*a]
                first[along], last[along] = start, min(start + step, b[along])
                cv2.line(self.canvas, tuple(first), tuple(last), colour, line)

    def arrow(self, ends: Corners, colour: Colour) -> None:
        """From the first point to the second, a dot where it starts."""
        first, last = (tuple(point) for point in self._points([ends[:2], ends[2:]]).tolist())
        for shade, line in ((text_colour(colour), 4), (colour, 2)):
            cv2.circle(self.canvas, first, 3, shade, line)
            length = float(np.hypot(last[0] - first[0], last[1] - first[1]))
            if length >= 2:
                cv2.arrowedLine(self.canvas, first, last, shade, line, cv2.LINE_AA, tipLength=min(0.4, 9 / length))

    def grid(self, cell: Corners) -> None:
        """The cells around this one, and this one filled lightly."""
        size = np.array([cell[2] - cell[0], cell[3] - cell[1]])
        if size.min() * self._scale < 3:
            return  # too fine to be seen
        for i in range(-4, 6):
            x, y = cell[0] + i * size[0], cell[1] + i * size[1]
            reach = (cell[0] - 4 * size[0], cell[1] - 4 * size[1], cell[0] + 5 * size[0], cell[1] + 5 * size[1])
            for ends in (((x, reach[1]), (x, reach[3])), ((reach[0], y), (reach[2], y))):
                a, b = self._points(ends).tolist()
                self._blend(lambda canvas, a=a, b=b: cv2.line(canvas, a, b, _WHITE, 1), 0.35)
        a, b = self._points([cell[:2], cell[2:]]).tolist()
        self._blend(lambda canvas: cv2.rectangle(canvas, a, b, _WHITE, cv2.FILLED), 0.25)

    def _blend(self, draw: object, part: float) -> None:
        over = self.canvas.copy()
        draw(over)  # type: ignore[operator]
        self.canvas = cv2.addWeighted(over, part, self.canvas, 1 - part, 0)


def draw_explanation(explanation: Explanation, panels: int = PANELS) -> np.ndarray:
    """A sheet, uint8 RGB [H, W, 3].

    panels: at most that many missed objects and as many detections, the best ones; what is left out is said below.
    """
    image, colours = explanation.pixels, _colours(explanation)
    missed = [one for one in explanation.objects or () if one.detection is None]
    parts = [_overview(explanation, image, missed, colours)]
    parts += [_missed_panel(explanation, image, one, colours) for one in missed[:panels]]
    parts += [_panel(explanation, image, row, colours) for row in range(min(panels, len(explanation.detections)))]
    left = [(len(missed) - panels, "missed"), (len(explanation.detections) - panels, "detected")]
    notes = [f"without a panel: {count} {what}" for count, what in left if count > 0]
    return _sheet(parts, [_LEGEND, *notes, *explanation.notes])


class ExplainedPart(NamedTuple):
    """A panel, uint8 RGB [H, W, 3], and what it shows in words."""

    canvas: np.ndarray
    lines: list[str]


def draw_detection(explanation: Explanation, row: int) -> ExplainedPart:
    """One detection: its default box dashed, its cell's grid, the arrow of its offset, what NMS removed."""
    return _panel(explanation, explanation.pixels, row, _colours(explanation))


def draw_missed(explanation: Explanation, number: int) -> ExplainedPart:
    """One missed object: its best default box dashed, those that training gives it, the detections near it."""
    assert explanation.objects is not None
    return _missed_panel(explanation, explanation.pixels, explanation.objects[number], _colours(explanation))


def _colours(explanation: Explanation) -> dict[str, Colour]:
    found = explanation.found
    return class_colours(tuple(dict.fromkeys((*found.every_class, *found.names))))


def _overview(
    explanation: Explanation, image: np.ndarray, missed: Sequence[ExplainedObject], colours: dict[str, Colour]
) -> ExplainedPart:
    panel = _Panel(image, (0.0, 0.0, float(image.shape[1]), float(image.shape[0])))
    for negative in explanation.negatives or ():
        panel.dot(negative.place.box, _VIOLET)
    for one in missed:
        panel.dashes(one.box, _GREEN)
    for detection in reversed(explanation.detections):
        panel.box(detection.box, colours[detection.name], 2, rim=True)
        if detection.origin is not None:
            panel.arrow(detection.origin.arrow, colours[detection.name])
    lines = [f"detected: {len(explanation.detections)}"]
    if explanation.objects is not None:
        wrong = sum(one.object is None for one in explanation.detections)
        lines[0] += f", {wrong} of them on no object" if wrong else ""
        lines.append(f"labelled: {len(explanation.objects)}, {len(missed)} of them missed (dashed)")
    if explanation.negatives_mined is not None:
        lines.append(f"default boxes mined as hard negatives: {explanation.negatives_mined}")
    return ExplainedPart(panel.canvas, lines)


def _panel(explanation: Explanation, image: np.ndarray, row: int, colours: dict[str, Colour]) -> ExplainedPart:
    """One detection."""
    one = explanation.detections[row]
    panel = _Panel(image, _around(one.box if one.origin is None else _hull(one.box, one.origin.place.box), image))
    title = f"{row + 1}. {display_name(one.name, one.label)} {one.score:.2f}"
    if explanation.objects is not None:
        title += " on no object" if one.object is None else f" on object {one.object + 1}"
    lines = [title]
    if one.object is not None and explanation.objects is not None:
        panel.box(explanation.objects[one.object].box, _GREEN, 1)
    if one.origin is not None:
        _draw_origin(panel, one, colours)
        lines += _origin_lines(explanation, one)
    else:
        panel.box(one.box, colours[one.name], 2, rim=True)
    return ExplainedPart(panel.canvas, lines)


def _draw_origin(panel: _Panel, one: ExplainedDetection, colours: dict[str, Colour]) -> None:
    origin = one.origin
    assert origin is not None
    panel.grid(origin.place.cell)
    for box, colour in ((origin.field, _FIELD), (origin.gradient, _GRADIENT)):
        if box is not None:
            panel.box(box, colour, 1)
    for weaker in origin.runners_up:
        panel.box(weaker.box, _VIOLET, 1)
    panel.box(one.box, colours[one.name], 2, rim=True)
    panel.dashes(origin.place.box, _WHITE)
    panel.arrow(origin.arrow, colours[one.name])


def _origin_lines(explanation: Explanation, one: ExplainedDetection) -> list[str]:
    origin = one.origin
    assert origin is not None
    place = origin.place
    rows, columns = explanation.maps[place.map]
    others = sorted(((score, name) for name, score in origin.scores.items() if name != one.name), reverse=True)[:1]
    text = ", ".join(f"{display_name(name, 0)} {score:.2f}" for score, name in others)
    lines = [f"map {place.map} ({rows} x {columns}), row {place.row}, column {place.column}, box {place.shape}"]
    lines.append(f"NMS removed {origin.removed}" + (f"; next class {text}" if text else ""))
    sizes = [
        f"{word} {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f}"
        for word, box in (("layers", origin.field), ("gradient", origin.gradient))
        if box is not None
    ]
    return lines + ([f"sees px: {', '.join(sizes)}"] if sizes else [])


def _missed_panel(
    explanation: Explanation, image: np.ndarray, one: ExplainedObject, colours: dict[str, Colour]
) -> ExplainedPart:
    """One missed object with the default boxes that training gives it, and the detections near it."""
    panel = _Panel(image, _around(one.box if one.best is None else _hull(one.box, one.best.place.box), image))
    for match in one.matched[:8]:
        panel.box(match.place.box, _WHITE, 1)
    if one.best is not None:
        panel.dashes(one.best.place.box, _WHITE)
    for detection in explanation.detections:
        panel.box(detection.box, colours[detection.name], 2)
    panel.box(one.box, _GREEN, 2, rim=True)
    number = 1 + next(i for i, other in enumerate(explanation.objects or ()) if other is one)
    lines = [f"missed: object {number}, {display_name(one.name, one.label)}"]
    if one.best is not None:
        lines.append(f"best default box IoU {one.best.iou:.2f}; training gives it {len(one.matched)}")
    return ExplainedPart(panel.canvas, [*lines, *one.reasons()])


def _hull(a: Corners, b: Corners) -> Corners:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _around(box: Corners, image: np.ndarray) -> Corners:
    """A square window around a box, at most as large as the image's longer side."""
    height, width = image.shape[:2]
    longest = float(max(height, width))
    side = min(max(box[2] - box[0], box[3] - box[1], 8.0) * (1 + _AROUND), longest)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left = min(max(x - side / 2, min(0.0, width - side)), max(0.0, width - side))
    top = min(max(y - side / 2, min(0.0, height - side)), max(0.0, height - side))
    return left, top, left + side, top + side


def _sheet(parts: Sequence[ExplainedPart], notes: Sequence[str]) -> np.ndarray:
    """Panels with their lines below, row by row, as many in a row as make it about square."""
    columns = max(1, round(len(parts) ** 0.5 + 0.25))
    rows = [parts[start : start + columns] for start in range(0, len(parts), columns)]
    bands = [_band(row, columns) for row in rows]
    if notes:
        width = bands[0].shape[1]
        lines = [piece for note in notes for piece in _wrapped(note, width - 12)]
        bands.append(_written(np.zeros((0, width, 3), np.uint8), lines, len(lines)))
    return np.concatenate(bands)


def _band(parts: Sequence[ExplainedPart], columns: int) -> np.ndarray:
    wrapped = [[piece for line in part.lines for piece in _wrapped(line, _WIDTH - 12)] for part in parts]
    high = max(part.canvas.shape[0] for part in parts)
    most = max(len(lines) for lines in wrapped)
    tiles = []
    for part, lines in zip(parts, wrapped, strict=True):
        below = np.full((high - part.canvas.shape[0], _WIDTH, 3), 255, np.uint8)
        tiles.append(np.concatenate([_written(part.canvas, lines, most), below]))
    tiles += [np.full_like(tiles[0], 255)] * (columns - len(tiles))
    tiles = [cv2.copyMakeBorder(tile, 0, 8, 0, 8, cv2.BORDER_CONSTANT, value=_WHITE) for tile in tiles]
    return np.concatenate(tiles, axis=1)


def _written(canvas: np.ndarray, lines: Sequence[str], count: int) -> np.ndarray:
    """The canvas with a white band for `count` lines below."""
    band = np.full((count * _LINE + 6, canvas.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines):
        put_text(band, line, (6, _LINE * (number + 1) - 4), _BLACK, _TEXT)
    return np.concatenate([canvas, band])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that are not wider; a word that is wider alone is cut."""
    lines: list[str] = []
    for whole in text.split():
        word = whole
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_size(longer, _TEXT)[0] <= width:
            lines[-1] = longer
            continue
        while len(word) > 1 and text_size(word, _TEXT)[0] > width:
            word = word[:-1]
        lines.append(word)
    return lines or [""]
