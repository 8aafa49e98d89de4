"""The MultiBox loss against the public implementations, literal loops, and its edges."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.errors import ConfigError
from singleshot.losses import LOSS_RULES, SharedBatch, mined_negatives, multibox_loss
from singleshot.matching import match
from singleshot.records import Losses, RawOutput, Targets


@pytest.mark.parametrize("table", ["voc300clip", "voc300noclip"])
def test_agrees_with_caffe_from_the_boxes_on(table: str, golden, golden_inputs) -> None:
    priors = torch.tensor(np.load(golden / "priors_amdegroot.npz")[table.replace("300", "300_")])
    inputs, want = np.load(golden / "matching_inputs.npz"), np.load(golden / f"loss_caffe_{table}.npz")
    ptr = inputs["gt_ptr"][:5]
    boxes, labels = torch.zeros(4, np.diff(ptr).max(), 4), torch.full((4, np.diff(ptr).max()), -1)
    for i in range(4):
        rows = slice(ptr[i], ptr[i + 1])
        boxes[i, : ptr[i + 1] - ptr[i]] = torch.tensor(inputs["gt_boxes"][rows])
        labels[i, : ptr[i + 1] - ptr[i]] = torch.tensor(inputs["gt_labels"][rows]) - 1
    conf, loc = (torch.tensor(v) for v in golden_inputs.loss_inputs())
    targets = match(priors, boxes, labels)
    losses = multibox_loss(RawOutput(loc, conf), targets)
    assert losses.positives == want["N"]
    assert losses.total.item() == pytest.approx(float(want["loss_total"]), rel=1e-5)


@pytest.fixture(scope="session")
def raw(golden_inputs) -> RawOutput:
    conf, loc = (torch.tensor(v) for v in golden_inputs.loss_inputs())
    return RawOutput(loc, conf)


def their_targets(file, prefix: str, empty: int | None = None) -> Targets:
    """What the implementation's own matching gave for the four images; `empty` is an image without objects."""
    labels, offsets = torch.zeros(4, 8732, dtype=torch.long), torch.zeros(4, 8732, 4)
    ptr, neutral = file[f"{prefix}_case_ptr"], f"{prefix}_neutral_idx"
    for i in range(4):
        if i == empty:
            continue
        rows = slice(ptr[i], ptr[i + 1])
        index = torch.tensor(file[f"{prefix}_pos_idx"][rows])
        labels[i, index] = torch.tensor(file[f"{prefix}_pos_label"][rows])
        offsets[i, index] = torch.tensor(file[f"{prefix}_pos_loc"][rows])
        if neutral in file:
            ends = file[f"{prefix}_neutral_ptr"]
            labels[i, torch.tensor(file[neutral][ends[i] : ends[i + 1]])] = -1
    return Targets(labels, offsets)


GOLDEN = [
    ("caffe", "loss_caffe_voc300clip", "match_caffe", "voc300clip"),
    ("caffe", "loss_caffe_voc300noclip", "match_caffe", "voc300noclip"),
    ("caffe", "loss_amdegroot", "match_amdegroot", "voc300clip"),
    ("caffe", "loss_lufficc", "match_lufficc", "voc300clip"),
    ("caffe", "loss_qfgaohao", "match_qfgaohao", "voc300clip"),
    ("caffe", "loss_torchvision_voc300clip", "match_torchvision", "voc300clip"),
    ("caffe", "loss_torchvision_ownanchors", "match_torchvision", "ownanchors"),
    ("caffe", "loss_mmdet_voc300noclip", "match_mmdet_voc300noclip", "voc300"),
    ("caffe", "loss_mmdet_coco300noclip", "match_mmdet_coco300noclip", "coco300"),
    ("batch", "loss_bubbliiiing_voc300clip", "match_bubbliiiing", "voc300clip"),
    ("batch", "loss_bubbliiiing_ownanchors", "match_bubbliiiing", "ownanchors"),
    ("batch-mean", "loss_ssd_keras_neg0.5", "match_ssd_keras", "voc300_neg0.5"),
    ("batch-mean", "loss_ssd_keras_neg0.3", "match_ssd_keras", "voc300_neg0.3"),
    ("batch-size", "loss_balancap_voc300noclip", "match_balancap", "voc300noclip"),
    ("batch-size", "loss_balancap_ownanchors", "match_balancap", "ownanchors"),
    ("per-image", "loss_ljanyst_voc300clip", "match_ljanyst", "voc300clip"),
    ("per-image", "loss_ljanyst_ownanchors", "match_ljanyst", "ownanchors"),
    ("per-image", "loss_nvidia_voc300clip", "match_nvidia", "voc300clip"),
    ("per-image", "loss_nvidia_ownanchors_anchormajor", "match_nvidia", "ownanchors"),
]


