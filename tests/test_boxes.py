"""Box forms, IoU, encoding: golden vectors, a slow loop, properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot.boxes import FORMS, area, covered, decode, encode, iou, to_centres, to_corners
from singleshot.errors import ConfigError

# What each adds to the union of two boxes; torchvision, NVIDIA and the others nothing.
EPSILONS = {"lufficc": 1e-5, "qfgaohao": 1e-5}
PEERS = [
    "amdegroot",
    "balancap",
    "bubbliiiing",
    "caffe",
    "ljanyst",
    "lufficc",
    "nvidia",
    "qfgaohao",
    "ssd_keras",
    "torchvision",
]


@pytest.mark.parametrize("peer", PEERS)
def test_encode_decode_iou_agree_with(peer: str, golden) -> None:
    z = np.load(golden / f"encdec_{peer}.npz")
    priors, boxes, offsets = (torch.tensor(z[k]) for k in ("priors_cxcywh", "boxes_xyxy", "loc_in"))
    encoded, decoded, seen = encode(boxes, priors).numpy(), decode(offsets, priors), set(z)
    # 1e-5 of the value: a few offsets are near 20, where one bit of float32 is 2e-6.
    if "encoded" in seen:
        np.testing.assert_allclose(encoded, z["encoded"], rtol=1e-5, atol=1e-5)
    if "encoded_nan_where_no_overlap" in seen:  # balancap encodes what it matches, so what overlaps
        want = z["encoded_nan_where_no_overlap"]
        apart = np.isnan(want).any(axis=1)
        assert apart.sum() == 6
        assert (iou(boxes, to_corners(priors)).diagonal().numpy()[apart] == 0).all()
        np.testing.assert_allclose(encoded[~apart], want[~apart], rtol=1e-5, atol=1e-5)
    if "decoded_xyxy" in seen:
        np.testing.assert_allclose(decoded, z["decoded_xyxy"], atol=1e-6)
    if "decoded_xyxy_clipped01" in seen:
        np.testing.assert_allclose(decoded.clamp(0, 1), z["decoded_xyxy_clipped01"], atol=1e-6)
    table = iou(boxes, to_corners(priors), EPSILONS.get(peer, 0.0))
    if "iou_boxes_x_priors" in seen:
        np.testing.assert_allclose(table, z["iou_boxes_x_priors"], atol=1e-6)
    if "iou_diag" in seen:  # bubbliiiing writes it where it is above its threshold, or the best of all
        want = z["iou_diag"]
        np.testing.assert_allclose(table.diagonal().numpy()[want > 0], want[want > 0], atol=1e-6)
    assert seen <= {
        "priors_cxcywh",
        "boxes_xyxy",
        "loc_in",
        "encoded",
        "encoded_nan_where_no_overlap",
        "decoded_xyxy",
        "decoded_xyxy_clipped01",
        "iou_boxes_x_priors",
        "iou_diag",
    }


def caffe_encode(prior: list[float], box: list[float], code: str, variances: list[float] | None) -> list[float]:
    """EncodeBBox of Caffe's bbox_util.cpp for one pair of corner boxes; variances None: they are in the target."""
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CENTER_SIZE":
        offsets = [
            ((box[0] + box[2]) / 2 - (prior[0] + prior[2]) / 2) / w,
            ((box[1] + box[3]) / 2 - (prior[1] + prior[3]) / 2) / h,
            math.log((box[2] - box[0]) / w),
            math.log((box[3] - box[1]) / h),
        ]
    else:
        units = [1.0] * 4 if code == "CORNER" else [w, h, w, h]
        offsets = [(box[i] - prior[i]) / units[i] for i in range(4)]
    return offsets if variances is None else [o / v for o, v in zip(offsets, variances, strict=True)]


