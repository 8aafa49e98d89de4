"""Box voting: what non-maximum suppression removed for a detection still says where the object is.

After Gidaris and Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN model" (2015),
section 4.2: a detection keeps its score, and its box becomes the mean of the candidates of its class that overlap it,
weighted by their scores. Weights here fall to 0 at the least IoU and at the least score, and the detection's own box
has its whole score, so that rounding, which may carry a candidate over either limit, hardly moves a box.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from singleshot.boxes import iou
from singleshot.thresholds import VOTE_LEAST, VOTE_REACH, VOTE_SHARE

# Pairs of a detection and a candidate that are looked at together; of more, those of each class for themselves.
_TABLE = 1 << 18


def vote(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    groups: Int[Tensor, " N"],
    voters: tuple[Float[Tensor, "M 4"], Float[Tensor, " M"], Int[Tensor, " M"]],
    iou_min: float,
) -> Float[Tensor, "N 4"]:
    """The boxes of an image's detections after the vote.

    A candidate of the same group has the weight max(0, score - least) * max(0, IoU - iou_min), where least is the
    greater of VOTE_LEAST and VOTE_SHARE times the detection's score. The detection's own box has score * (1 - iou_min)
    in all. One that nothing else votes for keeps its box.

    Args:
        boxes, scores, groups: The detections: corner form normalised, score, and what is suppressed apart (the class,
            or one number for all).
        voters: The same of all that entered non-maximum suppression with scores over VOTE_LEAST, others or not.
        iou_min: From which IoU a candidate votes.
    """
    if len(boxes) * len(voters[1]) <= _TABLE:
        same = groups.unsqueeze(1) == voters[2]
        return _mean(boxes, scores, voters[0], voters[1], iou_min, same)
    voted = boxes.clone()
    for group in sorted(set(groups.tolist())):
        columns = voters[2] == group
        theirs, votes = voters[0][columns], voters[1][columns]
        for rows in (groups == group).nonzero().squeeze(1).split(max(1, _TABLE // max(len(votes), 1))):
            voted[rows] = _mean(boxes[rows], scores[rows], theirs, votes, iou_min)
    return voted


def _mean(
    boxes: Tensor, scores: Tensor, voters: Tensor, votes: Tensor, iou_min: float, same: Tensor | None = None
) -> Tensor:
    """same: bool [N, M], None where all are of one group."""
    own, reach = (one.clamp(-VOTE_REACH, VOTE_REACH) for one in (boxes, voters))  # 0 times infinity is no number
    least = (VOTE_SHARE * scores).clamp(min=VOTE_LEAST)
    weights = (iou(own, reach) - iou_min).clamp_(min=0.0) * (votes - least.unsqueeze(1)).clamp_(min=0.0)
    if same is not None:
        weights *= same
    mine = (torch.minimum(least, scores) * (1.0 - iou_min)).unsqueeze(1)  # with what it has among the voters: all
    return (weights @ reach + mine * own) / (weights.sum(dim=1, keepdim=True) + mine)
