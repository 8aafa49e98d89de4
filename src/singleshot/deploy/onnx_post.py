"""Decoding, selection and non-maximum suppression as plain ONNX operators: the part of an exported file behind the
network.

The order of work is postprocess.py's, which is Caffe's: per class the best `per_class` priors, greedy NMS, then the
`keep` best over all classes. Sorting thousands of scores to find the best 400 of each class costs ten times as much as
NMS, which drops what is under the limit first; so it is done only when some class has more than 400 over the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.deploy.onnx_builder import Builder
from singleshot.deploy.onnx_rows import most_of_an_image, scores_of_images, sort_rows
from singleshot.deploy.onnx_vote import add_vote
from singleshot.errors import ConfigError
from singleshot.thresholds import Thresholds

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

# From so many detections an image on, the file gives as many rows as the batch needs instead of always that many.
MAX_ROWS = 1000
# The most that TensorRT's TopK sorts out (onnx-tensorrt docs/operators.md: K less than 3840).
TENSORRT_TOP_K = 3839


def decode_model(priors: np.ndarray, variances: tuple[float, float], classes: int, rules: Thresholds) -> ModelProto:
    """The graph of offsets [N, P, 4], logits [N, P, C + 1] -> all_boxes [N, P, 4] in corner form, all_scores
    [N, C, P] of the real classes; where rules.class_agnostic, the score of each prior's likeliest class [N, 1, P], and
    all_labels int64 [N, P]. priors: cx cy w h [P, 4]."""
    b, count = Builder("decode"), len(priors)
    width = classes + 1

    # Priors last: vector units want rows of thousands of numbers, not of four, or of a few classes.
    table = np.ascontiguousarray(priors.T)
    b.op("Transpose", ["offsets"], "offset_rows", perm=[0, 2, 1])
    b.op("Split", ["offset_rows", b.const("pairs", [2, 2])], "moved", "stretched", axis=1)
    b.op("Mul", ["moved", b.const("prior_step", variances[0] * table[2:], np.float32)], "shift")
    b.op("Add", ["shift", b.const("prior_centre", table[:2], np.float32)], "box_centre")
    b.op("Mul", ["stretched", b.const("size_variance", variances[1], np.float32)], "log_size")
    b.op("Exp", ["log_size"], "relative_size")
    b.op("Mul", ["relative_size", b.const("prior_half", table[2:] / 2, np.float32)], "half_size")
    b.op("Sub", ["box_centre", "half_size"], "box_low")
    b.op("Add", ["box_centre", "half_size"], "box_high")
    b.op("Concat", ["box_low", "box_high"], "corners", axis=1)
    if rules.clip:
        limits = [b.const("box_least", 0, np.float32), b.const("box_most", 1, np.float32)]
        b.op("Clip", ["corners", *limits], "clipped_corners")
    b.op("Transpose", ["clipped_corners" if rules.clip else "corners"], "all_boxes", perm=[0, 2, 1])

    b.op("Transpose", ["logits"], "logit_rows", perm=[0, 2, 1])
    if rules.activation == "softmax":
        b.op("Softmax", ["logit_rows"], "probabilities", axis=1)
    else:
        b.op("Sigmoid", ["logit_rows"], "probabilities")
    classwise = not rules.one_class_per_prior
    axis, one = b.const("class_axis", [1]), b.const("from_one", [1])
    b.op("Slice", ["probabilities", one, b.const("to_end", [width]), axis], "all_scores" if classwise else "real")
    if rules.class_agnostic:
        own = rules.first_column == 0  # whether the background may win
        among = "probabilities" if own else "real"
        b.op("ReduceMax", [among, axis], "best" if own else "all_scores", keepdims=1)
        b.op("ArgMax", [among], "winner" if own else "all_labels", axis=1, keepdims=0)
        if own:
            b.op("Sub", ["winner", one], "real_winner")
            b.op("Max", ["real_winner", b.const("class_zero", [0])], "all_labels")
            b.op("Less", ["real_winner", "class_zero"], "lost")
            b.op("Unsqueeze", ["lost", axis], "lost_row")
            b.op("Where", ["lost_row", b.const("none", 0, np.float32), "best"], "all_scores")
    elif rules.best_class:
        b.op("ArgMax", ["real"], "winner", axis=1, keepdims=1)
        b.op("Equal", ["winner", b.const("class_numbers", np.arange(classes)[:, None])], "is_winner")
        b.op("Where", ["is_winner", "real", b.const("none", 0, np.float32)], "all_scores")
    inputs = [_info("offsets", "FLOAT", ["batch", count, 4]), _info("logits", "FLOAT", ["batch", count, width])]
    return b.model(inputs, _decoded(count, 1 if rules.class_agnostic else classes, rules.class_agnostic))


def _info(name: str, kind: str, shape: list[int | str]) -> ValueInfoProto:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)


def _decoded(priors: int, classes: int, labels: bool) -> list[ValueInfoProto]:
    """What stands between decoding and selection."""
    values = [
        _info("all_boxes", "FLOAT", ["batch", priors, 4]),
        _info("all_scores", "FLOAT", ["batch", classes, priors]),
    ]
    return [*values, _info("all_labels", "INT64", ["batch", priors])] if labels else values


def select_model(priors: int, classes: int, rules: Thresholds, plain: bool = False) -> ModelProto:
    """The graph behind decode_model.

    In: what decode_model gives (class-agnostic: C is 1). Out: boxes [N, K, 4], scores [N, K], labels int64 [N, K],
    counts int64 [N], where K is at most `keep`, and as many as the batch needs when that is over MAX_ROWS; rows past
    an image's count have score 0. plain: without branches, and K fixed, for TensorRT; raises ConfigError where that
    cannot be.
    """
    by_class = not rules.class_agnostic
    classes = classes if by_class else 1
    per_class = priors if rules.one_class_per_prior else min(priors, rules.per_class)
    of_class = priors if rules.keep_per_class is None or not by_class else min(priors, rules.keep_per_class)
    most = min(rules.keep, rules.candidates or rules.keep, classes * min(per_class, of_class))
    if plain:
        _check_plain(most, per_class if per_class < priors else 0, rules.candidates or 0)
    b = Builder("select")
    b.const("first", [0])
    second, last = b.const("second", [1]), b.const("last", [2])
    zero, limit = b.const("zero", 0, np.float32), b.const("score_min", [rules.score_min], np.float32)

    candidates = "all_scores"
    if per_class < priors:
        candidates = _best(b, candidates, "of_class", per_class, (classes, priors), plain)
    if rules.candidates is not None and rules.candidates < classes * priors:
        candidates = _best(b, candidates, "of_all", rules.candidates, (classes, priors), plain)
    limits = [b.const("most_of_class", [min(most, of_class)]), b.const("nms_iou", [rules.nms_iou], np.float32), limit]
    b.op("NonMaxSuppression", ["all_boxes", candidates, *limits], "chosen")  # [M, 3]: image, class, prior
    _number_images(b)
    scores_of_images(b, "chosen", "all_scores")
    parts = {"prior": "prior", "class": "labels"} if by_class else {"prior": "prior"}
    behind = _rows(b, most, plain)  # zeros behind, for when fewer than `most` were chosen
    sort_rows(b, "chosen", "most", behind, "scores", parts)
    b.op("Unsqueeze", ["prior", last], "prior_rows")
    if not by_class:
        b.op("GatherND", ["all_labels", "prior_rows"], "labels", batch_dims=1)
    if rules.box_voting is None:
        b.op("GatherND", ["all_boxes", "prior_rows"], "boxes", batch_dims=1)
    else:
        b.op("GatherND", ["all_boxes", "prior_rows"], "own_boxes", batch_dims=1)
        add_vote(b, candidates, rules.box_voting, by_class, TENSORRT_TOP_K if plain else None)
    b.op("Greater", ["scores", zero], "found")
    b.op("Cast", ["found"], "found_numbers", to=7)  # int64
    b.op("ReduceSum", ["found_numbers", second], "counts", keepdims=0)

    rows: int | str = most if behind == most else "detections"
    outputs = [
        _info("boxes", "FLOAT", ["batch", rows, 4]),
        _info("scores", "FLOAT", ["batch", rows]),
        _info("labels", "INT64", ["batch", rows]),
        _info("counts", "INT64", ["batch"]),
    ]
    return b.model(_decoded(priors, classes, not by_class), outputs)


def _number_images(b: Builder) -> None:
    """Make "image_column", the numbers of the batch's images [N, 1]."""
    b.op("Shape", ["all_scores"], "batch_size", start=0, end=1)
    b.op("Squeeze", ["batch_size", "first"], "batch_count")
    b.op("Range", [b.const("from", 0), "batch_count", b.const("step", 1)], "images_in_order")
    b.op("Unsqueeze", ["images_in_order", "second"], "image_column")