@pytest.mark.parametrize(("rule", "loss", "matching", "prefix"), GOLDEN, ids=[row[1] for row in GOLDEN])
def test_agrees_with(rule: str, loss: str, matching: str, prefix: str, raw, golden) -> None:
    """Total, parts, number of matches, and the very negatives that the other code mined."""
    want, targets = np.load(golden / f"{loss}.npz"), their_targets(np.load(golden / f"{matching}.npz"), prefix)
    logits = raw.logits.clone().requires_grad_()
    losses = multibox_loss(RawOutput(raw.offsets, logits), targets, rule)
    for name in ("total", "loc", "conf"):
        mine = {"total": losses.total, "loc": losses.location, "conf": losses.confidence}[name]
        assert mine.item() == pytest.approx(float(want[f"loss_{name}"]), rel=1e-5), name
    if "num_pos" in want:
        assert losses.positives == want["num_pos"].sum()
    if "neg_idx" in want:
        losses.confidence.backward()
        hardness = raw.logits.logsumexp(-1) - raw.logits[..., 0]
        counted = (logits.grad != 0).any(dim=-1) & (targets.labels == 0)
        assert counted.sum(dim=1).tolist() == want["num_neg"].tolist()
        for i in range(4):
            theirs = set(want["neg_idx"][want["neg_ptr"][i] : want["neg_ptr"][i + 1]].tolist())
            differ = list(theirs ^ set(counted[i].nonzero()[:, 0].tolist()))
            # The last place of the batch may go to either of two that agree in all of float32's digits.
            assert len(differ) <= 2
            assert hardness[i, differ].unique().numel() <= 1


@pytest.mark.parametrize("prefix", ["voc300clip", "voc300noclip"])
def test_mean_negatives_on_the_golden_batch(prefix: str, raw, golden) -> None:
    """The real number of priors and classes, against the transcription."""
    targets = their_targets(np.load(golden / "match_caffe.npz"), prefix)
    losses = multibox_loss(raw, targets, "mean-negatives", alpha=2.0)
    true, predicted = as_keras(raw.offsets, raw.logits, targets.labels, targets.offsets)
    confidence, location = keras_multibox_loss(true, predicted, alpha=2.0)
    assert losses.confidence.item() == pytest.approx(confidence, rel=1e-5)
    assert losses.total.item() == pytest.approx(confidence + location, rel=1e-5)
    assert all(
        multibox_loss(raw, targets, rule).confidence.item() != pytest.approx(confidence, rel=1e-3)
        for rule in LOSS_RULES
        if rule != "mean-negatives"
    )


def test_mean_negatives_clips_probabilities_and_their_gradient() -> None:
    logits = torch.tensor([[[60.0, 0.0], [0.0, 20.0], [0.0, -1.0]]], requires_grad=True)
    labels = torch.tensor([[1, 0, 0]])  # a match that is as good as impossible, a mistake, an easy negative
    raw = RawOutput(torch.zeros(1, 3, 4), logits)
    losses = multibox_loss(raw, Targets(labels, torch.zeros(1, 3, 4)), "mean-negatives", negative_ratio=1)
    assert losses.confidence.item() == pytest.approx(-math.log(1e-15) + 20.0, rel=1e-6)
    losses.total.backward()
    assert (logits.grad != 0).any(dim=-1).tolist() == [[False, True, False]]


def test_mean_negatives_ranks_by_the_likeliest_class() -> None:
    """.3 + .3 is more of an object than .4, and less of any one class."""
    logits = torch.tensor([[[0.4, 0.3, 0.3], [0.58, 0.4, 0.02], [0.01, 0.01, 0.98]]]).log().requires_grad_()
    targets = Targets(torch.tensor([[0, 0, 1]]), torch.zeros(1, 3, 4))
    for rule, mined in (("caffe", 0), ("mean-negatives", 1)):
        logits.grad = None
        multibox_loss(RawOutput(torch.zeros(1, 3, 4), logits), targets, rule, negative_ratio=1).total.backward()
        assert (logits.grad[0] != 0).any(dim=-1).tolist() == [mined == 0, mined == 1, True]


