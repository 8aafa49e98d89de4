"""The MultiBox loss and hard negative mining, by the rules of the public implementations.

Nearly all rules rank negatives alike: -log p(background) here, which orders them exactly as the cross entropy against
background does (torchvision, ljanyst, NVIDIA, mmdetection, ssd_keras), logsumexp minus the logit (amdegroot), the
summed probability of the objects (bubbliiiing) and the lowest probability of background (balancap). The one that does
not is "mean-negatives", which goes by the greatest probability of a single object class: .3 and .3 come before .4 in
the first order, and behind it in this one. What differs too is whether images compete with each other, how many
negatives there are, and what the sums are divided by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from singleshot.boxes import iou
from singleshot.errors import ConfigError
from singleshot.records import Losses, RawOutput, Targets

# Negatives where no image has an object: bubbliiiing/ssd-pytorch nets/ssd_training.py, negatives_for_hard, of the
# batch; the Keras MultiboxLoss, negatives_for_hard, of each image.
_EMPTY_BATCH_NEGATIVES = 100
# The Keras MultiboxLoss, _softmax_loss: probabilities are clipped to 1e-15 .. 1 - 1e-15 before the logarithm.
_LEAST_COST, _GREATEST_COST = -math.log(1.0 - 1e-15), -math.log(1e-15)


class SharedBatch(NamedTuple):
    """A batch of which each of several processes has a part, the first process the first images.

    gather: values [b, ..] of the images here -> those of all of them [B, ..], by which no gradient flows; own: which of
    these are the images here.
    """

    gather: Callable[[Tensor], Tensor]
    own: slice


def multibox_loss(
    raw: RawOutput,
    targets: Targets,
    rule: str = "caffe",
    negative_ratio: float | int = 3.0,
    alpha: float | int = 1.0,
    min_negatives: int = 0,
    label_smoothing: float = 0.0,
    batch_matches: Tensor | None = None,
    box_loss: BoxLoss | None = None,
    class_weights: Float[Tensor, "C"] | None = None,
    shared: SharedBatch | None = None,
) -> Losses:
    """Confidence and location loss of a batch, in float32.

    Softmax cross entropy over the matched priors and the hardest negatives, smooth L1 over the matched ones; total =
    confidence + alpha * location. n is the number of matched priors; LOSS_RULES says where each rule comes from:

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
    - "mean-negatives": every image takes the same number of negatives, the whole-number mean of min(negative_ratio *
      n, P - n) over the images where that is above 0, or 100 where no image has an object, at least min_negatives;
      those with the greatest probability of a real class. Probabilities are clipped to 1e-15 .. 1 - 1e-15 before the
      logarithm; divided by B. The Keras MultiboxLoss. An image with fewer negatives than that takes what it has.
    - "per-image": mined as "caffe"; each image divided by its own n, then the mean over images, where one without
      objects counts as 0. ljanyst, NVIDIA, MLPerf.

    Nothing here waits for an accelerator.

    Args:
        raw: offsets [B, P, 4], logits [B, P, C + 1].
        targets: labels [B, P] (-1 takes no part), offsets [B, P, 4], from `match`.
        rule: a key of LOSS_RULES.
        negative_ratio: negatives for each match.
        alpha: weight of the location loss.
        min_negatives: the least number of negatives, see above.
        label_smoothing: the part of the target that is spread evenly over all classes and background, 0 up to 1.
        batch_matches: what to divide by in place of the batch's own number of matches, where a rule does so.
        box_loss: what takes the place of the rule's smooth L1; weighed and divided as that is.
        class_weights: factors on the confidence loss of the priors matched to each real class; what the rule divides by
            stays as it is.
        shared: where the images are a part of a batch: what the rule divides by and mines is that of the whole, and the
            losses of all parts sum up to its own.

    Raises:
        ConfigError: an unknown rule, or a smoothing outside 0..1.
    """
    if rule not in LOSS_RULES:
        raise ConfigError(f"loss rule {rule!r}: want one of {', '.join(LOSS_RULES)}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label smoothing {label_smoothing}: want 0 or more and less than 1")
    chosen = LOSS_RULES[rule]
    logits, labels = raw.logits.float(), targets.labels
    positive = labels > 0
    matches = positive.sum(dim=1)
    log_total = logits.logsumexp(dim=-1)
    with torch.no_grad():
        negative = _mine(chosen, logits, log_total, labels, (negative_ratio, min_negatives), shared)
        of_images = matches if shared is None else shared.gather(matches)
        weight = chosen.weigh(of_images.float(), of_images.sum() if batch_matches is None else batch_matches)
        weight = weight if shared is None else weight[shared.own]
    cost = chosen.confidence(logits, log_total, labels.clamp(min=0), label_smoothing)
    if class_weights is not None:
        cost = torch.where(positive, class_weights[(labels - 1).clamp(min=0)] * cost, cost)
    # where(), not a product: an infinite loss of a prior that does not count must not turn into NaN.
    per_prior = torch.where(positive | negative, cost, 0.0)
    if box_loss is None:
        distance = chosen.location(raw.offsets.float(), targets.offsets)
    else:
        distance = box_loss(raw.offsets.float(), targets.offsets, positive)
    confidence = (per_prior.sum(dim=1) * weight).sum()
    location = (torch.where(positive, distance, 0.0).sum(dim=1) * weight).sum()
    return Losses(confidence + alpha * location, location, confidence, matches.sum())


@torch.no_grad()
def mined_negatives(
    raw: RawOutput,
    targets: Targets,
    rule: str = "caffe",
    negative_ratio: float | int = 3.0,
    min_negatives: int = 0,
) -> Bool[Tensor, "B P"]:
    """The negatives that `multibox_loss` mines, by the arguments that it takes. Raises ConfigError likewise."""
    if rule not in LOSS_RULES:
        raise ConfigError(f"loss rule {rule!r}: want one of {', '.join(LOSS_RULES)}")
    logits = raw.logits.float()
    return _mine(LOSS_RULES[rule], logits, logits.logsumexp(dim=-1), targets.labels, (negative_ratio, min_negatives))


def _mine(
    rule: LossRule,
    logits: Tensor,
    log_total: Tensor,
    labels: Tensor,
    numbers: tuple[float | int, int],
    shared: SharedBatch | None = None,
) -> Bool[Tensor, "B P"]:
    """numbers: negatives for each match, and their least number."""
    ratio, at_least = numbers
    hardness, matches = rule.rank(logits, log_total), (labels > 0).sum(dim=1)
    if shared is None or rule.mine is _of_each_image:
        return rule.mine(hardness, labels == 0, matches * ratio, at_least)
    hardness, labels = shared.gather(hardness), shared.gather(labels)
    return rule.mine(hardness, labels == 0, (labels > 0).sum(dim=1) * ratio, at_least)[shared.own]


def hard_negatives(
    hardness: Float[Tensor, "B P"], candidate: Bool[Tensor, "B P"], wanted: Int[Tensor, "B"]
) -> Bool[Tensor, "B P"]:
    """The `wanted` candidates of each image with the greatest hardness (fewer where there are fewer)."""
    hardness = torch.where(candidate, hardness, -torch.inf)
    order = hardness.argsort(dim=1, descending=True)
    first = torch.arange(hardness.shape[1], device=hardness.device) < wanted.unsqueeze(1)
    return torch.zeros_like(candidate).scatter_(1, order, first) & candidate


# ----------------------------------------------------------------------------------------------- order of negatives


def _unlike_background(logits: Float[Tensor, "B P K"], log_total: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    """-log p(background)."""
    return log_total - logits[..., 0]


def _like_a_class(logits: Float[Tensor, "B P K"], log_total: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    """The logarithm of the greatest probability of a real class."""
    return logits[..., 1:].amax(dim=-1) - log_total


# ----------------------------------------------------------------------------------------------- number of negatives


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


def _the_same_of_each_image(hardness: Tensor, candidate: Tensor, wanted: Tensor, at_least: int) -> Tensor:
    """The Keras MultiboxLoss: the mean over the images that want any, cut to a whole number, of every image."""
    wanted = torch.minimum(wanted, candidate.sum(dim=1)).float()
    wanting = (wanted > 0).sum()
    mean = torch.where(wanting > 0, wanted.sum() / wanting.clamp(min=1), float(_EMPTY_BATCH_NEGATIVES))
    return _of_each_image(hardness, candidate, mean.expand(len(wanted)), at_least)


# ----------------------------------------------------------------------------------------------- divisors


def _by_batch(matches: Float[Tensor, "B"], of_batch: Tensor) -> Float[Tensor, "B"]:
    return (1.0 / of_batch.to(matches.dtype).clamp(min=1.0)).expand_as(matches)


def _by_batch_of_ones(matches: Float[Tensor, "B"], of_batch: Tensor) -> Float[Tensor, "B"]:
    return (1.0 / matches.clamp(min=1.0).sum()).expand_as(matches)


def _by_batch_size(matches: Float[Tensor, "B"], of_batch: Tensor) -> Float[Tensor, "B"]:
    return torch.full_like(matches, 1.0 / len(matches))


def _by_image(matches: Float[Tensor, "B"], of_batch: Tensor) -> Float[Tensor, "B"]:
    return torch.where(matches > 0, 1.0 / (matches.clamp(min=1.0) * len(matches)), 0.0)


# ----------------------------------------------------------------------------------------------- losses of one prior


def cross_entropy(
    logits: Float[Tensor, "B P K"], log_total: Float[Tensor, "B P"], labels: Int[Tensor, "B P"], smoothing: float
) -> Float[Tensor, "B P"]:
    """Softmax cross entropy of each prior. log_total: logsumexp of its logits; smoothing: see `multibox_loss`."""
    aim = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        aim = (1.0 - smoothing) * aim + smoothing * logits.mean(dim=-1)
    return log_total - aim


def _clipped_cross_entropy(
    logits: Float[Tensor, "B P K"], log_total: Float[Tensor, "B P"], labels: Int[Tensor, "B P"], smoothing: float
) -> Float[Tensor, "B P"]:
    """The same of probabilities that are clipped to 1e-15 .. 1 - 1e-15, which stops the gradient beyond."""
    cost = cross_entropy(logits, log_total, labels, 0.0).clamp(_LEAST_COST, _GREATEST_COST)
    if smoothing:
        of_any = (log_total.unsqueeze(-1) - logits).clamp(_LEAST_COST, _GREATEST_COST).mean(dim=-1)
        cost = (1.0 - smoothing) * cost + smoothing * of_any
    return cost


def smooth_l1(offsets: Float[Tensor, "B P 4"], wanted: Float[Tensor, "B P 4"]) -> Float[Tensor, "B P"]:
    """Smooth L1 of each prior's four offsets, summed."""
    return F.smooth_l1_loss(offsets, wanted, reduction="none").sum(dim=-1)


