"""Box voting against a loop over single numbers, and what it leaves as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot import box_voting
from singleshot.box_voting import vote
from singleshot.errors import ConfigError
from singleshot.postprocess import to_detections
from singleshot.priors import from_shapes, make_priors
from singleshot.records import RawOutput
from singleshot.thresholds import VOTE_LEAST, VOTE_SHARE, Thresholds

SPEC = from_shapes(64, (6, 3), [((20.0, 20.0), (28.0, 14.0)), ((40.0, 40.0),)])


def one_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def by_loop(boxes, scores, groups, voters, iou_min: float) -> list[list[float]]:
    moved = []
    for box, score, group in zip(boxes, scores, groups, strict=True):
        least = max(VOTE_LEAST, VOTE_SHARE * score)
        weights = [
            max(0.0, theirs - least) * max(0.0, one_iou(box, other) - iou_min) * (kind == group)
            for other, theirs, kind in zip(*voters, strict=True)
        ]
        mine = min(least, score) * (1 - iou_min)
        total = sum(weights) + mine
        mean = [
            sum(w * other[k] for w, other in zip(weights, voters[0], strict=True)) + mine * box[k] for k in range(4)
        ]
        moved.append([value / total for value in mean])
    return moved


def drawn(seed: int, count: int, groups: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=rng) * 0.3
    boxes = torch.cat([low, low + torch.rand(count, 2, generator=rng) * 0.6], dim=1)
    return boxes, torch.rand(count, generator=rng), torch.randint(0, groups, (count,), generator=rng)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), iou_min=st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_as_the_loop(seed: int, count: int, iou_min: float) -> None:
    boxes, scores, groups = drawn(seed, count)
    some = max(1, count // 3)
    found = vote(boxes[:some], scores[:some], groups[:some], (boxes, scores, groups), iou_min)
    voters = boxes.tolist(), scores.tolist(), groups.tolist()
    wanted = by_loop(*(values[:some] for values in voters), voters, iou_min)
    np.testing.assert_allclose(found.numpy(), np.array(wanted), atol=1e-5)


def test_large_tables_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, groups = drawn(1, 300)
    whole = vote(boxes, scores, groups, (boxes, scores, groups), 0.5)
    monkeypatch.setattr(box_voting, "_TABLE", 1000)
    assert torch.allclose(vote(boxes, scores, groups, (boxes, scores, groups), 0.5), whole, atol=1e-6)


def test_what_is_far_out_or_without_area_keeps_its_place() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, float("inf"), float("inf")]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    found = vote(boxes, scores, groups, (boxes, scores, groups), 0.5)
    assert torch.equal(found[1], boxes[1])
    assert torch.allclose(found[0], boxes[0])
    assert found.isfinite().all()


@given(seed=st.integers(0, 10**6), score=st.floats(0.02, 0.9))
def test_boxes_from_a_score_on_do_not_hang_on_what_is_far_weaker(seed: int, score: float) -> None:
    rng = np.random.default_rng(seed)
    raw = RawOutput(
        torch.from_numpy(rng.normal(0, 1, (1, SPEC.count, 4)).astype(np.float32)),
        torch.from_numpy(rng.normal(0, 2, (1, SPEC.count, 4)).astype(np.float32)),
    )
    rules = Thresholds(score_min=0.0, box_voting=0.4)
    every, strong = (
        to_detections(raw, make_priors(SPEC), variances=SPEC.variances, **one.for_postprocess())[0]
        for one in (rules, replace(rules, score_min=score * VOTE_SHARE))
    )
    rows = int((every.scores >= score).sum())
    assert torch.allclose(every.boxes[:rows], strong.boxes[:rows], atol=1e-6)
    plain = to_detections(raw, make_priors(SPEC), variances=SPEC.variances, score_min=0.0)[0]
    assert torch.equal(plain.scores, every.scores)
    assert torch.equal(plain.labels, every.labels)


def test_scores_that_are_rounded_hardly_move_a_box() -> None:
    """Weights in 16 bits change scores in their third digit; the weakest boxes have few votes, and no others' noise."""
    boxes, scores, groups = drawn(2, 200, groups=1)
    low = boxes[:, :2] * 0.2 + 0.3
    boxes = torch.cat([low, low + 0.3 + boxes[:, :2] * 0.1], dim=1)  # all near each other
    scores = scores * 0.06
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 1e-4
    before = vote(boxes, scores, groups, (boxes, scores, groups), 0.5)
    after = vote(boxes, scores + noise, groups, (boxes, scores + noise, groups), 0.5)
    assert (before - boxes).abs().max() > 0.005  # there is a vote
    assert (before - after).abs().max() < 0.002


def test_a_file_names_it_only_where_there_is_one() -> None:
    assert "box_voting" not in Thresholds().to_dict()
    rules = Thresholds(box_voting=0.5)
    assert Thresholds.from_dict(rules.to_dict()) == rules
    assert "box voting from IoU 0.5" in rules.summary()
    for value in (-0.1, 1.0, True):
        with pytest.raises(ConfigError, match="box_voting"):
            Thresholds(box_voting=value)
