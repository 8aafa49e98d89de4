"""The MultiBox loss and hard negative mining, by the rules of the public implementations.

All rules rank negatives alike: -log p(background) here, which orders them exactly as the cross entropy against
background does (torchvision, ljanyst, NVIDIA, mmdetection, ssd_keras), logsumexp minus the logit (amdegroot), the
summed probability of the objects (bubbliiiing) and the lowest probability of background (balancap). What differs is
whether images compete with each other, how many negatives there are, and what the sums are divided by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from singleshot.errors import ConfigError
from singleshot.records import Losses, RawOutput, Targets

# bubbliiiing/ssd-pytorch nets/ssd_training.py, negatives_for_hard: negatives of a batch without any object.
_EMPTY_BATCH_NEGATIVES = 100


def multibox_loss(
    raw: RawOutput,
    targets: Targets,
    rule: str = "caffe",
    negative_ratio: float | int = 3.0,
    alpha: float | int = 1.0,
    min_negatives: int = 0,
    label_smoothing: float = 0.0,
    positives: Tensor | None = None,
) -> Losses:
    """Confidence and location loss of a batch, in float32.

    raw: offsets [B, P, 4], logits [B, P, C + 1]; targets: labels [B, P] (-1 takes no part), offsets [B, P, 4] from
    `match`. Softmax cross entropy over the matched priors and the hardest negatives, smooth L1 over the matched
    ones; total = confidence + alpha * location. n is the number of matched priors; LOSS_RULES says where each rule
    comes from:

    - "caffe": negative_ratio * n negatives of each image, at least min_negatives; divided by n of the batch, at
      least 1. Also amdegroot, lufficc, qfgaohao, torchvision and mmdetection, but for their NaN without objects.
    - "batch": images compete for the batch's negatives; 100 of them where the batch has no object, at least
      min_negatives; divided by the sum of max(n, 1) over its images. bubbliiiing, without its floor of 1e-7 under
      probabilities, which stops the gradient of the worst mistakes.
    - "batch-mean": the same competition for negative_ratio * n of the batch, at least min_negatives in the whole
      batch (n_neg_min); divided by n of the batch, at least 1. ssd_keras: its per image outputs, times the batch
      size, have this mean.
    - "batch-size": negative_ratio * n + B negatives of the batch, less the easiest of them and its equals (a strict
      comparison), at least min_negatives before that; divided by B. balancap.
    - "per-image": mined as "caffe"; each image divided by its own n, then the mean over images, where one without
      objects counts as 0. ljanyst, NVIDIA, MLPerf.

    label_smoothing: the part of the target that is spread evenly over all classes and background, 0 up to 1. positives:
    a scalar that rules which divide by n of the batch divide by instead, where several processes share a step. Nothing
    here waits for an accelerator. Raises ConfigError for an unknown rule or a smoothing outside 0..1.
    """
    if rule not in LOSS_RULES:
        raise ConfigError(f"loss rule {rule!r}: want one of {', '.join(LOSS_RULES)}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label smoothing {label_smoothing}: want 0 or more and less than 1")
    logits, labels = raw.logits.float(), targets.labels
    positive = labels > 0
    matches = positive.sum(dim=1)
    log_total = logits.logsumexp(dim=-1)
    with torch.no_grad():
        hardness = log_total - logits[..., 0]  # -log p(background)
        negative = LOSS_RULES[rule].mine(hardness, labels == 0, matches * negative_ratio, min_negatives)
        weight = LOSS_RULES[rule].weigh(matches.float())
        if positives is not None and LOSS_RULES[rule].weigh is _by_batch:
            weight = (1.0 / positives.float().clamp(min=1.0)).expand_as(weight)
    aim = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    if label_smoothing:
        aim = (1.0 - label_smoothing) * aim + label_smoothing * logits.mean(dim=-1)
    # where(), not a product: an infinite loss of a prior that does not count must not turn into NaN.
    per_prior = torch.where(positive | negative, log_total - aim, 0.0)
    distance = F.smooth_l1_loss(raw.offsets.float(), targets.offsets, reduction="none").sum(dim=-1)
    confidence = (per_prior.sum(dim=1) * weight).sum()
    location = (torch.where(positive, distance, 0.0).sum(dim=1) * weight).sum()
    return Losses(confidence + alpha * location, location, confidence, matches.sum())


def hard_negatives(
    hardness: Float[Tensor, "B P"], candidate: Bool[Tensor, "B P"], wanted: Int[Tensor, "B"]
) -> Bool[Tensor, "B P"]:
    """The `wanted` candidates of each image with the greatest hardness (fewer where there are fewer)."""
    hardness = torch.where(candidate, hardness, -torch.inf)
    order = hardness.argsort(dim=1, descending=True)
    first = torch.arange(hardness.shape[1], device=hardness.device) < wanted.unsqueeze(1)
    return torch.zeros_like(candidate).scatter_(1, order, first) & candidate


def _of_each_image(hardness: Tensor, candidate: Tensor, wanted: Tensor, at_least: int) -> Tensor:
    return hard_negatives(hardness, candidate, wanted.long().clamp(min=at_least))


def _of_the_batch(hardness: Tensor, candidate: Tensor, wanted: Tensor, at_least: int) -> Tensor:
    """`wanted` of all images go to the hardest of the whole batch."""
    total = wanted.sum().long().clamp(min=at_least).view(1)
    return hard_negatives(hardness.view(1, -1), candidate.view(1, -1), total).view_as(candidate)


def _of_the_batch_or_some(hardness: Tensor, candidate: Tensor, wanted: Tensor, at_least: int) -> Tensor:
    """bubbliiiing: an image cannot ask for more than it has; without objects anywhere, a fixed number."""
    wanted = torch.minimum(wanted, candidate.sum(dim=1))
    first = torch.arange(len(wanted), device=wanted.device) == 0
    spare = torch.where(first & (wanted.sum() == 0), float(_EMPTY_BATCH_NEGATIVES), 0.0)
    return _of_the_batch(hardness, candidate, wanted + spare, at_least)


def _of_the_batch_strictly(hardness: Tensor, candidate: Tensor, wanted: Tensor, at_least: int) -> Tensor:
    """balancap: everything harder than the last of `wanted` + B, so that one itself and its equals stay out."""
    total = (wanted.sum().long() + len(wanted)).clamp(min=at_least)
    hardness = torch.where(candidate, hardness, -torch.inf)
    order = hardness.flatten().sort(descending=True).values
    last = order.gather(0, (torch.minimum(total, candidate.sum()) - 1).clamp(min=0).view(1))
    return (hardness > last) & candidate


def _by_batch(matches: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    return (1.0 / matches.sum().clamp(min=1.0)).expand_as(matches)


def _by_batch_of_ones(matches: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    return (1.0 / matches.clamp(min=1.0).sum()).expand_as(matches)


def _by_batch_size(matches: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    return torch.full_like(matches, 1.0 / len(matches))


def _by_image(matches: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    return torch.where(matches > 0, 1.0 / (matches.clamp(min=1.0) * len(matches)), 0.0)


class LossRule(NamedTuple):
    """One rule: its source; the mask of mined negatives [B, P] from hardness [B, P], candidates [B, P], the number
    wanted of each image [B] (not yet whole) and the least number; the factor [B] on each image's sums, of its
    matches [B]."""

    source: str
    mine: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    weigh: Callable[[Tensor], Tensor]


LOSS_RULES: dict[str, LossRule] = {
    "caffe": LossRule("weiliu89/caffe@ssd multibox_loss_layer.cpp", _of_each_image, _by_batch),
    "batch": LossRule("bubbliiiing/ssd-pytorch nets/ssd_training.py", _of_the_batch_or_some, _by_batch_of_ones),
    "batch-mean": LossRule("pierluigiferrari/ssd_keras keras_ssd_loss.py", _of_the_batch, _by_batch),
    "batch-size": LossRule("balancap/SSD-Tensorflow nets/ssd_vgg_300.py", _of_the_batch_strictly, _by_batch_size),
    "per-image": LossRule("ljanyst/ssd-tensorflow ssdvgg.py", _of_each_image, _by_image),
}
