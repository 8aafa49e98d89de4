"""Matching against the results of the public implementations, the rules as slow loops, and properties."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from singleshot.boxes import decode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.matching import IGNORED_FROM, RULES, Candidates, Rule, assign, bipartite, match
from singleshot.priors import PRIORS, make_priors, sized_for
from singleshot.records import RawOutput, Targets


def seen(overlaps: torch.Tensor) -> Candidates:
    """Overlaps [B, G, P] alone, for the rules that look at nothing else."""
    objects, priors = overlaps.shape[1:]
    return Candidates(overlaps, torch.zeros(len(overlaps), objects, 4), torch.zeros(priors, 4))


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


def golden_priors(name: str, golden) -> torch.Tensor:
    """A table by name, the dyadic grid, or amdegroot's VOC table with or without its clip."""
    if name in PRIORS:
        return make_priors(PRIORS[name])
    if name == "dyadic":
        return torch.tensor(np.load(golden / "matching_inputs.npz")["dyadic_priors_cxcywh"])
    return torch.tensor(np.load(golden / "priors_amdegroot.npz")[name])


def golden_cases(golden, file: str, prefix: str):
    """(boxes, 0-based labels, {prior: label}, {prior: offsets}) of every case; `prefix` names a group of the file."""
    inputs, peer = np.load(golden / "matching_inputs.npz"), np.load(golden / f"match_{file}.npz")
    gt = "dyadic_" if prefix == "dyadic_" else ""
    starts = peer[f"{prefix}case_ptr"]
    index, label, loc = (peer[f"{prefix}pos_{k}"] for k in ("idx", "label", "loc"))
    for case, (start, end) in enumerate(itertools.pairwise(inputs[f"{gt}gt_ptr"])):
        rows = slice(starts[case], starts[case + 1])
        yield (
            torch.tensor(inputs[f"{gt}gt_boxes"][start:end], dtype=torch.float32),
            torch.tensor(inputs[f"{gt}gt_labels"][start:end]).long() - 1,
            dict(zip(index[rows].tolist(), label[rows].tolist(), strict=True)),
            dict(zip(index[rows].tolist(), loc[rows], strict=True)),
        )


def assert_as_golden(targets: Targets, overlaps: torch.Tensor, labels: dict, offsets: dict) -> None:
    found = {p: int(targets.labels[p]) for p in torch.nonzero(targets.labels > 0)[:, 0].tolist()}
    ours, theirs = set(found) - set(labels), set(labels) - set(found)
    # Rounding decides which of tied priors is the best, and whether an IoU of one half is that: nothing else may.
    edge = {p for p in ours | theirs if abs(float(overlaps[:, p].max()) - 0.5) < 1e-6}
    for p, q in zip(sorted(ours - edge), sorted(theirs - edge), strict=True):
        row = int(overlaps[:, p].argmax())
        assert float(overlaps[row, p]) == pytest.approx(float(overlaps[row, q]), abs=1e-6)
    both = sorted(set(found) & set(labels))
    assert both or not labels
    assert [found[p] for p in both] == [labels[p] for p in both]
    if both:
        np.testing.assert_allclose(targets.offsets[both], np.stack([offsets[p] for p in both]), atol=1e-5, rtol=1e-5)


