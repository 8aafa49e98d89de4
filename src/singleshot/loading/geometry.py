"""The geometric part of augmentation: boxes first, and the pixels touched once.

Expanding, cropping, zooming and resizing are all a choice of one window of the original image, which may reach
beyond it. `make_crop` snaps that window to whole pixels of the source and of the network's input, `CropTransform.boxes`
maps boxes by the snapped numbers and `CropTransform.image` resizes what is visible in one call, so boxes and pixels
agree.

A window is (x0, y0, x1, y1) in pixels of the original image. Values are those of Caffe's SSD
(weiliu89/caffe, ssd branch, examples/ssd/ssd_pascal.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.inputs import Placement, placement
from singleshot.tiling import clip_regions, window_with

Window = tuple[float, float, float, float]

# Caffe's resize_param of ssd_pascal.py: one of these for each training image.
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)

# batch_sampler of ssd_pascal.py after the whole image: five with a minimum IoU, the last one free.
CROP_MIN_IOU = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
CROP_TRIALS = 50
CROP_SCALE = (0.3, 1.0)
CROP_ASPECT = (0.5, 2.0)

# Of the tiles that are trained on, where an image has objects: the rest teaches what background looks like.
WITH_OBJECT = 0.75


@dataclass(frozen=True)
class CropTransform:
    """Which whole pixels of the source go to which whole pixels of the input.

    roi: (x0, y0, x1, y1) of the source, inside the image, without area where the window misses the image;
    dest: where the roi lies in the input before flipping; sides: height and width of the input in pixels;
    flip_x, flip_y: mirrored left-right, upside down.
    """

    roi: tuple[int, int, int, int]
    dest: tuple[int, int, int, int]
    sides: tuple[int, int]
    flip_x: bool = False
    flip_y: bool = False

    @property
    def visible(self) -> bool:
        """Whether any of the image is in the window."""
        x0, y0, x1, y1 = self.roi
        return x1 > x0 and y1 > y0

    @property
    def place(self) -> Placement:
        """The mapping source -> input before flipping."""
        (x0, y0, x1, y1), (u0, v0, u1, v1) = self.roi, self.dest
        scale_x, scale_y = (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)
        return Placement(scale_x, scale_y, u0 - x0 * scale_x, v0 - y0 * scale_y)

    def boxes(self, boxes_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [N, 4] in source pixels -> (float32 [K, 4] normalised to the input, int64 [K] which they are).

        Kept: objects whose centre is in the roi (edges included: MeetEmitConstraint, Caffe im_transforms.cpp),
        clipped to it, and of these the ones at least half a pixel of the input wide and high.
        """
        if not self.visible or len(boxes_px) == 0:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        height, width = self.sides
        kept = centres_inside(boxes_px, np.array(self.roi, np.float64)).nonzero()[0]
        boxes = self._to_input(boxes_px[kept])
        # Thinner ones say nothing a prior could learn, and the logarithm of their size is huge.
        large = ((boxes[:, 2:] - boxes[:, :2]) >= np.array([0.5 / width, 0.5 / height], np.float32)).all(1)
        return boxes[large], kept[large]

    def regions(self, regions_px: np.ndarray) -> np.ndarray:
        """Regions [N, 4] in source pixels -> float32 [K, 4] normalised to the input: what of them is in the roi,
        however little."""
        if not self.visible:
            return np.zeros((0, 4), np.float32)
        return self._to_input(clip_regions(regions_px, self.roi))

    def _to_input(self, boxes_px: np.ndarray) -> np.ndarray:
        """float32 [N, 4]: boxes in source pixels, clipped to the roi, in parts of the input."""
        (x0, y0, x1, y1), (height, width) = self.roi, self.sides
        place = self.place
        boxes = boxes_px.astype(np.float64)
        boxes[:, 0::2] = (boxes[:, 0::2].clip(x0, x1) * place.scale_x + place.shift_x) / width
        boxes[:, 1::2] = (boxes[:, 1::2].clip(y0, y1) * place.scale_y + place.shift_y) / height
        boxes = boxes.astype(np.float32).clip(0.0, 1.0)
        if self.flip_x:
            boxes[:, [0, 2]] = 1.0 - boxes[:, [2, 0]]
        if self.flip_y:
            boxes[:, [1, 3]] = 1.0 - boxes[:, [3, 1]]
        return boxes

    def reduction(self, possible: Collection[int]) -> int:
        """The largest of the possible reductions of the source's sides that leaves a pixel for each of the input."""
        (x0, y0, x1, y1), (u0, v0, u1, v1) = self.roi, self.dest
        return max((r for r in possible if (x1 - x0) >= r * (u1 - u0) and (y1 - y0) >= r * (v1 - v0)), default=1)

    def on_grid(self, step: int, height: int, width: int) -> CropTransform:
        """The crop with its roi on multiples of `step` pixels of an image of height x width (or on its border)."""
        if step == 1 or not self.visible:
            return self
        x0, y0, x1, y1 = self.roi
        left, top = x0 // step * step, y0 // step * step
        right, bottom = min(math.ceil(x1 / step) * step, width), min(math.ceil(y1 / step) * step, height)
        return replace(self, roi=(left, top, right, bottom))

    def image(
        self,
        image: np.ndarray,
        fill: tuple[int, ...],
        interpolation: int = cv2.INTER_LINEAR,
        retouch: Callable[[np.ndarray], np.ndarray] | None = None,
        reduce: int = 1,
    ) -> np.ndarray:
        """uint8 RGB [H, W, 3] of the source -> uint8 RGB [H, W, 3] of the input.

        `fill` colours what lies outside the image; `retouch` (uint8 [h, w, 3] to the same) sees the visible part
        alone, so that the fill stays what the network takes for zero. reduce: `image` has that part of the source's
        sides, rounded up; the roi must then be on its grid.
        """
        u0, v0, u1, v1 = self.dest
        whole = (v1 - v0, u1 - u0) == self.sides
        flip = -1 if self.flip_x and self.flip_y else int(self.flip_x)
        if not whole:
            drawn = background(self.sides, fill)
            if self.visible:
                drawn[v0:v1, u0:u1] = self.patch(image, interpolation, retouch, reduce)
        else:
            drawn = self.patch(image, interpolation, retouch, reduce)
        return cv2.flip(drawn, flip) if self.flip_x or self.flip_y else drawn

    def patch(
        self,
        image: np.ndarray,
        interpolation: int,
        retouch: Callable[[np.ndarray], np.ndarray] | None = None,
        reduce: int = 1,
    ) -> np.ndarray:
        """The visible part alone, as large as in the input, not flipped."""
        (x0, y0, x1, y1), (u0, v0, u1, v1) = self.roi, self.dest
        patch = image[y0 // reduce : -(-y1 // reduce), x0 // reduce : -(-x1 // reduce)]
        wide, high = u1 - u0, v1 - v0
        # Colours change where there are fewer pixels: before enlarging, after shrinking.
        first = retouch is not None and patch.shape[0] * patch.shape[1] < wide * high
        if retouch is not None and first:
            patch = retouch(patch)
        patch = cv2.resize(patch, (wide, high), interpolation=interpolation)
        return retouch(patch) if retouch is not None and not first else patch


def background(sides: tuple[int, int], fill: tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W, 3] of the fill, with sides of H and W pixels; the caller's own."""
    return _background(sides, fill).copy()


@functools.lru_cache(maxsize=16)
def _background(sides: tuple[int, int], fill: tuple[int, ...]) -> np.ndarray:
    """To be copied: numpy takes longer to spread three bytes than to resize an image."""
    drawn = np.empty((*sides, 3), np.uint8)
    drawn[:] = fill
    drawn.setflags(write=False)
    return drawn


def make_crop(
    window: Window,
    height: int,
    width: int,
    sides: tuple[int, int],
    resize: str,
    flip_x: bool = False,
    flip_y: bool = False,
) -> CropTransform:
    """The window of an image of height x width, placed in an input of these sides, height and width, by the resize
    rule.

    "stretch" fills the input; "letterbox" keeps the window's aspect ratio. Raises nothing: a window that misses
    the image gives a crop that is not `visible`.
    """
    rows, columns = sides
    if resize == "stretch":
        return make_part_crop(window, height, width, (0, 0, columns, rows), sides, flip_x, flip_y)
    x0, y0, x1, y1 = _whole_pixels(window)
    place = placement(y1 - y0, x1 - x0, sides, resize)
    ax, bx, ua, ub = _snap(x0, x1, width, place.scale_x, place.shift_x, 0, columns)
    ay, by, va, vb = _snap(y0, y1, height, place.scale_y, place.shift_y, 0, rows)
    return CropTransform((ax, ay, bx, by), (ua, va, ub, vb), sides, flip_x, flip_y)


def make_part_crop(
    window: Window,
    height: int,
    width: int,
    area: tuple[int, int, int, int],
    sides: tuple[int, int],
    flip_x: bool,
    flip_y: bool,
) -> CropTransform:
    """As `make_crop`, but the window fills `area` (x0 y0 x1 y1 in pixels) of an input of these sides, height and width:
    a mosaic's part.

    The flips are those of the whole input.
    """
    x0, y0, x1, y1 = _whole_pixels(window)
    scale_x, scale_y = (area[2] - area[0]) / (x1 - x0), (area[3] - area[1]) / (y1 - y0)
    ax, bx, ua, ub = _snap(x0, x1, width, scale_x, area[0], area[0], area[2])
    ay, by, va, vb = _snap(y0, y1, height, scale_y, area[1], area[1], area[3])
    return CropTransform((ax, ay, bx, by), (ua, va, ub, vb), sides, flip_x, flip_y)


def _whole_pixels(window: Window) -> tuple[int, int, int, int]:
    x0, y0 = round(window[0]), round(window[1])
    return x0, y0, max(x0 + 1, round(window[2])), max(y0 + 1, round(window[3]))


def _snap(
    start: int, stop: int, length: int, scale: float, shift: float, low: int, high: int
) -> tuple[int, int, int, int]:
    """One axis: window start..stop on an image of `length` -> visible source pixels and where they go, in low..high."""
    a, b = max(start, 0), min(stop, length)
    if a >= b:
        return 0, 0, low, low
    # Halves always upwards, unlike `round`, so that the length does not depend on where the roi lies.
    u = min(max(math.floor((a - start) * scale + shift + 0.5), low), high - 1)
    return a, b, u, min(max(math.floor((b - start) * scale + shift + 0.5), u + 1), high)


def full_window(height: int, width: int) -> Window:
    """The window that is exactly the image."""
    return 0.0, 0.0, float(width), float(height)


def draw_tile(
    height: int, width: int, boxes_px: np.ndarray, sides: tuple[int, int], rng: np.random.Generator
) -> Window:
    """A tile of an image of height x width, anywhere in it: as large as those that detection cuts, which are no larger
    than the image. sides: height and width of a tile.

    Where the image has objects boxes_px [N, 4], WITH_OBJECT of the tiles have one of them whole, each object as often
    (a part of one that is larger than a tile); the others lie anywhere, on objects or not.
    """
    image_size = np.array([[width, height]])
    if len(boxes_px) and rng.random() < WITH_OBJECT:
        k = int(rng.integers(len(boxes_px)))
        box = boxes_px[k : k + 1]
    else:  # which every window is a part of
        box = np.array([[0, 0, width, height]], np.float64)
    x0, y0, x1, y1 = window_with(box, image_size, sides, rng)[0].tolist()
    return float(x0), float(y0), float(x1), float(y1)


def expand_window(window: Window, ratio_max: float, rng: np.random.Generator) -> Window:
    """A window 1 to `ratio_max` times as large with the given one anywhere in it (ExpandImage, im_transforms.cpp)."""
    x0, y0, x1, y1 = window
    ratio = rng.uniform(1.0, ratio_max)
    width, height = (x1 - x0) * ratio, (y1 - y0) * ratio
    left, top = x0 - rng.uniform(0.0, width - (x1 - x0)), y0 - rng.uniform(0.0, height - (y1 - y0))
    return left, top, left + width, top + height


def zoom_window(
    window: Window, zoom: tuple[float, float], aspect: float, shift: float, rng: np.random.Generator
) -> Window:
    """The window magnified by zoom[0]..zoom[1] (above 1 is closer), stretched and moved, all at random.

    Magnification and aspect ratio (1/aspect..aspect) are uniform in the logarithm; the centre moves by at most
    `shift` of the new sides.
    """
    x0, y0, x1, y1 = window
    side = math.exp(-rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    stretch = math.exp(0.5 * rng.uniform(-math.log(aspect), math.log(aspect)))
    width, height = (x1 - x0) * side * stretch, (y1 - y0) * side / stretch
    centre_x = (x0 + x1) / 2 + rng.uniform(-shift, shift) * width
    centre_y = (y0 + y1) / 2 + rng.uniform(-shift, shift) * height
    return centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2


class Crops(NamedTuple):
    """What each of Caffe's samplers found: crops float64 [7, 4], 0..1 of the window; found bool [7].

    Row 0 is the whole window, rows 1..6 are those of CROP_MIN_IOU. Rows that are not found mean nothing.
    """

    crops: np.ndarray
    found: np.ndarray


def draw_crops(boxes: np.ndarray, rng: np.random.Generator) -> Crops:
    """The first crop of 50 that satisfies each sampler (GenerateSamples, Caffe sampler.cpp).

    boxes [N, 4] are normalised to the window. A sampler is satisfied when any one object has the wanted IoU with
    the crop. Without objects the free sampler still finds one; Caffe's, which bounds the IoU by 1, does not.
    """
    draws = rng.random((4, len(CROP_MIN_IOU), CROP_TRIALS))
    scale = CROP_SCALE[0] + (CROP_SCALE[1] - CROP_SCALE[0]) * draws[0]
    aspect = CROP_ASPECT[0] + (CROP_ASPECT[1] - CROP_ASPECT[0]) * draws[1]
    # SampleBBox: the limits keep both sides within the window.
    aspect = np.clip(aspect, scale**2, 1.0 / scale**2)
    root = np.sqrt(aspect)
    width, height = np.minimum(scale * root, 1.0), np.minimum(scale / root, 1.0)
    x0, y0 = draws[2] * (1.0 - width), draws[3] * (1.0 - height)
    trials = np.stack([x0, y0, x0 + width, y0 + height], axis=-1)

    best = _best_iou(trials.reshape(-1, 4), boxes).reshape(scale.shape)
    satisfied = best >= np.array(CROP_MIN_IOU)[:, None]
    first = satisfied.argmax(1)
    rows = np.arange(len(CROP_MIN_IOU))
    crops = np.concatenate([[[0.0, 0.0, 1.0, 1.0]], trials[rows, first]])
    return Crops(crops, np.concatenate([[True], satisfied[rows, first]]))


def crop_window(window: Window, boxes_px: np.ndarray, rng: np.random.Generator) -> Window:
    """One of the samplers' crops of the window, each that succeeded equally likely (Caffe annotated_data_layer.cpp).

    Unlike Caffe, a crop that holds no object's centre is passed over where the image has objects.
    """
    left, top, right, bottom = window
    corner = np.array((left, top, left, top))
    sides = np.array((right - left, bottom - top, right - left, bottom - top))
    boxes = (np.asarray(boxes_px, np.float64) - corner) / sides
    crops, found = draw_crops(boxes, rng)
    if len(boxes):
        found = found & centres_inside(boxes, crops).any(1)
    choices = np.flatnonzero(found)
    # No choice is left only where every object lies outside the window.
    crop = crops[choices[rng.integers(len(choices))]] if len(choices) else crops[0]
    x0, y0, x1, y1 = (crop * sides + corner).tolist()
    return x0, y0, x1, y1


def centres_inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Whether the centre of each box [N, 4] is in the region, edges included: bool [N] for [4], [R, N] for [R, 4]."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    x0, y0, x1, y1 = (regions[..., k, None] for k in range(4))
    inside: np.ndarray = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return inside


def _best_iou(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """float64 [R]: the highest IoU of each region [R, 4] with any of the boxes [N, 4]; 0 without boxes."""
    if len(boxes) == 0:
        return np.zeros(len(regions))
    rx0, ry0, rx1, ry1 = (column[:, None] for column in regions.T)
    bx0, by0, bx1, by1 = boxes.T
    inside = np.maximum(np.minimum(rx1, bx1) - np.maximum(rx0, bx0), 0.0)
    inside *= np.maximum(np.minimum(ry1, by1) - np.maximum(ry0, by0), 0.0)
    union = (rx1 - rx0) * (ry1 - ry0) + (bx1 - bx0) * (by1 - by0) - inside
    best: np.ndarray = (inside / union).max(1)
    return best