@pytest.mark.parametrize("in_target", [False, True])
@pytest.mark.parametrize(
    ("form", "code"), [("center", "CENTER_SIZE"), ("corners", "CORNER"), ("corner-size", "CORNER_SIZE")]
)
def test_code_types_of_caffe(form: str, code: str, in_target: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.rand(2, 30, 4, generator=generator, dtype=torch.float64)
    priors = torch.cat([rows[0, :, :2], rows[0, :, 2:] * 0.5 + 0.05], -1)
    boxes = to_corners(torch.cat([rows[1, :, :2], rows[1, :, 2:] * 0.5 + 0.02], -1))
    encoded = encode(boxes, priors, (0.1, 0.3), form, in_target)
    variances = None if in_target else [0.1, 0.1, 0.3, 0.3]
    pairs = zip(to_corners(priors).tolist(), boxes.tolist(), strict=True)
    torch.testing.assert_close(
        encoded, torch.tensor([caffe_encode(p, b, code, variances) for p, b in pairs], dtype=torch.float64)
    )
    torch.testing.assert_close(decode(encoded, priors, (0.1, 0.3), form, in_target), boxes)
    # The priors of a batch are broadcast.
    batch = torch.stack([encoded, encoded * 0.5])
    torch.testing.assert_close(
        decode(batch, priors, (0.1, 0.3), form, in_target)[1],
        decode(encoded * 0.5, priors, (0.1, 0.3), form, in_target),
    )


def test_variances_in_the_target_are_variances_of_one() -> None:
    boxes, priors = to_corners(torch.rand(9, 4) + 0.1), torch.rand(9, 4) + 0.1
    for form in FORMS:
        switched = encode(boxes, priors, form=form, variance_encoded_in_target=True)
        assert torch.equal(switched, encode(boxes, priors, (1.0, 1.0), form))


def test_unknown_form_lists_the_forms() -> None:
    for function in (encode, decode):
        with pytest.raises(ConfigError, match="center, corners, corner-size"):
            function(torch.rand(2, 4), torch.rand(2, 4), form="minmax")


unit = st.floats(0.0, 1.0, width=32)
side = st.floats(1 / 512, 1.0, width=32)


@given(st.lists(st.tuples(unit, unit, side, side), min_size=1, max_size=20), st.randoms())
def test_decode_undoes_encode(rows, random) -> None:
    boxes = to_corners(torch.tensor(rows))
    priors = torch.tensor([[random.random(), random.random(), random.uniform(0.05, 1), random.uniform(0.05, 1)]])
    priors = priors.expand_as(boxes)
    torch.testing.assert_close(decode(encode(boxes, priors), priors), boxes, atol=2e-6, rtol=1e-5)


@given(st.lists(st.tuples(unit, unit, unit, unit), min_size=1, max_size=8))
def test_iou_and_what_is_covered_agree_with_a_loop(rows) -> None:
    boxes = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in rows], dtype=torch.float64)
    table, parts = iou(boxes, boxes), covered(boxes, boxes)
    for i, a in enumerate(boxes.tolist()):
        for j, b in enumerate(boxes.tolist()):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            overlap, own = width * height, (b[2] - b[0]) * (b[3] - b[1])
            union = (a[2] - a[0]) * (a[3] - a[1]) + own - overlap
            assert table[i, j] == pytest.approx(overlap / union if union > 1e-300 else 0.0, abs=1e-9)
            assert parts[i, j] == pytest.approx(overlap / own if own > 1e-300 else 0.0, abs=1e-9)


def test_iou_broadcasts_over_a_batch_and_leaves_its_inputs_alone() -> None:
    a, b = torch.rand(3, 5, 4).sort(-1).values, torch.rand(7, 4).sort(-1).values
    kept = a.clone(), b.clone()
    table = iou(a, b)
    assert table.shape == (3, 5, 7)
    torch.testing.assert_close(table[1], iou(a[1], b))
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


def test_boxes_without_area_have_no_overlap_and_a_finite_encoding() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert iou(point, point).item() == 0.0
    assert area(torch.tensor([[0.8, 0.8, 0.2, 0.2]])).item() == 0.0
    assert torch.isfinite(encode(point, torch.tensor([[0.5, 0.5, 0.1, 0.1]]))).all()


def test_half_precision_offsets_do_not_overflow() -> None:
    offsets = torch.tensor([[0.0, 0.0, 60.0, 60.0]], dtype=torch.float16)
    assert torch.isfinite(decode(offsets, torch.tensor([[0.5, 0.5, 0.1, 0.1]]))).all()


def test_forms_are_inverse() -> None:
    boxes = torch.rand(100, 4)
    torch.testing.assert_close(to_centres(to_corners(boxes)), boxes)