def _rows(b: Builder, most: int, plain: bool) -> int:
    """Make "most", the number of rows to give; returns how many rows to put behind what was chosen."""
    if plain or most <= MAX_ROWS:
        b.const("most", [most])
        return most
    b.op("Min", [most_of_an_image(b, "chosen"), b.const("at_most", [most])], "most")
    return 1


def _check_plain(most: int, per_class: int, candidates: int) -> None:
    largest = max(most, per_class, candidates)
    if largest > TENSORRT_TOP_K:
        raise ConfigError(
            f"--tensorrt: the model's thresholds keep up to {largest} boxes, TensorRT sorts out {TENSORRT_TOP_K}"
            " at most; export with --raw"
        )


def _best(b: Builder, scores: str, name: str, count: int, shape: tuple[int, int], plain: bool) -> str:
    """The scores with zeros for those under the count-th best, of each class or ("of_all") of all classes together.

    The branch that sorts runs only when more than `count` are over the limit; it gives no more than the count-th best
    itself, since engines copy what crosses a branch.
    """
    from onnx import helper

    over_all = name == "of_all"
    classes, priors = shape
    b.const(f"{name}_count", [count])
    nodes = []

    def node(kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, list(outputs), name=f"select/{outputs[0]}", **attributes))

    if over_all:
        b.const(f"{name}_flat", [0, 1, classes * priors])
        node("Reshape", [scores, f"{name}_flat"], f"{name}_row")
    node("TopK", [f"{name}_row" if over_all else scores, f"{name}_count"], f"{name}_values", f"{name}_index", axis=2)
    node("ReduceMin", [f"{name}_values", "last"], f"{name}_lowest", keepdims=1)
    least = f"{name}_lowest"
    if plain:
        b.nodes.extend(nodes)
    else:
        b.op("Greater", [scores, "score_min"], f"{name}_over")
        b.op("Cast", [f"{name}_over"], f"{name}_numbers", to=6)  # int32
        axes = b.const(f"{name}_axes", [1, 2] if over_all else [2])
        b.op("ReduceSum", [f"{name}_numbers", axes], f"{name}_counts", keepdims=0)
        b.op("ReduceMax", [f"{name}_counts"], f"{name}_most", keepdims=0)
        b.op("Greater", [f"{name}_most", b.const(f"{name}_limit", count, np.int32)], f"{name}_too_many")
        sides: list[int | str] = ["batch", 1 if over_all else classes, 1]
        b.const(f"{name}_none", np.zeros((1, 1, 1)), np.float32)
        best = helper.make_graph(nodes, f"{name}_best", [], [_info(f"{name}_lowest", "FLOAT", sides)])
        all_of_them = helper.make_node("Identity", [f"{name}_none"], [f"{name}_zero"], name=f"select/{name}_zero")
        every = helper.make_graph([all_of_them], f"{name}_every", [], [_info(f"{name}_zero", "FLOAT", [1, 1, 1])])
        least = b.op("If", [f"{name}_too_many"], f"{name}_least", then_branch=best, else_branch=every)
    b.op("Less", [scores, least], f"{name}_lower")
    return b.op("Where", [f"{name}_lower", "zero", scores], f"{name}_candidates")
