"""ATSS, task-aligned and SimOTA assignment against their papers' formulas as slow loops, and what must always hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.assigners import Candidates, Predictions, best_first, strongest
from singleshot.boxes import encode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.matching import RULES, assign, match
from singleshot.prior_boxes import PriorSpec, prior_table, sized_for
from singleshot.priors import make_priors
from singleshot.records import RawOutput

SPEC = sized_for([(6, 8), (3, 4), (1, 2), 1], (96, 128))  # neither image nor maps are square
CLASSES = 4


def objects_of(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre, size = rng.random((count, 2)), rng.random((count, 2)) ** 2 * 0.6 + 0.2
    return np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, 1).astype(np.float32)


def predicted_of(seed: int, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes near the priors and near the objects, and probabilities."""
    rng = np.random.default_rng(seed + 1000)
    priors = to_corners(torch.tensor(prior_table(SPEC))).numpy()
    found = priors + rng.normal(0, 0.03, priors.shape)
    for p in range(0, len(priors), 3):
        if len(boxes):
            found[p] = boxes[rng.integers(len(boxes))] + rng.normal(0, 0.02, 4)
    return found.astype(np.float32), (rng.random((len(priors), CLASSES)) * 0.98 + 0.01).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / union) if union > 0 else 0.0


def centre_inside(prior: np.ndarray, box: np.ndarray) -> bool:
    return bool(box[0] < prior[0] < box[2] and box[1] < prior[1] < box[3])


def maps_of(spec: PriorSpec) -> list[range]:
    ends = list(itertools.accumulate(spec.per_map))
    return [range(end - size, end) for end, size in zip(ends, spec.per_map, strict=True)]


def slow_atss(priors: np.ndarray, boxes: np.ndarray, k: int = 9) -> list[int]:
    """Zhang et al. 2020, algorithm 1."""
    corners = to_corners(torch.tensor(priors)).numpy()
    height, width = SPEC.image
    owner, held = [-1] * len(priors), [-1.0] * len(priors)
    for g, box in enumerate(boxes):
        x, y = (box[0] + box[2]) / 2 * width, (box[1] + box[3]) / 2 * height
        chosen: list[int] = []
        for own, cell in zip(maps_of(SPEC), SPEC.per_cell, strict=True):
            distance = {p: (priors[p, 0] * width - x) ** 2 + (priors[p, 1] * height - y) ** 2 for p in own}
            chosen += sorted(own, key=lambda p: (round(float(distance[p]), 3), p))[: k * cell]
        values = [overlap(box, corners[p]) for p in chosen]
        limit = np.mean(values) + np.std(values, ddof=1)
        for p, value in zip(chosen, values, strict=True):
            if value >= limit and centre_inside(priors[p], box) and value > held[p]:
                owner[p], held[p] = g, value
    return owner


def slow_task_aligned(
    priors: np.ndarray, boxes: np.ndarray, labels: list[int], found: np.ndarray, scores: np.ndarray, k: int = 13
) -> list[int]:
    """Feng et al. 2021, equation 2: t = s * u^6."""
    owner, held = [-1] * len(priors), [-1.0] * len(priors)
    for g, box in enumerate(boxes):
        inside = [p for p in range(len(priors)) if centre_inside(priors[p], box)]
        t = {p: scores[p, labels[g]] * overlap(box, found[p]) ** 6 for p in inside}
        for p in sorted(inside, key=lambda p: -t[p])[:k]:
            value = overlap(box, found[p])
            if t[p] > 0 and value > held[p]:
                owner[p], held[p] = g, value
    return owner


