"""Detections against the public implementations, a literal NMS, and properties."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.boxes import decode, iou
from singleshot.conventions import DETECTION, detection_rule
from singleshot.errors import ConfigError
from singleshot.postprocess import to_detections
from singleshot.priors import PRIORS, make_priors
from singleshot.records import RawOutput
from singleshot.thresholds import Thresholds


def compare(found, want, scale: float = 1.0, clip: bool = False) -> None:
    """Same boxes in the order of the golden files: score, class, left edge; `clip`: theirs are cut after NMS."""
    for i, image in enumerate(found):
        rows = slice(want["ptr"][i], want["ptr"][i + 1])
        boxes, scores, labels = (values.numpy() for values in image)
        boxes, labels = boxes.clip(0, 1) if clip else boxes, labels + 1
        order = np.lexsort((boxes[:, 0], labels, -scores))
        assert len(scores) == rows.stop - rows.start
        np.testing.assert_allclose(scores[order], want["scores"][rows], atol=1e-5)
        assert labels[order].tolist() == want["labels"][rows].tolist()
        np.testing.assert_allclose(boxes[order], want["boxes"][rows] / scale, atol=1e-5)


def by(rule: str, **instead: Any) -> dict[str, Any]:
    """Keywords of `to_detections` for a codebase's rule, some of its values replaced."""
    return replace(detection_rule(rule), **instead).for_postprocess()


@pytest.fixture(scope="session")
def outputs(golden_inputs) -> dict[str, RawOutput]:
    """Dense: above every cap; sparse: below nearly all."""
    both = {"post": golden_inputs.post_inputs(), "postB": golden_inputs.post_inputs_B()}
    return {name: RawOutput(torch.tensor(loc), torch.tensor(conf)) for name, (conf, loc) in both.items()}


@pytest.fixture(scope="session")
def tables(golden) -> dict[str, torch.Tensor]:
    ours, keras = np.load(golden / "priors_amdegroot.npz"), np.load(golden / "priors_ssd_keras.npz")
    return {
        "clip": torch.tensor(ours["voc300_clip"]),
        "noclip": torch.tensor(ours["voc300_noclip"]),
        "keras": torch.tensor(keras["voc300_cxcywh_noclip"]),
    }


GOLDEN = [  # preset, golden file, priors, units per image side, what the file was made with in place of the preset's
    ("caffe", "caffe_voc300clip", "clip", 1, {}),
    ("caffe", "caffe_voc300noclip", "noclip", 1, {}),
    ("amdegroot", "amdegroot", "clip", 1, {}),
    ("lufficc", "lufficc", "clip", 300, {}),
    ("bubbliiiing", "bubbliiiing_getmap", "clip", 300, {}),
    ("bubbliiiing-predict", "bubbliiiing_default", "clip", 300, {}),
    ("qfgaohao", "qfgaohao", "clip", 300, {}),
    ("ssd_keras", "ssd_keras_voc300clip", "clip", 300, {}),
    ("ssd_keras", "ssd_keras_ownanchors", "keras", 300, {}),
    ("ssd_keras-fast", "ssd_keras_fast_voc300clip", "clip", 300, {}),
    ("ssd_keras-fast", "ssd_keras_fast_ownanchors", "keras", 300, {}),
    ("ssd_keras-fast", "ssd_keras_fast_conf0.01_top200_voc300clip", "clip", 300, {"score_min": 0.01, "keep": 200}),
    ("balancap", "balancap_tf_eval_sel0.01_nms0.45", "noclip", 1, {}),
    ("balancap-predict", "balancap_np_default", "noclip", 1, {}),
    ("balancap-predict", "balancap_np_conf0.01", "noclip", 1, {"score_min": 0.01}),
    ("torchvision", "torchvision", "clip", 300, {}),
    ("nvidia", "nvidia", "clip", 1, {}),
]


@pytest.mark.parametrize("inputs", ["post", "postB"])
@pytest.mark.parametrize(("rule", "file", "table", "scale", "instead"), GOLDEN, ids=[row[1] for row in GOLDEN])
def test_agrees_with(rule, file, table, scale, instead, inputs, golden, outputs, tables) -> None:
    if not (golden / f"{inputs}_{file}.npz").exists():
        assert (inputs, rule) == ("postB", "caffe")  # made for the dense inputs only
        return
    found = to_detections(outputs[inputs], tables[table], **by(rule, **instead))
    compare(found, np.load(golden / f"{inputs}_{file}.npz"), scale, clip=rule == "balancap")


@pytest.mark.parametrize("inputs", ["post", "postB"])
def test_agrees_with_balancap_without_a_score_threshold(inputs: str, golden, outputs, tables) -> None:
    """The file holds the 1000 best of 4000; which of equal scores is the 1000th is chance."""
    want = np.load(golden / f"{inputs}_balancap_tf_default_selNone_nms0.5.npz")
    found = to_detections(outputs[inputs], tables["noclip"], **by("balancap", score_min=0.0, nms_iou=0.5))
    for i, (boxes, scores, labels) in enumerate(found):
        assert len(scores) == 4000
        rows = slice(want["ptr"][i], want["ptr"][i + 1])
        np.testing.assert_allclose(scores[:1000], np.sort(want["scores"][rows])[::-1], atol=1e-5)
        mine = {(c, *np.round(b, 3)) for b, c in zip(boxes.numpy(), (labels + 1).tolist(), strict=True)}
        theirs = {(c, *np.round(b, 3)) for b, c in zip(want["boxes"][rows], want["labels"][rows], strict=True)}
        assert len(theirs - mine) <= 1


