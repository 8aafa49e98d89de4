"""Box forms, IoU, encoding: golden vectors, a slow loop, properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singleshot.boxes import area, decode, encode, iou, to_centres, to_corners

PEERS = ["amdegroot", "caffe", "nvidia", "torchvision"]  # lufficc adds an epsilon to the union


@pytest.mark.parametrize("peer", PEERS)
def test_encode_decode_iou_agree_with(peer: str, golden) -> None:
    z = np.load(golden / f"encdec_{peer}.npz")
    priors, boxes, offsets = (torch.tensor(z[k]) for k in ("priors_cxcywh", "boxes_xyxy", "loc_in"))
    # 1e-5 of the value: a few offsets are near 20, where one bit of float32 is 2e-6.
    np.testing.assert_allclose(encode(boxes, priors), z["encoded"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(offsets, priors), z["decoded_xyxy"], atol=1e-6)
    np.testing.assert_allclose(iou(boxes, to_corners(priors)), z["iou_boxes_x_priors"], atol=1e-6)


unit = st.floats(0.0, 1.0, width=32)
side = st.floats(1 / 512, 1.0, width=32)


@given(st.lists(st.tuples(unit, unit, side, side), min_size=1, max_size=20), st.randoms())
def test_decode_undoes_encode(rows, random) -> None:
    boxes = to_corners(torch.tensor(rows))
    priors = torch.tensor([[random.random(), random.random(), random.uniform(0.05, 1), random.uniform(0.05, 1)]])
    priors = priors.expand_as(boxes)
    torch.testing.assert_close(decode(encode(boxes, priors), priors), boxes, atol=2e-6, rtol=1e-5)


@given(st.lists(st.tuples(unit, unit, unit, unit), min_size=1, max_size=8))
def test_iou_agrees_with_a_loop(rows) -> None:
    boxes = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in rows], dtype=torch.float64)
    table = iou(boxes, boxes)
    for i, a in enumerate(boxes.tolist()):
        for j, b in enumerate(boxes.tolist()):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            overlap = width * height
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
            assert table[i, j] == pytest.approx(overlap / union if union > 1e-300 else 0.0, abs=1e-9)


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
