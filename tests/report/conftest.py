"""A small data set of drawn scenes, and detections made of its labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.metrics import analyse_errors, evaluate
from singleshot.records import ImageDetections
from singleshot.report.evaluation_sections import Measured
from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=2, test=6, val=2)
    return folder


@pytest.fixture(scope="session")
def dataset(scenes):
    return open_dataset(str(scenes), "test")


def _detections(dataset, seed: int = 0) -> list[ImageDetections]:
    """Its labels, moved a little, some of another class, some twice, and one on nothing in each image."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(len(dataset)):
        boxes, labels = dataset.boxes_of(i), dataset.labels_of(i)
        moved = boxes + rng.normal(0, 4, boxes.shape)
        other = np.where(rng.random(len(labels)) < 0.2, (labels + 1) % len(dataset.class_names), labels)
        every = np.concatenate([moved, boxes[:1], [[1, 1, 9, 9]]]).astype(np.float32)
        scores = rng.random(len(every)).astype(np.float32)
        order = np.argsort(-scores)
        names = np.concatenate([other, labels[:1], [0]]).astype(np.int64)
        found.append(ImageDetections(every[order], scores[order], names[order]))
    return found


def _measure(dataset, found, about="6 images") -> Measured:
    truths = [dataset.truth(i) for i in range(len(dataset))]
    errors = analyse_errors(found, truths, dataset.class_names, image_sizes=dataset.sizes)
    evaluation = evaluate(found, truths, "voc", dataset.class_names)
    return Measured(replace(evaluation, errors=errors), errors, dataset, about)


@pytest.fixture(scope="session")
def measured(dataset) -> Measured:
    return _measure(dataset, _detections(dataset))


@pytest.fixture(scope="session")
def measure():
    """measure(dataset, detections, about): a Measured."""
    return _measure


@pytest.fixture(scope="session")
def detections():
    """detections(dataset): one record an image, with errors in them."""
    return _detections
