"""Augmentation of one training sample: what is drawn (AugmentSpec) and how (`augment`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from singleshot.data.geometry import (
    INTERPOLATIONS,
    View,
    crop_window,
    expand_window,
    make_view,
    whole,
    zoom_window,
)
from singleshot.data.photometry import draw_photometry
from singleshot.errors import ConfigError, printable
from singleshot.inputs import InputSpec, boxes_to_square, to_square
from singleshot.records import Sample

CROP_RULES = ("none", "caffe")
INTERPOLATION_RULES = ("linear", "random")

_ZOOM_TRIALS = 10  # zoomed windows tried before the image is taken unzoomed, as none kept an object


def _check_number(key: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"augmentation: {key} {printable(value)}: want a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class AugmentSpec:
    """What is drawn for each training image; the default draws nothing.

    photometric: 0 (off) to 1 (Caffe's ranges); expand_p, expand_max: probability and largest ratio of a
    mean-filled border; crop: "caffe" (seven samplers) or "none"; mirror_p, flip_vertical_p: probabilities;
    zoom: smallest and largest magnification; shift: how far the view's centre moves, in parts of its side;
    aspect: largest change of the aspect ratio, at least 1; interpolation: "random" (one of OpenCV's five, as
    Caffe) or "linear".
    """

    photometric: float = 0.0
    expand_p: float = 0.0
    expand_max: float = 4.0
    crop: str = "none"
    mirror_p: float = 0.0
    flip_vertical_p: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    aspect: float = 1.0
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        for key, low, high in (
            ("photometric", 0.0, 1.0),
            ("expand_p", 0.0, 1.0),
            ("expand_max", 1.0, 16.0),
            ("mirror_p", 0.0, 1.0),
            ("flip_vertical_p", 0.0, 1.0),
            ("shift", 0.0, 1.0),
            ("aspect", 1.0, 4.0),
        ):
            _check_number(key, getattr(self, key), low, high)
        if not isinstance(self.zoom, tuple) or len(self.zoom) != 2:
            raise ConfigError(f"augmentation: zoom {printable(self.zoom)}: want two numbers, smallest and largest")
        for value in self.zoom:
            _check_number("zoom", value, 0.1, 10.0)
        if self.zoom[0] > self.zoom[1]:
            raise ConfigError(f"augmentation: zoom {self.zoom[0]}, {self.zoom[1]}: want the smaller one first")
        for key, rules in (("crop", CROP_RULES), ("interpolation", INTERPOLATION_RULES)):
            if getattr(self, key) not in rules:
                came = printable(getattr(self, key))
                raise ConfigError(f"augmentation: {key} {came!r}: want one of {', '.join(rules)}")

    @property
    def zooms(self) -> bool:
        return self.zoom != (1.0, 1.0) or self.shift > 0 or self.aspect > 1

    @property
    def draws_nothing(self) -> bool:
        """Whether every image comes out as evaluation sees it."""
        p_sum = self.photometric + self.expand_p + self.mirror_p + self.flip_vertical_p
        return p_sum == 0 and self.crop == "none" and not self.zooms and self.interpolation == "linear"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"zoom": list(self.zoom)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AugmentSpec:
        """Inverse of `to_dict`; unknown keys and values out of range raise ConfigError."""
        unknown = sorted(str(key) for key in set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"augmentation: unknown key {printable(', '.join(unknown))}; want some of {known}")
        values = dict(values)
        if isinstance(values.get("zoom"), list):
            values["zoom"] = tuple(values["zoom"])
        return cls(**values)


AUGMENTS = {
    # examples/ssd/ssd_pascal.py: what the published figures were trained with.
    "caffe": AugmentSpec(
        photometric=1.0, expand_p=0.5, expand_max=4.0, crop="caffe", mirror_p=0.5, interpolation="random"
    ),
    # Training from scratch on a small set, where up and down and the exact scale carry no meaning.
    "light": AugmentSpec(photometric=0.5, mirror_p=0.5, flip_vertical_p=0.5, zoom=(0.7, 1.4), shift=0.15, aspect=1.15),
    "none": AugmentSpec(),
}


def augment(
    sample: Sample, spec: AugmentSpec, input_spec: InputSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sample as the network shall see it: (image uint8 RGB [S, S, 3], boxes float32 [N, 4], labels int64 [N]).

    Boxes are normalised to the square. Order as Caffe's: expand, crop, zoom, resize, flip; the photometric
    steps act on the resized image before it is laid on the mean. A spec that draws nothing gives exactly what
    `inputs.to_square` and `boxes_to_square` give. Every random number comes from `rng`.
    """
    if spec.draws_nothing:
        square, place = to_square(sample.image, input_spec)
        boxes = boxes_to_square(sample.boxes_px, place, input_spec.size)
        return square, boxes, sample.labels
    view = _draw_view(sample, spec, input_spec, rng)
    boxes, kept = view.boxes(sample.boxes_px)
    retouch = draw_photometry(rng, spec.photometric) if spec.photometric > 0 else None
    # Drawn in any case, so that recipes that differ in this alone see the same views.
    drawn = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    interpolation = drawn if spec.interpolation == "random" else cv2.INTER_LINEAR
    square = view.image(sample.image, input_spec.fill, interpolation, retouch)
    return square, boxes, sample.labels[kept]


def _draw_view(sample: Sample, spec: AugmentSpec, input_spec: InputSpec, rng: np.random.Generator) -> View:
    height, width = sample.image.shape[:2]
    boxes_px = sample.boxes_px
    flip_x, flip_y = (bool(f) for f in rng.random(2) < (spec.mirror_p, spec.flip_vertical_p))

    def view_of(window: tuple[float, float, float, float]) -> View:
        return make_view(window, height, width, input_spec, flip_x, flip_y)

    def shows_something(view: View) -> bool:
        return view.visible and (len(boxes_px) == 0 or len(view.boxes(boxes_px)[1]) > 0)

    window = whole(height, width)
    if rng.random() < spec.expand_p:
        window = expand_window(window, spec.expand_max, rng)
    if spec.crop == "caffe":
        window = crop_window(window, boxes_px, rng)
    if spec.zooms:
        for _ in range(_ZOOM_TRIALS):
            view = view_of(zoom_window(window, spec.zoom, spec.aspect, spec.shift, rng))
            if shows_something(view):
                return view
    view = view_of(window)
    # Snapping to whole pixels or shrinking can lose the last object; a free crop of a border shows nothing.
    return view if shows_something(view) else view_of(whole(height, width))