def test_the_number_of_matches_may_come_from_outside() -> None:
    """As where several processes share a batch: only rules that divide by it notice."""
    offsets, logits, labels, wanted = random_case(0)
    for name in LOSS_RULES:
        own = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), name)
        shared = multibox_loss(
            RawOutput(offsets, logits), Targets(labels, wanted), name, batch_matches=own.positives * 2.0
        )
        factor = 0.5 if name in ("caffe", "batch-mean") else 1.0
        assert shared.total.item() == pytest.approx(own.total.item() * factor, rel=1e-6)
        assert shared.positives == own.positives


@pytest.mark.parametrize("rule", LOSS_RULES)
@pytest.mark.parametrize("objects", [True, False])
def test_the_losses_of_parts_sum_up_to_that_of_the_whole(rule: str, objects: bool) -> None:
    """Gradients too: threads exchange rows here, as processes that share a batch do."""
    offsets, logits, labels, wanted = random_case(0)
    labels = labels if objects else torch.zeros_like(labels)
    offsets, logits = (torch.cat([one, one.flip(0) * 1.5]).requires_grad_() for one in (offsets, logits))
    labels, wanted = torch.cat([labels, labels.flip(0)]), torch.cat([wanted, wanted.flip(0)])
    whole = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule)
    slots, barrier = [labels] * 2, threading.Barrier(2)

    def part(k: int) -> Losses:
        own = slice(k * len(labels) // 2, (k + 1) * len(labels) // 2)

        def gather(rows: torch.Tensor) -> torch.Tensor:
            slots[k] = rows
            barrier.wait(30)
            everyone = torch.cat(slots)
            barrier.wait(30)
            return everyone

        raw, targets = RawOutput(offsets[own], logits[own]), Targets(labels[own], wanted[own])
        return multibox_loss(raw, targets, rule, shared=SharedBatch(gather, own))

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(part, (0, 1)))
    for both, one in zip(zip(*parts, strict=True), whole, strict=True):
        torch.testing.assert_close(sum(both), one, rtol=1e-6, atol=1e-6)
    expected = torch.autograd.grad(whole.total, logits)[0]
    torch.testing.assert_close(torch.autograd.grad(sum(one.total for one in parts), logits)[0], expected)


def test_agrees_with_torchvision_where_an_image_has_no_object(raw, golden) -> None:
    targets = their_targets(np.load(golden / "match_torchvision.npz"), "voc300clip", empty=3)
    losses = multibox_loss(raw, targets)
    want = np.load(golden / "loss_torchvision_img3empty.npz")
    assert losses.location.item() == pytest.approx(float(want["loss_loc"]), rel=1e-5)
    assert losses.confidence.item() == pytest.approx(float(want["loss_conf"]), rel=1e-5)


def slow_loss(offsets, logits, labels, wanted_offsets, ratio=3.0, rule="caffe", at_least=0, smoothing=0.0):
    """Each rule in its own project's terms, one prior at a time, in float64: confidence and location."""
    if rule == "mean-negatives":
        true, predicted = as_keras(offsets, logits, labels, wanted_offsets)
        return keras_multibox_loss(true, predicted, ratio, at_least=at_least, smoothing=smoothing)
    images = []  # matches, their cross entropy, their distance, negatives as (p(background), cross entropy)
    for b in range(len(labels)):
        matches, entropy, distance, negatives = 0, 0.0, 0.0, []
        for p, label in enumerate(labels[b].tolist()):
            values = logits[b, p].tolist()
            total = math.log(sum(math.exp(v) for v in values))
            cost = total - (1 - smoothing) * values[max(label, 0)] - smoothing * sum(values) / len(values)
            if label > 0:
                matches += 1
                entropy += cost
                for d in (offsets[b, p] - wanted_offsets[b, p]).abs().tolist():
                    distance += 0.5 * d * d if d < 1 else d - 0.5
            elif label == 0:
                negatives.append((math.exp(values[0] - total), cost))
        images.append((matches, entropy, distance, sorted(negatives)))
    positives = sum(image[0] for image in images)
    own = [[cost for _, cost in image[3][: max(int(image[0] * ratio), at_least)]] for image in images]
    pool = sorted(pair for image in images for pair in image[3])
    if rule == "caffe":
        mined, weights = sum(map(sum, own)), [1 / max(positives, 1)] * len(images)
    elif rule == "per-image":
        weights = [1 / image[0] / len(images) if image[0] else 0.0 for image in images]
        mined = sum(sum(costs) * weight for costs, weight in zip(own, weights, strict=True))
    elif rule == "batch":
        count = int(sum(min(ratio * image[0], len(image[3])) for image in images)) or 100
        mined = sum(cost for _, cost in pool[: max(count, at_least)])
        weights = [1 / sum(max(image[0], 1) for image in images)] * len(images)
    elif rule == "batch-mean":
        mined = sum(cost for _, cost in pool[: max(int(ratio * positives), at_least)])
        weights = [1 / max(positives, 1)] * len(images)
    else:
        assert rule == "batch-size"
        count = min(max(int(ratio * positives) + len(images), at_least), len(pool))
        mined = sum(cost for score, cost in pool if count and score < pool[count - 1][0])
        weights = [1 / len(images)] * len(images)
    if rule != "per-image":
        mined *= weights[0]
    confidence = sum(image[1] * weight for image, weight in zip(images, weights, strict=True)) + mined
    return confidence, sum(image[2] * weight for image, weight in zip(images, weights, strict=True))


