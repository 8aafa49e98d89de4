"""From an image to the square that the network sees, and boxes back: one rule for every door.

Training's validation, evaluation, detection and export all call `to_square`, so that the same image gives
the same boxes everywhere. numpy and OpenCV only: the runtime half uses it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from singleshot.errors import ConfigError

RESIZE_RULES = ("stretch", "letterbox")
COLOUR_ORDERS = ("rgb", "bgr")

# RGB mean of ImageNet as rounded in Caffe's SSD (ssd_pascal.py: mean_value 104, 117, 123 in BGR).
CAFFE_MEAN = (123.0, 117.0, 104.0)


@dataclass(frozen=True)
class InputSpec:
    """How a model wants its input; travels in the checkpoint.

    size: side of the square in pixels; resize: "stretch" (aspect ratio changes, as the paper does) or
    "letterbox" (it is kept, the rest filled with the mean); mean and std: of 0..255 values in RGB order,
    whatever colour_order the network wants.
    """

    size: int = 300
    resize: str = "stretch"
    colour_order: str = "rgb"
    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096:
            raise ConfigError(f"input size {self.size}: want 32 to 4096 pixels")
        if self.resize not in RESIZE_RULES:
            raise ConfigError(f"resize rule {self.resize!r}: want one of {', '.join(RESIZE_RULES)}")
        if self.colour_order not in COLOUR_ORDERS:
            raise ConfigError(f"colour order {self.colour_order!r}: want one of {', '.join(COLOUR_ORDERS)}")
        if min(self.std) <= 0:
            raise ConfigError(f"std {self.std}: want three positive numbers")

    @property
    def fill(self) -> tuple[int, int, int]:
        """RGB value of pixels outside the image: the mean, which the network sees as zero."""
        r, g, b = (round(min(max(m, 0.0), 255.0)) for m in self.mean)
        return r, g, b

    def to_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "resize": self.resize,
            "colour_order": self.colour_order,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Inverse of `to_dict`; unknown keys raise ConfigError."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(f"input settings: unknown key {', '.join(sorted(unknown))}")
        values = dict(values)
        for key in ("mean", "std"):
            if key in values:
                values[key] = tuple(float(v) for v in values[key])
        return cls(**values)


class Placement(NamedTuple):
    """Where the original image lies in the square: square = original * scale + shift, in pixels."""

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float


def placement(height: int, width: int, size: int, resize: str) -> Placement:
    """Placement of an image of height x width in a square of `size` pixels."""
    if resize == "stretch":
        return Placement(size / width, size / height, 0.0, 0.0)
    scale = min(size / width, size / height)
    # Whole pixels, so that the mapping is exactly what cv2.resize does.
    inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(inner_w / width, inner_h / height, (size - inner_w) // 2, (size - inner_h) // 2)


def to_square(image: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Placement]:
    """Resize uint8 RGB [H, W, 3] to uint8 RGB [S, S, 3], bilinear, and say where it lies."""
    height, width = image.shape[:2]
    place = placement(height, width, spec.size, spec.resize)
    if spec.resize == "stretch":
        return cv2.resize(image, (spec.size, spec.size), interpolation=cv2.INTER_LINEAR), place
    inner_w, inner_h = round(width * place.scale_x), round(height * place.scale_y)
    square = np.empty((spec.size, spec.size, 3), np.uint8)
    square[:] = spec.fill
    x, y = int(place.shift_x), int(place.shift_y)
    square[y : y + inner_h, x : x + inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    return square, place


def boxes_to_square(boxes_px: np.ndarray, place: Placement, size: int) -> np.ndarray:
    """Pixel boxes [N, 4] of the original image -> float32 [N, 4] normalised to the square."""
    scale = np.array([place.scale_x, place.scale_y] * 2, np.float64)
    shift = np.array([place.shift_x, place.shift_y] * 2, np.float64)
    return ((boxes_px * scale + shift) / size).astype(np.float32)


def boxes_from_square(boxes: np.ndarray, place: Placement, size: int, height: int, width: int) -> np.ndarray:
    """Boxes [N, 4] normalised to the square -> float32 pixels of the original image, clipped to it."""
    scale = np.array([place.scale_x, place.scale_y] * 2, np.float64)
    shift = np.array([place.shift_x, place.shift_y] * 2, np.float64)
    boxes_px = (np.asarray(boxes, np.float64) * size - shift) / scale
    limits = np.array([width, height, width, height], np.float64)
    return np.clip(boxes_px, 0.0, limits).astype(np.float32)