# file, group, priors, rule, keywords
GOLDEN = [
    ("caffe", "voc300clip_", "voc300_clip", "caffe", {}),
    ("caffe", "voc300noclip_", "voc300_noclip", "caffe", {}),
    ("caffe", "dyadic_", "dyadic", "caffe", {}),
    ("ssd_keras", "voc300_bipartite_", "voc300_noclip", "bipartite", {}),
    ("ssd_keras", "voc300_neg0.5_", "voc300_noclip", "caffe", {"ignore_from": 0.5}),
    ("ssd_keras", "voc300_neg0.3_", "voc300_noclip", "caffe", {"ignore_from": 0.3}),
    ("amdegroot", "voc300clip_", "voc300_clip", "forced", {}),
    ("amdegroot", "dyadic_", "dyadic", "forced", {}),
    ("lufficc", "voc300clip_", "voc300_clip", "forced", {"iou_epsilon": 1e-5}),
    ("lufficc", "dyadic_", "dyadic", "forced", {"iou_epsilon": 1e-5}),
    ("qfgaohao", "voc300clip_", "voc300_clip", "forced", {"iou_epsilon": 1e-5}),
    ("qfgaohao", "dyadic_", "dyadic", "forced", {"iou_epsilon": 1e-5}),
    ("nvidia", "voc300clip_", "voc300_clip", "forced", {"inclusive": False}),
    ("nvidia", "ownanchors_", "ssd300-nvidia", "forced", {"inclusive": False}),
    ("nvidia", "dyadic_", "dyadic", "forced", {"inclusive": False}),
    ("torchvision", "voc300clip_", "voc300_clip", "index", {}),
    ("torchvision", "ownanchors_", "ssd300-torchvision", "index", {}),
    ("torchvision", "dyadic_", "dyadic", "index", {}),
    ("mmdet_voc300noclip", "voc300_", "voc300_noclip", "index", {}),
    ("mmdet_coco300noclip", "coco300_", "ssd300-coco-mmdet", "index", {}),
    ("balancap", "voc300noclip_", "voc300_noclip", "threshold", {}),
    ("balancap", "ownanchors_", "ssd300-balancap", "threshold", {}),
    ("balancap", "dyadic_", "dyadic", "threshold", {}),
    ("bubbliiiing", "voc300clip_", "voc300_clip", "fallback", {}),
    ("bubbliiiing", "ownanchors_", "ssd300-voc-bubbliiiing", "fallback", {}),
    ("bubbliiiing", "dyadic_", "dyadic", "fallback", {}),
]


@pytest.mark.parametrize(("file", "prefix", "table", "rule", "keywords"), GOLDEN)
def test_agrees_with(file: str, prefix: str, table: str, rule: str, keywords: dict, golden) -> None:
    priors = golden_priors(table, golden)
    for boxes, labels, want, offsets in golden_cases(golden, file, prefix):
        targets = match(priors, boxes, labels, 0.5, rule, **keywords)
        assert_as_golden(targets, iou(boxes, to_corners(priors)), want, offsets)


def test_dyadic_boxes_of_ssd_keras_but_for_an_object_without_a_prior(golden) -> None:
    # Of two identical boxes on one prior the second overlaps no other; ssd_keras then takes the argmax of zeros, prior
    # 0, where Caffe gives it none.
    priors = golden_priors("dyadic", golden)
    for case, (boxes, labels, want, offsets) in enumerate(golden_cases(golden, "ssd_keras", "dyadic_")):
        if case == 1:
            assert want.pop(0) == 1
        assert_as_golden(match(priors, boxes, labels), iou(boxes, to_corners(priors)), want, offsets)


@pytest.mark.parametrize("limit", ["0.5", "0.3"])
def test_neutral_zone_of_ssd_keras(limit: str, golden) -> None:
    peer, priors = np.load(golden / "match_ssd_keras.npz"), golden_priors("voc300_noclip", golden)
    pointers = peer[f"voc300_neg{limit}_neutral_ptr"]
    neutral = peer["voc300_neg0.3_neutral_idx"] if limit == "0.3" else np.zeros(0, np.int64)  # no prior, no array
    assert pointers[-1] == len(neutral)
    total = 0
    for case, (boxes, labels, _, _) in enumerate(golden_cases(golden, "ssd_keras", f"voc300_neg{limit}_")):
        found = match(priors, boxes, labels, ignore_from=float(limit)).labels == -1
        want = torch.zeros(len(priors), dtype=torch.bool)
        want[neutral[pointers[case] : pointers[case + 1]]] = True
        different = torch.nonzero(found != want)[:, 0]
        best = iou(boxes, to_corners(priors)).amax(0) if len(boxes) else torch.zeros(len(priors))
        # At the limit itself rounding decides, and a tied prior may be the matched one.
        assert all(
            abs(float(best[p]) - float(limit)) < 1e-6 or best[p] == pytest.approx(0.3906249, abs=1e-6)
            for p in different.tolist()
        )
        total += int(found.sum())
    assert total == pytest.approx(len(neutral), abs=10)


def integer_grid(cxcywh: np.ndarray) -> np.ndarray:
    """xmin, xmax, ymin, ymax on ljanyst's grid of 1000 x 1000 (its utils.py, prop2abs)."""
    cx, cy, w, h = np.asarray(cxcywh, np.float64).T * 1000
    return np.trunc(np.stack([cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2], 1))