def keras_multibox_loss(y_true, y_pred, ratio=3.0, alpha=1.0, hard=100, at_least=0, smoothing=0.0):
    """The Keras MultiboxLoss, line by line in numpy and float64: confidence and location.

    y_true: [B, P, 4 + C + 1 + 8]: offsets, one-hot labels, and eight more of which the first marks a match; y_pred
    likewise, with probabilities. Where labels are all 0, the prior takes no part. smoothing is not in the source.
    """
    batch_size, num_boxes = y_true.shape[:2]
    probability = np.maximum(np.minimum(y_pred[:, :, 4:-8], 1 - 1e-15), 1e-15)
    classes = probability.shape[2]
    spread = (1 - smoothing) * y_true[:, :, 4:-8] + smoothing / classes
    conf_loss, loc_loss = np.zeros((batch_size, num_boxes)), np.zeros((batch_size, num_boxes))
    for b in range(batch_size):
        for p in range(num_boxes):
            conf_loss[b, p] = -sum(t * math.log(q) for t, q in zip(spread[b, p], probability[b, p], strict=True))
            for d in np.abs(y_true[b, p, :4] - y_pred[b, p, :4]):
                loc_loss[b, p] += 0.5 * d * d if d < 1 else d - 0.5
    positive = y_true[:, :, -8]
    ignored = y_true[:, :, 4:-8].sum(axis=2) == 0
    num_pos = positive.sum(axis=1)
    num_neg = [min(ratio * n, num_boxes - n - i) for n, i in zip(num_pos, ignored.sum(axis=1), strict=True)]
    above = [n for n in num_neg if n > 0]
    num_neg_batch = max(int(sum(above) / len(above)) if above else hard, at_least)
    confidence = location = 0.0
    for b in range(batch_size):
        max_confs = y_pred[b, :, 5:-8].max(axis=1)
        negatives = [p for p in range(num_boxes) if not positive[b, p] and not ignored[b, p]]
        hardest = sorted(negatives, key=lambda p: -max_confs[p])[:num_neg_batch]
        confidence += sum(conf_loss[b, p] for p in range(num_boxes) if positive[b, p])
        confidence += sum(conf_loss[b, p] for p in hardest)
        location += sum(loc_loss[b, p] for p in range(num_boxes) if positive[b, p])
    return confidence / batch_size, alpha * location / batch_size


def as_keras(offsets, logits, labels, wanted) -> tuple[np.ndarray, np.ndarray]:
    """y_true and y_pred of the Keras MultiboxLoss."""
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), logits.shape[-1]) * (labels >= 0).unsqueeze(-1)
    more = torch.zeros(*labels.shape, 8)
    marked = more.clone()
    marked[..., 0] = labels > 0
    true = torch.cat([wanted.double(), one_hot.double(), marked.double()], dim=-1)
    return true.numpy(), torch.cat([offsets.double(), logits.double().softmax(-1), more.double()], dim=-1).numpy()


