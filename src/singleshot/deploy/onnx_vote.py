"""Box voting (box_voting.py) as plain ONNX operators, between selection and the boxes that a file gives."""

from __future__ import annotations

import numpy as np

from singleshot.deploy.onnx_builder import Builder
from singleshot.deploy.onnx_rows import most_of_an_image, scores_of_images, sort_rows
from singleshot.thresholds import VOTE_LEAST, VOTE_REACH, VOTE_SHARE


def add_vote(b: Builder, candidates: str, iou_min: float, by_class: bool, fixed: int | None) -> None:
    """Make "boxes" [N, K, 4] of "own_boxes", "scores" [N, K] and, by_class, "labels" [N, K].

    candidates: scores [N, C, P], 0 for what does not enter non-maximum suppression. fixed: how many candidates of an
    image vote, the best; None for all that there are.
    """
    _voters(b, candidates, by_class, fixed)
    least, most = b.const("vote_least", -VOTE_REACH, np.float32), b.const("vote_most", VOTE_REACH, np.float32)
    b.op("Clip", ["own_boxes", least, most], "kept_boxes")
    b.op("Clip", ["voter_boxes", least, most], "voter_reach")
    b.op("Transpose", ["voter_reach"], "voter_rows", perm=[0, 2, 1])
    corners, quarters = ("x0", "y0", "x1", "y1"), b.const("quarters", [1, 1, 1, 1])
    b.op("Split", ["kept_boxes", quarters], *(f"kept_{name}" for name in corners), axis=2)  # [N, K, 1] each
    b.op("Split", ["voter_rows", quarters], *(f"voter_{name}" for name in corners), axis=1)  # [N, 1, V] each
    nothing, tiny = b.const("vote_zero", 0, np.float32), b.const("vote_tiny", np.finfo(np.float32).tiny, np.float32)
    for side in ("kept", "voter"):
        for axis in "xy":
            b.op("Sub", [f"{side}_{axis}1", f"{side}_{axis}0"], f"{side}_{axis}_length")
            b.op("Relu", [f"{side}_{axis}_length"], f"{side}_{axis}_side")
        b.op("Mul", [f"{side}_x_side", f"{side}_y_side"], f"{side}_area")
    for axis in "xy":
        b.op("Max", [f"kept_{axis}0", f"voter_{axis}0"], f"shared_{axis}0")
        b.op("Min", [f"kept_{axis}1", f"voter_{axis}1"], f"shared_{axis}1")
        b.op("Sub", [f"shared_{axis}1", f"shared_{axis}0"], f"shared_{axis}_length")
        b.op("Relu", [f"shared_{axis}_length"], f"shared_{axis}_side")
    b.op("Mul", ["shared_x_side", "shared_y_side"], "shared_area")
    b.op("Add", ["kept_area", "voter_area"], "both_areas")
    b.op("Sub", ["both_areas", "shared_area"], "vote_union")
    b.op("Max", ["vote_union", tiny], "vote_union_or_tiny")
    b.op("Div", ["shared_area", "vote_union_or_tiny"], "vote_iou")
    b.op("Sub", ["vote_iou", b.const("vote_iou_min", iou_min, np.float32)], "over_least")
    b.op("Relu", ["over_least"], "overlap_weight")
    b.op("Unsqueeze", ["scores", "last"], "score_column")
    b.op("Mul", ["score_column", b.const("vote_share", VOTE_SHARE, np.float32)], "score_share")
    b.op("Max", ["score_share", "least_voter"], "least_vote")
    b.op("Unsqueeze", ["voter_scores", "second"], "voter_score_row")
    b.op("Sub", ["voter_score_row", "least_vote"], "over_least_vote")
    b.op("Relu", ["over_least_vote"], "score_weight")
    b.op("Mul", ["overlap_weight", "score_weight"], "any_weight" if by_class else "weight")
    if by_class:
        b.op("Unsqueeze", ["labels", "last"], "label_column")
        b.op("Unsqueeze", ["voter_class", "second"], "voter_class_row")
        b.op("Equal", ["label_column", "voter_class_row"], "same_class")
        b.op("Where", ["same_class", "any_weight", nothing], "weight")
    b.op("Min", ["least_vote", "score_column"], "own_vote")
    b.op("Mul", ["own_vote", b.const("own_reach", 1 - iou_min, np.float32)], "own_weight")
    b.op("ReduceSum", ["weight", "last"], "weight_of_others", keepdims=1)
    b.op("Add", ["weight_of_others", "own_weight"], "weight_sum")
    b.op("MatMul", ["weight", "voter_reach"], "boxes_of_others")
    b.op("Mul", ["kept_boxes", "own_weight"], "own_share")
    b.op("Add", ["boxes_of_others", "own_share"], "weighted_boxes")
    b.op("Max", ["weight_sum", tiny], "weight_sum_or_tiny")  # 0 in rows that hold nothing
    b.op("Div", ["weighted_boxes", "weight_sum_or_tiny"], "boxes")


def _voters(b: Builder, candidates: str, by_class: bool, fixed: int | None) -> None:
    """Make "voter_boxes" [N, V, 4], "voter_scores" [N, V], 0 where fewer may vote, and "voter_class" [N, V]."""
    b.op("Greater", [candidates, b.const("least_voter", [VOTE_LEAST], np.float32)], "voting")
    b.op("Greater", [candidates, "score_min"], "over_score_min")
    b.op("And", ["voting", "over_score_min"], "entering")
    b.op("NonZero", ["entering"], "entered_columns")
    b.op("Transpose", ["entered_columns"], "entered", perm=[1, 0])  # [M, 3]: image, class, prior
    scores_of_images(b, "entered", candidates)
    voters = most_of_an_image(b, "entered") if fixed is None else b.const("voters", [fixed])
    parts = {"prior": "voter_prior", "class": "voter_class"} if by_class else {"prior": "voter_prior"}
    sort_rows(b, "entered", voters, fixed or 1, "voter_scores", parts)
    b.op("Unsqueeze", ["voter_prior", "last"], "voter_prior_rows")
    b.op("GatherND", ["all_boxes", "voter_prior_rows"], "voter_boxes", batch_dims=1)
