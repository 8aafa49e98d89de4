"""Pairs of all images of a batch -> rows of each image, best first, as plain ONNX operators.

Pairs are int64 [M, 3]: image, class, prior, as NonMaxSuppression and NonZero give them. Names of what is made begin
with that of the pairs. The graph has the constants "first" [0], "second" [1] and "zero", and "image_column", the
images' numbers [N, 1].
"""

from __future__ import annotations

from collections.abc import Mapping

from singleshot.deploy.onnx_builder import Builder


def scores_of_images(b: Builder, pairs: str, table: str) -> None:
    """Make "_class" and "_prior" [M, 1] of the pairs, the mask "_own" [N, M], and "_own_scores" [N, M] of a table of
    scores [N, C, P]: 0 where a pair is another image's."""
    b.op("GatherND", [table, pairs], f"{pairs}_scores")
    thirds = b.const("thirds", [1, 1, 1])
    b.op("Split", [pairs, thirds], f"{pairs}_image", f"{pairs}_class", f"{pairs}_prior", axis=1)
    b.op("Transpose", [f"{pairs}_image"], f"{pairs}_image_row", perm=[1, 0])
    b.op("Equal", ["image_column", f"{pairs}_image_row"], f"{pairs}_own")
    b.op("Where", [f"{pairs}_own", f"{pairs}_scores", "zero"], f"{pairs}_own_scores")


def most_of_an_image(b: Builder, pairs: str) -> str:
    """How many pairs the image has that has most, and one at least: [1]."""
    b.op("Cast", [f"{pairs}_own"], f"{pairs}_own_numbers", to=7)  # int64
    b.op("ReduceSum", [f"{pairs}_own_numbers", "second"], f"{pairs}_counts", keepdims=0)
    b.op("ReduceMax", [f"{pairs}_counts", "first"], f"{pairs}_most", keepdims=1)
    return b.op("Max", [f"{pairs}_most", b.const("at_least", [1])], f"{pairs}_most_or_one")


def sort_rows(b: Builder, pairs: str, most: str, behind: int, scores: str, parts: Mapping[str, str]) -> None:
    """Make the `most` best of each image: `scores` [N, K], and of each of the parts "class" and "prior" its own [N, K].
    behind: how many zeros are put behind the pairs, for when an image has fewer."""
    b.op("Pad", [f"{pairs}_own_scores", b.const(f"{pairs}_columns_behind", [0, 0, 0, behind])], f"{pairs}_table")
    b.op("TopK", [f"{pairs}_table", most], scores, f"{pairs}_slot", axis=1)
    rows_behind = b.const(f"{pairs}_rows_behind", [0, 0, behind, 0])
    for part, name in parts.items():
        b.op("Pad", [f"{pairs}_{part}", rows_behind], f"{pairs}_{part}_column")
        b.op("Squeeze", [f"{pairs}_{part}_column", "second"], f"{pairs}_{part}_list")
        b.op("Gather", [f"{pairs}_{part}_list", f"{pairs}_slot"], name)
