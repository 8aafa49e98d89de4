"""Overlaps of corner boxes as numpy arrays, every one of these with every one of those."""

from __future__ import annotations

import numpy as np


def pairwise_iou(boxes: np.ndarray, others: np.ndarray, of_box: bool = False) -> np.ndarray:
    """IoU [d, m] of boxes [d, 4] and others [m, 4], or with of_box the part of each box that lies in the other."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inner = np.maximum(high - low, 0.0).prod(axis=2)
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    if not of_box:
        whole = whole + (others[:, 2:] - others[:, :2]).prod(axis=1)[None] - inner
    part: np.ndarray = np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0)
    return part
