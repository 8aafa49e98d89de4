"""Proof that an exported file gives the model's boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from singleshot.box_voting import vote
from singleshot.boxes import decode, iou
from singleshot.errors import ConfigError
from singleshot.models import SSD
from singleshot.postprocess import Traced, to_detections, trace_candidates
from singleshot.records import ImageDetections, RawOutput
from singleshot.thresholds import Thresholds
from singleshot.weights.checkpoint import ModelInfo

Engine = Callable[[np.ndarray], list[ImageDetections]]
RawEngine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images -> offsets, logits
# IoU that rounding may move over or under the limit of NMS.
_IOU_SLACK = 0.01
_ROWS = 256  # boxes at a time that are compared with every prior


class Limits(NamedTuple):
    """The most by which a box's corner, in pixels of the input, and its score may differ."""

    box_px: float = 0.5
    score: float = 0.001


EXACT = Limits()
# Weights in 16 bits have 11 of precision: scores move in their third digit.
HALF = Limits(2.0, 0.02)


class Agreement(NamedTuple):
    """Both sides on the same images. boxes: compared; box_px, score: the largest differences, in pixels of the input
    (see `_difference_px`) and in scores; lost: boxes of either side that the other should have and has not; swapped:
    those that are missing because another box of nearly the same score stands over them, so that rounding decides which
    one stays."""

    boxes: int = 0
    box_px: float = 0.0
    score: float = 0.0
    lost: int = 0
    swapped: int = 0

    def good(self, limits: Limits = EXACT) -> bool:
        """Whether the file may be used in the model's place."""
        return self.lost == 0 and self.box_px <= limits.box_px and self.score <= limits.score

    def plus(self, other: Agreement) -> Agreement:
        """Of both sets of images together."""
        return Agreement(
            self.boxes + other.boxes,
            max(self.box_px, other.box_px),
            max(self.score, other.score),
            self.lost + other.lost,
            self.swapped + other.swapped,
        )


class _Truth(NamedTuple):
    """One image by PyTorch: boxes [C, P, 4] that a file may give for each class, scores [P, C] of every prior (zero
    where it may not speak), what stays of them, and boxes [P, 4] as NMS compares them, before any vote."""

    boxes: Tensor
    scores: Tensor
    kept: ImageDetections
    own: Tensor


def refuse_unless_good(agreement: Agreement, what: str, limits: Limits = EXACT) -> None:
    """Raise ConfigError when an exported file does not give the model's boxes."""
    if not agreement.good(limits):
        raise ConfigError(
            f"{what}: gives other results than the model (boxes differ by {agreement.box_px:.3f} px, scores by"
            f" {agreement.score:.5f}, {agreement.lost} of {agreement.boxes} boxes without counterpart); nothing was"
            " written"
        )


def compare(model: SSD, info: ModelInfo, engine: Engine, images: np.ndarray, limits: Limits = EXACT) -> Agreement:
    """The model by PyTorch on the CPU against an engine that gives detections.

    Args:
        model, info: The model and its thresholds.
        engine: Takes uint8 [B, H, W, C], gives B records.
        images: uint8 [N, H, W, C].
        limits: The most by which boxes and scores may differ.

    Each box that the engine gives must be the box of some prior and class of the model's, within `limits`, and both
    sides must keep the same ones. NMS decides between boxes of nearly equal scores by their last digits, and so do the
    caps; there either answer counts, if no two boxes of it overlap by more than NMS allows.
    """
    return compare_engines(model, info, {"": engine}, images, limits)[""]


def compare_engines(
    model: SSD, info: ModelInfo, engines: Mapping[str, Engine], images: np.ndarray, limits: Limits = EXACT
) -> dict[str, Agreement]:
    """As `compare`, for several engines by name; PyTorch runs once."""
    found = dict.fromkeys(engines, Agreement())
    truths = _truths(model, info.thresholds, images)
    for name, engine in engines.items():
        for truth, image in zip(truths, engine(images), strict=True):
            one = _compare_one(truth, image, info.thresholds, _corner_px(model), limits)
            found[name] = found[name].plus(one)
    return found


def compare_raw(model: SSD, info: ModelInfo, outputs: RawEngine, images: np.ndarray) -> Agreement:
    """As `compare`, for an engine that gives offsets and logits: every prior over the score limit is compared."""
    return compare_raw_engines(model, info, {"": outputs}, images)[""]


def compare_raw_engines(
    model: SSD, info: ModelInfo, engines: Mapping[str, RawEngine], images: np.ndarray
) -> dict[str, Agreement]:
    """As `compare_raw`, for several engines by name; PyTorch runs once."""
    ours, found = _raw(model, images), {}
    for name, outputs in engines.items():
        theirs = RawOutput(*(torch.from_numpy(np.array(values)) for values in outputs(images)))
        found[name] = _compare_outputs(model, info.thresholds, ours, theirs)
    return found