def inclusive_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ljanyst's IoU, where pixels have a width: 1 is added to every side."""
    width = np.maximum(0, np.minimum(a[:, None, 1], b[:, 1]) - np.maximum(a[:, None, 0], b[:, 0]) + 1)
    height = np.maximum(0, np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 2], b[:, 2]) + 1)
    area_a, area_b = ((x[:, 1] - x[:, 0] + 1) * (x[:, 3] - x[:, 2] + 1) for x in (a, b))
    return width * height / (area_a[:, None] + area_b - width * height)


@pytest.mark.parametrize("rule", ["threshold", "threshold-best"])
@pytest.mark.parametrize(
    ("prefix", "table"), [("ownanchors_", "ssd300-ljanyst"), ("voc300clip_", "voc300_clip"), ("dyadic_", "dyadic")]
)
def test_assignment_of_ljanyst_from_its_own_overlaps(prefix: str, table: str, rule: str, golden) -> None:
    grid = integer_grid(golden_priors(table, golden).numpy())
    if prefix == "ownanchors_":
        grid = np.load(golden / "priors_ljanyst.npz")["vgg300_int1000_xminxmaxyminymax"].astype(np.float64)
    compared = differ = 0
    for boxes, labels, want, _ in golden_cases(golden, "ljanyst", prefix):
        if len(boxes) == 0:
            assert not want
            continue
        low, high = boxes.double()[:, :2], boxes.double()[:, 2:]
        own = integer_grid(torch.cat([(low + high) / 2, high - low], 1).numpy())
        overlaps = inclusive_overlaps(own, grid)
        owner = assign(seen(torch.tensor(overlaps, dtype=torch.float32)[None]), 0.5, rule)[0].numpy()
        found = {int(p): int(labels[owner[p]]) + 1 for p in np.flatnonzero(owner >= 0)}
        for p in set(found) ^ set(want):  # the stored float32 boxes fall on the other side of a whole number
            assert abs(overlaps[:, p].max() - 0.5) < 0.005
        assert all(found[p] == want[p] for p in set(found) & set(want))
        compared, differ = compared + len(want), differ + len(set(found) ^ set(want))
    assert differ <= compared / 200


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
    boxes = torch.tensor(
        [
            [0.0, 0.0, pixel, pixel],
            [1 - pixel, 1 - pixel, 1.0, 1.0],
            [0.0, 0.4, 0.05, 0.6],
            [0.0, 0.0, 1.0, 1.0],
            [0.5, 0.5, 0.5 + pixel, 0.5 + pixel],
        ]
    )
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


def literal(rule: str, table: np.ndarray, iou_min: float, inclusive: bool) -> list[int]:
    """The rules as their sources write them: one object after the other."""
    objects, priors = table.shape
    owner = [-1] * priors

    def fits(value: float) -> bool:
        return value >= iou_min if inclusive else value > iou_min

    if rule in ("forced", "index"):
        for p in range(priors):
            if objects and fits(table[:, p].max()):
                owner[p] = int(table[:, p].argmax())
        for g in range(objects):
            owner[int(table[g].argmax())] = g
    elif rule in ("threshold", "threshold-best"):
        score = [0.0] * priors
        for g in range(objects):
            for p in range(priors):
                if table[g, p] > score[p] and fits(table[g, p]):
                    owner[p], score[p] = g, table[g, p]
        score = [0.0] * priors
        for g in range(objects) if rule == "threshold-best" else ():
            p = int(table[g].argmax())
            if fits(table[g, p]) and table[g, p] > score[p]:
                owner[p], score[p] = g, table[g, p]
    elif rule == "fallback":
        kept = np.zeros_like(table)
        for g in range(objects):
            chosen = [p for p in range(priors) if fits(table[g, p])] or [int(table[g].argmax())]
            kept[g, chosen] = table[g, chosen]
        for p in range(priors):
            if objects and kept[:, p].max() > 0:
                owner[p] = int(kept[:, p].argmax())
    else:
        raise AssertionError(rule)
    return owner


LOOPED = ["forced", "index", "threshold", "threshold-best", "fallback"]


