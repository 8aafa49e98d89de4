"""What raw outputs say at every default box, and which boxes survive NMS, asked for single ones.

A box that greedy NMS keeps or drops depends on the better ones that it overlaps, these on others: a few of thousands.
`missed` asks for the boxes that could have an object, where a whole NMS for each change would take most of its time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.boxes import decode, iou
from singleshot.explaining import Scene, cut
from singleshot.postprocess import probabilities
from singleshot.records import RawOutput
from singleshot.thresholds import Thresholds


class Predicted(NamedTuple):
    """What raw outputs say at every prior.

    boxes [P, 4] as NMS sees them; overlaps [G, P]: IoU of its box, cut to the image, with each object; scores
    [P, C + 1]; claims, own: bool [G, P], whether the box would claim the object if it were of its class (see
    `missed.holders`), and whether it is on no other object more.
    """

    raw: RawOutput
    boxes: Tensor
    overlaps: Tensor
    scores: Tensor
    claims: Tensor
    own: Tensor


def predict(scene: Scene, boxes: Tensor, labels: Tensor, iou_min: float) -> Predicted:
    """Of a scene with objects: boxes [G, 4] corner form normalised to the input, labels [G]; iou_min: from which a
    detection has an object."""
    found = decode(scene.raw.offsets[0].float(), scene.priors, scene.variances)
    found = found.clamp_(0.0, 1.0) if scene.rules.clip else found
    scores = probabilities(scene.raw.logits[0], scene.rules.activation)
    overlaps = iou(boxes, cut(found, scene.window))
    enough = overlaps >= iou_min
    claims = torch.zeros_like(enough)
    for label in set(labels.tolist()):
        rows = (labels == label).nonzero().squeeze(1)
        # max, not argmax, which along this axis takes ten times as long
        claims[rows] = overlaps[rows].max(dim=0).indices == torch.arange(len(rows)).unsqueeze(1)
    own = overlaps.max(dim=0).indices == torch.arange(len(overlaps)).unsqueeze(1)
    return Predicted(scene.raw, found, overlaps, scores, claims & enough, own & enough)


class ClassSuppression:
    """Greedy NMS of one class, asked for single boxes: only better ones that a box overlaps too much with decide on it.

    Only for rules under which `is_local` holds; what is asked about is not looked at twice. tied: boxes of equal scores
    overlap too much, of which the order of sorting keeps one: the answers are not certain then.

    Args:
        boxes: [P, 4] as NMS sees them, corner form.
        scores: [P] of the class.
        rules: What enters, and what is dropped.
    """

    def __init__(self, boxes: Tensor, scores: Tensor, rules: Thresholds) -> None:
        best, order = scores.topk(min(rules.per_class, len(scores)))
        entering = best > rules.score_min
        order, self._scores, self.tied = order[entering], best[entering], False
        self._boxes, self._nms_iou = boxes[order], rules.nms_iou
        self._rank = dict(zip(order.tolist(), range(len(order)), strict=True))
        self._alive: dict[int, bool] = {}
        self._over: dict[int, list[int]] = {}

    @staticmethod
    def is_local(rules: Thresholds) -> bool:
        """Whether nothing counts boxes that other boxes left, and every class is for itself, `keep` not looked at."""
        return rules.candidates is None and rules.keep_per_class is None and not rules.one_class_per_prior

    def keeps(self, prior: int) -> bool:
        """Whether the box of this prior enters and survives."""
        if prior not in self._rank:
            return False
        first = self._rank[prior]
        waiting = [first]
        while waiting:  # a chain of boxes that drop each other may be longer than Python's calls may be deep
            row = waiting[-1]
            states = ((other, self._alive.get(other)) for other in self._better(row))
            found = next(((other, state) for other, state in states if state is not False), None)
            if found is not None and found[1] is None:
                waiting.append(found[0])
            else:
                self._alive[row] = found is None
                waiting.pop()
        return self._alive[first]

    def _better(self, row: int) -> list[int]:
        """Rows before this one that would drop it, best first."""
        if row not in self._over:
            first, end = ((self._scores > self._scores[row]).sum(), (self._scores >= self._scores[row]).sum())
            clash = iou(self._boxes[row : row + 1], self._boxes[:end])[0] > self._nms_iou
            self._over[row] = clash[:first].nonzero().squeeze(1).tolist()
            self.tied |= int(clash[first:].sum()) > 1  # more than itself
        return self._over[row]
