"""Why an object was missed: scenes that are made to miss it for one reason, and random ones whose causes must hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from singleshot.boxes import encode, to_centres, to_corners
from singleshot.counterfactuals import changed
from singleshot.explaining import Scene
from singleshot.metrics import evaluate
from singleshot.missed import CAUSES, Objects, Outcome, holders, outcomes
from singleshot.postprocess import trace_detections
from singleshot.records import RawOutput
from singleshot.survivors import ClassSuppression, predict
from singleshot.thresholds import NO_CAP, Thresholds

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])
A, B = [0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]
NEAR_A = [0.13, 0.1, 0.33, 0.3]  # IoU .74 with A


def scene(rows: Sequence[tuple[list[float], list[float]]], priors: Sequence[list[float]] = (), **rules) -> Scene:
    """Of predicted boxes with their scores (background first), from priors that are those boxes unless given."""
    boxes = torch.tensor([box for box, _ in rows])
    table = to_centres(torch.tensor(priors) if priors else boxes)
    scores = torch.tensor([[score for _, score in rows]])
    logits = scores.logit() if rules.get("activation") == "sigmoid" else scores.log()
    raw = RawOutput(encode(boxes, table).unsqueeze(0), logits)
    return Scene(raw, table, (0.1, 0.2), Thresholds(**rules), 0.4, WHOLE)


def why(made: Scene, boxes: Sequence[list[float]], labels: Sequence[int]) -> list[Outcome]:
    """Outcomes, each of which must hold."""
    objects = Objects(torch.tensor(boxes), torch.tensor(labels))
    found = outcomes(made, made.visible(made.trace()), objects, 0.5)
    for g, one in enumerate(found):
        confirm(made, objects, g, one)
    return found


def confirm(made: Scene, objects: Objects, g: int, one: Outcome) -> None:
    """With all recorded changes the object appears, with one of them left out it does not."""
    assert (one.detection is None) == bool(one.causes)
    if not one.causes or one.causes[0].kind == "unknown":
        assert one.proof is None
        return
    if "box_voting" in one.causes[0].change and one.causes[0].kind != "box-voting":
        made = changed(made, {"box_voting": None})  # off whatever the cause is
    for left_out in (None, *range(len(one.causes))):
        state = made
        for number, cause in enumerate(one.causes):
            if number != left_out:
                added = cause.change.get("prior", 0) >= len(state.priors)  # of a prior that was left out
                state = state if added else changed(state, cause.change)
        found = state.visible(state.trace())
        row = holders(found, objects)[g]
        assert (row is not None) == (left_out is None), (one.causes, left_out)
        if row is not None:
            assert one.proof is not None
            assert found.scores[row].item() == one.proof.score
            assert one.proof.iou >= 0.5


def kinds(one: Outcome) -> list[str]:
    return [cause.kind for cause in one.causes]


def test_found() -> None:
    (one,) = why(scene([(A, [0.1, 0.9, 0.0])]), [A], [0])
    assert one == Outcome(0)


def test_low_score() -> None:
    (one,) = why(scene([(A, [0.8, 0.2, 0.0])]), [A], [0])
    assert kinds(one) == ["low-score"]
    assert one.causes[0].change["show_min"] == pytest.approx(0.2)
    assert one.causes[0].detail["score"] == pytest.approx(0.2)
    (one,) = why(scene([(A, [0.995, 0.005, 0.0])]), [A], [0])  # under the model's own threshold
    assert kinds(one) == ["low-score"]
    assert one.causes[0].change["score_min"] < 0.005


def test_low_score_where_the_background_is_likelier() -> None:
    (one,) = why(scene([(A, [0.58, 0.42, 0.0])], class_agnostic=True), [A], [0])
    assert kinds(one) == ["low-score"]
    assert one.causes[0].change["background_competes"] is False


def test_nms() -> None:
    found = why(scene([(A, [0.1, 0.9, 0.0]), (NEAR_A, [0.2, 0.8, 0.0])]), [A, NEAR_A], [0, 0])
    assert found[0].detection == 0
    assert kinds(found[1]) == ["nms"]
    assert found[1].causes[0].detail == {"prior": 0, "label": 0, "iou": pytest.approx(0.7391, abs=1e-3)}


def test_box_voting() -> None:
    """A box that has the object by a little is moved off it by two that hardly score less."""
    wide, wider = [0.1, 0.1, 0.48, 0.3], [0.1, 0.1, 0.56, 0.3]
    rows = [(wide, [0.1, 0.9, 0.0]), (wider, [0.12, 0.88, 0.0]), (wider, [0.13, 0.87, 0.0])]
    (one,) = why(scene(rows, box_voting=0.5), [A], [0])
    assert kinds(one) == ["box-voting"]
    (low,) = why(scene([(wide, [0.8, 0.2, 0.0]), (wider, [0.81, 0.19, 0.0])], box_voting=0.5), [A], [0])
    assert kinds(low) == ["low-score"]
    assert low.causes[0].change["box_voting"] is None


def test_nms_across_classes() -> None:
    rows = [(A, [0.1, 0.9, 0.0]), (NEAR_A, [0.2, 0.0, 0.8])]
    found = why(scene(rows, class_agnostic=True), [A, NEAR_A], [0, 1])
    assert kinds(found[1]) == ["nms"]
    assert found[1].causes[0].detail["label"] == 0
    assert why(scene(rows), [A, NEAR_A], [0, 1])[1].detection == 1


@pytest.mark.parametrize("limit", ["keep", "keep_per_class", "per_class", "candidates"])
def test_limits(limit: str) -> None:
    found = why(scene([(A, [0.1, 0.9, 0.0]), (B, [0.2, 0.8, 0.0])], **{limit: 1}), [A, B], [0, 0])
    assert kinds(found[1]) == ["limits"]
    assert found[1].causes[0].detail == {limit: 1}
    assert list(found[1].causes[0].change) == [limit]


def test_wrong_class() -> None:
    (one,) = why(scene([(A, [0.1, 0.2, 0.7])]), [A], [0])
    assert kinds(one) == ["wrong-class"]
    assert one.causes[0].change == {"prior": 0, "swap": [0, 1]}
    assert one.causes[0].detail == {"label": 1, "score": pytest.approx(0.7)}
    # The other class's own object stands there: nothing was taken for it.
    found = why(scene([(A, [0.1, 0.2, 0.7])]), [A, [0.12, 0.1, 0.3, 0.33]], [1, 0])
    assert [found[0].detection, kinds(found[1])] == [0, ["low-score"]]


def test_location() -> None:
    off = [0.2, 0.1, 0.4, 0.3]  # IoU 1/3 with A
    (one,) = why(scene([(off, [0.1, 0.9, 0.0])], priors=[A]), [A], [0])
    assert kinds(one) == ["location"]
    assert one.causes[0].detail["iou"] == pytest.approx(1 / 3, abs=1e-3)
    assert one.proof is not None
    assert one.proof.iou == pytest.approx(1, abs=1e-5)
    # A weak box that would do: it is near, which explains more than that.
    (one,) = why(scene([(off, [0.1, 0.9, 0.0]), (A, [0.98, 0.02, 0.0])]), [A], [0])
    assert kinds(one) == ["location"]


def test_no_prior() -> None:
    tiny = [0.2, 0.2, 0.22, 0.22]
    (one,) = why(scene([(A, [0.1, 0.9, 0.0])]), [tiny], [0])
    assert kinds(one) == ["no-prior"]
    assert one.causes[0].change["add_prior"] == pytest.approx([0.21, 0.21, 0.02, 0.02])
    assert one.causes[0].change["logits_of"] == 0
    assert one.proof is not None
    assert one.proof.prior == 1


def test_several_in_series() -> None:
    tiny = [0.2, 0.2, 0.22, 0.22]
    (one,) = why(scene([(A, [0.8, 0.2, 0.0])]), [tiny], [0])
    assert kinds(one) == ["no-prior", "low-score"]
    found = why(scene([(A, [0.1, 0.9, 0.0]), (NEAR_A, [0.7, 0.3, 0.0])]), [A, NEAR_A], [0, 0])
    assert kinds(found[1]) == ["low-score", "nms"]
    (one,) = why(scene([(A, [0.6, 0.1, 0.3])], best_class=True), [A], [0])
    assert kinds(one) == ["wrong-class", "low-score"]


def test_what_no_change_brings_is_unknown() -> None:
    for rows in ([(A, [float("nan")] * 3)], [([float("nan")] * 4, [0.1, 0.9, 0.0])]):
        made = scene(rows, priors=[A])
        assert kinds(why(made, [A], [0])[0]) in (["unknown"], ["location"])
    assert kinds(why(scene([(A, [float("nan")] * 3)]), [A], [0])[0]) == ["unknown"]
    twin = why(scene([(A, [0.1, 0.9, 0.0])]), [A, A], [0, 0])  # labelled twice: one detection has one object
    assert [twin[0].detection, kinds(twin[1])] == [0, ["unknown"]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "rules",
    [{}, {"class_agnostic": True}, {"best_class": True, "clip": True}, {"activation": "sigmoid"},
     {"keep": 2, "per_class": 4, "candidates": 6, "keep_per_class": 1}, {"box_voting": 0.4},
     {"box_voting": 0.2, "class_agnostic": True, "keep": 3}],
    ids=str,
)  # fmt: skip
def test_causes_of_random_scenes_hold(seed: int, rules: dict) -> None:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.rand(4, 2, generator=rng) * 0.6 + 0.2
    boxes = to_corners(torch.cat([centres, torch.rand(4, 2, generator=rng) * 0.25 + 0.03], dim=1))
    near = boxes.repeat(3, 1) + torch.randn(12, 4, generator=rng) * 0.03
    near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 0.02)
    scores = (torch.randn(12, 3, generator=rng) * 1.5).softmax(dim=1)
    priors = near + torch.randn(12, 4, generator=rng) * 0.02
    priors[:, 2:] = torch.maximum(priors[:, 2:], priors[:, :2] + 0.02)
    made = scene(list(zip(near.tolist(), scores.tolist(), strict=True)), priors.tolist(), **rules)
    found = why(made, boxes.tolist(), torch.randint(0, 2, (4,), generator=rng).tolist())
    assert all(kind in CAUSES for one in found for kind in kinds(one))


@pytest.mark.parametrize("seed", range(6))
def test_who_has_an_object_is_who_the_metric_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.random((30, 2)) * 60
    boxes = np.concatenate([corner, corner + 20 + rng.random((30, 2)) * 20], axis=1).astype(np.float32)
    labels, scores = rng.integers(0, 2, 30), np.sort(rng.random(30).astype(np.float32))[::-1].copy()
    truth, of = boxes[:12] + 2, labels[:12]
    found = type(scene([(A, [0.1, 0.9, 0.0])]).trace())(*map(torch.from_numpy, (boxes, scores, labels, labels)))
    has = holders(found, Objects(torch.from_numpy(truth), torch.from_numpy(of)))
    counted = evaluate([(boxes, scores, labels)], [(truth, of)], "voc", ["a", "b"])
    # At its lowest threshold the curve counts all detections that have an object.
    hits = [round(float(curve.recall[-1]) * curve.truths) for curve in counted.curves]
    assert sum(row is not None for row in has) == sum(hits) > 5
    assert len({row for row in has if row is not None}) == sum(hits)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rules", [{}, {"per_class": 20}, {"clip": True, "nms_iou": 0.2}], ids=str)
def test_single_boxes_survive_as_nms_of_all_has_it(seed: int, rules: dict) -> None:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=rng) * 0.5 - 0.05
    boxes = torch.cat([corner, corner + torch.rand(60, 2, generator=rng) * 0.5 + 0.05], dim=1)
    scores = (torch.randn(60, 3, generator=rng)).softmax(dim=1)
    made = scene(list(zip(boxes.tolist(), scores.tolist(), strict=True)), keep=NO_CAP, **rules)
    said = predict(made, boxes[:1], torch.tensor([0]), 0.5)
    for label in (0, 1):
        (found,) = trace_detections(made.raw, made.priors, made.variances, made.rules, [label])
        alone = ClassSuppression(said.boxes, said.scores[:, label + 1], made.rules)
        assert [prior for prior in range(60) if alone.keeps(prior)] == sorted(found.priors.tolist())
        assert 1 < len(found.priors) < 60
        assert not alone.tied


def test_boxes_of_equal_scores_are_not_certain() -> None:
    made = scene([(A, [0.1, 0.9, 0.0]), (NEAR_A, [0.1, 0.9, 0.0])])
    said = predict(made, torch.tensor([A]), torch.tensor([0]), 0.5)
    alone = ClassSuppression(said.boxes, said.scores[:, 1], made.rules)
    alone.keeps(0)
    assert alone.tied