def _compare_outputs(model: SSD, rules: Thresholds, ours: RawOutput, theirs: RawOutput) -> Agreement:
    if ours.logits.shape != theirs.logits.shape or ours.offsets.shape != theirs.offsets.shape:
        return Agreement(ours.offsets.shape[1], float("inf"), float("inf"))
    sides = [(_boxes(model, raw, rules), _probabilities(raw, rules)[..., 1:]) for raw in (ours, theirs)]
    (boxes, scores), (other_boxes, other_scores) = sides
    sure = scores.amax(dim=-1) > rules.score_min
    box_px = _difference_px(boxes, other_boxes, _corner_px(model))[sure]
    return Agreement(int(sure.sum()), _largest(box_px), _largest((scores - other_scores).abs()))


def _largest(values: Tensor) -> float:
    """The maximum; infinite where a value is no number, 0 of none."""
    if not values.numel():
        return 0.0
    return float(torch.nan_to_num(values, nan=float("inf"), posinf=float("inf")).max())


def _corner_px(model: SSD) -> Tensor:
    """[4]: by how many pixels of the input each corner of a normalised box is multiplied."""
    height, width = model.input_spec.sides
    return torch.tensor([width, height, width, height], dtype=torch.float32)


def _difference_px(truth: Tensor, other: Tensor, sides: Tensor) -> Tensor:
    """By how many pixels of the input the farthest corner of normalised boxes [..., 4] differs. Of a box that reaches
    beyond the input, as if it were made smaller until it does not: a float's last digit is worth more out there, and
    such a box is not placed to the pixel. What counts is where the model has it, not where the other side puts it."""
    same = truth == other  # infinite ones, too
    reach = truth.abs().clamp(min=1.0).amax(dim=-1)
    return (torch.where(same, 0.0, (truth - other).abs()) * sides).amax(dim=-1) / reach