def slow_simota(
    priors: np.ndarray, boxes: np.ndarray, labels: list[int], found: np.ndarray, scores: np.ndarray
) -> list[int]:
    """Ge et al. 2021: dynamic top k over c = L_cls + 3 L_reg, with a dear outside of box and centre region."""
    height, width = SPEC.image
    regions, insides = {}, {}
    for g, box in enumerate(boxes):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for i, own in enumerate(maps_of(SPEC)):
            down, across = SPEC.step(i)
            for p in own:
                near = abs(priors[p, 0] - x) < 2.5 * across / width and abs(priors[p, 1] - y) < 2.5 * down / height
                regions[g, p], insides[g, p] = near, centre_inside(priors[p], box)
    candidates = [p for p in range(len(priors)) if any(regions[g, p] or insides[g, p] for g in range(len(boxes)))]
    owner, held = [-1] * len(priors), [math.inf] * len(priors)
    for g, box in enumerate(boxes):
        cost, ious = {}, {}
        for p in candidates:
            ious[p] = overlap(box, found[p])
            entropy = sum(-math.log(s if c == labels[g] else 1 - s) for c, s in enumerate(scores[p].astype(float)))
            cost[p] = entropy - 3 * math.log(ious[p] + 1e-8) + 1e5 * (not (regions[g, p] and insides[g, p]))
        wanted = max(1, int(sum(sorted(ious.values(), reverse=True)[:10])))
        for p in sorted(candidates, key=lambda p: cost[p])[:wanted]:
            if cost[p] < held[p]:
                owner[p], held[p] = g, cost[p]
    return owner


def fast(rule: str, boxes: np.ndarray, labels: list[int], found: np.ndarray, scores: np.ndarray) -> list[int]:

    priors = make_priors(SPEC)
    corners = torch.tensor(boxes)[None]
    predicted = Predictions(torch.tensor(found)[None], torch.tensor(scores)[None])
    overlaps = iou(corners, to_corners(priors))
    seen = Candidates(overlaps, corners, priors, SPEC.per_map, torch.tensor(labels)[None], SPEC, predicted)
    return assign(seen, 0.5, rule)[0].tolist()


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["atss", "task-aligned", "simota"])
def test_every_assigner_is_its_slow_loop(rule: str, seed: int, count: int) -> None:
    boxes, priors = objects_of(seed, count), prior_table(SPEC)
    labels = [g % CLASSES for g in range(count)]
    predicted = predicted_of(seed, boxes)
    if rule == "atss":
        want = slow_atss(priors, boxes)
    else:
        want = {"task-aligned": slow_task_aligned, "simota": slow_simota}[rule](priors, boxes, labels, *predicted)
    assert any(g >= 0 for g in want)
    assert fast(rule, boxes, labels, *predicted) == want


def raw_of(found: np.ndarray, scores: np.ndarray) -> RawOutput:
    """Outputs that decode to these boxes, with these probabilities by sigmoid; gradients are wanted."""
    logits = torch.logit(torch.tensor(scores))
    logits = torch.cat([torch.full((len(scores), 1), 9.0), logits], dim=1)
    corners = torch.tensor(found)
    corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2] + 0.01)
    return RawOutput(encode(corners, make_priors(SPEC)).requires_grad_(), logits.requires_grad_())


@pytest.mark.parametrize("rule", ["atss", "task-aligned", "simota"])
def test_a_batch_is_its_images_and_padding_changes_nothing(rule: str) -> None:
    counts, rows = [0, 1, 6, 3], 8
    boxes, labels = torch.rand(4, rows, 4), torch.full((4, rows), -1)
    raws = []
    for i, n in enumerate(counts):
        boxes[i, :n], labels[i, :n] = torch.tensor(objects_of(i, n)), torch.arange(n) % CLASSES
        raws.append(raw_of(*predicted_of(i, objects_of(i, n))))
    raw = RawOutput(*(torch.stack(values) for values in zip(*raws, strict=True)))
    given = {"rule": rule, "spec": SPEC, "activation": "sigmoid"}
    together = match(make_priors(SPEC), boxes, labels, raw=raw, **given)
    assert not together.offsets.requires_grad  # nothing of the predictions flows through
    assert (together.labels[0] == 0).all()
    for i, n in enumerate(counts):
        alone = match(make_priors(SPEC), boxes[i, :n], labels[i, :n], raw=raws[i], **given)
        assert torch.equal(together.labels[i], alone.labels)
        assert n == 0 or (alone.labels > 0).any()
        torch.testing.assert_close(together.offsets[i], alone.offsets)


