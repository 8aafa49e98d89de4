"""Evaluation in tiles finds what detection in tiles finds, box by box."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.datasets.tiles import TiledSamples
from singleshot.evaluation.engine_loop import evaluate_engine, read_batches
from singleshot.inputs import InputSpec
from singleshot.loading.loader import EvalLoader
from singleshot.records import ImageDetections
from singleshot.runtime import Detector
from singleshot.scenes.scenes import write_scenes
from singleshot.tiling import Tiling

SPEC = InputSpec(height=60, width=96)
TILINGS = [Tiling(150), Tiling(150, overlap=0.5, whole=False), Tiling(4000), Tiling(70, whole=False)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=5, test=0, val=0)
    return open_dataset(folder, "train")


def engine(images: np.ndarray) -> list[ImageDetections]:
    """Boxes that follow from the pixels, some of them at the borders."""
    found = []
    for image in images:
        rng = np.random.default_rng(int(image.sum()))
        corners = rng.random((6, 2, 2)).round(1)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        found.append(ImageDetections(boxes, rng.random(6).astype(np.float32), rng.integers(0, 2, 6)))
    return found


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_evaluation_is_detection(dataset, tiling: Tiling) -> None:
    detector = Detector(engine, SPEC, dataset.class_names)
    tiles = TiledSamples(dataset, tiling, SPEC.sides)
    calls: list[int] = []
    ways = [
        (lambda batch: engine(batch.images), read_batches(tiles, SPEC, 4, threads)) for threads in (0, 2)
    ] + [
        (lambda one: engine(one.batch.images.permute(0, 2, 3, 1).numpy()),
         EvalLoader(dataset, SPEC, 3, workers=0, tiling=tiling)),
    ]  # fmt: skip
    for detect, batches in ways:
        done = evaluate_engine(detect, batches, dataset, SPEC.sides, on_image=lambda: calls.append(1), tiles=tiles)
        for i, found in enumerate(done.detections):
            wanted = detector.detect(dataset.sample(i).image, score_min=0.0, tile=tiling)
            np.testing.assert_array_equal(found.boxes, wanted.boxes)
            np.testing.assert_array_equal(found.scores, wanted.scores)
    assert len(calls) == 3 * len(dataset)


def test_tiles_have_the_objects_whose_centres_they_have(dataset) -> None:
    tiling = Tiling(150, whole=False)
    tiles = TiledSamples(dataset, tiling, SPEC.sides)
    assert len(tiles) == sum(len(tiles.windows(i)) for i in range(len(dataset)))
    seen = [np.zeros(len(dataset.labels_of(i)), int) for i in range(len(dataset))]
    for k, i in enumerate(tiles.image_of.tolist()):
        x0, y0, x1, y1 = tiles.windows(i)[k - int(np.flatnonzero(tiles.image_of == i)[0])]
        sample, boxes = tiles.sample(k), dataset.boxes_of(i)
        assert sample.image.shape == (y1 - y0, x1 - x0, 3)
        want = [
            [max(a, x0) - x0, max(b, y0) - y0, min(c, x1) - x0, min(d, y1) - y0]
            for a, b, c, d in boxes.tolist()
            if x0 <= (a + c) / 2 <= x1 and y0 <= (b + d) / 2 <= y1
        ]
        np.testing.assert_allclose(sample.boxes_px.reshape(-1, 4), np.reshape(want, (-1, 4)), atol=1e-3)
        seen[i] += [int(x0 <= (a + c) / 2 <= x1 and y0 <= (b + d) / 2 <= y1) for a, b, c, d in boxes.tolist()]
    assert all((one > 0).all() for one in seen)
