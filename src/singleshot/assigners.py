"""Assigners of later detectors: by statistics of overlaps (ATSS) or by predictions (TOOD, YOLOX), for whole batches.

They are rules of `matching`, which looks at overlaps alone; here are the records that every rule works with, too.

- ATSS (Zhang et al., CVPR 2020, algorithm 1): of each feature map the k priors of a cell's number whose centres are
  nearest to the object's; those among them whose IoU reaches the mean plus the standard deviation of all of them, and
  whose centre lies in the object.
- Task-aligned (TOOD, Feng et al., ICCV 2021, section 3.2): of the priors whose centre lies in the object the k with the
  greatest s^alpha * u^beta, where s is the probability predicted of its class and u the IoU of the predicted box.
- SimOTA (YOLOX, Ge et al. 2021, section 2.1): the cheapest priors by classification loss - 3 * log(IoU of the predicted
  box), dearer outside the object or far from its centre; as many as its 10 greatest IoUs add up to, one at least.

A prior that several objects want goes to the one with the greatest IoU (of the prior with ATSS, of the predicted box
with task-aligned), or the lowest cost (SimOTA); among equals to the one listed first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from singleshot.boxes import iou, to_centres
from singleshot.errors import ConfigError
from singleshot.prior_boxes import PriorSpec

_GREATEST = 2**31 - 1  # of the keys below: the bits of a float that is 0 or more order as it does
# YOLOX, yolox/models/yolo_head.py, get_assignments: what an object's own region costs less, and the floor under an IoU.
_OUTSIDE, _IOU_FLOOR = 1e5, 1e-8


class Predictions(NamedTuple):
    """What the model makes of a batch, without gradients: decoded boxes [B, P, 4] in normalised corner form, and the
    probabilities of the real classes [B, P, C]."""

    boxes: Float[Tensor, "B P 4"]
    probabilities: Float[Tensor, "B P C"]


class Candidates(NamedTuple):
    """What a rule sees of a batch.

    Attributes:
        overlaps: IoU of objects and priors [B, G, P], or any other likeness of 0 and more; rows of -1 hold no object.
        boxes: the objects [B, G, 4], normalised corner form.
        priors_cxcywh: [P, 4].
        per_map: how many priors each feature map has, in order; empty where the caller of `match` did not give it.
        labels: 0-based classes of the objects [B, G].
        spec: the table of the priors; None where the caller of `match` did not give it.
        predicted: of a rule that goes by predictions.
    """

    overlaps: Float[Tensor, "B G P"]
    boxes: Float[Tensor, "B G 4"]
    priors_cxcywh: Float[Tensor, "P 4"]
    per_map: tuple[int, ...] = ()
    labels: Int[Tensor, "B G"] | None = None
    spec: PriorSpec | None = None
    predicted: Predictions | None = None


class Rule(NamedTuple):
    """A way of matching.

    Attributes:
        assign: (candidates, iou_min, inclusive) -> the object of each prior [B, P], -1 for none.
        inclusive: whether an IoU of exactly iou_min is enough, where the caller does not decide it.
        by_predictions: whether it needs what the model predicts.
        by_iou_min: whether iou_min says anything to it.
    """

    assign: Callable[[Candidates, float, bool], Tensor]
    inclusive: bool
    by_predictions: bool = False
    by_iou_min: bool = True


def best_first(keys: Int[Tensor, "B G P"], count: int) -> Int[Tensor, "B G K"]:
    """Where the `count` greatest keys (int32) of each row are, best first, of equal ones the first.

    topk alone leaves ties to chance, and on real boxes one object in six ties.
    """
    size = keys.shape[-1]
    last = torch.arange(size - 1, -1, -1, device=keys.device)
    return size - 1 - (keys.long().mul_(2**32).add_(last).topk(min(count, size), dim=-1).values % 2**32)


def strongest(keys: Int[Tensor, "B G K"], claims: Int[Tensor, "B G K"], size: int) -> Int[Tensor, "B P"]:
    """The object of each of `size` priors that claims it (-1: none) with the greatest key, the first of equal ones.

    keys: int32, of 0 and more where there is a claim. A prior that nobody claims has -1.
    """
    count = claims.shape[1]
    order = torch.arange(count - 1, -1, -1, device=claims.device).view(1, count, 1)
    # One integer that orders by key, then by the object's place; 0 stays for priors that nobody claims.
    ranks = (keys.long() * count + order + 1).flatten(1)
    # Objects without a claim write to a spare column, so that no shape depends on the data.
    target = torch.where(claims >= 0, claims, size).flatten(1)
    held = ranks.new_zeros(len(ranks), size + 1).scatter_reduce_(1, target, ranks, "amax")[:, :size]
    return torch.where(held > 0, count - 1 - (held - 1) % count, -1)


def atss(k: int = 9) -> Rule:
    """ATSS's rule with the k nearest cells' worth of priors of each map (k times a cell's priors, as its authors)."""

    def assign(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
        nearest = _nearest(seen, k)
        overlaps = seen.overlaps.gather(2, nearest)
        # torch's std, as the authors' code: with n - 1.
        spread = overlaps.std(dim=-1, keepdim=True, correction=min(1, nearest.shape[-1] - 1))
        fits = (overlaps >= overlaps.mean(dim=-1, keepdim=True) + spread) & (overlaps >= 0)
        fits &= _inside(seen).gather(2, nearest)
        return strongest(_bits(overlaps), torch.where(fits, nearest, -1), seen.overlaps.shape[-1])

    return Rule(assign, True, by_iou_min=False)


def task_aligned(alpha: float = 1.0, beta: float = 6.0, k: int = 13) -> Rule:
    """TOOD's rule; its own values unless given otherwise."""

    def assign(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
        predicted = _predicted(seen)
        overlaps = iou(seen.boxes, predicted.boxes)
        alignment = _of_own_class(predicted.probabilities, seen).pow(alpha).mul_(overlaps.pow(beta))
        alignment = torch.where(_inside(seen) & (seen.overlaps >= 0), alignment, 0.0)
        best = best_first(_bits(alignment), k)
        claims = torch.where(alignment.gather(2, best) > 0, best, -1)
        return strongest(_bits(overlaps.gather(2, best)), claims, overlaps.shape[-1])

    return Rule(assign, True, by_predictions=True, by_iou_min=False)


def simota(weight: float = 3.0, radius: float = 2.5, most: int = 10) -> Rule:
    """YOLOX's rule; its own values unless given otherwise.

    weight: of the box's cost. radius: of the region round an object's centre, in cells of the prior's map. most: IoUs
    that are added up, and so the most priors that an object takes.
    """

    def assign(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
        real = seen.overlaps >= 0
        inside, central = _inside(seen) & real, _central(seen, radius) & real
        # A prior in any object's box or region is a candidate of every object.
        candidate = (inside | central).any(dim=1, keepdim=True) & real
        predicted = _predicted(seen)
        overlaps = iou(seen.boxes, predicted.boxes)
        cost = _classification_cost(predicted.probabilities, seen)
        cost = cost.add_(overlaps.add(_IOU_FLOOR).log_().clamp_(max=0.0), alpha=-weight)
        cost = torch.where(inside & central, cost, cost + _OUTSIDE).masked_fill_(~candidate, torch.inf)
        count = min(most, overlaps.shape[-1])
        wanted = overlaps.masked_fill(~candidate, 0.0).topk(count, dim=-1).values.sum(dim=-1).int().clamp_(min=1)
        best = best_first(_GREATEST - _bits(cost), count)
        own = cost.gather(2, best)
        taken = (torch.arange(count, device=best.device) < wanted.unsqueeze(-1)) & (own < torch.inf)
        return strongest(_GREATEST - _bits(own), torch.where(taken, best, -1), overlaps.shape[-1])

    return Rule(assign, True, by_predictions=True, by_iou_min=False)


def _bits(values: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Floats of 0 and more as integers of the same order."""
    return values.view(torch.int32)


def _nearest(seen: Candidates, k: int) -> Int[Tensor, "B G K"]:
    """The priors of each map, k for each prior of a cell, whose centres are nearest to the object's, in pixels."""
    spec = _spec(seen)
    height, width = spec.image
    x, y = to_centres(seen.boxes)[..., :2].unsqueeze(-1).unbind(-2)  # [B, G, 1] each
    px, py = _centres(seen)
    across, down = px - x, py - y
    distance = across.mul_(width).square_().add_(down.mul_(height).square_())
    nearest, start = [], 0
    for size, boxes in zip(spec.per_map, spec.per_cell, strict=True):
        keys = -_bits(distance[..., start : start + size].contiguous())
        nearest.append(best_first(keys, k * boxes) + start)
        start += size
    return torch.cat(nearest, dim=-1)


def _centres(seen: Candidates) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
    """x and y of the priors, each in one piece of memory: what is done with them goes over the largest tables."""
    x, y = seen.priors_cxcywh[:, :2].t().contiguous().unbind()
    return x, y


def _inside(seen: Candidates) -> Bool[Tensor, "B G P"]:
    """Whether a prior's centre lies in the object."""
    x, y = _centres(seen)
    x0, y0, x1, y1 = seen.boxes.unsqueeze(-1).unbind(-2)  # [B, G, 1] each
    return (x > x0).logical_and_(x < x1).logical_and_(y > y0).logical_and_(y < y1)


def _central(seen: Candidates, radius: float) -> Bool[Tensor, "B G P"]:
    """Whether a prior's centre lies within `radius` cells of its map round the object's centre, across and down."""
    spec, (px, py) = _spec(seen), _centres(seen)
    height, width = spec.image
    steps = [(size, *spec.step(i)) for i, size in enumerate(spec.per_map)]
    down = torch.cat([px.new_full((size,), radius * step / height) for size, step, _ in steps])
    across = torch.cat([px.new_full((size,), radius * step / width) for size, _, step in steps])
    x, y = to_centres(seen.boxes)[..., :2].unsqueeze(-1).unbind(-2)
    return ((px - x).abs_() < across).logical_and_((py - y).abs_() < down)


def _of_own_class(values: Float[Tensor, "B P C"], seen: Candidates) -> Float[Tensor, "B G P"]:
    """Of each prior the value of each object's class."""
    assert seen.labels is not None
    index = seen.labels.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[1])
    return values.transpose(1, 2).gather(1, index)


def _classification_cost(probabilities: Float[Tensor, "B P C"], seen: Candidates) -> Float[Tensor, "B G P"]:
    """Binary cross entropy of each prior's probabilities against each object's class, summed over the classes.

    Logarithms are not less than -100, as in torch's binary_cross_entropy.
    """
    other = probabilities.neg().log1p_().clamp_(min=-100.0)
    own = probabilities.log().clamp_(min=-100.0)
    return (_of_own_class(other - own, seen) - other.sum(dim=-1).unsqueeze(1)).clamp_(min=0.0)


def _spec(seen: Candidates) -> PriorSpec:
    if seen.spec is None or sum(seen.spec.per_map) != len(seen.priors_cxcywh):
        raise ConfigError("this matching rule goes by feature maps: give match the table of its priors, spec=PriorSpec")
    return seen.spec


def _predicted(seen: Candidates) -> Predictions:
    if seen.predicted is None:
        raise ConfigError("this matching rule goes by predictions: give match the model's outputs, raw=RawOutput")
    return seen.predicted
