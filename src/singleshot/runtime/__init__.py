"""Detection without torch. An image goes one way, and these modules are its stages, in order:

sources.py    files, folders, videos, cameras: Frame by Frame
decoding.py   a Frame's file: pixels, of part of the size where that is enough
preparing.py  pixels: the network's input (prefetch.py does these two ahead, in threads)
tiles.py      or: cut into tiles, each an input of its own
engines/      inputs: boxes in each, by any engine (table.py; load.py opens a model file)
pixels.py     back to pixels of the image
merging.py    tiles: one result
tracking.py   videos: which objects are the same one
detections.py Detections, to draw (drawing.py, picture_writer.py) or to write (result_files.py)

detector.py strings them together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from singleshot.runtime.detections import Detections
    from singleshot.runtime.detector import SCORE_MIN, Detector, Found
    from singleshot.runtime.drawing import draw_detections
    from singleshot.runtime.engines.table import Engine
    from singleshot.runtime.sources import Frame, open_sources

# Public names and the modules that hold them. Imported when they are asked for: whoever needs one light module of this
# room, such as the table of engines, does not pay for OpenCV.
_HOMES = {
    "SCORE_MIN": "detector",
    "Detections": "detections",
    "Detector": "detector",
    "Engine": "engines.table",
    "Found": "detector",
    "Frame": "sources",
    "draw_detections": "drawing",
    "open_sources": "sources",
}
__all__ = [
    "SCORE_MIN",
    "Detections",
    "Detector",
    "Engine",
    "Found",
    "Frame",
    "draw_detections",
    "open_sources",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
