"""Detections against the public implementations, a literal NMS, and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.boxes import decode, iou
from singleshot.postprocess import to_detections
from singleshot.priors import PRIORS, make_priors
from singleshot.records import RawOutput


def compare(found, want, scale: float = 1.0) -> None:
    """Same boxes in the order of the golden files: score, class, left edge."""
    for i, image in enumerate(found):
        rows = slice(want["ptr"][i], want["ptr"][i + 1])
        boxes, scores, labels = (values.numpy() for values in image)
        labels = labels + 1
        order = np.lexsort((boxes[:, 0], labels, -scores))
        assert len(scores) == rows.stop - rows.start
        np.testing.assert_allclose(scores[order], want["scores"][rows], atol=1e-5)
        assert labels[order].tolist() == want["labels"][rows].tolist()
        np.testing.assert_allclose(boxes[order], want["boxes"][rows] / scale, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "scale", "options", "sets"),
    [
        ("caffe_voc300clip", 1, {}, ["dense"]),
        ("caffe_voc300noclip", 1, {}, ["dense"]),
        ("amdegroot", 1, {"per_class": 200, "keep": 10**6}, ["dense", "sparse"]),
        ("qfgaohao", 300, {"per_class": 200, "keep": 10**6}, ["dense", "sparse"]),
        ("nvidia", 1, {"score_min": 0.05, "per_class": 200}, ["dense", "sparse"]),
        ("ssd_keras_voc300clip", 300, {"per_class": 8732}, ["dense", "sparse"]),
        ("lufficc", 300, {"per_class": 8732, "keep": 100}, ["dense", "sparse"]),
        (
            "ssd_keras_fast_voc300clip",
            300,
            {"class_agnostic": True, "score_min": 0.5, "keep": 10**6},
            ["dense", "sparse"],
        ),
        ("ssd_keras_fast_conf0.01_top200_voc300clip", 300, {"class_agnostic": True}, ["dense", "sparse"]),
    ],
)
def test_agrees_with(file: str, scale: float, options: dict, sets: list[str], golden, golden_inputs) -> None:
    table = "voc300_noclip" if file.endswith("_voc300noclip") else "voc300_clip"
    priors = torch.tensor(np.load(golden / "priors_amdegroot.npz")[table])
    for name in sets:
        conf, loc = golden_inputs.post_inputs() if name == "dense" else golden_inputs.post_inputs_B()
        want = np.load(golden / f"post{'' if name == 'dense' else 'B'}_{file}.npz")
        compare(to_detections(RawOutput(torch.tensor(loc), torch.tensor(conf)), priors, **options), want, scale)


def slow_detections(raw, priors, score_min, nms_iou, per_class, keep):
    """Caffe's rule, one box at a time: (score, class, box) best first."""
    result = []
    for b in range(len(raw.logits)):
        scores = raw.logits[b].softmax(-1)
        boxes = decode(raw.offsets[b], priors)
        kept = []
        for c in range(1, scores.shape[1]):
            candidates = [(scores[p, c].item(), p) for p in range(len(priors)) if scores[p, c] > score_min]
            candidates.sort(key=lambda pair: -pair[0])
            chosen: list[int] = []
            for score, p in candidates[:per_class]:
                if all(iou(boxes[p : p + 1], boxes[q : q + 1]).item() <= nms_iou for q in chosen):
                    chosen.append(p)
                    kept.append((score, c - 1, boxes[p]))
        kept.sort(key=lambda row: -row[0])
        result.append(kept[:keep])
    return result


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
    priors = torch.cat([torch.linspace(0.05, 0.95, count)[:, None], torch.full((count, 1), 0.5),
                        torch.full((count, 2), 0.1)], dim=1)  # fmt: skip
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
