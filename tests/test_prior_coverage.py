"""The best IoU of each box with a table of priors, against every pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot import prior_coverage as prior_cover
from singleshot.boxes import iou, to_corners
from singleshot.prior_coverage import best_iou, prior_grids, prior_shapes, why_unmatched
from singleshot.priors import CLIPS, PRIORS, PriorSpec, make_priors


def corners(spec: PriorSpec) -> np.ndarray:
    centre, size = np.split(make_priors(spec).numpy().astype(np.float64), 2, axis=1)
    return np.concatenate((centre - size / 2, centre + size / 2), axis=1)


def slow_best(box, priors) -> float:
    """A plain loop over the priors."""
    best = 0.0
    for prior in priors.tolist():
        width = max(0.0, min(box[2], prior[2]) - max(box[0], prior[0]))
        height = max(0.0, min(box[3], prior[3]) - max(box[1], prior[1]))
        union = (box[2] - box[0]) * (box[3] - box[1]) + (prior[2] - prior[0]) * (prior[3] - prior[1])
        best = max(best, width * height / max(union - width * height, 1e-300))
    return best


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    """Of all sizes, some at the border, some as small as a pixel."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(0.003), 0.0, (count, 2)))
    low = rng.random((count, 2)) * (1 - size)
    low[: count // 8] = 0.0
    return np.concatenate((low, np.minimum(low + size, 1.0)), axis=1)


@st.composite
def specs(draw) -> dict[str, Any]:
    """Arguments of a PriorSpec."""
    maps = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    low = [draw(st.floats(4, 90)) for _ in maps]
    return {
        "image_size": 100,
        "maps": maps,
        "min_sizes": tuple(low),
        "max_sizes": tuple(size * draw(st.floats(1.1, 3)) for size in low),
        "ratios": tuple(draw(st.sampled_from([(), (2.0,), (2.0, 3.0), (5.0,)])) for _ in maps),
        "steps": draw(st.sampled_from([None, tuple(draw(st.floats(5, 60)) for _ in maps)])),
        "offset": draw(st.sampled_from([0.0, 0.5, 0.9])),
        "clip": draw(st.sampled_from(CLIPS)),
        "truncate": draw(st.booleans()),
    }


sides = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)).map(sorted)
boxes_of = st.lists(st.tuples(sides, sides).map(lambda xy: [xy[0][0], xy[1][0], xy[0][1], xy[1][1]]), max_size=12)


@given(specs(), boxes_of)
def test_equals_a_plain_loop(spec, boxes):
    spec = PriorSpec(**spec)
    priors = corners(spec)
    want = [slow_best(box, priors) for box in boxes]
    np.testing.assert_allclose(best_iou(np.array(boxes).reshape(-1, 4), prior_grids(spec)), want, atol=1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_equals_the_whole_table_as_matching_computes_it(name):
    boxes = random_boxes(400).astype(np.float32)
    want = iou(torch.from_numpy(boxes), to_corners(make_priors(PRIORS[name]))).amax(dim=1).numpy()
    np.testing.assert_allclose(best_iou(boxes, prior_grids(PRIORS[name])), want, atol=5e-6)


@pytest.mark.parametrize("name", ["ssd300-voc", "ssd300-mobilenetv2"])
def test_pieces_change_nothing(name, monkeypatch):
    boxes, grids = random_boxes(50), prior_grids(PRIORS[name])
    want = best_iou(boxes, grids)
    monkeypatch.setattr(prior_cover, "_CHUNK", 7 * 8)
    assert (best_iou(boxes, grids) == want).all()


@pytest.mark.parametrize("name", PRIORS)
def test_the_grids_are_the_table(name):
    grids = prior_grids(PRIORS[name])
    made = np.concatenate(
        [np.concatenate([np.tile(g.x, (len(g.y), 1)), np.repeat(g.y, len(g.x), axis=0)], axis=1) for g in grids]
    )[:, [0, 2, 1, 3]]
    want = corners(PRIORS[name])
    assert made.shape == want.shape
    np.testing.assert_allclose(np.sort(made, axis=0), np.sort(want, axis=0), atol=1e-12)


def test_a_prior_itself_is_matched_whole():
    spec = replace(PRIORS["ssd300-voc"], clip="corners")
    some = corners(spec)[::97]
    np.testing.assert_allclose(best_iou(some, prior_grids(spec)), 1.0, atol=1e-6)


def test_no_boxes():
    assert best_iou(np.zeros((0, 4)), prior_grids(PRIORS["ssdlite320"])).shape == (0,)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (0.01, 0.01, "small"),
        (0.02, 0.001, "small"),
        (0.9, 0.05, "wide"),
        (0.05, 0.9, "tall"),
        (0.1, 0.1, "between"),
    ],
)
def test_why_a_box_is_not_matched(width, height, reason):
    box = np.array([[0.0, 0.0, width, height]])
    assert why_unmatched(box, prior_shapes(PRIORS["ssd300-voc"])).tolist() == [reason]


def test_too_large_for_small_priors():
    shapes = np.array([[0.1, 0.1], [0.2, 0.2]])
    assert why_unmatched(np.array([[0.0, 0.0, 0.9, 0.8], [0, 0, 0.05, 0.06]]), shapes).tolist() == ["large", "small"]
