"""Overlaps of corner boxes as numpy arrays."""

from __future__ import annotations

import numpy as np


def pairwise_iou(boxes: np.ndarray, others: np.ndarray, of_box: bool = False) -> np.ndarray:
    """IoU [d, m] of boxes [d, 4] and others [m, 4], or with of_box the part of each box that lies in the other."""
    return paired_iou(boxes[:, None], others[None], of_box)


def paired_iou(boxes: np.ndarray, others: np.ndarray, of_box: bool = False) -> np.ndarray:
    """The same of boxes [..., 4] and others [..., 4] that stand at the same place."""
    inner = np.maximum(np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2]), 0.0)
    inner = inner.prod(axis=-1)
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    if not of_box:
        whole = whole + (others[..., 2:] - others[..., :2]).prod(axis=-1) - inner
    whole = np.broadcast_to(whole, inner.shape)
    part: np.ndarray = np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0)
    return part
