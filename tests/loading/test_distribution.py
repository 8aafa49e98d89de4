"""What training really draws, 10,000 times, against a slow and literal sampler written after Caffe's sources.

im_transforms.cpp ExpandImage, sampler.cpp GenerateSamples and SampleBBox, annotated_data_layer.cpp, and
MeetEmitConstraint for what is kept; with this project's one addition, that a crop must keep an object's centre.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from singleshot.datasets.encoded_image import EncodedImage
from singleshot.inputs import InputSpec
from singleshot.loading.augment import Augmenter, RenderPlan, make_render_plan
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec

WIDTH, HEIGHT = 500, 375
DRAWS = 5_000
SCENES = {
    "three": [(48, 190, 240, 371), (10, 30, 120, 330), (300, 100, 480, 160)],
    "small": [(400, 40, 440, 75)],
    "large": [(4, 6, 497, 370), (200, 150, 260, 220)],
}
Box = tuple[float, float, float, float]


def iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def centres(boxes: list[Box], crop: Box) -> list[int]:
    return [
        k
        for k, b in enumerate(boxes)
        if crop[0] <= (b[0] + b[2]) / 2 <= crop[2] and crop[1] <= (b[1] + b[3]) / 2 <= crop[3]
    ]


def literal(boxes: list[Box], rng: random.Random, enforce: bool = True) -> tuple[Box, list[int]]:
    """One training image: its window in pixels of the original, and the objects that stay."""
    ratio, left, top = 1.0, 0.0, 0.0
    if rng.random() < 0.5:
        ratio = rng.uniform(1, 4)
        left, top = rng.uniform(0, WIDTH * ratio - WIDTH), rng.uniform(0, HEIGHT * ratio - HEIGHT)
    wide, high = WIDTH * ratio, HEIGHT * ratio
    unit = [((b[0] + left) / wide, (b[1] + top) / high, (b[2] + left) / wide, (b[3] + top) / high) for b in boxes]
    found = [(0.0, 0.0, 1.0, 1.0)]
    for least in (0.1, 0.3, 0.5, 0.7, 0.9, None):
        for _ in range(50):
            scale = rng.uniform(0.3, 1)
            aspect = min(max(rng.uniform(0.5, 2), scale**2), 1 / scale**2)
            w, h = min(scale * math.sqrt(aspect), 1), min(scale / math.sqrt(aspect), 1)
            x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
            crop = (x, y, x + w, y + h)
            if least is None or not enforce or any(iou(crop, box) >= least for box in unit):
                found.append(crop)
                break
    found = [crop for crop in found if centres(unit, crop)]
    crop = rng.choice(found)
    window = (crop[0] * wide - left, crop[1] * high - top, crop[2] * wide - left, crop[3] * high - top)
    return window, centres(boxes, window)


def measures(window: Box, kept: list[int]) -> tuple[float, ...]:
    """Position, scale and aspect ratio of the visible part, and of the window, as whole pixels show them."""
    x0, y0, x1, y1 = (round(v) for v in window)
    ax, ay, bx, by = max(x0, 0), max(y0, 0), min(x1, WIDTH), min(y1, HEIGHT)
    part_w, part_h = bx - ax, by - ay
    return (
        ax,
        ay,
        bx,
        by,
        math.sqrt(part_w * part_h),
        math.log(part_w / part_h),
        part_w / (x1 - x0),
        part_h / (y1 - y0),
        len(kept),
    )


def measures_of(plan: RenderPlan) -> tuple[float, ...]:
    """The same numbers of a plan; dest rounds to whole pixels of a large square."""
    (ax, ay, bx, by), (u0, v0, u1, v1) = plan.crop.roi, plan.crop.dest
    part_w, part_h = bx - ax, by - ay
    size = plan.crop.sides[0]
    return (
        ax,
        ay,
        bx,
        by,
        math.sqrt(part_w * part_h),
        math.log(part_w / part_h),
        (u1 - u0) / size,
        (v1 - v0) / size,
        len(plan.boxes),
    )


def draw_ours(boxes: list[Box], rng: np.random.Generator, spec: AugmentSpec, recorded: list[RenderPlan]) -> None:
    """What the loader asks of an image, with its pixels left out."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture = EncodedImage(
        WIDTH, HEIGHT, np.array(boxes, np.float32), np.arange(len(boxes)), lambda _: pixels, (1,), "image"
    )
    for _ in range(DRAWS):
        before = len(recorded)
        Augmenter(spec, InputSpec(size=1000))(picture, rng)
        del recorded[before:-1]  # a window that lost every object by rounding is planned anew


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())


@pytest.fixture
def recorded(monkeypatch) -> list[RenderPlan]:
    """The plans that are made, none of which is drawn."""
    plans: list[RenderPlan] = []

    def record(*args, **kwargs) -> RenderPlan:
        plans.append(make_render_plan(*args, **kwargs))
        return plans[-1]

    monkeypatch.setattr("singleshot.loading.augment.make_render_plan", record)
    monkeypatch.setattr(RenderPlan, "draw", lambda *_: np.zeros((1, 1, 3), np.uint8))
    return plans


@pytest.mark.parametrize(
    "scene", ["three", pytest.param("small", marks=pytest.mark.slow), pytest.param("large", marks=pytest.mark.slow)]
)
def test_views_and_kept_objects_are_distributed_as_the_literal_sampler(scene: str, recorded: list[RenderPlan]) -> None:
    boxes = SCENES[scene]
    spec = replace(AUGMENTS["caffe"], photometric=0.0, mirror_p=0.0)
    draw_ours(boxes, np.random.default_rng(1), spec, recorded)
    drawn = [literal(boxes, rng) for rng in [random.Random(2)] for _ in range(DRAWS)]
    mine = np.array([measures_of(plan) for plan in recorded])
    slow = np.array([measures(window, kept) for window, kept in drawn])
    assert len(mine) == len(slow) == DRAWS
    # p = .001 of the two-sample Kolmogorov-Smirnov test for each of the eight numbers.
    limit = 1.95 * math.sqrt(2 / DRAWS)
    distances = [distance(a, b) for a, b in zip(mine.T[:8], slow.T[:8], strict=True)]
    assert max(distances) < limit, distances
    # How many objects stay: chi square of two samples, p = .001 at up to three classes.
    counts = [Counter(values.tolist()) for values in (mine[:, 8], slow[:, 8])]
    keys = set(counts[0]) | set(counts[1])
    chi = sum((counts[0][k] - counts[1][k]) ** 2 / (counts[0][k] + counts[1][k]) for k in keys)
    assert chi < {1: 6.7, 2: 10.8, 3: 13.8}[len(keys)], counts


def test_the_comparison_tells_a_sampler_that_ignores_the_iou() -> None:
    """amdegroot/ssd.pytorch's long-standing fault would not pass."""
    boxes = SCENES["small"]
    right, wrong = (
        np.array([measures(*literal(boxes, rng, enforce)) for rng in [random.Random(3)] for _ in range(1000)])
        for enforce in (True, False)
    )
    assert max(distance(a, b) for a, b in zip(right.T, wrong.T, strict=True)) > 3 * 1.95 * math.sqrt(2 / 1000)
