"""Tiles: every object once, with its whole box, wherever the borders of the tiles lie."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError, DataError
from singleshot.inputs import InputSpec
from singleshot.records import ImageDetections
from singleshot.runtime import Detector, Frame
from singleshot.runtime.merging import TileBoxes, merge
from singleshot.tiling import Tiling

SIDE = 200  # of the network's input


class RectangleEngine:
    """Finds bright rectangles, red ones as class 0 and others as class 1, if they have at least 6 pixels a side."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        self.batches.append(len(images))
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> ImageDetections:
        boxes, labels = [], []
        for label, mask in enumerate([image[..., 1] < 128, image[..., 1] >= 128]):
            _, _, stats, _ = cv2.connectedComponentsWithStats((mask & (image[..., 0] > 128)).astype(np.uint8))
            for x, y, w, h, _ in stats[1:]:
                if min(w, h) >= 6:
                    boxes.append([x, y, x + w, y + h])
                    labels.append(label)
        scores = np.linspace(0.9, 0.8, len(boxes))
        return ImageDetections(np.array(boxes, np.float64).reshape(-1, 4) / SIDE, scores, np.array(labels, np.int64))


@pytest.fixture
def rectangles() -> Detector:
    return Detector(RectangleEngine(), InputSpec(size=SIDE), ("red", "white"))


def drawn(width: int, height: int, boxes, colour=(255, 255, 255)) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = colour
    return image


def agree(found, boxes, tolerance: float) -> None:
    """One box found for each that is there, within `tolerance` pixels."""
    assert len(found) == len(boxes), found.boxes.tolist()
    far = np.abs(np.asarray(boxes)[:, None] - found.boxes[None]).max(axis=2)
    assert sorted(far.argmin(axis=1)) == list(range(len(boxes)))
    assert far.min(axis=1).max() <= tolerance


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("width", "height"), [(1000, 700), (401, 200), (200, 1333), (200, 200), (90, 60)])
def test_tiles_cover_every_pixel_with_the_overlap(width, height, overlap):
    whole, *tiles = Tiling(200, overlap).windows(width, height)
    assert whole == (0, 0, width, height)
    seen = np.zeros((height, width), int)
    for x0, y0, x1, y1 in tiles:
        assert (x1 - x0, y1 - y0) == (min(200, width), min(200, height))
        seen[y0:y1, x0:x1] += 1
    assert seen.all() or not tiles
    assert bool(tiles) == (width > 200 or height > 200)
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(b - a <= 200 * (1 - overlap) + 1 for a, b in pairwise(starts))


def test_tiles_without_the_whole_image(rectangles):
    both, tiles = Tiling(200).windows(500, 300), Tiling(200, whole=False).windows(500, 300)
    assert both == [(0, 0, 500, 300), *tiles]
    assert Tiling(500, whole=False).windows(500, 300) == [(0, 0, 500, 300)]
    small, large = (5, 5, 35, 35), (200, 200, 1200, 1200)
    image = drawn(1400, 1400, [small, large])
    agree(rectangles.detect(image, tile=200), [small, large], 10)
    found = rectangles.detect(image, tile=Tiling(200, whole=False))
    assert any(np.abs(found.boxes - small).max(axis=1) < 2)
    assert rectangles.engine.batches[-2:] == [64, 17]


def test_small_objects_are_found_and_those_on_borders_once(rectangles):
    """30-pixel objects, which have 4 in the whole image, on a grid that meets every border and corner of the tiles."""
    boxes = [(x, y, x + 30, y + 30) for x in range(5, 1360, 75) for y in range(5, 1360, 75)]
    image = drawn(1400, 1400, boxes)
    assert len(rectangles.detect(image)) == 0
    agree(rectangles.detect(image, tile=200), boxes, 1.5)
    assert rectangles.engine.batches[1:] == [64, 18]  # 9 x 9 tiles and the whole, in calls of bounded size


@pytest.mark.parametrize("shift", range(0, 200, 7))
def test_one_object_at_every_place_of_a_border(rectangles, shift):
    boxes = [(300 + shift, 250 + shift, 340 + shift, 290 + shift)]
    agree(rectangles.detect(drawn(1600, 1500, boxes), tile=(200, 0.25)), boxes, 1.5)


def test_the_whole_image_has_what_is_larger_than_a_tile(rectangles):
    boxes = [(100, 120, 700, 520), (20, 20, 50, 50)]
    found = rectangles.detect(drawn(1000, 800, boxes), tile=200)
    agree(found, boxes, 5)  # a pixel of the square is 5 of the image


def test_what_nobody_saw_whole_is_put_together(rectangles):
    """Too thin for the whole image, too long for one tile."""
    boxes = [(120, 300, 820, 318), (1500, 90, 1516, 900)]
    found = rectangles.detect(drawn(2000, 1200, boxes), tile=300)
    agree(found, boxes, 3)
    assert found.scores.max() <= 0.9


def test_classes_do_not_suppress_each_other_and_neighbours_stay(rectangles):
    image = drawn(900, 900, [(140, 300, 180, 340), (184, 300, 224, 340)])
    image[500:540, 140:180] = (255, 0, 0)
    found = rectangles.detect(image, tile=200)
    agree(found, [(140, 300, 180, 340), (184, 300, 224, 340), (140, 500, 180, 540)], 4.5)
    assert sorted(found.names) == ["red", "white", "white"]
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_boxes_of_one_window_are_left_to_the_network_where_they_lie_inside_each_other():
    windows = [(0, 0, 400, 400), (0, 0, 200, 200), (200, 0, 400, 200)]
    boxes = np.array([[50, 50, 150, 150], [60, 60, 90, 90], [62, 61, 90, 91]], float)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)
    same = merge(TileBoxes(boxes, scores, labels, np.array([1, 1, 1])), windows, 400, 400)
    assert same.scores.tolist() == pytest.approx([0.9, 0.8])  # the third is the second again
    other = merge(TileBoxes(boxes, scores, labels, np.array([0, 1, 1])), windows, 400, 400)
    assert other.scores.tolist() == pytest.approx([0.9])


def test_a_small_image_is_one_tile_and_gives_the_same(rectangles):
    image = drawn(180, 150, [(20, 30, 90, 80)])
    plain, tiled = rectangles.detect(image), rectangles.detect(image, tile=200)
    assert plain.boxes.tolist() == tiled.boxes.tolist()
    assert rectangles.engine.batches == [1, 1]


def test_streams_and_lists_take_tiles_too(rectangles):
    boxes = [(195, 40, 225, 70)]
    images = [drawn(900, 300, boxes)] * 3
    for found in rectangles.detect(images, tile=200):
        agree(found, boxes, 1.5)
    huge = np.zeros((4000, 4000, 3), np.uint8)
    frames = [Frame("a", images[0]), Frame("b", huge), Frame("c", images[0])]
    a, b, c = rectangles.stream(iter(frames), tile=32)
    assert (a.detections is None, b.detections is None, c.detections is None) == (False, True, False)
    assert "b: 4000 x 4000 pixels make" in str(b.frame.error)
    with pytest.raises(DataError, match="give larger tiles"):
        rectangles.detect(huge, tile=32)


@pytest.mark.parametrize("value", [10, (200, 1.0), "200:x", "x", "", (200,), None, "200:-1", "nan", "200:nan"])
def test_wrong_tiles(value):
    with pytest.raises(ConfigError, match=r"^tile ") as caught:
        Tiling.of(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [640, (640, 0.25), "640", "640:0.25", Tiling(640)])
def test_ways_to_say_a_tiling(value):
    assert Tiling.of(value) == Tiling(640, 0.25)
