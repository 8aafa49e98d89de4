"""Augmentation of one training sample: what is drawn (AugmentSpec) and how (`augment`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.errors import ConfigError, printable
from singleshot.inputs import InputSpec, boxes_to_square, to_square
from singleshot.loading.geometry import (
    INTERPOLATIONS,
    Window,
    crop_window,
    expand_window,
    make_crop,
    whole,
    zoom_window,
)
from singleshot.loading.mosaic import draw_mosaic
from singleshot.loading.photometry import draw_photometry
from singleshot.loading.render_plan import PixelTransform, RenderPlan, make_render_plan
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
    Caffe) or "linear"; mosaic_p: probability that four images share the square, each zoomed and shifted as above.
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
    mosaic_p: float = 0.0

    def __post_init__(self) -> None:
        for key, low, high in (
            ("photometric", 0.0, 1.0),
            ("expand_p", 0.0, 1.0),
            ("expand_max", 1.0, 16.0),
            ("mirror_p", 0.0, 1.0),
            ("flip_vertical_p", 0.0, 1.0),
            ("mosaic_p", 0.0, 1.0),
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
        p_sum = self.photometric + self.expand_p + self.mirror_p + self.flip_vertical_p + self.mosaic_p
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


Example = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [S, S, 3], boxes [N, 4], labels [N]
Others = Callable[[int], list[EncodedImage]]


def augment(sample: Sample, spec: AugmentSpec, input_spec: InputSpec, rng: np.random.Generator) -> Example:
    """One sample as the network shall see it: (image uint8 RGB [S, S, 3], boxes float32 [N, 4], labels int64 [N]).

    Boxes are normalised to the square. Order as Caffe's: expand, crop, zoom, resize, flip; the photometric
    steps act on the visible part before it is laid on the mean. A spec that draws nothing gives exactly what
    `inputs.to_square` and `boxes_to_square` give. Every random number comes from `rng`.
    """
    return augment_picture(EncodedImage.of(sample), spec, input_spec, rng)


def augment_picture(
    picture: EncodedImage,
    spec: AugmentSpec,
    input_spec: InputSpec,
    rng: np.random.Generator,
    others: Others | None = None,
) -> Example:
    """As `augment`, decoding no more than the view needs. others(k): k further pictures at random, for mosaics;
    without it there are none."""
    if spec.draws_nothing:
        square, place = to_square(picture.pixels(1), input_spec)
        return square, boxes_to_square(picture.boxes_px, place, input_spec.size), picture.labels
    if spec.mosaic_p > 0 and rng.random() < spec.mosaic_p and others is not None:
        flips = _draw_flips(spec, rng)
        pictures = [picture, *others(3)]
        return draw_mosaic(pictures, spec.zoom, flips, input_spec, lambda: _draw_style(spec, rng), rng)
    plan = _draw_render_plan(picture, spec, input_spec, rng)
    return plan.draw(input_spec.fill, _draw_style(spec, rng)), plan.boxes, plan.labels


def _draw_style(spec: AugmentSpec, rng: np.random.Generator) -> PixelTransform:
    retouch = draw_photometry(rng, spec.photometric) if spec.photometric > 0 else None
    # Drawn in any case, so that recipes that differ in this alone see the same views.
    drawn = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    return PixelTransform(drawn if spec.interpolation == "random" else cv2.INTER_LINEAR, retouch)


def _draw_flips(spec: AugmentSpec, rng: np.random.Generator) -> tuple[bool, bool]:
    flip_x, flip_y = (bool(f) for f in rng.random(2) < (spec.mirror_p, spec.flip_vertical_p))
    return flip_x, flip_y


def _draw_render_plan(
    picture: EncodedImage, spec: AugmentSpec, input_spec: InputSpec, rng: np.random.Generator
) -> RenderPlan:
    height, width = picture.height, picture.width
    boxes_px = picture.boxes_px
    flip_x, flip_y = _draw_flips(spec, rng)

    def plan_of(window: Window, must_show: bool = True) -> RenderPlan | None:
        """None for a window that shows nothing of the image, or none of its objects."""
        view = make_crop(window, height, width, input_spec, flip_x, flip_y)
        shown = view.boxes(boxes_px)
        if must_show and not (view.visible and (len(boxes_px) == 0 or len(shown[1]) > 0)):
            return None
        return make_render_plan(picture, view, shown)

    window = whole(height, width)
    if rng.random() < spec.expand_p:
        window = expand_window(window, spec.expand_max, rng)
    if spec.crop == "caffe":
        window = crop_window(window, boxes_px, rng)
    if spec.zooms:
        for _ in range(_ZOOM_TRIALS):
            plan = plan_of(zoom_window(window, spec.zoom, spec.aspect, spec.shift, rng))
            if plan is not None:
                return plan
    # Snapping to whole pixels or shrinking can lose the last object; a free crop of a border shows nothing.
    plan = plan_of(window) or plan_of(whole(height, width), must_show=False)
    assert plan is not None
    return plan
