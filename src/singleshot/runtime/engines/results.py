"""Arrays of an exported file -> records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from singleshot.records import ImageDetections

Outputs = Mapping[str, np.ndarray]
Decode = Callable[[Outputs], list[ImageDetections]]

DETECTIONS = ("boxes", "scores", "labels", "counts")
RAW = ("offsets", "logits")


def to_records(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> list[ImageDetections]:
    """boxes [N, K, 4], scores [N, K], labels [N, K], counts [N] -> one record per image, without the empty rows."""
    rows = zip(boxes, scores, labels, counts.tolist(), strict=True)
    return [ImageDetections(b[:n].copy(), s[:n].copy(), c[:n].astype(np.int64)) for b, s, c, n in rows]


def detections_of(outputs: Outputs) -> list[ImageDetections]:
    """The records in a file's outputs by name, where decoding and NMS are inside."""
    return to_records(*(outputs[name] for name in DETECTIONS))


def joined(parts: Sequence[Outputs]) -> dict[str, np.ndarray]:
    """The outputs of several runs as one. Where a file gives as many rows as it finds, shorter ones get empty rows."""
    return {name: _stacked([part[name] for part in parts]) for name in parts[0]}


def _stacked(values: list[np.ndarray]) -> np.ndarray:
    if len({one.shape[1:] for one in values}) > 1:
        most = max(one.shape[1] for one in values)
        values = [np.pad(v, [(0, 0), (0, most - v.shape[1]), *[(0, 0)] * (v.ndim - 2)]) for v in values]
    return np.concatenate(values)


def padded(images: np.ndarray, rows: int) -> np.ndarray:
    """Contiguous images, the last one repeated until there are `rows`, for files made for a fixed batch."""
    if len(images) < rows:
        images = np.concatenate([images, np.repeat(images[-1:], rows - len(images), axis=0)])
    return np.ascontiguousarray(images)