@pytest.mark.parametrize("inputs", ["post", "postB"])
@pytest.mark.parametrize("score_min", [0.5, 0.01])
def test_agrees_with_ljanyst_up_to_its_grid(score_min: float, inputs: str, golden, outputs, tables) -> None:
    """Not exactly: its NMS works on whole pixels of a 1000 x 1000 grid with both edges inside, so an IoU near the
    limit may fall on the other side (one box of an image here), and its boxes are those of the grid."""
    want = np.load(golden / f"{inputs}_ljanyst_conf{score_min}.npz")
    found = to_detections(outputs[inputs], tables["clip"], **by("ljanyst", score_min=score_min))
    for i, (boxes, scores, labels) in enumerate(found):
        rows = slice(want["ptr"][i], want["ptr"][i + 1])
        their_boxes, their_scores, their_labels = (torch.tensor(want[k][rows]) for k in ("boxes", "scores", "labels"))
        same = (labels[:, None] + 1 == their_labels) & ((scores[:, None] - their_scores).abs() < 1e-5)
        same &= (boxes[:, None].clamp(max=0.999) - their_boxes).abs().amax(dim=-1) < 0.0021
        assert same.any(dim=1).sum() >= len(their_scores) - 1
        assert abs(len(scores) - len(their_scores)) <= 1


def test_every_preset_is_a_set_of_keywords_and_runs(tables) -> None:
    known = set(inspect.signature(to_detections).parameters) - {"raw", "priors", "variances", "wanted"}
    g = torch.Generator().manual_seed(1)
    raw = RawOutput(torch.randn(1, 8732, 4, generator=g), torch.randn(1, 8732, 3, generator=g))
    for name, rule in DETECTION.items():
        assert set(rule.for_postprocess()) == known, name
        (found,) = to_detections(raw, tables["clip"], **by(name, score_min=max(rule.score_min, 0.9)))
        assert len(found.scores) <= rule.keep


def test_an_unknown_preset_lists_the_names_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"want one of caffe, .*; did you mean torchvision\?"):
        detection_rule("torchvison")
    assert detection_rule("caffe") == Thresholds(keep=200)


