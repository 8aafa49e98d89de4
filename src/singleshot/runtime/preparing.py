"""The third stage of an image's way: pixels become the network's input."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.errors import DataError, printable
from singleshot.inputs import Placement, to_square
from singleshot.runtime.decoding import Decoded, ReadPlan, Reserve, decode_frame
from singleshot.runtime.sources import Frame

if TYPE_CHECKING:
    from singleshot.images.large import LargeImage

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A frame made ready; without a frame the end, or what ended the frames.

    frame: with its image only if that is kept; square: uint8 [H, W, C]; place: where the image lies in it; pixels:
    the image in place of a square; width, height: of the original; held: bytes that count as held until released.
    """

    frame: Frame | None
    square: np.ndarray | None = None
    place: Placement | None = None
    pixels: np.ndarray | LargeImage | None = None
    width: int = 0
    height: int = 0
    held: int = 0
    failure: BaseException | None = None

    @property
    def usable(self) -> bool:
        """Whether there is something to detect in."""
        return self.square is not None or self.pixels is not None


def make_ready(frame: Frame, plan: ReadPlan, reserve: Reserve = lambda _: None) -> Prepared:
    """A frame through the second and third stage. Whatever goes wrong with it becomes its error: no single image ends
    a run of many."""
    try:
        return prepare(decode_frame(frame, plan, reserve), plan)
    except MemoryError as error:
        broken = DataError(f"{printable(frame.name)}: does not fit into this machine's memory")
        broken.__cause__ = error
    except Exception as error:
        broken = DataError(f"{printable(frame.name)}: cannot be read ({type(error).__name__}: {printable(error, 120)})")
        broken.__cause__ = error  # our own mistake, perhaps: who asks sees where
        log.debug("%s", broken, exc_info=error)
    return Prepared(replace(frame, image=None, path=None, data=None, error=broken))


def prepare(decoded: Decoded, plan: ReadPlan) -> Prepared:
    """A decoded frame's square, or for a plan of tiles its pixels as they are."""
    frame, pixels, width, height, reduced = decoded
    if pixels is None:
        return Prepared(frame)
    held = pixels.nbytes if plan.keep or plan.whole else 0
    if plan.whole:
        return Prepared(frame, pixels=pixels, width=width, height=height, held=held)
    assert isinstance(pixels, np.ndarray)
    square, place = to_square(pixels, plan.spec)
    if reduced > 1:  # a pixel of the reduced image is exactly that many of the original
        place = Placement(place.scale_x / reduced, place.scale_y / reduced, place.shift_x, place.shift_y)
    return Prepared(frame, square, place, width=width, height=height, held=held + square.nbytes)
