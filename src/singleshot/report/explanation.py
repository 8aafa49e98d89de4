"""What is known of the detections of one image, as records of plain values: boxes in pixels of the image, corner form.

No torch here: what makes them is in explain_image.py, what draws them in explain_picture.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from singleshot.runtime.detections import Detections

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class PriorPlace:
    """A default box. prior: its number; map, row, column: of its cell; shape: which box of the cell; all from 0.

    box: the default box; cell: what the cell covers of the image. Both may reach beyond the image.
    """

    prior: int
    map: int
    row: int
    column: int
    shape: int
    box: Corners
    cell: Corners


@dataclass(frozen=True)
class RunnerUp:
    """A weaker box that a detection removed in NMS. iou: of the two."""

    place: PriorPlace
    box: Corners
    score: float
    iou: float


@dataclass(frozen=True)
class Origin:
    """How a detection came about.

    offsets: what the network said at the default box, encoded dx dy dw dh; arrow: from the default box's centre to the
    detection's; scores: class -> score at that default box; background: its score, None where the model's scores are
    sigmoids, which do not train it; runners_up: the best of the boxes that it removed; removed: how many there are;
    field: what the cell can see, by the layers, also beyond the image; gradient: what it goes by (95 % of its gradient
    along each axis); both None where they were not computed.
    """

    place: PriorPlace
    offsets: Corners
    arrow: Corners
    scores: Mapping[str, float]
    background: float | None
    runners_up: tuple[RunnerUp, ...]
    removed: int
    field: Corners | None
    gradient: Corners | None


@dataclass(frozen=True)
class ExplainedDetection:
    """A detection. object: the labelled object that it has, None where it has none or nothing is labelled; origin: None
    where the model file gives boxes alone."""

    name: str
    label: int
    score: float
    box: Corners
    object: int | None
    origin: Origin | None


@dataclass(frozen=True)
class MatchedPrior:
    """A default box and its IoU with an object."""

    place: PriorPlace
    iou: float


@dataclass(frozen=True)
class WhyMissed:
    """One cause. kind: a key of missed.CAUSES; why: in words; change: what its counterfactual changed, on top of the
    causes before it; detail: figures."""

    kind: str
    why: str
    change: Mapping[str, Any]
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class ExplainedObject:
    """A labelled object.

    best: the default box that overlaps it most; matched: those that training gives it by its rule of matching, best
    first; detection: the row that has it, None where it was missed; iou: with that detection; causes: why it was
    missed, empty where it was found or where the model file gives boxes alone; appears: score, IoU and prior of the
    detection that it has once all changes are made, None where it was found or no change helps.
    """

    name: str
    label: int
    box: Corners
    difficult: bool
    best: MatchedPrior | None
    matched: tuple[MatchedPrior, ...]
    detection: int | None
    iou: float | None
    causes: tuple[WhyMissed, ...]
    appears: Mapping[str, float | int | None] | None

    def reasons(self) -> list[str]:
        """The causes in words, and how the object appears in the end."""
        lines = [cause.why for cause in self.causes]
        if self.appears is not None:
            lines.append(f"then it appears: score {self.appears['score']:.3f}, IoU {self.appears['iou']:.2f}")
        return lines


@dataclass(frozen=True)
class HardNegative:
    """A default box that training would mine on this image. background: its score for the background; iou: the largest
    with an object."""

    place: PriorPlace
    background: float
    iou: float


@dataclass(frozen=True)
class Explanation:
    """Everything about one image.

    pixels: the image, uint8 RGB [H, W, 3]; found: the detections, as `detect` gives them; input: how the image became
    the network's input; thresholds: how raw outputs became detections; maps: rows and columns of each feature map;
    rules: of matching and mining, and where they are from; detections: row by row with `found`; objects: None where
    nothing is labelled; negatives: the hardest, and how many there are; None where none are mined; notes: what cannot
    be explained, a line each.
    """

    model: str
    pixels: np.ndarray = field(repr=False, compare=False)
    found: Detections
    input: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    maps: tuple[tuple[int, int], ...]
    rules: Mapping[str, Any]
    detections: tuple[ExplainedDetection, ...]
    objects: tuple[ExplainedObject, ...] | None
    negatives: tuple[HardNegative, ...] | None
    negatives_mined: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        image = {"image": self.found.image, "width": self.found.width, "height": self.found.height}
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("found", "pixels")}
        for name in ("detections", "objects", "negatives"):
            rows = values[name]
            values[name] = None if rows is None else [asdict(row) for row in rows]
        return {"model": values.pop("model"), **image, **values}
