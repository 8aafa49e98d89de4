"""The one loop of every evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.errors import ConfigError, DataError
from singleshot.evaluation.engine_loop import evaluate_engine, read_batches
from singleshot.inputs import InputSpec, boxes_to_square
from singleshot.records import ImageDetections
from singleshot.scenes.scenes import write_scenes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=7, test=0, val=0)
    return open_dataset(folder, "train")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_batches_are_those_of_the_loader_of_training(dataset, resize: str) -> None:
    from singleshot.loading.loader import EvalLoader

    spec = InputSpec(size=96, resize=resize)
    theirs = list(EvalLoader(dataset, spec, 3, 0))
    for threads in (0, 1, 4):
        ours = list(read_batches(dataset, spec, 3, threads))
        assert [len(batch.images) for batch in ours] == [3, 3, 1]
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.images, other.batch.images.permute(0, 2, 3, 1).numpy())
            np.testing.assert_array_equal(one.sizes, other.sizes)
            assert one.placements == other.placements


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_an_engine_that_knows_the_truth_finds_everything(dataset, resize: str) -> None:
    spec = InputSpec(size=96, resize=resize)
    images = iter(range(len(dataset)))

    def detect(batch) -> list[ImageDetections]:
        records = []
        for place in batch.placements:
            i = next(images)
            boxes, labels = dataset.boxes_of(i), dataset.labels_of(i)
            records.append(ImageDetections(boxes_to_square(boxes, place, 96), np.ones(len(labels), np.float32), labels))
        return records

    calls = []
    done = evaluate_engine(detect, read_batches(dataset, spec, 4), dataset, 96, on_image=lambda: calls.append(1))
    assert done.evaluation.mean_ap == pytest.approx(1.0)
    assert len(calls) == len(done.detections) == 7
    np.testing.assert_allclose(done.detections[2].boxes, dataset.boxes_of(2), atol=1e-3)


def test_mistakes_come_out_of_the_threads(dataset) -> None:
    from dataclasses import replace

    broken = replace(dataset, sizes=dataset.sizes + 1)
    with pytest.raises(DataError, match="pixels"):
        list(read_batches(broken, InputSpec(size=96), 2))
    with pytest.raises(DataError, match="no images"):
        list(read_batches(dataset.subset([]), InputSpec(size=96), 2))
    with pytest.raises(ConfigError, match="batch size 0"):
        list(read_batches(dataset, InputSpec(size=96), 0))
