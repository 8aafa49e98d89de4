"""Windows, views and Caffe's crop sampler against slow, literal versions."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from singleshot.inputs import InputSpec, boxes_to_square, to_square
from singleshot.loading import geometry
from singleshot.loading.geometry import (
    CROP_MIN_IOU,
    INTERPOLATIONS,
    crop_window,
    draw_crops,
    expand_window,
    full_window,
    make_crop,
    zoom_window,
)

BLACK = (0, 0, 0)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    return np.concatenate([corners[:, 0], corners[:, 1] + 0.01], axis=1).clip(0, 1)


def random_window(rng: np.random.Generator, height: int, width: int) -> tuple[float, float, float, float]:
    x0, y0 = rng.uniform(-width, width * 0.8), rng.uniform(-height, height * 0.8)
    return x0, y0, x0 + rng.uniform(0.05, 2.5) * width, y0 + rng.uniform(0.05, 2.5) * height


# ---- pixels and boxes agree


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_painted_rectangle_lands_under_its_box(resize: str, interpolation: int) -> None:
    """Thousands of random views: the bright pixels' extent is the box, within one pixel of the square."""
    rng = np.random.default_rng(interpolation * 2 + (resize == "stretch"))
    spec = InputSpec(size=96, resize=resize)
    seen = 0
    for _ in range(600):
        height, width = rng.integers(40, 200, 2).tolist()
        x0, y0 = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
        x1, y1 = int(rng.integers(x0 + 10, width + 1)), int(rng.integers(y0 + 10, height + 1))
        image = np.zeros((height, width, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        flips = (rng.random(2) < 0.5).tolist()
        view = make_crop(random_window(rng, height, width), height, width, spec.sides, spec.resize, *flips)
        boxes, kept = view.boxes(np.array([[x0, y0, x1, y1]], np.float32))
        square = view.image(image, BLACK, interpolation)
        if len(kept) == 0:
            continue
        box = boxes[0] * spec.size
        if min(box[2] - box[0], box[3] - box[1]) < 3:
            continue  # so thin that resampling may skip it
        bright = square[..., 0] >= 128
        columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(found - box).max() <= 1.0 + 1e-4, (view, box, found)
        seen += 1
    assert seen > 150


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_whole_image_view_is_to_square(resize: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        height, width = rng.integers(1, 300, 2).tolist()
        spec = InputSpec(size=int(rng.integers(32, 320)), resize=resize)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        boxes_px = (random_boxes(rng, 3) * (width, height, width, height)).astype(np.float32)
        square, place = to_square(image, spec)
        view = make_crop(full_window(height, width), height, width, spec.sides, spec.resize)
        assert (view.image(image, spec.fill) == square).all()
        boxes, kept = view.boxes(boxes_px)
        assert np.allclose(boxes, boxes_to_square(boxes_px, place, spec.size)[kept], atol=1e-6)


def test_flips_mirror_boxes_and_pixels() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:30, 20:60] = 200
    spec = InputSpec(size=100)
    view = make_crop(full_window(100, 100), 100, 100, spec.sides, spec.resize, flip_x=True, flip_y=True)
    boxes, _ = view.boxes(np.array([[20, 10, 60, 30]], np.float32))
    assert boxes[0] == pytest.approx([0.4, 0.7, 0.8, 0.9])
    square = view.image(image, BLACK)
    assert (square[70:90, 40:80] == 200).all()
    assert square.sum() == image.sum()


def test_outside_is_filled_and_letterbox_keeps_aspect() -> None:
    image = np.full((50, 50, 3), 255, np.uint8)
    spec = InputSpec(size=100, resize="letterbox")
    # A window of 200 x 100 with the image at (75, 25): half a pixel of the square per source pixel.
    view = make_crop((-75, -25, 125, 75), 50, 50, spec.sides, spec.resize)
    assert view.roi == (0, 0, 50, 50)
    u0, v0, u1, v1 = view.dest
    assert (u1 - u0, v1 - v0) == (25, 25)
    square = view.image(image, (1, 2, 3))
    assert (square[v0:v1, u0:u1] == 255).all()
    assert (square == (1, 2, 3)).all(-1).sum() == 100 * 100 - 25 * 25


def test_window_beside_the_image_shows_nothing() -> None:
    image = np.full((50, 50, 3), 255, np.uint8)
    view = make_crop((60, 0, 90, 30), 50, 50, (64, 64), "stretch")
    assert not view.visible
    assert (view.image(image, (9, 8, 7)) == (9, 8, 7)).all()
    assert len(view.boxes(np.array([[0, 0, 50, 50]], np.float32))[0]) == 0


def test_retouch_leaves_the_fill() -> None:
    image = np.full((50, 50, 3), 100, np.uint8)
    view = make_crop((-50, -50, 100, 100), 50, 50, (60, 60), "stretch")
    square = view.image(image, (7, 7, 7), retouch=lambda patch: patch + 50)
    assert sorted(np.unique(square).tolist()) == [7, 150]
    assert (image == 100).all()


# ---- which objects stay


def test_objects_are_kept_by_centre_and_clipped() -> None:
    view = make_crop((50, 0, 100, 100), 100, 100, (100, 100), "stretch")
    boxes_px = np.array(
        [
            [30, 10, 60, 20],  # centre at 45: outside
            [40, 10, 60, 20],  # centre on the edge: inside
            [45, 10, 75, 20],
            [90, 90, 100, 100],  # touches the image's border
        ],
        np.float32,
    )
    boxes, kept = view.boxes(boxes_px)
    assert kept.tolist() == [1, 2, 3]
    assert boxes[0] == pytest.approx([0, 0.1, 0.2, 0.2])
    assert boxes[1] == pytest.approx([0, 0.1, 0.5, 0.2])
    assert boxes[2] == pytest.approx([0.8, 0.9, 1, 1])


def test_boxes_of_less_than_half_a_pixel_are_dropped() -> None:
    boxes_px = np.array([[10, 10, 11, 11], [10, 10, 14, 11], [10, 10, 15, 14]], np.float32)
    view = make_crop(full_window(600, 600), 600, 600, (60, 60), "stretch")
    assert view.boxes(boxes_px)[1].tolist() == []
    view = make_crop(full_window(600, 600), 600, 600, (100, 100), "stretch")
    assert view.boxes(boxes_px)[1].tolist() == [2]
    view = make_crop(full_window(600, 600), 600, 600, (320, 320), "stretch")
    assert view.boxes(boxes_px)[1].tolist() == [0, 1, 2]


def test_boxes_stay_in_the_square() -> None:
    rng = np.random.default_rng(3)
    for _ in range(500):
        height, width = rng.integers(1, 400, 2).tolist()
        boxes_px = (random_boxes(rng, 5) * (width, height, width, height)).astype(np.float32)
        resize = str(rng.choice(["stretch", "letterbox"]))
        flips = (rng.random(2) < 0.5).tolist()
        view = make_crop(random_window(rng, height, width), height, width, (300, 300), resize, *flips)
        boxes, _ = view.boxes(boxes_px)
        assert boxes.dtype == np.float32
        assert (boxes >= 0).all()
        assert (boxes <= 1).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_one_pixel_image() -> None:
    image = np.full((1, 1, 3), 77, np.uint8)
    for interpolation in INTERPOLATIONS:
        view = make_crop((-0.4, -0.2, 1.9, 1.2), 1, 1, (64, 64), "stretch")
        assert view.image(image, BLACK, interpolation).max() == 77


# ---- windows


def test_expand_holds_the_window_at_one_to_four_times() -> None:
    rng = np.random.default_rng(4)
    ratios, lefts = [], []
    for _ in range(2000):
        x0, y0, x1, y1 = expand_window((0, 0, 100, 50), 4.0, rng)
        assert x0 <= 0
        assert y0 <= 0
        assert x1 >= 100 - 1e-9
        assert y1 >= 50 - 1e-9
        assert (x1 - x0) / (y1 - y0) == pytest.approx(2)
        ratios.append((x1 - x0) / 100)
        lefts.append(-x0 / (x1 - x0 - 100))
    assert ks(ratios, np.linspace(1, 4, 5000)) < 0.04
    assert ks(lefts, np.linspace(0, 1, 5000)) < 0.04


def test_zoom_ranges() -> None:
    rng = np.random.default_rng(5)
    sides, aspects = [], []
    for _ in range(2000):
        x0, y0, x1, y1 = zoom_window((0, 0, 100, 100), (0.5, 2.0), 1.5, 0.2, rng)
        width, height = x1 - x0, y1 - y0
        sides.append(math.log(math.sqrt(width * height) / 100))
        aspects.append(math.log(width / height))
        assert abs((x0 + x1) / 2 - 50) <= 0.2 * width + 1e-9
        assert abs((y0 + y1) / 2 - 50) <= 0.2 * height + 1e-9
    assert ks(sides, np.linspace(-math.log(2), math.log(2), 5000)) < 0.04
    assert ks(aspects, np.linspace(-math.log(1.5), math.log(1.5), 5000)) < 0.04


# ---- Caffe's crop samplers


def ks(a: object, b: object) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    a, b = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    both = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())


def slow_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inside = width * height
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def centres_inside(boxes: list[tuple[float, ...]], crop: tuple[float, ...]) -> int:
    count = 0
    for box in boxes:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        count += crop[0] <= x <= crop[2] and crop[1] <= y <= crop[3]
    return count


def literal_crop(boxes: list[tuple[float, ...]], rng: np.random.Generator) -> tuple[float, ...]:
    """One trial after another as sampler.cpp reads, then one sampler of those whose crop keeps an object."""
    found: list[tuple[float, ...]] = [(0.0, 0.0, 1.0, 1.0)]
    for min_iou in (0.1, 0.3, 0.5, 0.7, 0.9, None):
        for _ in range(50):
            scale = rng.uniform(0.3, 1.0)
            aspect = min(max(rng.uniform(0.5, 2.0), scale**2), 1 / scale**2)
            width, height = min(scale * math.sqrt(aspect), 1.0), min(scale / math.sqrt(aspect), 1.0)
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            crop = (left, top, left + width, top + height)
            if min_iou is None or any(slow_iou(crop, box) >= min_iou for box in boxes):
                found.append(crop)
                break
    found = [crop for crop in found if centres_inside(boxes, crop)]
    return found[int(rng.integers(len(found)))]


SCENES = [
    [(0.1, 0.2, 0.5, 0.9), (0.6, 0.1, 0.95, 0.4), (0.45, 0.45, 0.5, 0.52)],
    [(0.7, 0.7, 0.78, 0.8)],
    [(0.0, 0.0, 1.0, 0.9)],
]


@pytest.mark.parametrize("scene", range(3))
def test_crops_are_distributed_as_the_literal_sampler(scene: int) -> None:
    boxes = SCENES[scene]
    draws = 2500
    rng = np.random.default_rng(10 + scene)
    ours = np.array([crop_window((0, 0, 1, 1), np.array(boxes), rng) for _ in range(draws)])
    slow_rng = np.random.default_rng(20 + scene)
    # The loop is slow where a constraint fails fifty times.
    literal = np.array([literal_crop(boxes, slow_rng) for _ in range(draws // 2)])

    def measures(crops: np.ndarray) -> list[np.ndarray]:
        width, height = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
        kept = [centres_inside(boxes, tuple(crop)) for crop in crops.tolist()]
        rounded = np.round([np.sqrt(width * height), width / height, crops[:, 0], crops[:, 1]], 9)
        return [*rounded, np.array(kept)]

    # 0.1 % critical value of the two-sample test.
    limit = 1.95 * math.sqrt((1 / len(ours)) + (1 / len(literal)))
    for a, b in zip(measures(ours), measures(literal), strict=True):
        assert ks(a, b) < limit


def test_accepted_crops_satisfy_their_iou() -> None:
    rng = np.random.default_rng(6)
    successes = np.zeros(7, int)
    for _ in range(400):
        boxes = random_boxes(rng, int(rng.integers(1, 6)))
        crops, found = draw_crops(boxes, rng)
        successes += found
        for crop, ok, wanted in zip(crops[1:], found[1:], CROP_MIN_IOU, strict=True):
            if not ok:
                continue
            best = max(slow_iou(tuple(crop), tuple(box)) for box in boxes)
            assert best >= wanted - 1e-9
            assert crop.min() >= 0
            assert crop.max() <= 1 + 1e-12
            width, height = crop[2] - crop[0], crop[3] - crop[1]
            assert 0.3 - 1e-9 <= math.sqrt(width * height) <= 1 + 1e-9
            assert 0.5 - 1e-9 <= width / height <= 2 + 1e-9
    assert successes[0] == successes[6] == 400
    assert (np.diff(successes[1:6]) < 0).all()  # the stricter the rarer, but all do occur
    assert successes[5] > 0


def test_crop_keeps_an_object() -> None:
    rng = np.random.default_rng(7)
    for _ in range(1000):
        boxes = random_boxes(rng, int(rng.integers(1, 3))) * 0.1 + 0.85
        crop = crop_window((0, 0, 1, 1), boxes, rng)
        assert centres_inside([tuple(box) for box in boxes], crop) > 0


def test_image_without_objects_is_whole_or_cropped_freely() -> None:
    rng = np.random.default_rng(8)
    crops, found = draw_crops(np.zeros((0, 4)), rng)
    assert found.tolist() == [True, False, False, False, False, False, True]
    assert crops.shape == (7, 4)
    drawn = [crop_window((0, 0, 100, 100), np.zeros((0, 4), np.float32), rng) for _ in range(400)]
    as_whole = sum(window == (0, 0, 100, 100) for window in drawn)
    assert 140 < as_whole < 260


def test_crop_of_an_expanded_window() -> None:
    """Coordinates go through the window: a crop of a window that reaches out stays inside it."""
    rng = np.random.default_rng(9)
    for _ in range(200):
        window = (-50.0, -120.0, 250.0, 180.0)
        boxes_px = random_boxes(rng, 2) * 100
        x0, y0, x1, y1 = crop_window(window, boxes_px, rng)
        assert window[0] - 1e-9 <= x0 < x1 <= window[2] + 1e-9
        assert window[1] - 1e-9 <= y0 < y1 <= window[3] + 1e-9
        assert centres_inside([tuple(box) for box in boxes_px], (x0, y0, x1, y1)) > 0


def test_interpolations_are_caffes_five() -> None:
    wanted = {cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4}
    assert set(geometry.INTERPOLATIONS) == wanted
