"""What crosses a door from one room to the next: small named records, nothing else.

Boxes are float32 corner form (x0 y0 x1 y1). `boxes_px` are continuous pixel coordinates of the original
image, `boxes` are normalised to 0..1 of the input square. Labels are 0-based over the real classes;
background exists in `Targets.labels` (0) and in the first logit only.

This module imports neither torch nor anything heavy: the runtime half uses it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch


class Sample(NamedTuple):
    """One image with its objects, as read from disk.

    image: uint8 RGB [H, W, 3]; boxes_px: float32 [N, 4]; labels: int64 [N]; difficult: bool [N];
    name: what to call the image in messages and results (its path); checksum: CRC-32 of the file's bytes, -1 where they
    are not at hand; ignored_px: float32 [K, 4], regions whose objects nobody labelled one by one, None where there are
    none.
    """

    image: np.ndarray
    boxes_px: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    name: str
    checksum: int = -1
    ignored_px: np.ndarray | None = None


class Batch(NamedTuple):
    """What a training step eats.

    images: uint8 [B, C, H, W]; boxes: float32 [B, G, 4] normalised, rows past an image's last object are 0;
    labels: int64 [B, G], -1 where there is no object; indices: int64 [B], positions in the data set;
    names: B paths; checksums: int64 [B] as in Sample, None where nobody asked; skipped: what is wrong with images
    in whose place others stand; ignored: float32 [B, K, 4] normalised, the regions in which no default box is a
    negative, rows past an image's last one are 0; None where no image of the batch has one.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    names: tuple[str, ...]
    checksums: torch.Tensor | None = None
    skipped: tuple[str, ...] = ()
    ignored: torch.Tensor | None = None


class RawOutput(NamedTuple):
    """What the network returns in every mode.

    offsets: float [B, P, 4] (encoded dx dy dw dh); logits: float [B, P, C + 1], background first.
    """

    offsets: torch.Tensor
    logits: torch.Tensor


class Targets(NamedTuple):
    """What each prior should predict.

    labels: int64 [P] or [B, P]: 0 background, c + 1 for real class c, -1 ignored;
    offsets: float32 [P, 4] or [B, P, 4], zero where the prior is not matched.
    """

    labels: torch.Tensor
    offsets: torch.Tensor


class Losses(NamedTuple):
    """Scalars of one batch: total = confidence + alpha * location; positives is the number of matched priors."""

    total: torch.Tensor
    location: torch.Tensor
    confidence: torch.Tensor
    positives: torch.Tensor


class ImageDetections(NamedTuple):
    """Detections of one image, best first: boxes float32 [N, 4], scores float32 [N], labels int64 [N].

    As torch tensors normalised to the input square when postprocess returns them, as numpy arrays in pixels
    of the original image when the runtime or the metrics hold them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class ImageTruth(NamedTuple):
    """Ground truth of one image: boxes float [N, 4] px, labels int [N], difficult bool [N], crowd bool [N], area [N].

    difficult, crowd and area may be None: nothing difficult, nothing crowd, the boxes' own areas.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray | None = None
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None


class SeenImage(NamedTuple):
    """An image of a training batch as the network saw it: uint8 [H, W, C]; boxes float [N, 4] in parts of it; labels
    int64 [N]; ignored float [K, 4] in parts of it, the regions in which nothing is a negative, None where there are
    none."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray | None = None
