"""Matching against Caffe's own results, a slow greedy loop, and properties."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.boxes import decode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.matching import bipartite, match
from singleshot.priors import PRIORS, make_priors


def greedy(overlaps: np.ndarray) -> list[int]:
    """The literal rule: the best pair left, again and again; on ties the first prior, then the first object."""
    left, claim = overlaps.copy(), [-1] * len(overlaps)
    while left.size and left.max() > 1e-6:
        best = left.max()
        prior = int(np.flatnonzero((left == best).any(axis=0))[0])
        row = int(np.flatnonzero(left[:, prior] == best)[0])
        claim[row] = prior
        left[row, :], left[:, prior] = -1, -1
    return claim


def slow_match(priors: torch.Tensor, boxes: torch.Tensor, labels: list[int]) -> list[int]:
    """Class + 1 of every prior, by loops."""
    overlaps = iou(boxes, to_corners(priors)).numpy()
    result = [0] * len(priors)
    for p in range(len(priors)):
        if len(boxes) and overlaps[:, p].max() >= 0.5:
            result[p] = labels[int(overlaps[:, p].argmax())] + 1
    for row, p in enumerate(greedy(overlaps)):
        if p >= 0:
            result[p] = labels[row] + 1
    return result


def assert_as_golden(priors: torch.Tensor, inputs, prefix: str, golden_set, gt: str) -> None:
    ptr, boxes, labels = (inputs[f"{gt}{k}"] for k in ("gt_ptr", "gt_boxes", "gt_labels"))
    starts = golden_set[f"{prefix}case_ptr"]
    for case in range(len(ptr) - 1):
        mine = slice(ptr[case], ptr[case + 1])
        rows = slice(starts[case], starts[case + 1])
        own = torch.tensor(boxes[mine], dtype=torch.float32)
        targets = match(priors, own, torch.tensor(labels[mine]) - 1)
        order = np.argsort(golden_set[f"{prefix}pos_idx"][rows])
        index = golden_set[f"{prefix}pos_idx"][rows][order]
        found = torch.nonzero(targets.labels > 0)[:, 0].numpy()
        if found.tolist() != index.tolist():
            # Only a prior that ties (to rounding) with another for the same object may differ.
            overlaps = iou(own, to_corners(priors)).numpy()
            for a, b in zip(sorted(set(found) - set(index)), sorted(set(index) - set(found)), strict=True):
                row = int(overlaps[:, a].argmax())
                assert overlaps[row, a] == pytest.approx(overlaps[row, b], abs=1e-6)
        same = np.isin(index, found)
        assert targets.labels[index[same]].tolist() == golden_set[f"{prefix}pos_label"][rows][order][same].tolist()
        want = golden_set[f"{prefix}pos_loc"][rows][order][same]
        np.testing.assert_allclose(targets.offsets[index[same]], want, atol=1e-5)


@pytest.mark.parametrize(
    ("prefix", "table"), [("voc300clip_", "voc300_clip"), ("voc300noclip_", "voc300_noclip"), ("dyadic_", None)]
)
def test_agrees_with_caffe(prefix: str, table: str | None, golden) -> None:
    inputs, caffe = np.load(golden / "matching_inputs.npz"), np.load(golden / "match_caffe.npz")
    if table is None:
        priors = torch.tensor(inputs["dyadic_priors_cxcywh"], dtype=torch.float32)
    else:
        priors = torch.tensor(np.load(golden / "priors_amdegroot.npz")[table])
    assert_as_golden(priors, inputs, prefix, caffe, "dyadic_" if table is None else "")


def random_objects(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator)
    size = torch.rand(count, 2, generator=generator) ** 2 * 0.6 + 1 / 300
    return to_corners(torch.cat([centre, size], -1)).clamp(0, 1)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_slow_loop(seed: int, count: int) -> None:
    priors = make_priors(PRIORS["ssdlite320"])
    boxes, labels = random_objects(seed, count), [i % 5 for i in range(count)]
    assert match(priors, boxes, torch.tensor(labels)).labels.tolist() == slow_match(priors, boxes, labels)


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.randoms())
def test_bipartite_is_greedy_even_with_ties(objects: int, priors: int, levels: int, random) -> None:
    # Few distinct values, so that rows and columns tie all the time.
    table = np.array([[random.randint(0, levels) / 4 for _ in range(priors)] for _ in range(objects)], np.float32)
    ours = bipartite(torch.tensor(table)[None])[0].tolist()
    # With ties between objects several pairings are greedy; ours must be one: check it round by round.
    left = table.copy()
    pairs = {(g, p) for g, p in enumerate(ours) if p >= 0}
    while left.max(initial=0) > 1e-6:
        best = left.max()
        chosen = [(g, p) for g, p in pairs if left[g, p] == best]
        assert chosen, "a best pair was left out"
        g, p = chosen[0]
        pairs.discard((g, p))
        left[g, :], left[:, p] = -1, -1
    assert not pairs, "a pair without overlap was made"


def test_bipartite_with_distinct_values_is_the_greedy_pairing() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        table = generator.permutation(12 * 15).reshape(12, 15).astype(np.float32) / 180
        assert bipartite(torch.tensor(table)[None])[0].tolist() == greedy(table)


def test_a_batch_is_its_images_one_by_one() -> None:
    priors = make_priors(PRIORS["ssdlite320"])
    counts = [0, 1, 8, 3]
    boxes, labels = torch.full((4, 8, 4), 0.7), torch.full((4, 8), -1)
    for i, n in enumerate(counts):
        boxes[i, :n], labels[i, :n] = random_objects(i, n), torch.arange(n) % 3
    together = match(priors, boxes, labels)
    for i, n in enumerate(counts):
        alone = match(priors, boxes[i, :n], labels[i, :n])
        assert torch.equal(together.labels[i], alone.labels)
        torch.testing.assert_close(together.offsets[i], alone.offsets)


def test_order_of_objects_does_not_matter() -> None:
    priors = make_priors(PRIORS["ssd300-mobilenetv2"])
    boxes, labels = random_objects(3, 25), torch.arange(25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    assert torch.equal(match(priors, boxes, labels).labels, match(priors, boxes[order], labels[order]).labels)


def test_images_without_objects_are_all_background() -> None:
    priors = make_priors(PRIORS["ssdlite320"])
    for boxes in (torch.zeros(0, 4), torch.zeros(2, 0, 4), torch.rand(2, 5, 4)):
        labels = torch.full(boxes.shape[:-1], -1)
        targets = match(priors, boxes, labels)
        assert targets.labels.sum() == 0
        assert targets.offsets.abs().sum() == 0


def test_two_objects_with_one_best_prior_both_keep_one() -> None:
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]])
    boxes = to_corners(torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.5, 0.5, 0.38, 0.38]]))
    # The second object fits prior 0 better and takes it; the first moves on to prior 1 (IoU .11).
    assert match(priors, boxes, torch.tensor([4, 7])).labels.tolist() == [8, 5]


def test_tiny_and_border_boxes_keep_a_prior() -> None:
    priors = make_priors(PRIORS["ssd300-voc"])
    pixel = 1 / 300
    boxes = torch.tensor([[0.0, 0.0, pixel, pixel], [1 - pixel, 1 - pixel, 1.0, 1.0], [0.0, 0.4, 0.05, 0.6],
                          [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5 + pixel, 0.5 + pixel]])  # fmt: skip
    targets = match(priors, boxes, torch.arange(5))
    assert set(targets.labels.tolist()) >= {1, 2, 3, 4, 5}
    assert torch.isfinite(targets.offsets).all()


def test_300_objects_in_one_image() -> None:
    priors = make_priors(PRIORS["ssd300-voc"])
    boxes = random_objects(9, 300)
    targets = match(priors, boxes, torch.arange(300))
    assert len(set(targets.labels.tolist()) - {0}) == 300  # every object keeps a prior
    matched = targets.labels > 0
    decoded = decode(targets.offsets[matched], priors[matched])
    torch.testing.assert_close(decoded, boxes[targets.labels[matched] - 1], atol=1e-5, rtol=1e-4)
    assert targets.labels.tolist() == slow_match(priors, boxes, list(range(300)))


def test_iou_of_exactly_one_half_matches() -> None:
    priors = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
    targets = match(priors, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]))
    assert targets.labels.tolist() == [1, 1]


def test_real_ground_truth_all_keep_a_prior(golden) -> None:
    inputs = np.load(golden / "matching_inputs.npz")
    assert len(json.loads((golden / "matching_cases.json").read_text())["cases"]) == 19
    priors, ptr = make_priors(PRIORS["ssd300-voc"]), inputs["gt_ptr"]
    for start, end in itertools.pairwise(ptr):
        boxes = torch.tensor(inputs["gt_boxes"][start:end], dtype=torch.float32)
        targets = match(priors, boxes, torch.arange(end - start))
        assert len(set(targets.labels.tolist()) - {0}) == end - start


def test_unknown_rule_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="want one of caffe"):
        match(torch.rand(4, 4), torch.rand(1, 4), torch.tensor([0]), rule="guess")