def _raw(model: SSD, images: np.ndarray) -> RawOutput:
    with torch.inference_mode():
        raw: RawOutput = model.eval()(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
        return raw


def _boxes(model: SSD, raw: RawOutput, rules: Thresholds) -> Tensor:
    boxes = decode(raw.offsets, model.priors, model.prior_spec.variances)
    return boxes.clamp(0, 1) if rules.clip else boxes


def _probabilities(raw: RawOutput, rules: Thresholds) -> Tensor:
    return raw.logits.softmax(-1) if rules.activation == "softmax" else raw.logits.sigmoid()


def _truths(model: SSD, rules: Thresholds, images: np.ndarray) -> list[_Truth]:
    raw = _raw(model, images)
    kept = to_detections(raw, model.priors, variances=model.prior_spec.variances, **rules.for_postprocess())
    boxes, scores = _boxes(model, raw, rules), _probabilities(raw, rules)
    if rules.one_class_per_prior:
        # A prior speaks for its likeliest class, or for two that are as likely but for rounding.
        best = scores[..., rules.first_column :].amax(dim=-1, keepdim=True)
        scores = torch.where(scores >= best - EXACT.score, scores, 0.0)
    found = [ImageDetections(*(values.numpy() for values in image)) for image in kept]
    of_class = [own.expand(scores.shape[2] - 1, -1, -1) for own in boxes]
    if rules.box_voting is not None:
        entered = trace_candidates(raw, model.priors, model.prior_spec.variances, rules)
        of_class = [_voted(*parts, rules) for parts in zip(of_class, entered, strict=True)]
    return [_Truth(*parts) for parts in zip(of_class, scores[..., 1:], found, boxes, strict=True)]


def _voted(boxes: Tensor, entered: Traced, rules: Thresholds) -> Tensor:
    """Boxes [C, P, 4] with those that each candidate would have if it stayed."""
    groups = torch.zeros_like(entered.labels) if rules.class_agnostic else entered.labels
    assert rules.box_voting is not None
    moved = vote(entered.boxes, entered.scores, groups, (entered.boxes, entered.scores, groups), rules.box_voting)
    boxes = boxes.clone()
    boxes[entered.labels, entered.priors] = moved
    return boxes


def _compare_one(truth: _Truth, found: ImageDetections, rules: Thresholds, sides: Tensor, limits: Limits) -> Agreement:
    boxes, labels = torch.from_numpy(found.boxes), torch.from_numpy(found.labels)
    kept_boxes, kept_labels = torch.from_numpy(truth.kept.boxes), torch.from_numpy(truth.kept.labels)
    count = max(len(boxes), len(kept_boxes))
    if len(labels) and not bool(((labels >= 0) & (labels < truth.scores.shape[1])).all()):
        return Agreement(count, float("inf"), float("inf"), count)
    prior, box_px, score = _nearest(truth, found, sides, limits)
    kept_prior, _, _ = _nearest(truth, truth.kept, sides, limits)
    floor = _floor(truth, found, rules) + limits.score
    either = rules.class_agnostic
    lost = swapped = 0
    if rules.box_voting is not None:  # NMS compared them before the vote
        boxes, kept_boxes = truth.own[prior], truth.own[kept_prior]
    here = (boxes, labels, torch.from_numpy(found.scores), prior)
    there = (kept_boxes, kept_labels, torch.from_numpy(truth.kept.scores), kept_prior)
    for one, other in ((here, there), (there, here)):
        missing = ~((one[3][:, None] == other[3][None]) & (one[1][:, None] == other[1][None])).any(dim=1)
        missing &= one[2] > floor[one[1]]
        over = iou(one[0], other[0]) > rules.nms_iou - _IOU_SLACK
        over &= other[2][None] >= one[2][:, None] - limits.score
        if not either:
            over &= one[1][:, None] == other[1][None]
        stood_over = over.any(dim=1)
        lost += int((missing & ~stood_over).sum())
        swapped += int((missing & stood_over).sum())
    # The engine's own answer must be one that NMS can give.
    clash = iou(boxes, boxes).fill_diagonal_(0.0) > rules.nms_iou + _IOU_SLACK
    if not either:
        clash &= labels[:, None] == labels[None]
    lost += int(clash.any(dim=1).sum())
    return Agreement(count, _largest(box_px), _largest(score), lost, swapped)


def _nearest(truth: _Truth, found: ImageDetections, sides: Tensor, limits: Limits) -> tuple[Tensor, Tensor, Tensor]:
    """Of each box found, the prior of the model's that comes nearest for its class, in units of the limits; and by how
    many pixels and how much of a score it differs. sides: what corners are measured in, as `_corner_px` gives it."""
    boxes, scores = torch.from_numpy(found.boxes), torch.from_numpy(found.scores)
    labels = torch.from_numpy(found.labels)
    parts = []
    for start in range(0, len(boxes), _ROWS):
        some = slice(start, start + _ROWS)
        box, score = boxes[some], (scores[some, None] - truth.scores.T[labels[some]]).abs()  # [_ROWS, P]
        nearest, sure = _within_limits(truth, box, labels[some], score, sides, limits)
        rest = (~sure).nonzero()[:, 0]
        of_class = truth.boxes[labels[some][rest]]
        worst = _worst(_difference_px(of_class, box[rest, None], sides), score[rest], limits)
        nearest[rest] = torch.nan_to_num(worst, nan=float("inf"), posinf=float("inf")).argmin(dim=1)
        rows = torch.arange(len(nearest))
        parts.append((nearest, _difference_px(truth.boxes[labels[some], nearest], box, sides), score[rows, nearest]))
    if not parts:
        return labels, scores, scores
    nearest, box_px, score = (torch.cat(column) for column in zip(*parts, strict=True))
    return nearest, box_px, score


def _within_limits(
    truth: _Truth, boxes: Tensor, labels: Tensor, score: Tensor, sides: Tensor, limits: Limits
) -> tuple[Tensor, Tensor]:
    """The nearest prior of each of boxes [N, 4] of classes [N], and whether it is within the limits; another may be
    nearer where not. Few priors have a score that is, and only their boxes are looked at. score: [N, P], as `_nearest`
    has it."""
    row, prior = (score <= limits.score).nonzero(as_tuple=True)
    worst = _worst(_difference_px(truth.boxes[labels[row], prior], boxes[row], sides), score[row, prior], limits)
    best = torch.full((len(boxes),), float("inf")).scatter_reduce(0, row, worst, "amin")
    first = worst == best[row]
    nearest = torch.full((len(boxes),), score.shape[1] - 1).scatter_reduce(0, row[first], prior[first], "amin")
    return nearest, best <= 1


def _worst(box_px: Tensor, score: Tensor, limits: Limits) -> Tensor:
    """Differences in units of the limits, the larger one."""
    return torch.maximum(box_px / limits.box_px, score / limits.score)


def _floor(truth: _Truth, found: ImageDetections, rules: Thresholds) -> Tensor:
    """[C]: the score of each class down to which both sides keep the same boxes, whatever rounding does: that of the
    limit, and of the weakest candidate or box that a cap let pass."""
    classes = truth.scores.shape[1]
    floor = torch.full((classes,), float(rules.score_min))
    if not rules.one_class_per_prior and rules.per_class < len(truth.scores):
        floor = torch.maximum(floor, truth.scores.topk(rules.per_class, dim=0).values[-1])
    if rules.candidates is not None and rules.candidates < truth.scores.numel():
        floor = floor.clamp(min=float(truth.scores.flatten().topk(rules.candidates).values[-1]))
    for side in (truth.kept, found):
        if len(side.scores) >= rules.keep:
            floor = floor.clamp(min=float(side.scores[-1]))
        if rules.keep_per_class is not None and not rules.class_agnostic:
            for label in range(classes):
                own = side.scores[side.labels == label]
                if len(own) >= rules.keep_per_class:
                    floor[label] = max(float(floor[label]), float(own[-1]))
    return floor
