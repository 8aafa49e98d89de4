"""Sizes in words, default boxes on other inputs, and sizes chosen by data."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.input_shape import as_grey, scaled_priors, sides_of_words, size_words, suited_sides
from singleshot.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from singleshot.prior_boxes import cell_shapes, prior_table
from singleshot.prior_coverage import best_iou, prior_grids
from singleshot.prior_tables import PRIORS

FINE = PRIORS["ssdlite320-fine"]


@pytest.mark.parametrize(
    ("given", "words", "sides"),
    [
        (512, "512", (512, 512)),
        ("512", "512", (512, 512)),
        ("288x512", "288x512", (288, 512)),
        (" 288 X 512 ", "288x512", (288, 512)),
        ((288, 512), "288x512", (288, 512)),
        ([300, 300], "300", (300, 300)),
    ],
)
def test_sizes_in_words(given: object, words: str, sides: tuple[int, int]) -> None:
    assert size_words(given) == words
    assert sides_of_words(words) == sides
    assert size_words("auto") == "auto"


@pytest.mark.parametrize("given", ["", "x", "288y512", "288x", "-1", "1.5", (1, 2, 3), "16", 5000, "288x8", True, None])
def test_no_sizes(given: object) -> None:
    with pytest.raises(ConfigError, match="want") as caught:
        size_words(given)
    assert "\n" not in str(caught.value)


def test_grey_has_the_luminance_of_mean_and_std() -> None:
    colour = InputSpec(320, mean=IMAGENET_MEAN, std=IMAGENET_STD, resize="letterbox", colour_order="bgr")
    grey = as_grey(colour)
    assert (grey.shape, grey.resize, grey.colour_order) == ((320, 320, 1), "letterbox", "rgb")
    for values, got in ((IMAGENET_MEAN, grey.mean), (IMAGENET_STD, grey.std)):
        pixel = np.array([[values]], np.float32)
        assert got == pytest.approx([cv2.cvtColor(pixel, cv2.COLOR_RGB2GRAY).item()], abs=1e-3)
    assert as_grey(grey) is grey


def test_boxes_keep_their_share_of_the_picture_and_their_proportions() -> None:
    for name in ("ssd300-voc", "ssdlite320-fine", "ssd300-sgrvinod"):  # by rules and by shapes
        own = PRIORS[name]
        grids = [(rows, 2 * columns) for rows, columns in own.grids]
        sides = own.image[0] // 2, 2 * own.image[1] - 1
        spec = scaled_priors(own, grids, sides)
        assert (spec.image, spec.grids, spec.per_cell) == (sides, tuple(grids), own.per_cell)
        for i in range(len(grids)):
            for (w0, h0), (w1, h1) in zip(
                cell_shapes(own, i), cell_shapes(replace(spec, truncate=False), i), strict=True
            ):
                assert w1 / h1 == pytest.approx(w0 / h0, rel=1e-3)
                share0, share1 = w0 * h0 / math.prod(own.image), w1 * h1 / math.prod(sides)
                assert share1 == pytest.approx(share0, rel=0.03 if own.truncate else 1e-3)
        # Centres are evenly over the input, whatever steps the table had.
        table = prior_table(replace(spec, clip="none"))[: math.prod(grids[0]) * own.per_cell[0]]
        xs, ys = np.unique(table[:, 0].round(6)), np.unique(table[:, 1].round(6))
        assert np.allclose(xs, (np.arange(len(xs)) + 0.5) / len(xs), atol=1e-5)
        assert np.allclose(ys, (np.arange(len(ys)) + 0.5) / len(ys), atol=1e-5)


def test_the_same_input_has_the_same_boxes() -> None:
    assert scaled_priors(FINE, FINE.maps, FINE.image_size) == FINE


def test_squares_of_a_wide_picture_are_matched_better_than_in_a_square() -> None:
    """Objects that are square in 16:9 pictures are tall in a square input; in 288x512 they are squares."""
    wide = scaled_priors(FINE, [(36, 64), (18, 32), (9, 16), (5, 8), (3, 4), (2, 2), (1, 1)], (288, 512))
    rng = np.random.default_rng(0)
    share = rng.uniform(0.06, 0.5, 500)  # root of the area
    width, height = share * 0.75, share / 0.75  # of pixels that are square at 16:9
    centre = rng.uniform(0.3, 0.7, (500, 2))
    half = np.stack([width, height], 1) / 2
    boxes = np.concatenate([centre - half, centre + half], 1)
    assert best_iou(boxes, prior_grids(wide)).mean() > best_iou(boxes, prior_grids(FINE)).mean() + 0.01


def suited(pictures: list[tuple[int, int]], objects: float, smallest: int = 32) -> tuple[tuple[int, int], str]:
    return suited_sides(np.array(pictures), np.full(50, objects), FINE, smallest)


@pytest.mark.parametrize(
    ("pictures", "objects", "sides", "reason"),
    [
        ([(1920, 1080)] * 9, 0.1, (256, 416), "100% of the pictures are near 1.78 to 1"),
        ([(1080, 1920)] * 9, 0.1, (416, 256), "near 0.56 to 1"),
        ([(1000, 1000)] * 9, 0.1, (320, 320), "square, 100%"),
        ([(1200, 1000)] * 9, 0.1, (320, 320), "square, 100%"),
        ([(1920, 1080)] * 5 + [(1080, 1920)] * 4, 0.1, (320, 320), "square, for only"),
        ([(1920, 1080)] * 9, 0.03, (416, 704), "3.0% of its picture's side, 16 px"),
        ([(1000, 1000)] * 9, 0.03, (544, 544), "16 px"),
        ([(1000, 1000)] * 9, 0.001, (640, 640), "the most"),
        ([(400, 400)] * 9, 0.001, (384, 384), "the pictures being no larger"),
        ([(100, 100)] * 9, 0.001, (320, 320), "the pictures being no larger"),
        ([(9000, 100)] * 9, 0.1, (192, 544), "90.00 to 1"),
    ],
)
def test_a_size_by_the_data(pictures, objects: float, sides: tuple[int, int], reason: str) -> None:
    found, words = suited(pictures, objects)
    assert found == sides, words
    assert reason in words
    assert suited(pictures[::-1], objects) == (found, words)


def test_a_size_by_the_data_is_one_that_the_network_takes() -> None:
    found, _ = suited([(1920, 1080)] * 9, 0.1, 257)
    assert min(found) == 288
    assert found[1] / found[0] == pytest.approx(16 / 9, rel=0.06)
    assert suited_sides(np.array([(640, 480)]), np.zeros(0), FINE, 32)[1].endswith("the model's own size")
