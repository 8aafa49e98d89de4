"""Default boxes fitted to objects, against plain loops and the best of all choices."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot import prior_fitting
from singleshot.errors import ConfigError
from singleshot.prior_boxes import PriorSpec, cell_shapes, from_shapes, prior_table, squares
from singleshot.prior_coverage import best_iou, prior_grids
from singleshot.prior_fitting import _Fit, _Shape, _to_spec, fit_priors
from singleshot.prior_tables import PRIORS

TABLE = PRIORS["ssdlite320-fine"]


@pytest.fixture(autouse=True, scope="module")
def small_sample():
    """As good for what is tested here, and quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior_fitting, "_SAMPLE", 800)
        yield


def boxes_of(count: int, width: float, height: float, spread: float = 0.2, seed: int = 0) -> np.ndarray:
    """Anywhere, of about that size in parts of the input."""
    rng = np.random.default_rng(seed)
    size = np.minimum(np.array([width, height]) * np.exp(rng.normal(0, spread, (count, 2))), 1)
    low = rng.random((count, 2)) * (1 - size)
    return np.concatenate((low, low + size), axis=1)


def matched(boxes: np.ndarray, table: PriorSpec, iou_min: float = 0.5) -> float:
    return float((best_iou(boxes, prior_grids(table)) >= iou_min).mean())


def slow_iou(box, table: PriorSpec) -> float:
    """Every prior of the table, one after the other."""
    best = 0.0
    for cx, cy, w, h in prior_table(table).tolist():
        across = max(0.0, min(box[2], cx + w / 2) - max(box[0], cx - w / 2))
        down = max(0.0, min(box[3], cy + h / 2) - max(box[1], cy - h / 2))
        union = (box[2] - box[0]) * (box[3] - box[1]) + w * h - across * down
        best = max(best, across * down / union)
    return best


fractions = st.floats(0.02, 1)
tables = st.sampled_from(
    [
        PRIORS["ultraface320"],  # not square
        from_shapes(100, (4, 1), squares((20,), (80,))),
        replace(from_shapes(100, (3, 2), squares((20,), (60,)), steps=(30.0, 55.0)), offset=0.3),
    ]
)


@settings(max_examples=40)
@given(tables, st.data())
def test_the_iou_with_a_shape_is_that_of_a_loop_over_its_priors(table, data):
    level = data.draw(st.integers(0, len(table.maps) - 1))
    place = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    shape = _Shape(level, *(data.draw(one) for one in (fractions, fractions, place, place)))
    boxes = boxes_of(4, data.draw(fractions), data.draw(fractions), seed=data.draw(st.integers(0, 9)))
    height, width = table.image
    size = shape.width * width, shape.height * height
    alone = replace(
        from_shapes(table.image_size, table.maps[level : level + 1], ((size,),)),
        steps=None if table.steps is None else table.steps[level : level + 1],
        centres=(((shape.x, shape.y),),),
    )
    want = [slow_iou(box, alone) for box in boxes.tolist()]
    np.testing.assert_allclose(_Fit(boxes, table, 0.5, 10**6).iou(shape), want, atol=1e-5)


def test_the_table_that_comes_out_is_what_was_searched():
    boxes = boxes_of(500, 0.06, 0.05)
    fit = _Fit(boxes, TABLE, 0.5, TABLE.count)
    shapes = fit.search((0.25, 0.5, 0.75))
    np.testing.assert_allclose(best_iou(boxes, prior_grids(_to_spec(shapes, TABLE))), fit.best(shapes), atol=1e-3)


def slow_greedy(fit: _Fit, candidates: list[_Shape], worth: np.ndarray, power: float) -> list[_Shape]:
    """Every gain anew in every step."""
    left, have, chosen = fit.most - sum(fit.cells), np.zeros(worth.shape[1]), []
    while True:
        best, best_rank = None, 0.0
        for k, shape in enumerate(candidates):
            cost, there = fit.cells[shape.level], [one for one in chosen if one.level == shape.level]
            gain = np.maximum(worth[k] - have, 0).mean()
            if gain <= prior_fitting._LEAST or len(there) >= prior_fitting._MOST_PER_CELL or (there and cost > left):
                continue
            if gain / cost**power > best_rank * (1 + 1e-6):
                best, best_rank = k, gain / cost**power
        if best is None:
            return chosen
        shape = candidates[best]
        left -= fit.cells[shape.level] if any(one.level == shape.level for one in chosen) else 0
        have = np.maximum(have, worth[best])
        chosen.append(shape)