BOX_LOSSES: dict[str, Callable[..., Tensor] | None] = {
    "smooth-l1": None,  # of the offsets
    "giou": generalized_box_iou_loss,  # Rezatofighi et al., CVPR 2019
    "diou": distance_box_iou_loss,  # Zheng et al., AAAI 2020
    "ciou": complete_box_iou_loss,  # the same paper
}


@dataclass(frozen=True)
class BoxLoss:
    """The location loss of each matched prior.

    name: a key of BOX_LOSSES; all but "smooth-l1" compare the boxes. to_boxes: offsets [.., P, 4] -> corner boxes, in
    pixels of the input, so that distances count alike across and down. Raises ConfigError for an unknown name.
    """

    name: str
    to_boxes: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if self.name not in BOX_LOSSES:
            raise ConfigError(f"box loss {self.name!r}: want one of {', '.join(BOX_LOSSES)}")

    def __call__(
        self, offsets: Float[Tensor, "B P 4"], wanted: Float[Tensor, "B P 4"], matched: Bool[Tensor, "B P"]
    ) -> Float[Tensor, "B P"]:
        """From predicted and wanted offsets; what it says of a prior that is not matched has no meaning."""
        compare = BOX_LOSSES[self.name]
        if compare is None:
            return smooth_l1(offsets, wanted)
        return compare(self._boxes(offsets, matched), self.to_boxes(wanted), reduction="none")

    @torch.no_grad()
    def quality(
        self, offsets: Float[Tensor, "B P 4"], wanted: Float[Tensor, "B P 4"], matched: Bool[Tensor, "B P"]
    ) -> Float[Tensor, "B P"]:
        """IoU of each matched prior's predicted box with the object's; no gradient flows through it."""
        own, other = self._boxes(offsets, matched), self.to_boxes(wanted)
        return iou(own.unsqueeze(-2), other.unsqueeze(-2)).flatten(-3)

    def _boxes(self, offsets: Tensor, matched: Tensor) -> Tensor:
        # Offsets of other priors may be anything: an infinite box would make the gradients of all NaN.
        return self.to_boxes(torch.where(matched.unsqueeze(-1), offsets, 0.0))


