"""A detector whose answers are known: it finds the bright rectangle of an image by thresholding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detections, Detector


class BrightEngine:
    """Class 0 at .9 around everything brighter than 128, and a weak class 1 at .2 around the same."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[3] == 3
        self.batches.append(len(images))
        size = images.shape[1]
        results = []
        for image in images:
            ys, xs = np.nonzero(image.min(axis=2) > 128)
            if len(xs) == 0:
                boxes = np.zeros((0, 4), np.float32)
            else:
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                boxes = np.array([box, box], np.float32) / size
            scores = np.array([0.9, 0.2], np.float32)[: len(boxes)]
            results.append(ImageDetections(boxes, scores, np.arange(len(boxes))))
        return results


@pytest.fixture
def engine() -> BrightEngine:
    return BrightEngine()


@pytest.fixture
def detector(engine: BrightEngine) -> Detector:
    return Detector(engine, InputSpec(size=300, mean=(0.0, 0.0, 0.0)), ("bright thing", "weak thing"))


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Makes a black uint8 RGB image with one white rectangle."""

    def make(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
        image = np.zeros((height, width, 3), np.uint8)
        image[box[1] : box[3], box[0] : box[2]] = 255
        return image

    return make


@pytest.fixture
def save(picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Writes such an image (160 x 120, rectangle 40 30 100 90) to a path, bytes and not imwrite: any name works."""

    def write(path: Path, suffix: str = ".png") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        good, data = cv2.imencode(suffix, picture(160, 120, (40, 30, 100, 90)))
        assert good
        path.write_bytes(data.tobytes())
        return path

    return write


@pytest.fixture
def clip(picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Writes a video of a rectangle that moves right by 5 pixels a frame, 160 x 120 at 10 frames a second."""

    def write(path: Path, frames: int = 12) -> Path:
        codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(path), codec, 10.0, (160, 120))
        assert writer.isOpened()
        for i in range(frames):
            writer.write(picture(160, 120, (20 + 5 * i, 30, 60 + 5 * i, 90)))
        writer.release()
        return path

    return write


@pytest.fixture
def found() -> Callable[..., Detections]:
    """Makes the detections of a 200 x 100 image: a big dog, then a small cat."""

    def make(image: str = "photos/000012.jpg") -> Detections:
        return Detections(
            np.array([[10.25, 20.5, 110.25, 80.5], [0, 0, 8, 4]], np.float32),
            np.array([0.875, 0.5], np.float32),
            np.array([1, 0]),
            ("dog", "cat"),
            image,
            200,
            100,
        )

    return make
