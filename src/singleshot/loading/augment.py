"""Augmentation of one training sample: what is drawn for it, and its pixels.

Everything random is drawn from an image's size and boxes; only then is it decoded, no finer than the crop needs.

The photometric part is by table. Order and values are Caffe's (weiliu89/caffe, ssd branch, im_transforms.cpp
ApplyDistort and ssd_pascal.py): brightness; contrast here or at the end; saturation; hue; every step drawn with
probability .5 and saturating to uint8. No channel swap. Grey levels change by a table of 256, neighbouring steps by
one; hue and saturation together by one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec, Placement, boxes_to_square, in_channels, placement, to_square
from singleshot.loading.augment_spec import AugmentSpec
from singleshot.loading.geometry import (
    INTERPOLATIONS,
    CropTransform,
    Window,
    background,
    centres_inside,
    crop_window,
    draw_tile,
    expand_window,
    full_window,
    make_crop,
    make_part_crop,
    zoom_window,
)
from singleshot.records import Sample
from singleshot.tiling import Tiling

_ZOOM_TRIALS = 10  # zoomed windows tried before the image is taken unzoomed, as none kept an object

# Where the four images of a mosaic meet, and how large one is drawn, as a part of its size alone in the input.
_MOSAIC_CENTRE = (0.3, 0.7)
_MOSAIC_SCALE = (0.4, 1.0)

# distort_param of ssd_pascal.py, at strength 1. Hue is on OpenCV's scale: 180 for the whole circle.
STEP_P = 0.5
BRIGHTNESS = 32.0
CONTRAST = 0.5
SATURATION = 0.5
HUE = 18.0

_LEVELS = np.arange(256, dtype=np.float64)


class Example(NamedTuple):
    """An augmented sample: image uint8 [H, W, C], boxes float32 [N, 4] normalised to it, labels int64 [N].

    A label of -1 marks a region to ignore.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def with_regions(boxes: np.ndarray, labels: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and labels of an Example, from those of its objects and the boxes of its regions."""
    marks = np.full(len(regions), -1, labels.dtype)
    return np.concatenate([boxes, regions]), np.concatenate([labels, marks])


Others = Callable[[int], list[EncodedImage]]


class PixelTransform(NamedTuple):
    """How pixels are resized (an OpenCV interpolation) and their colours changed."""

    interpolation: int
    retouch: Photometry | None


class RenderPlan(NamedTuple):
    """One image under one crop: boxes float32 [N, 4] normalised to the input, labels int64 [N], both as an Example has
    them, and the reduction of the image from which it is drawn."""

    encoded: EncodedImage
    crop: CropTransform
    boxes: np.ndarray
    labels: np.ndarray
    reduce: int

    def draw(self, fill: tuple[int, ...], transform: PixelTransform) -> np.ndarray:
        """uint8 RGB [H, W, 3]; decodes the image."""
        pixels = self.encoded.pixels(self.reduce)
        return self.crop.image(pixels, fill, transform.interpolation, transform.retouch, self.reduce)


def make_render_plan(
    encoded: EncodedImage, crop: CropTransform, shown: tuple[np.ndarray, np.ndarray] | None = None
) -> RenderPlan:
    """The plan for a crop, moved to the pixels of the coarsest reduction that still has one for each of the input.

    shown: what `crop.boxes` gives, where that is known already.
    """
    boxes, kept = crop.boxes(encoded.boxes_px) if shown is None else shown
    optional = 1 in encoded.reductions
    best = crop.reduction(encoded.reductions) if optional else encoded.reductions[0]
    if best > 1:
        snapped = crop.on_grid(best, encoded.height, encoded.width)
        moved, still = snapped.boxes(encoded.boxes_px)
        # An object on the edge may come or go by the move; then it is not worth it.
        if len(still) == len(kept) or not optional:
            return RenderPlan(encoded, snapped, *_shown_of(encoded, snapped, moved, still), best)
    return RenderPlan(encoded, crop, *_shown_of(encoded, crop, boxes, kept), 1)


def _shown_of(
    encoded: EncodedImage, crop: CropTransform, boxes: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and labels of what a crop shows; boxes, kept: what `crop.boxes` gave."""
    labels = encoded.labels[kept]
    if encoded.ignored_px is None:
        return boxes, labels
    return with_regions(boxes, labels, crop.regions(encoded.ignored_px))


class Augmenter:
    """Augments samples for one network: `augmenter(encoded, rng)`.

    Order as Caffe's: expand, crop, zoom, resize, flip; the photometric steps act on the visible part before it is
    laid on the mean. All is in colour; a network of one channel gets the luminance of the outcome. A spec that draws
    nothing gives exactly what `inputs.to_square` and `boxes_to_square` give. With a tiling a tile of the image stands
    for the whole of it: what a zoom or shift shows beyond its border are the image's own pixels, where it has any.
    """

    def __init__(self, spec: AugmentSpec, input_spec: InputSpec, tiling: Tiling | None = None) -> None:
        """spec: what is drawn; input_spec: what the network wants; tiling: whether tiles are shown, and how large."""
        self._spec, self._input_spec = spec, input_spec
        self._sides, self._resize, self._is_grey = input_spec.sides, input_spec.resize, input_spec.channels == 1
        # In colour, whose luminance is the grey one's own.
        self._fill = input_spec.fill * (3 // input_spec.channels)
        self._tile = None if tiling is None else tiling.sides(input_spec.sides)
        self._draws_nothing, self._zooms = spec.draws_nothing and tiling is None, spec.zooms

    def __call__(self, encoded: EncodedImage, rng: np.random.Generator, others: Others | None = None) -> Example:
        """One sample as the network shall see it, decoding no more than the crop needs.

        Args:
            encoded: the image and its objects.
            rng: where every random number comes from.
            others: others(k) gives k further images at random, for mosaics; without it there are none.

        Raises:
            DataError: the image does not decode.
        """
        spec = self._spec
        if self._draws_nothing:
            image, place = to_square(encoded.pixels(1), self._input_spec)
            return unaugmented(image, place, self._input_spec, encoded)
        if spec.mosaic_p > 0 and rng.random() < spec.mosaic_p and others is not None:
            flips = self._draw_flips(rng)
            return self._draw_mosaic([encoded, *others(3)], flips, rng)
        plan = self._draw_render_plan(encoded, rng)
        image = plan.draw(self._fill, self._draw_pixel_transform(rng))
        return Example(self._in_channels(image), plan.boxes, plan.labels)

    def _in_channels(self, image: np.ndarray) -> np.ndarray:
        return in_channels(image, self._input_spec) if self._is_grey else image

    def _draw_pixel_transform(self, rng: np.random.Generator) -> PixelTransform:
        retouch = draw_photometry(rng, self._spec.photometric) if self._spec.photometric > 0 else None
        # Drawn in any case, so that recipes that differ in this alone see the same crops.
        drawn = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
        return PixelTransform(drawn if self._spec.interpolation == "random" else cv2.INTER_LINEAR, retouch)

    def _draw_flips(self, rng: np.random.Generator) -> tuple[bool, bool]:
        flip_x, flip_y = (bool(f) for f in rng.random(2) < (self._spec.mirror_p, self._spec.flip_vertical_p))
        return flip_x, flip_y

    def _draw_render_plan(self, encoded: EncodedImage, rng: np.random.Generator) -> RenderPlan:
        height, width = encoded.height, encoded.width
        boxes_px = encoded.boxes_px
        flip_x, flip_y = self._draw_flips(rng)

        whole = window = self._draw_whole(encoded, rng)
        has_objects = bool(centres_inside(boxes_px, np.array(whole)).any())

        def plan_of(window: Window, must_show: bool = True) -> RenderPlan | None:
            """None for a window that shows nothing of the image, or none of its objects where there are some."""
            crop = make_crop(window, height, width, self._sides, self._resize, flip_x, flip_y)
            shown = crop.boxes(boxes_px)
            if must_show and not (crop.visible and (not has_objects or len(shown[1]) > 0)):
                return None
            return make_render_plan(encoded, crop, shown)

        if rng.random() < self._spec.expand_p:
            window = expand_window(window, self._spec.expand_max, rng)
        if self._spec.crop == "caffe":
            window = crop_window(window, boxes_px, rng)
        if self._zooms:
            for _ in range(_ZOOM_TRIALS):
                plan = plan_of(zoom_window(window, self._spec.zoom, self._spec.aspect, self._spec.shift, rng))
                if plan is not None:
                    return plan
        # Snapping to whole pixels or shrinking can lose the last object; a free crop of a border shows nothing.
        plan = plan_of(window) or plan_of(whole, must_show=False)
        assert plan is not None
        return plan

    def _draw_whole(self, encoded: EncodedImage, rng: np.random.Generator) -> Window:
        """What stands for the whole image: the image, or a tile of it."""
        if self._tile is None:
            return full_window(encoded.height, encoded.width)
        return draw_tile(encoded.height, encoded.width, encoded.boxes_px, self._tile, rng)

    def _draw_mosaic(self, four: Sequence[EncodedImage], flips: tuple[bool, bool], rng: np.random.Generator) -> Example:
        """Four images in one input: more objects, smaller ones, and less of each image's own surroundings.

        After YOLOv4's mosaic (Bochkovskiy et al. 2020, section 3.3), with the images drawn straight into their
        quarters: each is magnified by _MOSAIC_SCALE times the spec's zoom (uniform in the logarithm) of what it has
        alone in the input, and as much of it as possible is shown.
        """
        height, width = self._sides
        low, high = (a * b for a, b in zip(_MOSAIC_SCALE, self._spec.zoom, strict=True))
        cx, cy = (int(v) for v in np.rint(rng.uniform(*_MOSAIC_CENTRE, 2) * (width, height)))
        areas = ((0, 0, cx, cy), (cx, 0, width, cy), (0, cy, cx, height), (cx, cy, width, height))
        drawn = background(self._sides, self._fill)
        boxes, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
        for encoded, area in zip(four, areas, strict=True):
            x0, y0, x1, y1 = self._draw_whole(encoded, rng)
            place = placement(int(y1 - y0), int(x1 - x0), self._sides, self._resize)
            scale = math.exp(rng.uniform(math.log(low), math.log(high)))
            wide, tall = (area[2] - area[0]) / (place.scale_x * scale), (area[3] - area[1]) / (place.scale_y * scale)
            spare = x1 - x0 - wide, y1 - y0 - tall
            x, y = (a + rng.uniform(min(0.0, left), max(0.0, left)) for a, left in zip((x0, y0), spare, strict=True))
            crop = make_part_crop((x, y, x + wide, y + tall), encoded.height, encoded.width, area, self._sides, *flips)
            transform = self._draw_pixel_transform(rng)
            if not crop.visible:
                continue
            plan = make_render_plan(encoded, crop)
            u0, v0, u1, v1 = plan.crop.dest
            pixels = encoded.pixels(plan.reduce)
            drawn[v0:v1, u0:u1] = plan.crop.patch(pixels, transform.interpolation, transform.retouch, plan.reduce)
            boxes.append(plan.boxes)
            labels.append(plan.labels)
        if any(flips):
            drawn = cv2.flip(drawn, -1 if all(flips) else int(flips[0]))
        return Example(self._in_channels(drawn), np.concatenate(boxes), np.concatenate(labels))


def unaugmented(image: np.ndarray, place: Placement, input_spec: InputSpec, of: Sample | EncodedImage) -> Example:
    """What `to_square` gave of an image, with its objects and regions."""
    boxes = boxes_to_square(of.boxes_px, place, input_spec.sides)
    if of.ignored_px is None:
        return Example(image, boxes, of.labels)
    regions = boxes_to_square(of.ignored_px, place, input_spec.sides)
    return Example(image, *with_regions(boxes, of.labels, regions))


def augment(sample: Sample, spec: AugmentSpec, input_spec: InputSpec, rng: np.random.Generator) -> Example:
    """One decoded sample as `Augmenter` makes it; every random number comes from `rng`."""
    return Augmenter(spec, input_spec)(EncodedImage.of(sample), rng)


# ---------------------------------------------------------------------------------------------- colours


class HsvStep(NamedTuple):
    """Saturation times `gain`, hue turned by `turn` on OpenCV's scale, value as it is."""

    gain: float
    turn: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [H, W, 3] -> a new one. Hue goes round the circle; Caffe adds it in uint8, which pins at 0 what
        should come round to 179."""
        # Hue is only ever added to, as OpenCV reads 180 and more as having gone round: to turn it back, red and blue
        # change places, which reverses the circle. One product per pixel instead of three tables.
        back = self.turn < 0
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2HSV if back else cv2.COLOR_RGB2HSV)
        scale = np.array([[1, 0, 0, abs(self.turn)], [0, self.gain, 0, 0], [0, 0, 1, 0]], np.float32)
        planes = cv2.transform(planes, scale, dst=planes)
        return cv2.cvtColor(planes, cv2.COLOR_HSV2BGR if back else cv2.COLOR_HSV2RGB, dst=planes)


@dataclass(frozen=True, eq=False)
class Photometry:
    """What was drawn for one image, None where nothing was: tables uint8 [256] of grey levels before and after
    the HSV step, and that step."""

    before: np.ndarray | None = None
    hsv: HsvStep | None = None
    after: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB [H, W, 3] -> the same retouched; the given array may come back, itself unchanged."""
        if self.before is not None:
            image = cv2.LUT(image, self.before)
        if self.hsv is not None:
            image = self.hsv(image)
        if self.after is not None:
            image = cv2.LUT(image, self.after)
        return image


def draw_photometry(rng: np.random.Generator, strength: float = 1.0) -> Photometry:
    """Draw the steps for one image; `strength` 0..1 scales every range, 1 being Caffe's."""
    brightness, contrast, saturation, hue, contrast_first = rng.random(5) < STEP_P
    amounts = rng.uniform(-strength, strength, 4)
    brighten = brightness_table(BRIGHTNESS * amounts[0]) if brightness else None
    scale = gain_table(1.0 + CONTRAST * amounts[1]) if contrast else None
    hsv = None
    if saturation or hue:
        hsv = HsvStep(1.0 + SATURATION * float(amounts[2]) * saturation, HUE * float(amounts[3]) * hue)
    if hsv is None or contrast_first:
        return Photometry(_merge(brighten, scale), hsv)
    return Photometry(brighten, hsv, scale)


def brightness_table(delta: float) -> np.ndarray:
    """uint8 [256]: level + delta."""
    return _to_uint8(_LEVELS + delta)


def gain_table(gain: float) -> np.ndarray:
    """uint8 [256]: level * gain."""
    return _to_uint8(_LEVELS * gain)


def _merge(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return second if first is None else first
    merged: np.ndarray = second[first]
    return merged


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    # Rounds halves to even as OpenCV's saturate_cast does.
    return levels.round().clip(0, 255).astype(np.uint8)