class LossRule(NamedTuple):
    """One rule.

    source: where it comes from. mine: the mask of mined negatives [B, P] from hardness [B, P], candidates [B, P], the
    number wanted of each image [B] (not yet whole) and the least number. weigh: the factor [B] on each image's sums,
    from its matches [B] and those of the batch. rank: hardness, from logits and their logsumexp. confidence: the loss
    [B, P] of each prior, from logits, their logsumexp, labels [B, P] (0: background) and the smoothing. location: the
    loss [B, P] of each prior, from offsets and wanted offsets [B, P, 4].
    """

    source: str
    mine: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    weigh: Callable[[Tensor, Tensor], Tensor]
    rank: Callable[[Tensor, Tensor], Tensor] = _unlike_background
    confidence: Callable[[Tensor, Tensor, Tensor, float], Tensor] = cross_entropy
    location: Callable[[Tensor, Tensor], Tensor] = smooth_l1


LOSS_RULES: dict[str, LossRule] = {
    "caffe": LossRule("weiliu89/caffe@ssd multibox_loss_layer.cpp", _of_each_image, _by_batch),
    "batch": LossRule("bubbliiiing/ssd-pytorch nets/ssd_training.py", _of_the_batch_or_some, _by_batch_of_ones),
    "batch-mean": LossRule("pierluigiferrari/ssd_keras keras_ssd_loss.py", _of_the_batch, _by_batch),
    "batch-size": LossRule("balancap/SSD-Tensorflow nets/ssd_vgg_300.py", _of_the_batch_strictly, _by_batch_size),
    "mean-negatives": LossRule(
        "the Keras MultiboxLoss, ssd_training.py of many copies",
        _the_same_of_each_image,
        _by_batch_size,
        _like_a_class,
        _clipped_cross_entropy,
    ),
    "per-image": LossRule("ljanyst/ssd-tensorflow ssdvgg.py", _of_each_image, _by_image),
}
