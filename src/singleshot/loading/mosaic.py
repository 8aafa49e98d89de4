"""Four pictures in one square: more objects, smaller ones, and less of each picture's own surroundings.

After YOLOv4's mosaic (Bochkovskiy et al. 2020, section 3.3), with the pictures drawn straight into their quarters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec, placement
from singleshot.loading.geometry import make_part_crop
from singleshot.loading.render_plan import PixelTransform, make_render_plan

# Where the four meet, and how large a picture is drawn beside its size alone in the square.
_CENTRE = (0.3, 0.7)
_SCALE = (0.4, 1.0)

Example = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_mosaic(
    pictures: Sequence[EncodedImage],
    zoom: tuple[float, float],
    flips: tuple[bool, bool],
    input_spec: InputSpec,
    style_of: Callable[[], PixelTransform],
    rng: np.random.Generator,
) -> Example:
    """Four pictures -> (image uint8 RGB [S, S, 3], boxes float32 [N, 4], labels int64 [N]).

    Each is magnified by _SCALE times zoom[0]..zoom[1] (uniform in the logarithm) of what it has alone in the square,
    and as much of it as possible is shown.
    """
    size = input_spec.size
    cx, cy = (int(v) for v in np.rint(rng.uniform(*_CENTRE, 2) * size))
    areas = ((0, 0, cx, cy), (cx, 0, size, cy), (0, cy, cx, size), (cx, cy, size, size))
    square: np.ndarray = np.empty((size, size, 3), np.uint8)
    square[:] = input_spec.fill
    boxes, labels = [], []
    for picture, area in zip(pictures, areas, strict=True):
        place = placement(picture.height, picture.width, size, input_spec.resize)
        scale = math.exp(rng.uniform(math.log(_SCALE[0] * zoom[0]), math.log(_SCALE[1] * zoom[1])))
        wide, high = (area[2] - area[0]) / (place.scale_x * scale), (area[3] - area[1]) / (place.scale_y * scale)
        x, y = (rng.uniform(min(0.0, left), max(0.0, left)) for left in (picture.width - wide, picture.height - high))
        view = make_part_crop((x, y, x + wide, y + high), picture.height, picture.width, area, size, *flips)
        style = style_of()
        if not view.visible:
            continue
        plan = make_render_plan(picture, view)
        u0, v0, u1, v1 = plan.view.dest
        pixels = picture.pixels(plan.reduce)
        square[v0:v1, u0:u1] = plan.view.patch(pixels, style.interpolation, style.retouch, plan.reduce)
        boxes.append(plan.boxes)
        labels.append(plan.labels)
    if any(flips):
        square = cv2.flip(square, -1 if all(flips) else int(flips[0]))
    if not boxes:
        return square, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return square, np.concatenate(boxes), np.concatenate(labels)