def random_case(seed: int, rate: float = 0.3):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (3, 40), generator=g) * (torch.rand(3, 40, generator=g) < rate)
    labels[1] = 0  # an image without objects
    offsets = torch.randn(3, 40, 4, generator=g, dtype=torch.float64) * 2
    logits = torch.randn(3, 40, 4, generator=g, dtype=torch.float64)
    return offsets, logits, labels, torch.randn(3, 40, 4, generator=g)


@pytest.mark.parametrize("rule", LOSS_RULES)
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_literal_loop(seed: int, rule: str) -> None:
    offsets, logits, labels, wanted = random_case(seed)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule)
    confidence, location = slow_loss(offsets, logits, labels, wanted, rule=rule)
    assert losses.confidence.item() == pytest.approx(confidence, rel=1e-5)
    assert losses.location.item() == pytest.approx(location, rel=1e-5)
    assert losses.total.item() == pytest.approx(confidence + location, rel=1e-5)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    rule=st.sampled_from(list(LOSS_RULES)),
    ratio=st.sampled_from([0.5, 1.0, 2.7, 3.0, 50.0]),
    at_least=st.sampled_from([0, 1, 7, 500]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    rate=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_agrees_with_the_literal_loop_at_any_setting(seed, rule, ratio, at_least, smoothing, rate) -> None:
    """No object anywhere, nothing but objects, more wanted than there is, ignored priors."""
    offsets, logits, labels, wanted = random_case(seed, rate)
    values = {"negative_ratio": ratio, "min_negatives": at_least, "label_smoothing": smoothing}
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule, **values)
    confidence, location = slow_loss(offsets, logits, labels, wanted, ratio, rule, at_least, smoothing)
    assert losses.confidence.item() == pytest.approx(confidence, rel=1e-4, abs=1e-6)
    assert losses.location.item() == pytest.approx(location, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_that_of_pytorch(smoothing: float) -> None:
    offsets, logits, labels, wanted = random_case(4)
    labels = labels.clamp(min=0)
    losses = multibox_loss(
        RawOutput(offsets, logits),
        Targets(labels, wanted),
        negative_ratio=1000,
        min_negatives=1000,
        label_smoothing=smoothing,
    )
    all_of_them = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=smoothing
    )
    assert losses.confidence.item() * losses.positives.item() == pytest.approx(all_of_them.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_impossible_smoothing_is_refused(smoothing: float) -> None:
    offsets, logits, labels, wanted = random_case(4)
    with pytest.raises(ConfigError, match="label smoothing"):
        multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), label_smoothing=smoothing)


def test_alpha_weighs_the_location_loss() -> None:
    offsets, logits, labels, wanted = random_case(0)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), alpha=2.5)
    assert losses.total.item() == pytest.approx((losses.confidence + 2.5 * losses.location).item())


@pytest.mark.parametrize("rule", ["caffe", "batch-mean", "per-image"])
def test_a_batch_without_any_object_has_loss_zero_and_finite_gradients(rule: str) -> None:
    logits = torch.randn(2, 50, 3, requires_grad=True)
    offsets = torch.randn(2, 50, 4, requires_grad=True)
    empty = Targets(torch.zeros(2, 50, dtype=torch.long), torch.zeros(2, 50, 4))
    losses = multibox_loss(RawOutput(offsets, logits), empty, rule)
    losses.total.backward()
    assert losses.total.item() == 0.0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("rule", "negatives", "divisor"), [("batch", 100, 2), ("batch-size", 1, 2)])
def test_rules_that_learn_from_a_batch_without_any_object(rule: str, negatives: int, divisor: int) -> None:
    """bubbliiiing takes 100 negatives; balancap as many as images, less the last."""
    logits = torch.randn(2, 150, 3, requires_grad=True)
    empty = Targets(torch.zeros(2, 150, dtype=torch.long), torch.zeros(2, 150, 4))
    losses = multibox_loss(RawOutput(torch.zeros(2, 150, 4), logits), empty, rule)
    hardest = (logits.logsumexp(-1) - logits[..., 0]).flatten().topk(negatives).values
    assert losses.confidence.item() == pytest.approx(hardest.sum().item() / divisor, rel=1e-5)
    losses.total.backward()
    assert (logits.grad != 0).any(dim=-1).sum() == negatives


