"""The second stage of an image's way: its file is read and decoded, at a part of its size where that is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.errors import DataError, SingleshotError, printable
from singleshot.inputs import InputSpec, placement
from singleshot.runtime.sources import Frame
from singleshot.storage import is_remote

if TYPE_CHECKING:
    from singleshot.images.decode import Encoded
    from singleshot.images.large import LargeImage

# A reduced image keeps that many pixels for each of the square's, along both sides: resizing then averages as few or
# more of them as from the whole image, and the square differs by noise only.
SPARE = 2

# Called with the bytes that are about to be held; it may wait until there is room for them.
Reserve = Callable[[int], None]


class ReadPlan(NamedTuple):
    """What is made of a frame. spec: the network's input; keep: the frame keeps its pixels; reduce: a JPEG file much
    larger than the input may be decoded at a part of its size; whole: pixels and no square, for those who cut tiles."""

    spec: InputSpec
    keep: bool = True
    reduce: bool = False
    whole: bool = False


class Decoded(NamedTuple):
    """A frame and its pixels.

    frame: with its image only if that is kept, with `error` where it cannot be read; pixels: uint8 RGB [h, w, 3], None
    where there is no image; width, height: of the original, whose sides are `reduced` times those of `pixels`.
    """

    frame: Frame
    pixels: np.ndarray | LargeImage | None = None
    width: int = 0
    height: int = 0
    reduced: int = 1


def decode_frame(frame: Frame, plan: ReadPlan, reserve: Reserve = lambda _: None) -> Decoded:
    """The frame's pixels, read from its file where it has only a path.

    An image that cannot be read comes back as a frame with `error`.
    """
    if frame.image is not None:
        if plan.keep or plan.whole:
            reserve(frame.image.nbytes)
        height, width = frame.image.shape[:2]
        return Decoded(_kept(frame, frame.image, plan), frame.image, width, height)
    if (frame.path is None and frame.data is None) or frame.error is not None:
        return Decoded(frame)
    try:
        large = _large(frame, plan)
        if large is not None:
            reserve(large.nbytes)
            return Decoded(replace(frame, path=None), large, large.shape[1], large.shape[0])
        encoded = _encoded(frame, plan.spec.sixteen_bit)
        width, height = encoded.width, encoded.height
        reduced = reduction(encoded, plan.spec) if plan.reduce and not plan.whole and not plan.keep else 1
        reserve(3 * -(-width // reduced) * -(-height // reduced))
        pixels = encoded.decode(reduced)
    except SingleshotError as error:
        text = str(error) if frame.path is None else str(error).replace(frame.path, frame.name)  # an address's password
        if not isinstance(error, DataError) or text != str(error):
            error = DataError(text)
        return Decoded(replace(frame, path=None, data=None, error=error))
    return Decoded(_kept(frame, pixels, plan), pixels, width, height, reduced)


def _large(frame: Frame, plan: ReadPlan) -> LargeImage | None:
    """A file of which tiles are wanted, and that has more pixels than are decoded at once."""
    if frame.path is None or not plan.whole or is_remote(frame.path) or not Path(frame.path).is_file():
        return None
    from singleshot.images.decode import MAX_FILE_BYTES, MAX_PIXELS, TooLargeError, image_size
    from singleshot.images.large import LargeImage

    try:
        if Path(frame.path).stat().st_size <= MAX_FILE_BYTES:
            image_size(frame.path)
            return None
    except TooLargeError:
        pass  # which is what is looked for
    except DataError:
        return None  # which decoding says
    if plan.keep:
        raise DataError(
            f"{printable(frame.name)}: nothing is drawn or cut out of more than {MAX_PIXELS // 10**6} million pixels;"
            " detect with --no-draw (keep_images=False in Python)"
        )
    return LargeImage(frame.path, plan.spec.sixteen_bit)


def _encoded(frame: Frame, sixteen_bit: str) -> Encoded:
    from singleshot.images.decode import Encoded, read_encoded, upright_size

    if frame.data is None:
        assert frame.path is not None
        return read_encoded(frame.path, sixteen_bit)
    return Encoded(frame.data, *upright_size(frame.data, frame.name), frame.name, sixteen_bit)


def _kept(frame: Frame, pixels: np.ndarray, plan: ReadPlan) -> Frame:
    return replace(frame, image=pixels if plan.keep else None, path=None, data=None)


def reduction(encoded: Encoded, spec: InputSpec) -> int:
    """The largest reduction on decoding that leaves SPARE pixels for each of the square's along both sides, or 1."""
    from singleshot.images.orientation import orientation

    width, height = encoded.width, encoded.height
    place = placement(height, width, spec.sides, spec.resize)
    most = min(1 / place.scale_x, 1 / place.scale_y) / SPARE
    possible = [r for r in encoded.reductions if r <= most]
    if len(possible) > 1 and orientation(encoded.data) != 1:
        # A last pixel that is partly outside would come to lie at the left or top edge and move all the others.
        possible = [r for r in possible if width % r == 0 and height % r == 0]
    return max(possible, default=1)
