"""RawOutput -> detections: softmax, decode, score threshold, non-maximum suppression, top k.

The order of work is Caffe's (detection_output_layer.cpp): per class the best `per_class` priors over `score_min`
go through greedy NMS, then the `keep` best over all classes stay. The result is the same, but computed lazily:
greedy NMS in order of score never revises a decision, so as soon as `keep` boxes have survived the rest cannot
matter. Blocks of candidates, best first, are tested against the survivors and among themselves for the whole
batch at once, and the work stops as soon as every image has enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from singleshot.box_voting import vote
from singleshot.boxes import VARIANCES, Variances, decode, iou
from singleshot.errors import ConfigError
from singleshot.records import RawOutput
from singleshot.thresholds import ACTIVATIONS, NO_CAP, VOTE_LEAST, Thresholds, first_column

_BLOCK = 400


class Found(NamedTuple):
    """Detections of one image, best first: boxes [N, 4] normalised corner form, scores [N], labels [N] 0-based."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Traced(NamedTuple):
    """As `Found`, and the prior [N] that each came from."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    priors: Tensor


class _Rules(NamedTuple):
    """The arguments of `to_detections`, fields of `Thresholds`."""

    score_min: float
    nms_iou: float
    per_class: int
    keep: int
    class_agnostic: bool
    activation: str
    clip: bool
    candidates: int | None
    keep_per_class: int | None
    best_class: bool
    background_competes: bool
    box_voting: float | None


class _Candidates(NamedTuple):
    """[B, M] each, best first: score (0 where there is none), prior, 0-based class."""

    scores: Tensor
    priors: Tensor
    labels: Tensor

    def over(self, score_min: float) -> _Candidates:
        """Zero the scores that are not over the limit; a NaN is not, so a broken network finds nothing."""
        return self._replace(scores=torch.where(self.scores > score_min, self.scores, 0.0))


class _Geometry(NamedTuple):
    """Boxes on demand: few priors of thousands are ever candidates, and exp() is what decoding costs."""

    offsets: Tensor
    priors: Tensor
    variances: Variances
    clip: bool

    def boxes(self, index: Int[Tensor, "B M"]) -> Float[Tensor, "B M 4"]:
        """Corner boxes of the priors of these numbers."""
        offsets = self.offsets.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        boxes = decode(offsets.float(), self.priors[index], self.variances)
        return boxes.clamp_(0.0, 1.0) if self.clip else boxes


class _Limits(NamedTuple):
    """What NMS goes by: the IoU over which it drops, whether classes are apart, survivors in all and of a class."""

    nms_iou: float
    by_class: bool
    keep: int
    keep_per_class: int | None


class _Entry(NamedTuple):
    """What the choice of candidates goes by: scores [B, P, C] (or [B, P, 1] of the class [B, P] each prior speaks for),
    the boxes, the limits of NMS, those before it, and the score that a candidate must be over."""

    scores: Tensor
    classes: Tensor | None
    geometry: _Geometry
    limits: _Limits
    per_class: int
    cap: int
    score_min: float

    def every(self) -> _Candidates:
        """All candidates, best first."""
        return _all(self.scores, self.classes, self.per_class, self.score_min, self.cap)


def to_detections(
    raw: RawOutput,
    priors: Float[Tensor, "P 4"],
    score_min: float | int = 0.01,
    nms_iou: float | int = 0.45,
    per_class: int = 400,
    keep: int = 200,
    class_agnostic: bool = False,
    variances: Variances = VARIANCES,
    activation: str = "softmax",
    clip: bool = False,
    candidates: int | None = None,
    keep_per_class: int | None = None,
    best_class: bool = False,
    background_competes: bool = True,
    box_voting: float | None = None,
    wanted: Sequence[int] | None = None,
) -> list[Found]:
    """Detections of each image of the batch; conventions.DETECTION holds the settings of the public implementations.

    raw: offsets [B, P, 4], logits [B, P, C + 1]; priors: cx cy w h. A score must be over `score_min`, a box is
    dropped when its IoU with a better one of its class is over `nms_iou`. The order of equal scores is unspecified.

    Caps, in the order in which they work: the `per_class` best priors of each class and of these the `candidates`
    best over all classes (None: no such cap) enter NMS; the `keep_per_class` best survivors of a class (None: all)
    and of these the `keep` best leave it. clip: boxes are cut to 0..1 before NMS, which changes their IoU; else they
    are not cut at all.

    best_class: each prior speaks for its likeliest real class only, and `per_class` has no meaning. class_agnostic:
    the same, but boxes of all classes suppress each other, so `keep_per_class` has no meaning either; after a softmax
    the background may then be the likeliest, and its priors find nothing (the "fast" mode of ssd_keras), unless
    `background_competes` is false (TensorFlow's class-agnostic NMS, TensorFlow Lite's fast one). activation: "softmax",
    or "sigmoid" for networks that were trained so (TensorFlow's Object Detection API), where the background's logit
    says nothing. Raises ConfigError for another.

    box_voting: the IoU from which what entered NMS moves a detection's box (see box_voting.py), None for boxes as they
    are. It changes neither which boxes stay nor their scores.

    wanted: the labels to look for, None for all. The result is that of all classes without caps on boxes of several
    classes (`candidates`, `keep`), cut to these labels, and then to the caps: boxes of other classes push out none of
    them. With class_agnostic they still suppress, and count for `candidates`.
    """
    values = score_min, nms_iou, per_class, keep, class_agnostic, activation, clip, candidates, keep_per_class
    rules = _Rules(*values, best_class, background_competes, box_voting)
    return [Found(*one[:3]) for one in _trace(raw, priors, variances, rules, wanted)]


def trace_detections(
    raw: RawOutput,
    priors: Float[Tensor, "P 4"],
    variances: Variances,
    rules: Thresholds,
    wanted: Sequence[int] | None = None,
) -> list[Traced]:
    """The detections of `to_detections` by these rules, each with the prior it came from."""
    return _trace(raw, priors, variances, _Rules(**rules.for_postprocess()), wanted)


def trace_candidates(
    raw: RawOutput,
    priors: Float[Tensor, "P 4"],
    variances: Variances,
    rules: Thresholds,
    wanted: Sequence[int] | None = None,
) -> list[Traced]:
    """What enters non-maximum suppression in `trace_detections`: scores over the limit, within the caps before it."""
    with torch.no_grad():
        entry = _enter(raw, priors, variances, _Rules(**rules.for_postprocess()), wanted)
        return _traced(entry.every(), entry.geometry)


def probabilities(logits: Float[Tensor, "*n K"], activation: str) -> Float[Tensor, "*n K"]:
    """float32 scores of logits, background first. Raises ConfigError for an unknown activation."""
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation {activation!r}: want one of {', '.join(ACTIVATIONS)}")
    logits = logits.float()
    return logits.softmax(dim=-1) if activation == "softmax" else logits.sigmoid()


def _trace(
    raw: RawOutput,
    priors: Tensor,
    variances: Variances,
    rules: _Rules,
    wanted: Sequence[int] | None,
) -> list[Traced]:
    with torch.no_grad():
        entry = _enter(raw, priors, variances, rules, wanted)
        most = entry.limits.keep
        quick = min(_BLOCK, entry.per_class, entry.cap)  # the best of all can hold no more of one class than that
        every_one: _Candidates | None = None
        chosen = _best(entry.scores, entry.classes, quick).over(rules.score_min)
        found = _suppress(_without_rest(chosen), entry.geometry, entry.limits)
        enough = (found.scores > 0).sum(dim=1) >= most
        if chosen.scores.shape[1] == quick < entry.cap:
            complete = enough | (chosen.scores[:, -1] == 0)  # or nothing was left out
            if not bool(complete.all()):
                every_one = entry.every()
                found = _suppress(every_one, entry.geometry, entry.limits)
        every = _traced(found, entry.geometry)
        if rules.box_voting is not None:
            left_out = chosen.scores.shape[1] == quick < entry.cap and bool((chosen.scores[:, -1] > VOTE_LEAST).any())
            voters = (every_one or entry.every()) if left_out else chosen
            voters = _without_rest(voters.over(VOTE_LEAST))
            every = _voted(every, _traced(voters, entry.geometry), rules.box_voting, entry.limits.by_class)
        if wanted is None or not rules.class_agnostic:
            return every
        return [Traced(*(values[_is_one(one.labels, wanted)][: rules.keep] for values in one)) for one in every]


def _enter(raw: RawOutput, priors: Tensor, variances: Variances, rules: _Rules, wanted: Sequence[int] | None) -> _Entry:
    """Which scores may become candidates, and the limits that then hold."""
    scores = probabilities(raw.logits, rules.activation)
    geometry = _Geometry(raw.offsets, priors, variances, rules.clip)
    together, per_class = rules.class_agnostic, rules.per_class
    apart = None if together else wanted
    most = NO_CAP if together and wanted is not None else rules.keep
    limits = _Limits(rules.nms_iou, not together, most, None if together else rules.keep_per_class)
    if together or rules.best_class:
        first = first_column(together, rules.activation, rules.background_competes)
        best, winner = scores[..., first:].max(dim=-1, keepdim=True)
        winner = winner + first
        taken = winner > 0 if apart is None else _is_one(winner - 1, apart)
        scores, per_class = torch.where(taken, best, 0.0), scores.shape[1]
        classes = winner.squeeze(-1) - 1
    else:
        scores, classes = scores[..., 1:], None
        if apart is not None:
            columns = torch.arange(scores.shape[-1], device=scores.device)
            scores = torch.where(_is_one(columns, apart), scores, 0.0)
    cap = scores[0].numel() if rules.candidates is None else rules.candidates
    return _Entry(scores, classes, geometry, limits, per_class, cap, rules.score_min)


def _traced(found: _Candidates, geometry: _Geometry) -> list[Traced]:
    """One record an image, without the rows that hold nothing."""
    counts = (found.scores > 0).sum(dim=1).tolist()
    rows = zip(geometry.boxes(found.priors), found.scores, found.labels, found.priors, counts, strict=True)
    return [Traced(b[:n], s[:n], c[:n], p[:n]) for b, s, c, p, n in rows]


def _voted(found: list[Traced], entered: list[Traced], iou_min: float, by_class: bool) -> list[Traced]:
    """The detections of each image with the boxes that those which entered NMS vote for."""
    moved = []
    for one, voters in zip(found, entered, strict=True):
        groups, theirs = (v.labels if by_class else torch.zeros_like(v.labels) for v in (one, voters))
        boxes = vote(one.boxes, one.scores, groups, (voters.boxes, voters.scores, theirs), iou_min)
        moved.append(one._replace(boxes=boxes))
    return moved


def _is_one(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    """Which of the labels are among the wanted ones."""
    return torch.isin(labels, torch.tensor(list(wanted), dtype=torch.int64, device=labels.device))


def _best(scores: Float[Tensor, "B P C"], classes: Int[Tensor, "B P"] | None, count: int) -> _Candidates:
    """The `count` best pairs of prior and class."""
    width = scores.shape[-1]
    values, index = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
    priors = index // width
    labels = index % width if classes is None else classes.gather(1, priors)
    return _Candidates(values, priors, labels)


def _all(
    scores: Float[Tensor, "B P C"], classes: Int[Tensor, "B P"] | None, per_class: int, score_min: float, cap: int
) -> _Candidates:
    """The `per_class` best priors of every class, in one list, best first, cut to `cap`."""
    if len(scores) == 1 and per_class >= scores.shape[1]:  # without a limit of classes, few are worth sorting
        return _all_over(scores[0], classes, score_min, cap)
    values, priors = scores.transpose(1, 2).topk(min(per_class, scores.shape[1]), dim=-1)
    labels = torch.arange(scores.shape[2], device=scores.device).view(1, -1, 1).expand_as(priors)
    values = torch.where(values > score_min, values, 0.0)
    values, order = values.flatten(1).sort(dim=1, descending=True, stable=True)
    used = max(min(int((values > 0).sum(dim=1).max()), cap), 1)  # nothing beyond is a candidate
    order = order[:, :used]
    priors = priors.flatten(1).gather(1, order)
    labels = labels.flatten(1).gather(1, order) if classes is None else classes.gather(1, priors)
    return _Candidates(values[:, :used], priors, labels)


def _all_over(
    scores: Float[Tensor, "P C"], classes: Int[Tensor, "1 P"] | None, score_min: float, cap: int
) -> _Candidates:
    """As `_all`, of one image whose classes may each have every prior."""
    flat = scores.T.flatten()
    over = (flat > score_min).nonzero().squeeze(1)
    order = over[flat[over].argsort(descending=True, stable=True)][:cap]
    if not len(order):
        order = over.new_zeros(1)  # which is over no limit, and has a score of 0 in the result
    labels, priors = order // len(scores), order % len(scores)
    values = torch.where(flat[order] > score_min, flat[order], 0.0)
    labels = labels if classes is None else classes[0, priors]
    return _Candidates(*(one.unsqueeze(0) for one in (values, priors, labels)))


def _without_rest(candidates: _Candidates) -> _Candidates:
    """Without the columns in which no image has a candidate. Elsewhere than on a processor to ask costs more."""
    if candidates.scores.device.type != "cpu":
        return candidates
    used = max(int((candidates.scores > 0).sum(dim=1).max()), 1)
    return _Candidates(*(values[:, :used] for values in candidates))


def _suppress(candidates: _Candidates, geometry: _Geometry, limits: _Limits) -> _Candidates:
    """Greedy NMS over candidates that are sorted by score; the survivors of each image that the limits let pass."""
    kept: _Candidates | None = None
    kept_boxes = geometry.boxes(candidates.priors[:, :0])
    for start in range(0, candidates.scores.shape[1], _BLOCK):
        block = _Candidates(*(values[:, start : start + _BLOCK] for values in candidates))
        block_boxes = geometry.boxes(block.priors)
        alive = block.scores > 0
        if kept is not None:
            clash = _clash(kept_boxes, kept.labels, block_boxes, block.labels, limits)
            alive &= ~(clash & (kept.scores > 0).unsqueeze(-1)).any(dim=1)
        clash = _clash(block_boxes, block.labels, block_boxes, block.labels, limits)
        alive = _greedy(clash.triu_(1), alive)
        block = block._replace(scores=torch.where(alive, block.scores, 0.0))
        if kept is not None:
            block = _Candidates(*(torch.cat(pair, dim=1) for pair in zip(kept, block, strict=True)))
            block_boxes = torch.cat([kept_boxes, block_boxes], dim=1)
        kept, kept_boxes = _pack(block, block_boxes, limits)
        if bool((kept.scores.shape[1] == limits.keep) & (kept.scores > 0).all()):
            break
    assert kept is not None
    return kept


def _clash(
    a: Float[Tensor, "B N 4"],
    a_labels: Int[Tensor, "B N"],
    b: Float[Tensor, "B M 4"],
    b_labels: Int[Tensor, "B M"],
    limits: _Limits,
) -> Bool[Tensor, "B N M"]:
    """Which boxes of b lie over which of a."""
    over = iou(a, b) > limits.nms_iou
    return over & (a_labels.unsqueeze(-1) == b_labels.unsqueeze(-2)) if limits.by_class else over


def _greedy(clash: Bool[Tensor, "B N N"], alive: Bool[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Survivors of greedy NMS, where clash[i, j] (i < j) says that i would drop j.

    A box survives if none of the survivors before it clashes with it. Applying that to all boxes at once settles
    at least one more box of every image each time, and reaches the greedy answer in as many rounds as the longest
    chain of boxes dropping each other, which is short.
    """
    table = clash.to(torch.float32 if clash.device.type == "cpu" else torch.float16)
    start = alive
    for _ in range(clash.shape[-1] + 1):
        dropped = torch.bmm(alive.unsqueeze(1).to(table.dtype), table).squeeze(1) > 0
        new = start & ~dropped
        if torch.equal(new, alive):
            break
        alive = new
    return alive


def _pack(found: _Candidates, boxes: Float[Tensor, "B M 4"], limits: _Limits) -> tuple[_Candidates, Tensor]:
    """Move the survivors that the limits let pass to the front, keeping their order, and cut to the longest row."""
    alive = found.scores > 0
    if limits.keep_per_class is not None:
        # One over the limit suppresses nothing that could stay: those after it are of a class that is full.
        alive &= _place_in_class(found.labels, alive) < limits.keep_per_class
        found = found._replace(scores=torch.where(alive, found.scores, 0.0))
    longest = min(limits.keep, int(alive.sum(dim=1).max()))
    order = (~alive).byte().argsort(dim=1, stable=True)[:, :longest]
    packed = _Candidates(*(values.gather(1, order) for values in found))
    return packed, boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))


def _place_in_class(labels: Int[Tensor, "B M"], alive: Bool[Tensor, "B M"]) -> Int[Tensor, "B M"]:
    """How many living entries of the same class stand before each living entry."""
    groups, order = torch.where(alive, labels, -1).sort(dim=1, stable=True)
    start = torch.searchsorted(groups, groups)
    places = torch.arange(labels.shape[1], device=labels.device) - start
    return torch.empty_like(places).scatter_(1, order, places)
