"""Images, a detector whose answers follow from each image, and a small exported model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector


class MeanEngine:
    """One box for each image, whose score is the image's mean grey."""

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        box = np.array([[0.25, 0.25, 0.5, 0.5]], np.float32)
        return [ImageDetections(box, np.array([image.mean() / 255], np.float32), np.array([0])) for image in images]


@pytest.fixture
def detector() -> Detector:
    return Detector(MeanEngine(), InputSpec(size=32, mean=(0.0, 0.0, 0.0)), ("object",), score_min=0.0)


@pytest.fixture(scope="session")
def make_images() -> Callable[[Path, int], list[Path]]:
    """make_images(folder, n): that many small images with different pixels."""

    def make(folder: Path, count: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:04d}.png" for i in range(count)]
        for i, path in enumerate(paths):
            rng = np.random.default_rng(i)
            small = rng.integers(0, 256, (4, 5, 3), np.uint8)
            assert cv2.imwrite(str(path), cv2.resize(small, (64 + i % 7, 48), interpolation=cv2.INTER_CUBIC))
        return paths

    return make


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """An exported ssd320-mini of random weights."""
    import torch

    from singleshot.deploy.onnx_file import detector_model
    from singleshot.models import build
    from singleshot.thresholds import Thresholds
    from singleshot.weights.checkpoint import ModelInfo

    torch.manual_seed(0)
    network = build("ssd320-mini", 2).eval()
    info = ModelInfo.of(network, ("ball", "box"), thresholds=Thresholds(score_min=0.3, keep=20, show_min=0.33))
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    path.write_bytes(detector_model(network, info, False).SerializeToString())
    return path
