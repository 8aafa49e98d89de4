"""Ground truth + priors -> Targets, for a whole batch at once.

The default rule is that of the paper's authors (Caffe bbox_util.cpp, MatchBBox with PER_PREDICTION): objects and
priors are paired greedily by IoU, best pair first, so that every object which overlaps a free prior keeps one;
then each prior that is left takes its best object if their IoU is at least iou_min. Where objects tie for a prior
the one listed first wins. The other rules are those of the ports; they differ in what happens to an object that no
prior fits well, and to two objects with one best prior:

- "caffe": both keep a prior, the weaker one its next best.
- "bipartite": the greedy pairs alone (Caffe's match type BIPARTITE, ssd_keras' matching_type "bipartite").
- "forced": each object in turn takes its best prior, so the last one listed keeps a shared one (amdegroot, lufficc,
  qfgaohao, NVIDIA), even if they do not overlap at all.
- "index": the same, by one assignment at an index (torchvision) or a loop (mmdetection without gt_max_assign_all).
  With objects that collide, torchvision's own result is undefined; here the last one wins, as it does on a CPU.
- "threshold": nothing is forced, a prior takes its best object above iou_min (balancap).
- "threshold-best": the same, and then an object's best prior goes to it even if it fits another object better
  (ljanyst).
- "fallback": as "threshold", and an object with no prior above iou_min takes its best one if no object fits that
  above iou_min; of two such objects the one with the higher IoU does (bubbliiiing).

A rule sees more than these use (`Candidates`), and one of your own is passed in as a `Rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from singleshot.boxes import VARIANCES, Variances, encode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.records import Targets

# Caffe MatchBBox ignores pairs below this in the bipartite stage.
_OVERLAPS = 1e-6


class Candidates(NamedTuple):
    """What a rule sees of a batch.

    Attributes:
        overlaps: IoU of objects and priors [B, G, P], or any other likeness of 0 and more; rows of -1 hold no object.
        boxes: the objects [B, G, 4], normalised corner form.
        priors_cxcywh: [P, 4].
        per_map: how many priors each feature map has, in order; empty where the caller of `match` did not give it.
    """

    overlaps: Float[Tensor, "B G P"]
    boxes: Float[Tensor, "B G 4"]
    priors_cxcywh: Float[Tensor, "P 4"]
    per_map: tuple[int, ...] = ()


class Rule(NamedTuple):
    """A way of matching.

    Attributes:
        assign: (candidates, iou_min, inclusive) -> the object of each prior [B, P], -1 for none.
        inclusive: whether an IoU of exactly iou_min is enough, where the caller does not decide it.
    """

    assign: Callable[[Candidates, float, bool], Tensor]
    inclusive: bool


def match(
    priors_cxcywh: Float[Tensor, "P 4"],
    boxes: Float[Tensor, "*b G 4"],
    labels: Int[Tensor, "*b G"],
    iou_min: float = 0.5,
    rule: str | Rule = "caffe",
    variances: Variances = VARIANCES,
    *,
    inclusive: bool | None = None,
    iou_epsilon: float = 0.0,
    ignore_from: float | None = None,
    form: str = "center",
    variance_encoded_in_target: bool = False,
    per_map: Sequence[int] = (),
) -> Targets:
    """Assign objects to priors.

    Args:
        priors_cxcywh: [P, 4], normalised.
        boxes: normalised corner form, [G, 4] for one image or [B, G, 4] for a batch.
        labels: 0-based real classes, [G] or [B, G]; -1 in rows that hold no object.
        iou_min: the IoU from which a prior fits an object.
        rule: a key of RULES, or a rule of your own.
        variances: of the offsets, as in `boxes.encode`.
        inclusive: whether an IoU of exactly iou_min is enough; None for what most of the rule's sources do (see RULES;
            NVIDIA is "forced" with False).
        iou_epsilon: added to every union (`boxes.iou`; lufficc and qfgaohao have 1e-5).
        ignore_from: unmatched priors whose best IoU is at least this are ignored (ssd_keras' neg_iou_limit, Caffe's
            neg_overlap).
        form: of the offsets, as in `boxes.encode`.
        variance_encoded_in_target: likewise.
        per_map: priors of each feature map (`PriorSpec.per_map`), for a rule that goes by maps.

    Returns:
        Labels [.., P] (0 background, c + 1 for class c, -1 ignored) and the encoded offsets [.., P, 4], zero where
        nothing is matched.

    Raises:
        ConfigError: an unknown rule or form.
    """
    single = boxes.dim() == 2
    if single:
        boxes, labels = boxes.unsqueeze(0), labels.unsqueeze(0)
    if boxes.shape[1] == 0:  # No image of the batch has an object: one empty row keeps every shape regular.
        boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_full((len(labels), 1), -1)
    boxes, labels, priors_cxcywh = boxes.float(), labels.long(), priors_cxcywh.float()
    real = labels >= 0
    # A padding row must never look like an overlap, whatever its box holds.
    overlaps = iou(boxes, to_corners(priors_cxcywh), iou_epsilon).masked_fill_(~real.unsqueeze(-1), -1.0)
    owner = assign(Candidates(overlaps, boxes, priors_cxcywh, tuple(per_map)), iou_min, rule, inclusive)

    matched = owner >= 0
    index = owner.clamp(min=0)
    own_boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    offsets = encode(own_boxes, priors_cxcywh.expand_as(own_boxes), variances, form, variance_encoded_in_target)
    offsets = torch.where(matched.unsqueeze(-1), offsets, 0.0)
    classes = torch.where(matched, labels.gather(1, index) + 1, 0)
    if ignore_from is not None:
        classes = torch.where(~matched & (overlaps.amax(dim=1) >= ignore_from), -1, classes)
    return Targets(classes[0], offsets[0]) if single else Targets(classes, offsets)


def assign(
    candidates: Candidates, iou_min: float = 0.5, rule: str | Rule = "caffe", inclusive: bool | None = None
) -> Int[Tensor, "B P"]:
    """The object of each prior, or -1.

    Of equal IoU the first object, and the first prior, counts as the best. iou_min, rule, inclusive: as in `match`.
    Raises ConfigError for an unknown rule.
    """
    if isinstance(rule, str):
        if rule not in RULES:
            raise ConfigError(f"matching rule {rule!r}: want one of {', '.join(RULES)}")
        rule = RULES[rule]
    return rule.assign(candidates, iou_min, rule.inclusive if inclusive is None else inclusive)


def bipartite(overlaps: Float[Tensor, "B G P"]) -> Int[Tensor, "B G"]:
    """Greedy one-to-one pairing, best IoU first: the prior of each object, or -1.

    Equal to taking the largest remaining IoU again and again. Computed as deferred acceptance: in each round every
    object claims its best prior that no better pair holds. One object can lose at most G - 1 priors to others,
    so its G best are enough, and G rounds settle everything; nearly always two do.
    """
    count, size = overlaps.shape[1:]
    priors = _best_priors(overlaps, min(count, size))
    values = overlaps.gather(-1, priors)
    # One integer per pair that orders by IoU, then by the object's place: positive floats order as their bits do.
    order = torch.arange(count - 1, -1, -1, device=overlaps.device).view(1, count, 1)
    keys = values.view(torch.int32).long() * count + order + 1
    keys = torch.where(values > _OVERLAPS, keys, 0)
    held = keys.new_zeros(len(overlaps), size)
    for _ in range(count):
        free = (keys > 0) & (keys >= held.gather(1, priors.flatten(1)).view_as(keys))
        choice = free.byte().argmax(dim=-1, keepdim=True)  # the first free one: they are sorted by IoU
        key = torch.where(free.any(dim=-1), keys.gather(-1, choice).squeeze(-1), 0)
        claim = priors.gather(-1, choice).squeeze(-1)
        held = torch.zeros_like(held).scatter_reduce_(1, claim, key, "amax")
        won = held.gather(1, claim) == key
        # On an accelerator asking whether all is settled would stop the queue: there the rounds just run.
        if not overlaps.is_cuda and bool((won | (key == 0)).all()):
            break
    return torch.where(won & (key > 0), claim, -1)


def _best_priors(overlaps: Float[Tensor, "B G P"], best: int) -> Int[Tensor, "B G K"]:
    """The `best` priors of each object, best first; of equal ones the first prior, as Caffe's loops find them.

    topk alone leaves ties to chance, and on real boxes one object in six ties.
    """
    size = overlaps.shape[-1]
    last = torch.arange(size - 1, -1, -1, device=overlaps.device)
    keys = overlaps.view(torch.int32).long().mul_(2**32).add_(last)
    return size - 1 - (keys.topk(best, dim=-1).values % 2**32)


def _caffe(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    return _give(_threshold(seen, iou_min, inclusive), bipartite(seen.overlaps))


def _bipartite(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    claim = bipartite(seen.overlaps)
    return _give(claim.new_full((len(claim), seen.overlaps.shape[2]), -1), claim)


def _forced(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    best, prior = seen.overlaps.max(dim=2)
    return _give(_threshold(seen, iou_min, inclusive), torch.where(best >= 0, prior, -1))


def _threshold(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    best, owner = seen.overlaps.max(dim=1)
    return torch.where(_fits(best, iou_min, inclusive), owner, -1)


def _threshold_best(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    best, prior = seen.overlaps.max(dim=2)
    claim = torch.where(_fits(best, iou_min, inclusive), prior, -1)
    forced = _strongest(best, claim, seen.overlaps.shape[2])
    return torch.where(forced >= 0, forced, _threshold(seen, iou_min, inclusive))


def _fallback(seen: Candidates, iou_min: float, inclusive: bool) -> Int[Tensor, "B P"]:
    best, prior = seen.overlaps.max(dim=2)
    claim = torch.where(~_fits(best, iou_min, inclusive) & (best > 0), prior, -1)
    forced = _strongest(best, claim, seen.overlaps.shape[2])
    owner = _threshold(seen, iou_min, inclusive)
    return torch.where(owner >= 0, owner, forced)


def _fits(best: Tensor, iou_min: float, inclusive: bool) -> Tensor:
    """Whether an IoU is enough; a row of no object (-1) never is."""
    return (best >= max(iou_min, 0.0)) if inclusive else (best > max(iou_min, 0.0))


def _give(owner: Int[Tensor, "B P"], claim: Int[Tensor, "B G"]) -> Int[Tensor, "B P"]:
    """Give each object the prior that it claims (-1: none); objects listed later win."""
    objects = torch.arange(claim.shape[1], device=claim.device).expand_as(claim)
    # Objects without a claim write to a spare column, so that no shape depends on the data.
    spare = owner.shape[1]
    target = torch.where(claim >= 0, claim, spare)
    forced = owner.new_full((len(owner), spare + 1), -1).scatter_reduce_(1, target, objects, "amax")[:, :spare]
    return torch.where(forced >= 0, forced, owner)


def _strongest(values: Float[Tensor, "B G"], claim: Int[Tensor, "B G"], size: int) -> Int[Tensor, "B P"]:
    """The object of each of `size` priors that claims it (-1: none) with the highest value, the first of equal ones."""
    count = claim.shape[1]
    order = torch.arange(count - 1, -1, -1, device=claim.device)
    # As in `bipartite`: one integer that orders by value, then by place; 0 stays for priors that nobody claims.
    keys = values.view(torch.int32).long() * count + order + 1
    target = torch.where(claim >= 0, claim, size)
    held = keys.new_zeros(len(keys), size + 1).scatter_reduce_(1, target, keys, "amax")[:, :size]
    return torch.where(held > 0, count - 1 - (held - 1) % count, -1)


RULES: dict[str, Rule] = {
    "caffe": Rule(_caffe, True),  # ssd_keras too
    "bipartite": Rule(_bipartite, True),
    "forced": Rule(_forced, True),  # amdegroot's, lufficc's and qfgaohao's way; NVIDIA's is not
    "index": Rule(_forced, True),
    "threshold": Rule(_threshold, False),
    "threshold-best": Rule(_threshold_best, False),
    "fallback": Rule(_fallback, False),
}
