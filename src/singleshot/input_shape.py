"""Another input than a model's own: its size in words, default boxes that go with it, and a size that suits data."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.inputs import MAX_SIDE, InputSpec
from singleshot.prior_boxes import PriorSpec, Sides

AUTO = "auto"
MULTIPLE = 32  # what `suited_sides` rounds to
_SIZE = re.compile(r"(\d{1,6})(?:\s*x\s*(\d{1,6}))?")

# The rules of `suited_sides`.
SAME_SHAPE = 1.15  # pictures whose proportions differ by less are of one shape
MOST_OF_ONE_SHAPE = 0.8  # share of the pictures
SQUARE = 1.25  # proportions up to that are taken for a square
LONGEST = 3.0  # proportions
SMALL_OBJECTS = 0.1  # quantile of the objects' sizes that must be seen
CELLS = 2.0  # of the finest map, that such an object covers
LARGEST = 2.0  # times the model's own side


def size_words(size: object) -> str:
    """512, "512", (288, 512), "288 x 512" or "auto" -> "512", "288x512" (height x width) or "auto". ConfigError."""
    pair = isinstance(size, list | tuple) and len(size) == 2
    text = "x".join(map(str, size)) if pair else str(size)  # type: ignore[call-overload]
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        if text == AUTO:
            return AUTO
        raise ConfigError(f"--size {printable(text, 40)!r}: want 512, 288x512 (height x width) or auto")
    height, width = int(match[1]), int(match[2] or match[1])
    InputSpec(height=height, width=width)  # raises for sides that no input has
    return str(height) if height == width else f"{height}x{width}"


def sides_of_words(words: str) -> tuple[int, int]:
    """Height and width of what `size_words` gave, other than "auto"."""
    height, _, width = words.partition("x")
    return int(height), int(width or height)


def as_grey(spec: InputSpec) -> InputSpec:
    """The same input in one channel: mean and std are those of the luminance (ITU-R BT.601, as cv2.cvtColor)."""
    if spec.channels == 1:
        return spec
    mean, std = (
        (round(float(np.dot(values, (0.299, 0.587, 0.114))), 4),)  # rounded as files show it
        for values in (spec.mean, spec.std)
    )
    return replace(spec, channels=1, colour_order="rgb", mean=mean, std=std)


def scaled_priors(own: PriorSpec, maps: Sequence[Sides], image_size: Sides) -> PriorSpec:
    """A table of default boxes for another input of the same network.

    Sizes grow with the square root of the input's area: an object that takes some share of a picture takes the same
    share of any input that the picture is stretched to, so that a square table matches it as well in another shape.
    Ratios of width to height are in pixels and stay. Centres are those of the maps.
    """
    spec = replace(own, image_size=image_size, maps=tuple(maps), steps=None)
    factor = math.sqrt(math.prod(spec.image) / math.prod(own.image))

    def scaled(sizes: Sequence[float]) -> tuple[float, ...]:
        return tuple(round(size * factor, 4) for size in sizes)

    if own.shapes is not None:
        shapes = tuple(tuple((w, h) for w, h in map(scaled, row)) for row in own.shapes)
        return replace(spec, shapes=shapes)
    return replace(spec, min_sizes=scaled(own.min_sizes), max_sizes=scaled(own.max_sizes))


def suited_sides(
    pictures: np.ndarray, objects: np.ndarray, own: PriorSpec, smallest: int
) -> tuple[tuple[int, int], str]:
    """Height and width of an input that suits a data set, and the reasons in words. Deterministic.

    Args:
        pictures: [n, 2] width and height of each, in pixels, one at least.
        objects: [M] side of each object, the root of its area as a share of its picture's.
        own: The model's default boxes on its own input.
        smallest: The smallest side that its network takes.
    """
    ratio, reason = shape_of_pictures(pictures[:, 0] / pictures[:, 1])
    side, why = _side(pictures, objects, own)
    if ratio == 1.0 and own.image[0] == own.image[1] == side:
        sides = own.image
    else:
        least = math.ceil(smallest / MULTIPLE) * MULTIPLE
        side *= max(1.0, least / (side / math.sqrt(max(ratio, 1 / ratio))))
        exact = side / math.sqrt(ratio), side * math.sqrt(ratio)
        height, width = (max(round(length / MULTIPLE) * MULTIPLE, least) for length in exact)
        sides = min(height, MAX_SIDE), min(width, MAX_SIDE)
    return sides, f"{reason}; {why}"


def shape_of_pictures(ratios: np.ndarray) -> tuple[float, str]:
    """Width to height of the input that suits pictures of these (1.0: a square), and the reason in words.

    ratios: [n] width to height of each, one at least.
    """
    middle = float(np.exp(np.median(np.log(ratios))))
    like = float((np.maximum(ratios / middle, middle / ratios) <= SAME_SHAPE).mean())
    if like < MOST_OF_ONE_SHAPE:
        return 1.0, f"square, for only {like:.0%} of the pictures are near {middle:.2f} to 1 (width to height)"
    words = f"{like:.0%} of the pictures are near {middle:.2f} to 1 (width to height)"
    if max(middle, 1 / middle) <= SQUARE:
        return 1.0, f"square, {words}"
    return min(max(middle, 1 / LONGEST), LONGEST), words


def _side(pictures: np.ndarray, objects: np.ndarray, own: PriorSpec) -> tuple[float, str]:
    """Root of the input's area in pixels, so that small objects cover some cells of the finest map."""
    usual = math.sqrt(math.prod(own.image))
    if not len(objects):
        return usual, "no object to go by, so the model's own size"
    share = float(np.quantile(objects, SMALL_OBJECTS))
    wanted = CELLS * max(own.step(0)) / share
    most = min(LARGEST * usual, max(usual, float(np.median(np.sqrt(pictures.prod(axis=1))))))
    side = min(max(wanted, usual), most)
    limit = "" if side >= wanted else ", the pictures being no larger" if most < LARGEST * usual else ", the most"
    return side, (
        f"a tenth of the objects is smaller than {share:.1%} of its picture's side, {share * side:.0f} px there{limit}"
    )
