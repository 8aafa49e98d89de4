"""Ground truth + priors -> Targets, for a whole batch at once.

The default rule is that of the paper's authors (Caffe bbox_util.cpp, MatchBBox with PER_PREDICTION): objects and
priors are paired greedily by IoU, best pair first, so that every object which overlaps a free prior keeps one;
then each prior that is left takes its best object if their IoU is at least iou_min. Where objects tie for a prior
the one listed first wins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from singleshot.boxes import VARIANCES, Variances, encode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.records import Targets

# Caffe MatchBBox ignores pairs below this in the bipartite stage.
_OVERLAPS = 1e-6


def match(
    priors_cxcywh: Float[Tensor, "P 4"],
    boxes: Float[Tensor, "*b G 4"],
    labels: Int[Tensor, "*b G"],
    iou_min: float = 0.5,
    rule: str = "caffe",
    variances: Variances = VARIANCES,
) -> Targets:
    """Assign objects to priors.

    boxes: normalised corner form, [G, 4] for one image or [B, G, 4] for a batch; labels: 0-based real classes, -1 in
    rows that hold no object. Returns labels [.., P] (0 background, c + 1 for class c, -1 ignored) and the encoded
    offsets [.., P, 4], zero where nothing is matched. Raises ConfigError for an unknown rule.
    """
    if rule not in RULES:
        raise ConfigError(f"matching rule {rule!r}: want one of {', '.join(RULES)}")
    single = boxes.dim() == 2
    if single:
        boxes, labels = boxes.unsqueeze(0), labels.unsqueeze(0)
    if boxes.shape[1] == 0:  # No image of the batch has an object: one empty row keeps every shape regular.
        boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_full((len(labels), 1), -1)
    boxes, labels, priors_cxcywh = boxes.float(), labels.long(), priors_cxcywh.float()
    real = labels >= 0
    # A padding row must never look like an overlap, whatever its box holds.
    overlaps = iou(boxes, to_corners(priors_cxcywh)).masked_fill_(~real.unsqueeze(-1), -1.0)
    owner = RULES[rule](overlaps, iou_min)

    matched = owner >= 0
    index = owner.clamp(min=0)
    own_boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    offsets = encode(own_boxes, priors_cxcywh.expand_as(own_boxes), variances)
    offsets = torch.where(matched.unsqueeze(-1), offsets, 0.0)
    classes = torch.where(matched, labels.gather(1, index) + 1, 0)
    return Targets(classes[0], offsets[0]) if single else Targets(classes, offsets)


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


def _caffe(overlaps: Float[Tensor, "B G P"], iou_min: float) -> Int[Tensor, "B P"]:
    best, owner = overlaps.max(dim=1)
    owner = torch.where(best >= iou_min, owner, -1)
    return _give(owner, bipartite(overlaps))


def _give(owner: Int[Tensor, "B P"], claim: Int[Tensor, "B G"]) -> Int[Tensor, "B P"]:
    """Give each object the prior that it claims (-1: none); objects listed later win."""
    objects = torch.arange(claim.shape[1], device=claim.device).expand_as(claim)
    # Objects without a claim write to a spare column, so that no shape depends on the data.
    spare = owner.shape[1]
    target = torch.where(claim >= 0, claim, spare)
    forced = owner.new_full((len(owner), spare + 1), -1).scatter_reduce_(1, target, objects, "amax")[:, :spare]
    return torch.where(forced >= 0, forced, owner)


Rule = Callable[[Tensor, float], Tensor]
RULES: dict[str, Rule] = {"caffe": _caffe}