def slow_detections(
    raw, priors, score_min, nms_iou, per_class, keep, clip=False, candidates=None, keep_per_class=None, best_class=False
):
    """The rule, one box at a time: (score, class, box) best first."""
    result = []
    for b in range(len(raw.logits)):
        scores = raw.logits[b].softmax(-1)
        boxes = decode(raw.offsets[b], priors)
        boxes = boxes.clamp(0, 1) if clip else boxes
        overlaps = iou(boxes, boxes).tolist()
        rows = []
        for c in range(1, scores.shape[1]):
            own = [(scores[p, c].item(), c - 1, p) for p in range(len(priors)) if scores[p, c] > score_min]
            if best_class:
                own = [row for row in own if scores[row[2], 1:].argmax() == c - 1]
            own.sort(key=lambda row: -row[0])
            rows += own if best_class else own[:per_class]
        rows.sort(key=lambda row: -row[0])
        kept: list[tuple] = []
        for score, c, p in rows[:candidates]:
            if all(overlaps[p][q] <= nms_iou for _, other, q in kept if other == c):
                kept.append((score, c, p))
        if keep_per_class is not None:
            kept = [r for i, r in enumerate(kept) if sum(q[1] == r[1] for q in kept[:i]) < keep_per_class]
        result.append([(score, c, boxes[p]) for score, c, p in kept[:keep]])
    return result


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    clip=st.booleans(),
    candidates=st.sampled_from([None, 1, 7, 40]),
    keep_per_class=st.sampled_from([None, 1, 2, 5]),
    best_class=st.booleans(),
    keep=st.sampled_from([3, 1000]),
    nms_iou=st.sampled_from([0.1, 0.5]),
)
def test_every_cap_agrees_with_the_slow_loop(seed, clip, candidates, keep_per_class, best_class, keep, nms_iou) -> None:
    g = torch.Generator().manual_seed(seed)
    priors = torch.rand(30, 4, generator=g) * 0.6 + 0.2  # many reach over the edge
    raw = RawOutput(torch.randn(2, 30, 4, generator=g), torch.randn(2, 30, 4, generator=g) * 2)
    caps = {"clip": clip, "candidates": candidates, "keep_per_class": keep_per_class, "best_class": best_class}
    found = to_detections(raw, priors, 0.02, nms_iou, 20, keep, **caps)
    for (boxes, scores, labels), want in zip(
        found, slow_detections(raw, priors, 0.02, nms_iou, 20, keep, **caps), strict=True
    ):
        assert labels.tolist() == [c for _, c, _ in want]
        assert scores.tolist() == pytest.approx([s for s, _, _ in want], abs=1e-6)
        if want:
            torch.testing.assert_close(boxes, torch.stack([b for _, _, b in want]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("candidates", "keep_per_class"), [(700, None), (None, 30), (900, 25)])
def test_caps_hold_over_several_blocks(candidates: int | None, keep_per_class: int | None) -> None:
    """More than one block of 400 before and after the cap."""
    g = torch.Generator().manual_seed(2)
    count = 600
    priors = torch.cat([torch.rand(count, 2, generator=g), torch.full((count, 2), 0.1)], dim=1)
    raw = RawOutput(torch.zeros(1, count, 4), torch.randn(1, count, 4, generator=g))
    caps = {"candidates": candidates, "keep_per_class": keep_per_class}
    (found,) = to_detections(raw, priors, 0.01, 0.3, count, count, **caps)
    (want,) = slow_detections(raw, priors, 0.01, 0.3, count, count, **caps)
    assert found.labels.tolist() == [c for _, c, _ in want]
    assert found.scores.tolist() == pytest.approx([s for s, _, _ in want], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options", [(0.01, 0.45, 400, 200), (0.2, 0.3, 5, 7), (0.01, 0.6, 10, 1000), (0.9, 0.45, 400, 200)]
)
def test_agrees_with_the_slow_loop(seed: int, options: tuple) -> None:
    g = torch.Generator().manual_seed(seed)
    priors = torch.rand(60, 4, generator=g) * 0.5 + 0.2
    raw = RawOutput(torch.randn(3, 60, 4, generator=g), torch.randn(3, 60, 4, generator=g) * 2)
    score_min, nms_iou, per_class, keep = options
    found = to_detections(raw, priors, score_min, nms_iou, per_class, keep)
    for (boxes, scores, labels), want in zip(found, slow_detections(raw, priors, *options), strict=True):
        assert labels.tolist() == [c for _, c, _ in want]
        assert scores.tolist() == pytest.approx([s for s, _, _ in want], abs=1e-6)
        if want:
            torch.testing.assert_close(boxes, torch.stack([b for _, _, b in want]), atol=1e-6, rtol=1e-5)


def test_many_candidates_over_several_blocks_are_still_greedy() -> None:
    """More than one block of 400, with long chains of overlapping boxes."""
    g = torch.Generator().manual_seed(0)
    count = 1500
    priors = torch.cat(
        [torch.linspace(0.05, 0.95, count)[:, None], torch.full((count, 1), 0.5), torch.full((count, 2), 0.1)], dim=1
    )
    raw = RawOutput(torch.zeros(2, count, 4), torch.randn(2, count, 2, generator=g))
    found = to_detections(raw, priors, score_min=0.01, nms_iou=0.9, per_class=count, keep=count)
    for (_, scores, labels), want in zip(found, slow_detections(raw, priors, 0.01, 0.9, count, count), strict=True):
        assert len(labels) == len(want) > 50
        assert scores.tolist() == pytest.approx([s for s, _, _ in want], abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 5))
def test_results_are_sorted_over_the_limit_and_apart(seed: int, count: int, classes: int) -> None:
    g = torch.Generator().manual_seed(seed)
    priors = torch.rand(count, 4, generator=g) * 0.5 + 0.1
    raw = RawOutput(torch.randn(2, count, 4, generator=g), torch.randn(2, count, classes + 1, generator=g) * 3)
    for boxes, scores, labels in to_detections(raw, priors, score_min=0.05, keep=50):
        assert len(scores) <= 50
        assert (scores > 0.05).all()
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        clash = (iou(boxes, boxes) > 0.45) & (labels[:, None] == labels)
        assert torch.equal(clash, clash & torch.eye(len(boxes), dtype=torch.bool))


def test_a_batch_is_its_images_one_by_one() -> None:
    g = torch.Generator().manual_seed(4)
    priors = make_priors(PRIORS["ssdlite320"])
    logits = torch.randn(3, 3234, 5, generator=g)
    logits[1, :, 0] += 20  # nothing to find in the second image
    raw = RawOutput(torch.randn(3, 3234, 4, generator=g), logits)
    together = to_detections(raw, priors)
    assert len(together[1].scores) == 0
    for i, found in enumerate(together):
        alone = to_detections(RawOutput(raw.offsets[i : i + 1], raw.logits[i : i + 1]), priors)[0]
        for a, b in zip(found, alone, strict=True):
            assert torch.equal(a, b)


def test_nothing_found_gives_empty_arrays_of_the_right_shape() -> None:
    logits = torch.zeros(2, 10, 3)
    logits[..., 0] = 30
    for boxes, scores, labels in to_detections(RawOutput(torch.zeros(2, 10, 4), logits), torch.rand(10, 4)):
        assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


def test_a_broken_network_finds_nothing() -> None:
    raw = RawOutput(torch.zeros(1, 10, 4), torch.full((1, 10, 3), torch.nan))
    assert len(to_detections(raw, torch.rand(10, 4))[0].scores) == 0
