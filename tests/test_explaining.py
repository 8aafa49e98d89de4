"""Where detections come from: against slow loops and the table of default boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from singleshot.boxes import decode, iou
from singleshot.explaining import Scene, places_of, runners_up
from singleshot.postprocess import Traced, to_detections, trace_candidates, trace_detections
from singleshot.prior_boxes import PriorSpec, prior_table
from singleshot.records import RawOutput
from singleshot.thresholds import Thresholds

VARIANCES = (0.1, 0.2)
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])
RULES = [
    Thresholds(score_min=0.05),
    Thresholds(score_min=0.05, per_class=15, keep=12, keep_per_class=5, clip=True),
    Thresholds(score_min=0.05, class_agnostic=True, background_competes=False),
    Thresholds(score_min=0.05, best_class=True, candidates=30),
    Thresholds(score_min=0.3, activation="sigmoid"),
    Thresholds(score_min=0.02, box_voting=0.5),
]


def made(seed: int, priors: int = 120, classes: int = 3) -> tuple[RawOutput, torch.Tensor]:
    """Outputs that pile boxes up, so that NMS has something to do."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.rand(priors, 2, generator=rng) * 0.4 + 0.3
    table = torch.cat([centres, torch.rand(priors, 2, generator=rng) * 0.2 + 0.2], dim=1)
    logits = torch.randn(1, priors, classes + 1, generator=rng) * 1.5
    return RawOutput(torch.randn(1, priors, 4, generator=rng) * 0.5, logits), table


@pytest.mark.parametrize("rules", RULES)
def test_a_trace_is_the_detections_with_their_priors(rules: Thresholds) -> None:
    raw, priors = made(1)
    (plain,) = to_detections(raw, priors, variances=VARIANCES, **rules.for_postprocess())
    (traced,) = trace_detections(raw, priors, VARIANCES, rules)
    assert len(traced.scores) > 3
    for ours, theirs in zip(traced, plain, strict=False):
        assert torch.equal(ours, theirs)
    if rules.box_voting is not None:  # its boxes: tests/test_box_voting.py
        (traced,) = trace_detections(raw, priors, VARIANCES, replace(rules, box_voting=None))
    boxes = decode(raw.offsets[0, traced.priors], priors[traced.priors], VARIANCES)
    assert torch.equal(boxes.clamp(0, 1) if rules.clip else boxes, traced.boxes)
    logits = raw.logits[0, traced.priors]
    scores = logits.softmax(-1) if rules.activation == "softmax" else logits.sigmoid()
    assert torch.equal(scores.gather(1, traced.labels.unsqueeze(1) + 1).squeeze(1), traced.scores)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("show_min", [0.0, 0.25, 0.5])
def test_what_is_shown_does_not_depend_on_what_is_weaker(rules: Thresholds, show_min: float) -> None:
    raw, priors = made(2)
    (every,) = trace_detections(raw, priors, VARIANCES, rules)
    shown = Scene(raw, priors, VARIANCES, rules, show_min, WHOLE).trace()
    strong = every.scores >= show_min
    assert show_min == 0.5 or bool(strong.any())
    for ours, theirs in zip(shown, every, strict=True):
        assert torch.equal(ours, theirs[strong])


def test_a_box_in_the_bars_is_not_visible() -> None:
    raw, priors = made(3)
    scene = Scene(raw, priors, VARIANCES, RULES[0], 0.1, torch.tensor([0.0, 0.45, 1.0, 0.55]))
    found = Traced(torch.tensor([[0.1, 0.0, 0.3, 0.4], [0.1, 0.3, 0.3, 0.5]]), torch.tensor([0.9, 0.8]),
                   torch.tensor([0, 0]), torch.tensor([1, 2]))  # fmt: skip
    visible = scene.visible(found)
    assert visible.priors.tolist() == [2]
    assert torch.allclose(visible.boxes, torch.tensor([[0.1, 0.45, 0.3, 0.5]]))


@pytest.mark.parametrize("rules", RULES)
def test_runners_up_agree_with_the_slow_loop(rules: Thresholds) -> None:
    raw, priors = made(4)
    (candidates,) = trace_candidates(raw, priors, VARIANCES, rules)
    (kept,) = trace_detections(raw, priors, VARIANCES, rules)
    found = runners_up(candidates, Traced(*(values[:4] for values in kept)), rules)
    (plain,) = trace_detections(raw, priors, VARIANCES, replace(rules, box_voting=None))
    first = Traced(*(values[:4] for values in plain))
    expected = {}
    itself = {(int(p), int(c)) for p, c in zip(first.priors, first.labels, strict=True)}
    for row in range(len(candidates.scores)):
        pair = int(candidates.priors[row]), int(candidates.labels[row])
        for better in range(4):
            overlap = float(iou(first.boxes[[better]], candidates.boxes[[row]]))
            same = rules.class_agnostic or first.labels[better] == candidates.labels[row]
            over = overlap > rules.nms_iou and first.scores[better] >= candidates.scores[row]
            if pair not in itself and same and over:
                expected[pair] = better, pytest.approx(overlap)
                break
    got = zip(found.removed.priors.tolist(), found.removed.labels.tolist(), found.by.tolist(), found.iou.tolist(),
              strict=True)  # fmt: skip
    assert {(p, c): (by, overlap) for p, c, by, overlap in got} == expected
    assert len(expected) > 3
    assert not {(int(p), int(c)) for p, c in zip(kept.priors, kept.labels, strict=True)} & expected.keys()


def test_nothing_found_has_no_runners_up() -> None:
    raw, priors = made(5)
    rules = Thresholds(score_min=1.0)
    (none,) = trace_candidates(raw, priors, VARIANCES, rules)
    assert len(runners_up(none, none, rules).by) == 0


@pytest.mark.parametrize("order", ["location", "box"])
def test_the_place_of_a_prior_is_where_the_table_has_it(order: str) -> None:
    spec = PriorSpec(
        (60, 90), ((4, 6), (2, 3), 1), (10.0, 20.0, 40.0), (20.0, 40.0, 60.0), ((2.0,), (2.0, 3.0), (2.0,))
    )
    spec = replace(spec, order=order)
    table = prior_table(spec)
    places = places_of(spec, np.arange(spec.count))
    assert len(set(places)) == spec.count
    for place, prior in zip(places, table, strict=True):
        down, across = spec.step(place.map)
        assert prior[0] * 90 == pytest.approx((place.column + 0.5) * across, abs=1e-4)
        assert prior[1] * 60 == pytest.approx((place.row + 0.5) * down, abs=1e-4)
        from singleshot.prior_boxes import cell_shapes

        width, height = cell_shapes(spec, place.map)[place.box]
        assert (prior[2] * 90, prior[3] * 60) == pytest.approx((width, height), abs=1e-4)
