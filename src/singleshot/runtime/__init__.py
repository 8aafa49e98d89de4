"""Detection without torch: sources, the Detector, what it finds, drawing and result files."""

from __future__ import annotations

from singleshot.runtime.detections import Detections
from singleshot.runtime.detector import SCORE_MIN, Detector, Engine, Found
from singleshot.runtime.drawing import draw_detections
from singleshot.runtime.sources import Frame, open_sources
from singleshot.runtime.tiles import Tiling

__all__ = [
    "SCORE_MIN",
    "Detections",
    "Detector",
    "Engine",
    "Found",
    "Frame",
    "Tiling",
    "draw_detections",
    "open_sources",
]
