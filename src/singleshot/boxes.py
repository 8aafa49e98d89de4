"""Box forms, IoU, and offsets <-> boxes.

Everywhere: corner form is (x0 y0 x1 y1), centre form (cx cy w h), both normalised to 0..1. All functions are
pure, differentiable where it makes sense, and broadcast over leading dimensions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from singleshot.errors import ConfigError

Variances = tuple[float, float]

# Caffe's prior_box_layer writes 0.1 0.1 0.2 0.2 with every prior ("variance"): offsets of the centre are
# divided by the first, log sizes by the second, so that both losses have a like scale.
VARIANCES: Variances = (0.1, 0.2)

# What offsets mean, Caffe's PriorBoxParameter.CodeType: CENTER_SIZE, CORNER, CORNER_SIZE.
FORMS = ("center", "corners", "corner-size")


def to_corners(boxes_cxcywh: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre form -> corner form."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Corner form -> centre form."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area of corner boxes; 0 for a box turned inside out (Caffe bbox_util.cpp, BBoxSize)."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou(a: Float[Tensor, "*#b N 4"], b: Float[Tensor, "*#b M 4"], epsilon: float = 0.0) -> Float[Tensor, "*b N M"]:
    """Intersection over union of every box of a with every box of b, corner form.

    Two boxes without area have IoU 0, never NaN (Caffe bbox_util.cpp, JaccardOverlap).

    Args:
        a: N boxes.
        b: M boxes.
        epsilon: added to the union, 1e-5 in lufficc's and qfgaohao's box_utils, which takes boxes that overlap by
            exactly a threshold below it.
    """
    overlap = _intersection(a, b)
    union = (area(a).unsqueeze(-1) + area(b).unsqueeze(-2)).sub_(overlap)
    if epsilon:
        union.add_(epsilon)
    return overlap.div_(union.clamp_(min=torch.finfo(a.dtype).tiny))


def covered(a: Float[Tensor, "*#b N 4"], b: Float[Tensor, "*#b M 4"]) -> Float[Tensor, "*b N M"]:
    """The part 0..1 of the area of every box of b that lies in every box of a, corner form; 0 for a box without area.

    The "intersection over foreground" of mmdetection's bbox_overlaps, and the overlap with a crowd in COCO's evaluation
    (pycocotools maskApi.c, bbIou).
    """
    return _intersection(a, b).div_(area(b).unsqueeze(-2).clamp(min=torch.finfo(b.dtype).tiny))


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas [.., N, M]."""
    # One coordinate at a time: a [.., N, M, 2] intermediate would make every pass strided, and this is the
    # largest table of the training step.
    ax0, ay0, ax1, ay1 = a.unsqueeze(-2).unbind(-1)
    bx0, by0, bx1, by1 = b.unsqueeze(-3).unbind(-1)
    width = torch.minimum(ax1, bx1).sub_(torch.maximum(ax0, bx0)).clamp_(min=0)
    height = torch.minimum(ay1, by1).sub_(torch.maximum(ay0, by0)).clamp_(min=0)
    return width.mul_(height)


def encode(
    boxes: Float[Tensor, "*n 4"],
    priors_cxcywh: Float[Tensor, "*n 4"],
    variances: Variances = VARIANCES,
    form: str = "center",
    variance_encoded_in_target: bool = False,
) -> Float[Tensor, "*n 4"]:
    """Offsets that turn each prior into its box (paper section 2.2; Caffe bbox_util.cpp, EncodeBBox).

    Args:
        boxes: corner form, row by row with the priors.
        priors_cxcywh: centre form.
        variances: what the first two offsets and the last two are divided by.
        form: "center" for centres in sides of the prior and logarithms of relative sides (CENTER_SIZE; a side of zero
            length is taken as 1e-7, so that the logarithm is finite); "corners" for differences of x0 y0 x1 y1
            (CORNER); "corner-size" for those in sides of the prior (CORNER_SIZE).
        variance_encoded_in_target: Caffe's switch of that name; offsets are then not divided by the variances, as if
            both were 1, and must be decoded with the switch too.

    Raises:
        ConfigError: an unknown form.
    """
    if variance_encoded_in_target:
        variances = (1.0, 1.0)
    if form != "center":
        return _encode_corners(boxes, priors_cxcywh, variances, form)
    low, high = boxes[..., :2], boxes[..., 2:]
    prior_centre, prior_size = priors_cxcywh[..., :2], priors_cxcywh[..., 2:]
    centre_offset = ((low + high) / 2 - prior_centre) / (prior_size * variances[0])
    size_offset = torch.log((high - low).clamp(min=1e-7) / prior_size) / variances[1]
    return torch.cat([centre_offset, size_offset], dim=-1)


def decode(
    offsets: Float[Tensor, "*n 4"],
    priors_cxcywh: Float[Tensor, "*#n 4"],
    variances: Variances = VARIANCES,
    form: str = "center",
    variance_encoded_in_target: bool = False,
) -> Float[Tensor, "*n 4"]:
    """Inverse of `encode` with the same form and switch: corner boxes, not clipped (Caffe bbox_util.cpp, DecodeBBox).

    Computed in float32 at least: exp overflows float16 already at an offset of 55.
    """
    offsets = offsets.float() if offsets.dtype in (torch.float16, torch.bfloat16) else offsets
    if variance_encoded_in_target:
        variances = (1.0, 1.0)
    if form != "center":
        return _decode_corners(offsets, priors_cxcywh, variances, form)
    prior_centre, prior_size = priors_cxcywh[..., :2], priors_cxcywh[..., 2:]
    centre = prior_centre + offsets[..., :2] * variances[0] * prior_size
    half = prior_size * torch.exp(offsets[..., 2:] * variances[1]) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _encode_corners(boxes: Tensor, priors_cxcywh: Tensor, variances: Variances, form: str) -> Tensor:
    unit = _corner_unit(priors_cxcywh, form)
    difference = boxes - to_corners(priors_cxcywh)
    return torch.cat([difference[..., :2] / (unit * variances[0]), difference[..., 2:] / (unit * variances[1])], dim=-1)


def _decode_corners(offsets: Tensor, priors_cxcywh: Tensor, variances: Variances, form: str) -> Tensor:
    unit = _corner_unit(priors_cxcywh, form)
    corners = to_corners(priors_cxcywh)
    low = corners[..., :2] + offsets[..., :2] * variances[0] * unit
    high = corners[..., 2:] + offsets[..., 2:] * variances[1] * unit
    return torch.cat([low, high], dim=-1)


def _corner_unit(priors_cxcywh: Tensor, form: str) -> Tensor | float:
    """What differences of corners are measured in."""
    if form not in FORMS:
        raise ConfigError(f"box form {form!r}: want one of {', '.join(FORMS)}")
    return priors_cxcywh[..., 2:] if form == "corner-size" else 1.0
