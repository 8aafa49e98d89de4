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

"atss", "task-aligned" and "simota", which later detectors brought, are in `assigners`. A rule sees more than most use
(`Candidates`), and one of your own is passed in as a `Rule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from singleshot.assigners import (
    Candidates,
    Predictions,
    Rule,
    atss,
    best_first,
    simota,
    strongest,
    task_aligned,
)
from singleshot.boxes import VARIANCES, Variances, covered, decode, encode, iou, to_corners
from singleshot.errors import ConfigError
from singleshot.prior_boxes import PriorSpec
from singleshot.records import RawOutput, Targets

__all__ = ["RULES", "Candidates", "Rule", "assign", "bipartite", "find_rule", "match"]

# Caffe MatchBBox ignores pairs below this in the bipartite stage.
_OVERLAPS = 1e-6
# From this part of it in one ignored region on a prior is no negative: ignore_iof_thr of mmdetection's assigners, where
# its users switch it on. Detectron's Faster R-CNN leaves out proposals from .7 on in a crowd (CROWD_FILTER_THRESH).
IGNORED_FROM = 0.5


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
    spec: PriorSpec | None = None,
    raw: RawOutput | None = None,
    activation: str = "softmax",
    ignored: Float[Tensor, "*b K 4"] | None = None,
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
        per_map: priors of each feature map (`PriorSpec.per_map`), for a rule that goes by maps; `spec` has them too.
        spec: the table that the priors are made from, for "atss" and "simota".
        raw: the model's outputs, for "task-aligned" and "simota"; no gradient flows through them.
        activation: "softmax" or "sigmoid": how its logits become probabilities.
        ignored: regions whose objects are not labelled one by one, normalised corner form, [K, 4] or [B, K, 4]; rows
            without area are none. Unmatched priors of which IGNORED_FROM or more lies in one of them are ignored; of a
            prior that reaches out of the input, of its part in it, as a detection is cut to its image.

    Returns:
        Labels [.., P] (0 background, c + 1 for class c, -1 ignored) and the encoded offsets [.., P, 4], zero where
        nothing is matched.

    Raises:
        ConfigError: an unknown rule or form, or a rule that goes by what is not given.
    """
    rule = find_rule(rule)
    single = boxes.dim() == 2
    if single:
        boxes, labels = boxes.unsqueeze(0), labels.unsqueeze(0)
    if boxes.shape[1] == 0:  # No image of the batch has an object: one empty row keeps every shape regular.
        boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_full((len(labels), 1), -1)
    boxes, labels, priors_cxcywh = boxes.float(), labels.long(), priors_cxcywh.float()
    real = labels >= 0
    # A padding row must never look like an overlap, whatever its box holds.
    overlaps = iou(boxes, to_corners(priors_cxcywh), iou_epsilon).masked_fill_(~real.unsqueeze(-1), -1.0)
    predicted = None
    if rule.by_predictions and raw is not None:
        raw = RawOutput(*(values.unsqueeze(0) if single else values for values in raw))
        boxes_of = priors_cxcywh, variances, form, variance_encoded_in_target
        predicted = _predictions(raw, activation, *boxes_of)
    per_map = tuple(per_map) or (() if spec is None else spec.per_map)
    candidates = Candidates(overlaps, boxes, priors_cxcywh, per_map, labels, spec, predicted)
    owner = assign(candidates, iou_min, rule, inclusive)

    matched = owner >= 0
    index = owner.clamp(min=0)
    own_boxes = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    offsets = encode(own_boxes, priors_cxcywh.expand_as(own_boxes), variances, form, variance_encoded_in_target)
    offsets = torch.where(matched.unsqueeze(-1), offsets, 0.0)
    classes = torch.where(matched, labels.gather(1, index) + 1, 0)
    if ignore_from is not None:
        classes = torch.where(~matched & (overlaps.amax(dim=1) >= ignore_from), -1, classes)
    if ignored is not None and ignored.shape[-2] > 0:
        lies_in = _in_regions(priors_cxcywh, ignored.float())
        classes = torch.where(~matched & lies_in, -1, classes)
    return Targets(classes[0], offsets[0]) if single else Targets(classes, offsets)


def _in_regions(priors_cxcywh: Float[Tensor, "P 4"], regions: Float[Tensor, "*b K 4"]) -> Bool[Tensor, "*b P"]:
    """Whether IGNORED_FROM of a prior's part in the input lies in one of the regions."""
    return covered(regions, to_corners(priors_cxcywh).clamp_(0.0, 1.0)).amax(dim=-2) >= IGNORED_FROM


def assign(
    candidates: Candidates, iou_min: float = 0.5, rule: str | Rule = "caffe", inclusive: bool | None = None
) -> Int[Tensor, "B P"]:
    """The object of each prior, or -1.

    Of equal IoU the first object, and the first prior, counts as the best. iou_min, rule, inclusive: as in `match`.
    Raises ConfigError for an unknown rule.
    """
    rule = find_rule(rule)
    return rule.assign(candidates, iou_min, rule.inclusive if inclusive is None else inclusive)


def find_rule(rule: str | Rule) -> Rule:
    """A rule by its name. Raises ConfigError for an unknown one."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise ConfigError(f"matching rule {rule!r}: want one of {', '.join(RULES)}")
    return RULES[rule]


@torch.no_grad()
def _predictions(raw: RawOutput, activation: str, priors_cxcywh: Tensor, *how: Any) -> Predictions:
    """Decoded boxes and probabilities of the real classes; how: `decode`'s variances, form and switch."""
    logits = raw.logits.float()
    probabilities = logits.softmax(dim=-1) if activation == "softmax" else logits.sigmoid()
    return Predictions(decode(raw.offsets.float(), priors_cxcywh, *how), probabilities[..., 1:])


def bipartite(overlaps: Float[Tensor, "B G P"]) -> Int[Tensor, "B G"]:
    """Greedy one-to-one pairing, best IoU first: the prior of each object, or -1.

    Equal to taking the largest remaining IoU again and again. Computed as deferred acceptance: in each round every
    object claims its best prior that no better pair holds. One object can lose at most G - 1 priors to others,
    so its G best are enough, and G rounds settle everything; nearly always two do.
    """
    count, size = overlaps.shape[1:]
    priors = best_first(overlaps.view(torch.int32), count)
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
    """`strongest` of one claim an object."""
    return strongest(values.view(torch.int32).unsqueeze(-1), claim.unsqueeze(-1), size)


RULES: dict[str, Rule] = {
    "caffe": Rule(_caffe, True),  # ssd_keras too
    "bipartite": Rule(_bipartite, True),
    "forced": Rule(_forced, True),  # amdegroot's, lufficc's and qfgaohao's way; NVIDIA's is not
    "index": Rule(_forced, True),
    "threshold": Rule(_threshold, False),
    "threshold-best": Rule(_threshold_best, False),
    "fallback": Rule(_fallback, False),
    "atss": atss(),
    "task-aligned": task_aligned(),
    "simota": simota(),
}