@pytest.mark.parametrize("rule", LOOPED)
@settings(max_examples=100)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 8), st.booleans(), st.integers(0, 3), st.randoms())
def test_every_rule_is_its_loop_even_with_ties(
    rule: str, objects: int, priors: int, levels: int, inclusive: bool, padding: int, random
) -> None:
    # Few distinct values: rows and columns tie, and many are the threshold exactly.
    values = [[random.randint(0, levels) / 8 for _ in range(priors)] for _ in range(objects)]
    table = np.array(values, np.float32).reshape(objects, priors)
    padded = np.concatenate([table, np.full((padding, priors), -1, np.float32)])
    batch = torch.tensor(np.stack([padded, np.full_like(padded, -1)]))
    found = assign(seen(batch), 0.5, rule, inclusive)
    assert found[0].tolist() == literal(rule, table, 0.5, inclusive)
    assert found[1].tolist() == [-1] * priors  # an image without objects


@pytest.mark.parametrize("rule", LOOPED)
@pytest.mark.parametrize("count", [1, 6, 40])
def test_every_rule_is_its_loop_on_boxes(rule: str, count: int) -> None:
    priors = make_priors(PRIORS["ssd300-mobilenetv2"])
    for seed in range(3):
        boxes, labels = random_objects(seed, count), torch.arange(count) % 5
        overlaps = iou(boxes, to_corners(priors)).numpy()
        owner = literal(rule, overlaps, 0.45, RULES[rule].inclusive)
        want = [0 if g < 0 else g % 5 + 1 for g in owner]
        assert match(priors, boxes, labels, 0.45, rule).labels.tolist() == want


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_takes_a_batch_padding_and_no_objects(rule: str) -> None:
    priors, counts = make_priors(PRIORS["ssd300-tf"]), [0, 1, 8, 3]
    boxes, labels = torch.full((4, 8, 4), 0.7), torch.full((4, 8), -1)
    boxes[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])  # what a padding row holds must not matter
    for i, n in enumerate(counts):
        boxes[i, :n], labels[i, :n] = random_objects(i, n), torch.arange(n) % 3
    raw = RawOutput(torch.randn(4, len(priors), 4), torch.randn(4, len(priors), 4))
    spec = PRIORS["ssd300-tf"]
    together = match(priors, boxes, labels, 0.5, rule, ignore_from=0.4, spec=spec, raw=raw)
    assert together.labels[0].abs().sum() == 0
    for i, n in enumerate(counts):
        own = RawOutput(raw.offsets[i], raw.logits[i])
        alone = match(priors, boxes[i, :n], labels[i, :n], 0.5, rule, ignore_from=0.4, spec=spec, raw=own)
        assert torch.equal(together.labels[i], alone.labels)
        torch.testing.assert_close(together.offsets[i], alone.offsets)
    assert (together.labels == -1).any()
    assert together.offsets[together.labels <= 0].abs().sum() == 0


@pytest.mark.parametrize("rule", list(RULES))
def test_no_rule_asks_an_accelerator_for_a_value(rule: str) -> None:
    # Tensors without data: asking for a value, or a shape that depends on one, raises.
    with FakeTensorMode():
        spec = sized_for([3, 1], 96)
        priors, boxes = torch.empty(60, 4, device="cuda"), torch.empty(3, 7, 4, device="cuda")
        labels = torch.empty(3, 7, dtype=torch.long, device="cuda")
        raw = RawOutput(torch.empty(3, 60, 4, device="cuda"), torch.empty(3, 60, 6, device="cuda"))
        regions = torch.empty(3, 5, 4, device="cuda")
        targets = match(priors, boxes, labels, 0.5, rule, ignore_from=0.4, spec=spec, raw=raw, ignored=regions)
        assert targets.labels.shape == (3, 60)
        assert targets.offsets.shape == (3, 60, 4)


def test_two_weak_objects_with_one_best_prior_under_every_rule() -> None:
    # Both inside prior 0 with an IoU of .36 and .25, .04 and .028 with prior 1.
    priors = torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]])
    boxes = to_corners(torch.tensor([[0.5, 0.5, 0.18, 0.18], [0.5, 0.5, 0.15, 0.15]]))
    want = {
        "caffe": [5, 8],
        "bipartite": [5, 8],
        "forced": [8, 0],
        "index": [8, 0],
        "fallback": [5, 0],
        "threshold": [0, 0],
        "threshold-best": [0, 0],
    }
    assert set(want) == set(RULES) - {"atss", "task-aligned", "simota"}  # which see more than the overlaps
    for rule, labels in want.items():
        assert match(priors, boxes, torch.tensor([4, 7]), rule=rule).labels.tolist() == labels, rule