@pytest.mark.parametrize(("power", "seed"), list(itertools.product((1.0, 0.5), range(4))))
def test_the_greedy_choice_is_that_of_a_plain_loop(power, seed):
    table = from_shapes(100, (5, 3, 1), squares((20,), (35,), (80,)))
    boxes = np.concatenate([boxes_of(40, 0.15, 0.3, 0.4, seed), boxes_of(30, 0.6, 0.5, 0.3, seed)])
    fit = _Fit(boxes, table, 0.5, 110)
    candidates = fit.candidates((0.5,))
    worth = fit.worth(fit.table_of(candidates))
    want = slow_greedy(fit, candidates, worth, power)
    assert fit.pick(candidates, worth, power)[: len(want)] == want
    assert len(want) > 3


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_near_the_best_of_all(seed):
    """Every set of shapes that fits the budget is tried; greedily at least 1 - 1/e of the best is reached."""
    table = from_shapes(100, (3, 2), squares((30,), (60,)))
    boxes = np.concatenate([boxes_of(15, 0.3, 0.3, 0.5, seed), boxes_of(15, 0.7, 0.4, 0.3, seed)])
    fit = _Fit(boxes, table, 0.5, 9 + 4 + 13)
    rng = np.random.default_rng(seed)
    candidates = [_Shape(int(rng.integers(2)), *rng.uniform(0.15, 0.9, 2).tolist(), 0.5, 0.5) for _ in range(9)]

    def cost(shapes) -> int:
        of = [sum(one.level == level for one in shapes) for level in range(2)]
        return sum(cells * max(n, 1) for cells, n in zip(fit.cells, of, strict=True))

    sets = (s for n in range(6) for s in itertools.combinations(candidates, n) if cost(s) <= fit.most)
    best = max(fit.total(s) if s else 0.0 for s in sets)
    worth = fit.worth(fit.table_of(candidates))
    picked = max(fit.total(fit.pick(candidates, worth, power)) for power in (1.0, 0.5))
    assert picked >= (1 - 1 / math.e) * best
    assert cost(fit.pick(candidates, worth, 1.0)) <= fit.most


@pytest.mark.parametrize("name", ["ssdlite320-fine", "ssdlite320", "ssd300-voc", "ultraface320", "faceboxes1024"])
def test_what_is_kept_of_the_table(name):
    table, boxes = PRIORS[name], boxes_of(60, 0.1, 0.2)
    found = fit_priors(boxes, table)
    assert (found.image, found.grids, found.variances) == (table.image, table.grids, table.variances)
    assert [found.step(i) for i in range(len(found.maps))] == [table.step(i) for i in range(len(table.maps))]
    assert found.count <= table.count
    assert min(found.per_cell) >= 1
    assert found == fit_priors(boxes, table)
    assert PriorSpec.from_dict(found.to_dict()) == found


@settings(max_examples=15)
@given(st.integers(1, 30), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3), st.integers(2139, 12000))
def test_any_boxes_and_any_bound(count, width, height, seed, most):
    found = fit_priors(boxes_of(count, width, height, seed=seed), TABLE, max_priors=most)
    assert found.count <= most
    assert np.isfinite(prior_table(found)).all()
    for i in range(len(TABLE.maps)):
        sides = [math.sqrt(w * h) for w, h in cell_shapes(TABLE, i)]
        for w, h in cell_shapes(found, i):
            assert i == 0 or math.sqrt(w * h) >= min(sides) / 2 - 0.01
            assert i == len(TABLE.maps) - 1 or math.sqrt(w * h) <= max(sides) * 2 + 0.01


@pytest.mark.parametrize(
    ("name", "width", "height"),
    [("ssdlite320-fine", 0.3, 0.02), ("ssdlite320", 0.03, 0.5), ("ssd300-voc", 0.05, 0.05), ("ssdlite320", 0.5, 0.5)],
)
def test_other_boxes_of_the_same_kind_are_matched(name, width, height):
    table = PRIORS[name]
    fitted, others = (boxes_of(400, width, height, seed=seed) for seed in (1, 2))
    found = fit_priors(fitted, table)
    assert matched(others, found) >= max(0.97, matched(others, table))
    assert best_iou(others, prior_grids(found)).mean() > best_iou(others, prior_grids(table)).mean()


def test_a_seed_decides_and_a_higher_bound_helps():
    boxes = np.concatenate([boxes_of(200, 0.05, 0.2, 0.4), boxes_of(200, 0.3, 0.04, 0.4)])
    few, many = (fit_priors(boxes, PRIORS["ssdlite320"], max_priors=most) for most in (1200, 4800))
    assert matched(boxes, few) < matched(boxes, many)
    assert fit_priors(boxes, TABLE, seed=1) != fit_priors(boxes, TABLE, seed=2)


def test_another_iou_min_is_what_is_aimed_at():
    boxes = np.concatenate([boxes_of(150, side, side, 0.5) for side in (0.06, 0.2, 0.6)])
    loose, strict = (fit_priors(boxes, PRIORS["ssdlite320"], iou_min=iou_min) for iou_min in (0.35, 0.7))
    assert matched(boxes, loose, 0.35) > matched(boxes, strict, 0.35)
    assert matched(boxes, strict, 0.7) > matched(boxes, loose, 0.7)


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(ConfigError, match="want at least 2139, one of each cell"):
        fit_priors(boxes_of(3, 0.1, 0.1), TABLE, max_priors=2138)
    with pytest.raises(ConfigError, match="no object to fit"):
        fit_priors(np.zeros((2, 4)), TABLE)
