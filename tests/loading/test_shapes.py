"""Inputs that are not square, and grey ones: boxes stay on their objects, whatever is drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec, boxes_from_square
from singleshot.loading.augment import Augmenter
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.loading.cache import PixelCache
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.records import Sample
from singleshot.scenes.scenes import write_scenes

SPECS = {
    "wide": InputSpec(height=96, width=160),
    "tall": InputSpec(height=160, width=96, resize="letterbox"),
    "grey": InputSpec(96, channels=1),
    "wide grey": InputSpec(height=96, width=160, resize="letterbox", channels=1),
}
GEOMETRY = {"expand_p": 0.5, "crop": "caffe", "mirror_p": 0.5, "flip_vertical_p": 0.5, "zoom": (0.7, 1.4), "shift": 0.2}
DRAWN = {
    "none": AugmentSpec(),
    "all": AugmentSpec(**GEOMETRY, photometric=0.3, aspect=1.2, interpolation="random"),
    "mosaic": AugmentSpec(**GEOMETRY, mosaic_p=1.0),
}
BRIGHT = ((255, 255, 180), (160, 170, 160))  # by label, far apart in luminance too


def picture(label: int, rng: np.random.Generator) -> EncodedImage:
    """A dark image with one rectangle, as bright as its label has it."""
    height, width = rng.integers(80, 300, 2).tolist()
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    x0, y0 = int(rng.integers(0, width - 50)), int(rng.integers(0, height - 50))
    x1, y1 = x0 + int(rng.integers(25, 50)), y0 + int(rng.integers(25, 50))
    image[y0:y1, x0:x1] = BRIGHT[label]
    boxes_px = np.array([[x0, y0, x1, y1]], np.float32)
    return EncodedImage.of(Sample(image, boxes_px, np.array([label]), np.zeros(1, bool), f"{label}.png"))


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_box_lies_on_its_object(spec: InputSpec, drawn: AugmentSpec) -> None:
    rng = np.random.default_rng(0)
    augmenter = Augmenter(drawn, spec)
    seen = 0
    for _ in range(60):
        pictures = [picture(int(rng.integers(2)), rng) for _ in range(4)]
        image, boxes, labels = augmenter(pictures[0], rng, lambda k, p=pictures: p[1 : 1 + k])
        assert image.shape == spec.shape
        assert image.dtype == np.uint8
        assert ((boxes >= 0) & (boxes <= 1)).all()
        boxes_px = boxes * np.tile(spec.sides[::-1], 2)
        for (x0, y0, x1, y1), label in zip(boxes_px, labels, strict=True):
            if min(x1 - x0, y1 - y0) < 8:
                continue
            middle = image[int(y0 + y1) // 2, int(x0 + x1) // 2].mean()
            assert abs(middle - np.mean(BRIGHT[label])) < 45
            # The object fills the box, but for a border that interpolation mixes.
            inside = image[int(np.ceil(y0 + 1)) : int(y1 - 1), int(np.ceil(x0 + 1)) : int(x1 - 1)]
            assert np.quantile(inside, 0.05) > 90
            seen += 1
    assert seen > 40


def test_grey_is_the_luminance_of_what_is_drawn_in_colour() -> None:
    """With the same numbers drawn, and a mean that is grey."""
    settings = {"height": 96, "width": 160, "resize": "letterbox"}
    colour, grey = InputSpec(**settings, mean=(117.0,) * 3), InputSpec(**settings, channels=1, mean=(117.0,))
    for drawn in (AUGMENTS["caffe"], AUGMENTS["light"], DRAWN["mosaic"]):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            pictures = [picture(k % 2, rng) for k in range(4)]
            pair = [
                Augmenter(drawn, spec)(pictures[0], np.random.default_rng(seed), lambda k, p=pictures: p[1 : 1 + k])
                for spec in (colour, grey)
            ]
            assert (pair[0].boxes == pair[1].boxes).all()
            assert (cv2.cvtColor(pair[0].image, cv2.COLOR_RGB2GRAY) == pair[1].image[..., 0]).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_batches_from_a_folder_and_boxes_back(spec: InputSpec, tmp_path) -> None:
    write_scenes(tmp_path / "scenes", train=8, test=1, val=1)
    data = open_dataset(tmp_path / "scenes", "train")
    cache = PixelCache(data, spec.sides, 1 << 24)
    shape = (4, spec.channels, *spec.sides)
    for pictures in (data, cache):
        loader = TrainLoader(pictures, AUGMENTS["caffe"], spec, 4, workers=0)
        assert [tuple(batch.images.shape) for batch in loader.epoch(0)] == [shape, shape]
    evaluation = EvalLoader(data, spec, 4, workers=0)
    for batch, placements, sizes in evaluation:
        assert tuple(batch.images.shape) == shape
        assert batch.images.stride(1) == 1  # channels last, as decoded
        for k, i in enumerate(batch.indices.tolist()):
            boxes = batch.boxes[k][batch.labels[k] >= 0].numpy()
            width, height = sizes[k].tolist()
            back = boxes_from_square(boxes, placements[k], spec.sides, height, width)
            np.testing.assert_allclose(back, data.sample(i).boxes_px, atol=1e-3)


def test_the_cache_keeps_enough_for_both_sides(tmp_path) -> None:
    write_scenes(tmp_path / "scenes", train=2, test=1, val=1)
    data = open_dataset(tmp_path / "scenes", "train")
    width, height = data.sizes[0].tolist()
    for sides, reduce in (((height // 8, width // 8), 4), ((height // 2, 32), 1), ((32, width // 2), 1)):
        encoded = PixelCache(data, sides, 1 << 24).picture(0)
        assert encoded.reductions == (reduce,)
