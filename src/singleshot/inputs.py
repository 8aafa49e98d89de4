"""From an image to the input that the network sees, and boxes back: one rule for every door.

Training's validation, evaluation, detection and export all call `to_square`, so that the same image gives
the same boxes everywhere. numpy and OpenCV only: the runtime half uses it too.

The input is a square in colour nearly always, from which the functions have their names; every one takes other
proportions as well, and `to_square` one channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from singleshot.errors import ConfigError, printable

RESIZE_RULES = ("stretch", "letterbox")
COLOUR_ORDERS = ("rgb", "bgr")
CHANNELS = (1, 3)
MIN_SIDE, MAX_SIDE = 32, 4096  # pixels
# How the samples of 16-bit pictures become 8 bits: their upper half, or each picture's own range from 0 to 255.
SIXTEEN_BIT = ("scale", "stretch")

# RGB mean of ImageNet as rounded in Caffe's SSD (ssd_pascal.py: mean_value 104, 117, 123 in BGR).
CAFFE_MEAN = (123.0, 117.0, 104.0)
# RGB mean and standard deviation of ImageNet that torchvision's weights expect (.485 .456 .406 and .229 .224 .225).
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Size = int | tuple[int, int]  # side of a square, or height and width


@dataclass(frozen=True, init=False)
class InputSpec:
    """How a model wants its input; travels in the checkpoint.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: 3 for colour, 1 for grey.
        resize: "stretch" (the aspect ratio changes, as in the paper) or "letterbox" (it is kept, the rest filled with
            the mean).
        colour_order: what the network's first layer wants, "rgb" or "bgr".
        mean: of values 0..255, in RGB order whatever colour_order is; one for each channel.
        std: likewise.
        sixteen_bit: how 16-bit pictures become 8 bits, "scale" (divided by 256) or "stretch" (the lowest value of each
            picture becomes 0, the highest 255).
    """

    height: int
    width: int
    channels: int
    resize: str
    colour_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sixteen_bit: str

    def __init__(
        self,
        size: int | None = None,
        resize: str = "stretch",
        colour_order: str = "rgb",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        *,
        height: int = 300,
        width: int = 300,
        channels: int = 3,
        sixteen_bit: str = "scale",
    ) -> None:
        """size: the side of a square input, in place of height and width. mean: Caffe's if not given (for one channel
        its luminance); std: 1. Raises ConfigError for what no input can be."""
        grey = round(float(np.dot(CAFFE_MEAN, (0.299, 0.587, 0.114))), 2)  # ITU-R BT.601, as cv2.cvtColor
        values: dict[str, object] = {
            "height": height if size is None else size,
            "width": width if size is None else size,
            "channels": channels,
            "resize": resize,
            "colour_order": colour_order,
            "mean": mean if mean is not None else CAFFE_MEAN if channels == 3 else (grey,),
            "std": std if std is not None else (1.0,) * (3 if channels == 3 else 1),
            "sixteen_bit": sixteen_bit,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        for side in (self.height, self.width):
            if not isinstance(side, int) or isinstance(side, bool) or not MIN_SIDE <= side <= MAX_SIDE:
                raise ConfigError(
                    f"input size {printable(side, 40)}: want {MIN_SIDE} to {MAX_SIDE} pixels, a whole size"
                )
        if self.channels not in CHANNELS:
            raise ConfigError(f"input channels {printable(self.channels, 40)}: want 1 (grey) or 3 (colour)")
        if self.resize not in RESIZE_RULES:
            raise ConfigError(f"resize rule {self.resize!r}: want one of {', '.join(RESIZE_RULES)}")
        if self.colour_order not in COLOUR_ORDERS:
            raise ConfigError(f"colour order {self.colour_order!r}: want one of {', '.join(COLOUR_ORDERS)}")
        if self.sixteen_bit not in SIXTEEN_BIT:
            raise ConfigError(f"sixteen-bit rule {self.sixteen_bit!r}: want one of {', '.join(SIXTEEN_BIT)}")
        if self.channels == 1 and self.colour_order != "rgb":
            raise ConfigError(f"colour order {self.colour_order!r}: one channel has none")
        wanted = {1: "one", 3: "three"}[self.channels]
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ConfigError(
                f"input settings: mean {self.mean}, std {self.std}: want {wanted} means and {wanted} stds"
            )
        if min(self.std) <= 0:
            raise ConfigError(f"std {self.std}: want {wanted} positive numbers")

    @property
    def size(self) -> int:
        """Side of a square input in pixels; ConfigError where it is not square."""
        if self.height != self.width:
            raise ConfigError(f"input of {self.height} x {self.width} pixels (height x width): not square")
        return self.height

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def size_text(self) -> str:
        """For messages: "320 px" of a square, else height x width, "96 x 160 px"; ", grey" follows for one channel."""
        text = f"{self.height} px" if self.height == self.width else f"{self.height} x {self.width} px"
        return text if self.channels == 3 else f"{text}, grey"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image at the network's door: height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def fill(self) -> tuple[int, ...]:
        """Value of pixels outside the image, one for each channel: the mean, which the network sees as zero."""
        return tuple(round(min(max(m, 0.0), 255.0)) for m in self.mean)

    def to_dict(self) -> dict[str, Any]:
        """For JSON. A square has `size` in place of height and width; channels are named where they are not three, the
        rule for 16 bits where it is not the usual one."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.height == self.width:
            del values["height"], values["width"]
            values = {"size": self.height} | values
        if self.channels == 3:
            del values["channels"]
        if self.sixteen_bit == "scale":
            del values["sixteen_bit"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Inverse of `to_dict`. Raises ConfigError for a key that this version does not know or a wrong value."""
        unknown = set(values) - {"size", *cls.__dataclass_fields__}
        if unknown:
            raise ConfigError(f"input settings: unknown key {printable(', '.join(sorted(unknown)), 80)}")
        lists = {key: tuple(float(v) for v in values[key]) for key in ("mean", "std") if key in values}
        return cls(**{**values, **lists})


class Placement(NamedTuple):
    """Where the original image lies in the input: input = original * scale + shift, in pixels."""

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float


def placement(height: int, width: int, size: Size, resize: str) -> Placement:
    """Placement of an image of height x width pixels in an input of `size` pixels, by that resize rule."""
    rows, columns = sides_of(size)
    if resize == "stretch":
        return Placement(columns / width, rows / height, 0.0, 0.0)
    scale = min(columns / width, rows / height)
    # Whole pixels, so that the mapping is exactly what cv2.resize does.
    inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement(inner_w / width, inner_h / height, (columns - inner_w) // 2, (rows - inner_h) // 2)


def to_square(image: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, Placement]:
    """Resize uint8 RGB [h, w, 3] to the uint8 input [H, W, C] of `spec`, bilinear, and say where it lies there."""
    height, width = image.shape[:2]
    place = placement(height, width, spec.sides, spec.resize)
    if spec.resize == "stretch":
        resized = cv2.resize(image, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)
        return in_channels(resized, spec), place
    inner_w, inner_h = round(width * place.scale_x), round(height * place.scale_y)
    canvas = np.empty(spec.shape, np.uint8)
    canvas[:] = spec.fill
    x, y = int(place.shift_x), int(place.shift_y)
    inner = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    canvas[y : y + inner_h, x : x + inner_w] = in_channels(inner, spec)
    return canvas, place


def boxes_to_square(boxes_px: np.ndarray, place: Placement, size: Size) -> np.ndarray:
    """Pixel boxes [N, 4] of the original image -> float32 [N, 4] normalised to the input of `size` pixels."""
    scale = np.array([place.scale_x, place.scale_y] * 2, np.float64)
    shift = np.array([place.shift_x, place.shift_y] * 2, np.float64)
    boxes: np.ndarray = (boxes_px * scale + shift) / _corner_sides(size)
    return boxes.astype(np.float32)


def boxes_in_input(boxes_px: np.ndarray, sizes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Pixel boxes [M, 4] of images of `sizes` [M, 2], width and height -> float64 [M, 4] in parts of the input, where
    `to_square` puts them."""
    different, which = np.unique(sizes, axis=0, return_inverse=True)
    places = [placement(height, width, spec.sides, spec.resize) for width, height in different.tolist()]
    place = np.array(places, np.float64).reshape(-1, 4)[which.reshape(-1)]
    boxes: np.ndarray = boxes_px.astype(np.float64) * np.tile(place[:, :2], 2) + np.tile(place[:, 2:], 2)
    boxes /= _corner_sides(spec.sides)
    return boxes


def boxes_from_square(boxes: np.ndarray, place: Placement, size: Size, height: int, width: int) -> np.ndarray:
    """Boxes [N, 4] normalised to the input of `size` pixels -> float32 pixels of the original image of height x width,
    clipped to it."""
    scale = np.array([place.scale_x, place.scale_y] * 2, np.float64)
    shift = np.array([place.shift_x, place.shift_y] * 2, np.float64)
    boxes_px: np.ndarray = (np.asarray(boxes, np.float64) * _corner_sides(size) - shift) / scale
    limits = np.array([width, height, width, height], np.float64)
    return boxes_px.clip(0.0, limits).astype(np.float32)


def sides_of(size: Size) -> tuple[int, int]:
    """Height and width of a size that may be given by one side."""
    return (size, size) if isinstance(size, int) else size


def _corner_sides(size: Size) -> np.ndarray:
    """What x0 y0 x1 y1 of a normalised box are measured in."""
    height, width = sides_of(size)
    return np.array([width, height, width, height], np.float64)


def in_channels(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """RGB [H, W, 3] as it is, or its luminance [H, W, 1] where the network takes one channel."""
    return image if spec.channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