def test_a_threshold_is_reached_or_passed_as_the_sources_have_it() -> None:
    priors, box = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    for rule in ("caffe", "forced", "index"):  # one is forced, the other reaches one half
        assert match(priors, box, torch.tensor([0]), rule=rule).labels.tolist() == [1, 1]
        assert match(priors, box, torch.tensor([0]), rule=rule, inclusive=False).labels.tolist() == [1, 0]
    for rule, strict in (("threshold", [0, 0]), ("threshold-best", [0, 0]), ("fallback", [1, 0])):
        assert match(priors, box, torch.tensor([0]), rule=rule).labels.tolist() == strict
        assert match(priors, box, torch.tensor([0]), rule=rule, inclusive=True).labels.tolist() == [1, 1]


def test_an_objects_best_prior_may_fit_another_object_better() -> None:
    # Prior 0 fits object 1 better, but is the best of object 0.
    table = torch.tensor([[[0.6, 0.1], [0.7, 0.9]]])
    assert assign(seen(table), 0.5, "threshold").tolist() == [[1, 1]]
    assert assign(seen(table), 0.5, "threshold-best").tolist() == [[0, 1]]
    assert assign(seen(table), 0.5, "forced").tolist() == [[0, 1]]


def test_ignored_priors_are_those_between_the_limits() -> None:
    priors = make_priors(PRIORS["ssdlite320"])
    boxes, labels = random_objects(2, 12), torch.arange(12) % 4
    plain, with_zone = match(priors, boxes, labels), match(priors, boxes, labels, ignore_from=0.3)
    best = iou(boxes, to_corners(priors)).amax(0)
    zone = (plain.labels == 0) & (best >= 0.3)
    assert zone.any()
    assert torch.equal(with_zone.labels == -1, zone)
    assert torch.equal(with_zone.labels[~zone], plain.labels[~zone])
    assert torch.equal(with_zone.offsets, plain.offsets)


def slow_ignored(priors: torch.Tensor, regions: torch.Tensor) -> list[bool]:
    """Whether half of a prior, of what there is of it in the input, lies in one region."""
    found = []
    for cx, cy, w, h in priors.tolist():
        x0, y0, x1, y1 = max(cx - w / 2, 0), max(cy - h / 2, 0), min(cx + w / 2, 1), min(cy + h / 2, 1)
        most = 0.0
        for a, b, c, d in regions.tolist():
            inside = max(0.0, min(x1, c) - max(x0, a)) * max(0.0, min(y1, d) - max(y0, b))
            most = max(most, inside / ((x1 - x0) * (y1 - y0)))
        found.append(most >= IGNORED_FROM)
    return found


@pytest.mark.parametrize("rule", list(RULES))
def test_unmatched_priors_in_a_region_are_ignored_by_every_rule(rule: str) -> None:
    spec = PRIORS["ssd300-tf"]
    priors, count = make_priors(spec), 6
    boxes, labels = torch.stack([random_objects(seed, count) for seed in range(4)]), torch.arange(count) % 3
    labels = labels.repeat(4, 1)
    labels[3] = -1  # an image with a region alone
    corners = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)).sort(dim=2).values.flatten(2)
    regions = torch.cat([corners, torch.zeros(4, 2, 4)], dim=1)
    regions[1] = 0.0  # and one without
    raw = RawOutput(torch.randn(4, len(priors), 4), torch.randn(4, len(priors), 4))
    plain = match(priors, boxes, labels, 0.5, rule, spec=spec, raw=raw)
    found = match(priors, boxes, labels, 0.5, rule, spec=spec, raw=raw, ignored=regions)
    assert torch.equal(found.offsets, plain.offsets)
    for i in range(4):
        want = [
            -1 if label == 0 and in_region else label
            for label, in_region in zip(plain.labels[i].tolist(), slow_ignored(priors, regions[i]), strict=True)
        ]
        assert found.labels[i].tolist() == want
        own = RawOutput(raw.offsets[i], raw.logits[i])
        alone = match(priors, boxes[i], labels[i], 0.5, rule, spec=spec, raw=own, ignored=regions[i])
        assert alone.labels.tolist() == want
    assert torch.equal(found.labels[1], plain.labels[1])
    matched = [int((plain.labels[i] > 0).sum()) for i in range(3)]
    kept = [int((found.labels[i] > 0).sum()) for i in range(3)]
    assert matched == kept and min(matched) > 0
    assert (found.labels[3] == -1).any()
    none = match(priors, boxes, labels, 0.5, rule, spec=spec, raw=raw, ignored=regions[:, :0])
    assert torch.equal(none.labels, plain.labels)


