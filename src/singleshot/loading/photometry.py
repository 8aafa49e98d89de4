"""The photometric part of augmentation, by table.

Order and values are Caffe's (weiliu89/caffe, ssd branch, im_transforms.cpp ApplyDistort and ssd_pascal.py):
brightness; contrast here or at the end; saturation; hue; every step drawn with probability .5 and saturating to
uint8. No channel swap. Grey levels change by a table of 256, neighbouring steps by one; hue and saturation together
by one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

# distort_param of ssd_pascal.py, at strength 1. Hue is on OpenCV's scale: 180 for the whole circle.
STEP_P = 0.5
BRIGHTNESS = 32.0
CONTRAST = 0.5
SATURATION = 0.5
HUE = 18.0

_LEVELS = np.arange(256, dtype=np.float64)


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
    return second[first]


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    # Rounds halves to even as OpenCV's saturate_cast does.
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
