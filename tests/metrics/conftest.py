"""Scenes that the metric tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from singleshot.records import ImageDetections, ImageTruth


class Scene(NamedTuple):
    detections: list[ImageDetections]
    truth: list[ImageTruth]
    num_classes: int


@pytest.fixture(scope="session")
def golden_scene(golden: Path) -> Callable[[bool], Scene]:
    """The 72 BCCD images of eval_inputs.npz; with the difficult flags of its difficult_* variants if asked for."""
    arrays = dict(np.load(golden / "eval_inputs.npz"))
    # The file's labels count background as 0.
    det_label, gt_label = arrays["det_label"] - 1, arrays["gt_label"] - 1

    def make(difficult: bool) -> Scene:
        flags = np.arange(len(gt_label)) % 7 == 0 if difficult else arrays["gt_difficult"].astype(bool)
        detections, truth = [], []
        for i in range(72):
            mine, objects = arrays["det_image"] == i, arrays["gt_image"] == i
            detections.append(
                ImageDetections(arrays["det_box_xyxy_px"][mine], arrays["det_score"][mine], det_label[mine])
            )
            truth.append(ImageTruth(arrays["gt_box_xyxy_px"][objects], gt_label[objects], flags[objects]))
        return Scene(detections, truth, 3)

    return make


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """A random scene: jittered, repeated, missed and made-up boxes; images with no object, no detection, neither."""

    def make(seed: int, images: int = 12, num_classes: int = 4, crowd: float = 0.0, most: int = 6) -> Scene:
        rng = np.random.default_rng(seed)
        detections, truth = [], []
        for _ in range(images):
            n = int(rng.integers(0, most + 1)) * int(rng.random() > 0.2)
            corner = rng.random((n, 2)) * 300
            boxes = np.concatenate((corner, corner + 4 + rng.random((n, 2)) ** 3 * 250), 1).astype(np.float32)
            labels = rng.integers(0, num_classes, n)
            area = (np.prod(boxes[:, 2:] - boxes[:, :2], 1) * rng.uniform(0.4, 1.0, n)).astype(np.float32)
            truth.append(ImageTruth(boxes, labels, rng.random(n) < 0.2, rng.random(n) < crowd, area))
            copies = np.repeat(np.arange(n), rng.integers(0, 4, n)) if rng.random() > 0.15 else np.zeros(0, int)
            sides = np.tile(boxes[copies, 2:] - boxes[copies, :2], 2)
            near = boxes[copies] + rng.normal(0, 0.1, (len(copies), 4)) * sides
            far = rng.random((int(rng.integers(0, 3)), 4)) * 100 + np.array([0, 0, 150, 150])
            found = np.concatenate((near, far)).astype(np.float32)
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
            guess = np.concatenate((labels[copies], rng.integers(0, num_classes, len(far))))
            # Scores in steps, so that there are equal ones.
            scores = (np.round(rng.random(len(found)) * 50) / 50).astype(np.float32)
            detections.append(ImageDetections(found, scores, guess))
        return Scene(detections, truth, num_classes)

    return make


def _empty_detections(images: int) -> list[ImageDetections]:
    return [ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))] * images


@pytest.fixture(scope="session")
def empty_detections() -> Callable[[int], list[Any]]:
    return _empty_detections


@pytest.fixture(scope="session")
def empty_truth() -> Callable[[int], list[Any]]:
    return lambda images: [ImageTruth(np.zeros((0, 4), np.float32), np.zeros(0, int))] * images
