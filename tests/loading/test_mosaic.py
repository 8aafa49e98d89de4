"""Four pictures in one square: pixels, boxes and labels stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec
from singleshot.loading.augment import Augmenter
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.loader import TrainLoader
from singleshot.records import Sample

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
MOSAIC = AugmentSpec(mosaic_p=1.0, mirror_p=0.5, flip_vertical_p=0.5, zoom=(0.7, 1.4))


def picture(label: int, rng: np.random.Generator) -> EncodedImage:
    """A dark picture with one rectangle in its label's colour."""
    height, width = rng.integers(80, 300, 2).tolist()
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    x0, y0 = int(rng.integers(0, width - 50)), int(rng.integers(0, height - 50))
    x1, y1 = x0 + int(rng.integers(25, 50)), y0 + int(rng.integers(25, 50))
    image[y0:y1, x0:x1] = COLOURS[label]
    boxes_px = np.array([[x0, y0, x1, y1]], np.float32)
    return EncodedImage.of(Sample(image, boxes_px, np.array([label]), np.zeros(1, bool), f"{label}.png"))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_every_box_holds_its_own_colour(resize):
    rng = np.random.default_rng(0)
    spec = InputSpec(size=160, resize=resize)
    counts, seen = [], 0
    for _ in range(200):
        pictures = [picture(k, rng) for k in range(4)]
        image, boxes, labels = Augmenter(MOSAIC, spec)(pictures[0], rng, lambda k, p=pictures: p[1 : 1 + k])
        assert image.shape == (160, 160, 3)
        assert image.dtype == np.uint8
        assert boxes.dtype == np.float32
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert len(set(labels.tolist())) == len(labels) == len(boxes)
        counts.append(len(labels))
        for box, label in zip(boxes * 160, labels, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) >= 6:
                x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
                assert np.abs(image[y, x].astype(int) - COLOURS[label]).max() < 60
                seen += 1
    assert np.mean(counts) > 1.5  # most objects of four pictures are still there
    assert seen > 250


def test_parts_fill_their_quarters_and_flips_move_them():
    rng = np.random.default_rng(1)
    white = [
        EncodedImage.of(
            Sample(
                np.full((90, 90, 3), 50 * (k + 1), np.uint8),
                np.zeros((0, 4), np.float32),
                np.zeros(0, np.int64),
                np.zeros(0, bool),
                "w",
            )
        )
        for k in range(4)
    ]
    spec = AugmentSpec(mosaic_p=1.0, zoom=(3.0, 3.0))  # so near that every part is full
    image, boxes, labels = Augmenter(spec, InputSpec(size=100))(white[0], rng, lambda k: white[1 : 1 + k])
    assert [int(image[v, u, 0]) for v, u in ((2, 2), (2, 97), (97, 2), (97, 97))] == [50, 100, 150, 200]
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)
    flipped = replace(spec, mirror_p=1.0, flip_vertical_p=1.0)
    image, _, _ = Augmenter(flipped, InputSpec(size=100))(white[0], rng, lambda k: white[1 : 1 + k])
    assert [int(image[v, u, 0]) for v, u in ((2, 2), (2, 97), (97, 2), (97, 97))] == [200, 150, 100, 50]


class Colours:
    source = "colours"

    def __len__(self) -> int:
        return 8

    def picture(self, i: int) -> EncodedImage:
        return picture(i % 4, np.random.default_rng(i))


def test_the_same_whatever_the_number_of_workers_and_none_by_default():
    runs = []
    for workers in (0, 2):
        loader = TrainLoader(Colours(), MOSAIC, InputSpec(size=64), 4, 3, workers)
        runs.append([batch for epoch in range(2) for batch in loader.epoch(epoch)])
        loader.close()
    for a, b in zip(*runs, strict=True):
        assert (a.images == b.images).all()
        assert (a.boxes == b.boxes).all()
        assert (a.labels == b.labels).all()
    assert max((batch.labels >= 0).sum(1).max() for batch in runs[0]) > 1
    assert all(spec.mosaic_p == 0 for spec in AUGMENTS.values())