def test_half_of_a_prior_in_one_region_is_enough_and_of_one_at_the_border_half_of_what_is_there() -> None:
    priors = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.75, 0.5, 0.5, 0.25]])
    no_object = torch.zeros(1, 4), torch.tensor([-1])

    def found(*regions: list[float]) -> list[int]:
        return match(priors, *no_object, ignored=torch.tensor(regions)).labels.tolist()

    assert found([0.25, 0.25, 0.5, 0.75]) == [-1, 0, 0]
    assert found([0.25, 0.25, 0.484375, 0.75], [0.515625, 0.25, 0.75, 0.75]) == [0, 0, 0]  # two of 47 % each
    assert found([0.0, 0.0, 1.0, 1.0]) == [-1, -1, -1]
    assert found([0.0, 0.0, 0.25, 0.125]) == [0, -1, 0]
    assert found([0.0, 0.0, 0.25, 0.09375]) == [0, 0, 0]


@pytest.mark.parametrize("form", ["center", "corners", "corner-size"])
def test_offsets_of_every_form_lead_back_to_the_objects(form: str) -> None:
    priors = make_priors(PRIORS["ssdlite320"])
    boxes = random_objects(4, 20)
    for switch in (False, True):
        targets = match(priors, boxes, torch.arange(20), form=form, variance_encoded_in_target=switch)
        matched = targets.labels > 0
        decoded = decode(targets.offsets[matched], priors[matched], form=form, variance_encoded_in_target=switch)
        torch.testing.assert_close(decoded, boxes[targets.labels[matched] - 1], atol=1e-5, rtol=1e-4)
        assert targets.offsets[~matched].abs().sum() == 0


def test_unknown_rule_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="want one of caffe"):
        match(torch.rand(4, 4), torch.rand(1, 4), torch.tensor([0]), rule="guess")


def nearest_of_each_map(candidates: Candidates, iou_min: float, inclusive: bool) -> torch.Tensor:
    """A rule of one's own: each object takes the prior of every map whose centre is nearest, objects listed later
    first; what it needs is in none of the overlaps."""
    corners = candidates.boxes
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    real = candidates.overlaps.amax(dim=2) >= 0
    owner = torch.full((len(corners), len(candidates.priors_cxcywh)), -1)
    start = 0
    for count in candidates.per_map:
        own = candidates.priors_cxcywh[start : start + count, :2]
        nearest = start + (centres.unsqueeze(2) - own).square().sum(dim=-1).argmin(dim=2)
        for b, g in torch.nonzero(real).tolist():
            owner[b, nearest[b, g]] = g
        start += count
    return owner


def test_a_rule_of_ones_own_sees_boxes_priors_and_the_sizes_of_the_maps() -> None:
    spec = sized_for([(6, 12), (3, 6), (2, 3), 1], (96, 192))
    priors = make_priors(spec)
    boxes = torch.stack([random_objects(5, 3), random_objects(6, 3)])
    labels = torch.tensor([[0, 1, 2], [3, 4, -1]])
    rule = Rule(nearest_of_each_map, inclusive=True)
    targets = match(priors, boxes, labels, rule=rule, per_map=spec.per_map)
    want = torch.zeros(2, len(priors), dtype=torch.long)
    for b, g in itertools.product(range(2), range(3)):
        if labels[b, g] < 0:
            continue
        x, y = ((boxes[b, g, :2] + boxes[b, g, 2:]) / 2).tolist()
        start = 0
        for (rows, columns), cell in zip(spec.grids, spec.per_cell, strict=True):
            row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
            at = start + (row * columns + column) * cell  # all priors of a cell have its centre: the first is nearest
            want[b, at] = labels[b, g] + 1
            start += rows * columns * cell
    assert torch.equal(targets.labels, want)
    with pytest.raises(ConfigError, match="want one of caffe"):
        match(priors, boxes, labels, rule="nearest")