def test_mean_negatives_takes_a_hundred_of_each_image_without_objects() -> None:
    logits = torch.randn(2, 150, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    empty = Targets(torch.zeros(2, 150, dtype=torch.long), torch.zeros(2, 150, 4))
    multibox_loss(RawOutput(torch.zeros(2, 150, 4), logits), empty, "mean-negatives").total.backward()
    assert (logits.grad != 0).any(dim=-1).sum(dim=1).tolist() == [100, 100]


@pytest.mark.parametrize("rule", LOSS_RULES)
def test_a_batch_without_a_single_negative_is_finite(rule: str) -> None:
    offsets, logits, labels, wanted = random_case(5)
    labels = labels.abs().clamp(min=1)
    labels[2] = -1
    losses = multibox_loss(RawOutput(offsets, logits.requires_grad_()), Targets(labels, wanted), rule)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[2].any()


def test_min_negatives_teach_background_in_images_without_objects() -> None:
    logits = torch.zeros(1, 50, 3, requires_grad=True)
    raw = RawOutput(torch.zeros(1, 50, 4), logits)
    empty = Targets(torch.zeros(1, 50, dtype=torch.long), torch.zeros(1, 50, 4))
    losses = multibox_loss(raw, empty, min_negatives=10)
    assert losses.confidence.item() == pytest.approx(10 * math.log(3), rel=1e-6)


@pytest.mark.parametrize("rule", LOSS_RULES)
def test_ignored_priors_count_for_nothing(rule: str) -> None:
    offsets, logits, labels, wanted = random_case(1)
    labels[0, :20] = -1
    before = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule).total
    logits[0, :20] = 1000.0
    offsets[0, :20] = 1000.0
    assert torch.equal(before, multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule).total)


def test_infinite_outputs_where_nothing_counts_do_not_make_nan() -> None:
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])
    logits = torch.zeros(1, 8, 2)
    logits[0, 7] = torch.tensor([500.0, -500.0])  # the easiest negative: never mined
    offsets = torch.zeros(1, 8, 4)
    offsets[0, 5] = torch.inf
    logits.requires_grad_(), offsets.requires_grad_()
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, torch.zeros(1, 8, 4)))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("rule", LOSS_RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_a_float32_loss(dtype: torch.dtype, rule: str) -> None:
    offsets, logits, labels, wanted = random_case(2)
    logits, offsets = (logits * 4).to(dtype), offsets.to(dtype)
    losses = multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted), rule)
    full = multibox_loss(RawOutput(offsets.float(), logits.float()), Targets(labels, wanted), rule)
    assert losses.total.dtype is torch.float32
    assert losses.total.item() == pytest.approx(full.total.item(), rel=1e-6)


def test_gradient_is_that_of_the_definition() -> None:
    offsets, logits, labels, wanted = random_case(3)
    offsets.requires_grad_(), logits.requires_grad_()
    multibox_loss(RawOutput(offsets, logits), Targets(labels, wanted)).total.backward()
    for values, grad in ((logits, logits.grad), (offsets, offsets.grad)):
        flat, index = values.detach().flatten(), int(grad.abs().argmax())
        step = 1e-4  # the loss is computed in float32
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * step
            args = (moved.view_as(offsets), logits) if values is offsets else (offsets, moved.view_as(logits))
            ends.append(sum(slow_loss(args[0].detach(), args[1].detach(), labels, wanted)))
        assert grad.flatten()[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("rule", sorted(LOSS_RULES))
def test_mined_negatives_are_those_that_the_loss_learns_from(rule: str) -> None:
    offsets, logits, labels, wanted = random_case(3)
    labels[1, 0] = 1  # "per-image" learns nothing from an image without objects
    logits = logits.float().requires_grad_()
    raw, targets = RawOutput(offsets.float(), logits), Targets(labels.long(), wanted.float())
    mined = mined_negatives(raw, targets, rule, 2.0, 5)
    multibox_loss(raw, targets, rule, 2.0, min_negatives=5).confidence.backward()
    learnt = logits.grad.abs().sum(dim=-1) > 0
    assert torch.equal(learnt, mined | (targets.labels > 0))
    assert bool(mined.any()) and not bool((mined & (targets.labels != 0)).any())
    with pytest.raises(ConfigError, match="want one of"):
        mined_negatives(raw, targets, "none")


def test_unknown_rule_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="want one of caffe"):
        multibox_loss(RawOutput(*random_case(0)[:2]), Targets(*random_case(0)[2:]), rule="guess")