@pytest.mark.parametrize("rule", ["atss", "task-aligned", "simota"])
def test_order_of_objects_does_not_matter(rule: str) -> None:
    boxes, order = objects_of(5, 9), np.random.default_rng(1).permutation(9)
    raw = raw_of(*predicted_of(5, boxes))
    labels = np.arange(9) % CLASSES
    first, second = (
        match(make_priors(SPEC), torch.tensor(b), torch.tensor(c), rule=rule, spec=SPEC, raw=raw, activation="sigmoid")
        for b, c in ((boxes, labels), (boxes[order], labels[order]))
    )
    assert torch.equal(first.labels, second.labels)


def test_two_equal_objects_go_to_the_first() -> None:
    boxes, labels = np.repeat(objects_of(2, 1), 2, axis=0), [0, 0]
    predicted = predicted_of(2, boxes)
    for rule in ("atss", "task-aligned", "simota"):
        assert set(fast(rule, boxes, labels, *predicted)) == {-1, 0}, rule


def test_no_assigner_fails_on_outputs_that_are_not_numbers() -> None:
    boxes = objects_of(3, 4)
    raw = raw_of(*predicted_of(3, boxes))
    broken = RawOutput(torch.full_like(raw.offsets, torch.nan), torch.full_like(raw.logits, torch.nan))
    for rule in ("task-aligned", "simota"):
        targets = match(make_priors(SPEC), torch.tensor(boxes), torch.arange(4), rule=rule, spec=SPEC, raw=broken)
        assert targets.labels.max() <= 4
        assert torch.isfinite(targets.offsets).all()


def test_what_an_assigner_goes_by_must_be_given() -> None:
    priors, boxes, labels = make_priors(SPEC), torch.tensor(objects_of(0, 2)), torch.tensor([0, 1])
    raw = raw_of(*predicted_of(0, objects_of(0, 2)))
    for rule in ("atss", "simota"):
        with pytest.raises(ConfigError, match="spec=PriorSpec"):
            match(priors, boxes, labels, rule=rule, raw=raw)
        with pytest.raises(ConfigError, match="spec=PriorSpec"):
            match(priors, boxes, labels, rule=rule, raw=raw, spec=sized_for([2, 1], 96))
    for rule in ("task-aligned", "simota"):
        with pytest.raises(ConfigError, match="raw=RawOutput"):
            match(priors, boxes, labels, rule=rule, spec=SPEC)
    assert [name for name, rule in RULES.items() if rule.by_predictions] == ["task-aligned", "simota"]


@settings(max_examples=100)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.randoms())
def test_the_strongest_claim_wins_and_of_equal_ones_the_first_object(
    objects: int, each: int, size: int, random
) -> None:
    claims = [[random.randint(-1, size - 1) for _ in range(each)] for _ in range(objects)]
    keys = [[random.randint(0, 3) for _ in range(each)] for _ in range(objects)]
    want = [-1] * size
    for p in range(size):
        best = -1
        for g in range(objects):
            mine = max((keys[g][i] for i in range(each) if claims[g][i] == p), default=-1)
            if mine > best:
                best, want[p] = mine, g
    found = strongest(torch.tensor([keys], dtype=torch.int32), torch.tensor([claims]), size)
    assert found[0].tolist() == want


@settings(max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(1, 12))
def test_best_first_orders_by_key_and_then_by_place(keys: list[int], count: int) -> None:
    want = sorted(range(len(keys)), key=lambda i: (-keys[i], i))[:count]
    assert best_first(torch.tensor([[keys]], dtype=torch.int32), count)[0, 0].tolist() == want
