"""What the statistics of batch normalisations say of layers that have no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from singleshot.weights.foreign_state import ForeignState

_FITS = 0.05  # of what the first normalisation has seen, the most that means of the input may leave unexplained


def negative_slope(tensors: ForeignState, triples: Iterable[tuple[str, str, str]]) -> float:
    """The slope below zero of the ReLU between a normalisation and a depthwise convolution, as the mean that the
    normalisation behind it has seen says; NaN where the tensors are not there.

    What comes out of the first is taken as normal, of its bias and weight; each triple (norm, convolution, norm) gives
    an equation a channel, and the slope is their least squares' solution.

    Args:
        tensors: of the checkpoint.
        triples: names.
    """
    top = bottom = 0.0
    for before, conv, after in triples:
        names = (
            f"{before}.weight",
            f"{before}.bias",
            f"{conv}.weight",
            f"{after}.running_mean",
            f"{after}.running_var",
        )
        if not all(name in tensors for name in names):
            return math.nan
        scale, shift, kernel, mean, variance = (tensors[name].double() for name in names)
        if kernel.dim() != 4 or not len(scale) == len(shift) == len(kernel) == len(mean) == len(variance):
            return math.nan
        above, below = _rectified(shift, scale.abs().clamp(min=1e-9))
        weight, spread = kernel.sum((1, 2, 3)), variance.clamp(min=1e-9).sqrt()
        x, y = weight * below / spread, (mean - weight * above) / spread
        top, bottom = top + float((x * y).sum()), bottom + float((x * x).sum())
    return top / bottom if bottom > 0 else math.nan


def mean_pixel(tensors: ForeignState, conv: str, norm: str) -> tuple[float, ...] | None:
    """What the channels of the input were on average, as the network took them (its mean taken off), as the
    normalisation behind the first convolution has seen; None where the tensors do not say.

    Each channel of the output gives an equation: its running mean is its kernel's sums times the means of the input
    (zeros at the border left out). Eight channels and more say it to about one of 255 for public face detectors.

    Args:
        tensors: of the checkpoint.
        conv: name of a convolution without bias.
        norm: name of the batch normalisation behind it.
    """
    names = (f"{conv}.weight", f"{norm}.running_mean", f"{norm}.running_var")
    if not all(name in tensors for name in names):
        return None
    kernel, mean, variance = (tensors[name].double() for name in names)
    if kernel.dim() != 4 or not kernel.shape[1] < len(kernel) == len(mean) == len(variance):
        return None
    spread = variance.clamp(min=1e-9).sqrt()
    rows, seen = kernel.sum((2, 3)) / spread[:, None], mean / spread
    if not bool(torch.isfinite(rows).all() and torch.isfinite(seen).all()):
        return None
    found = torch.linalg.lstsq(rows, seen[:, None], driver="gelsd").solution[:, 0]
    # A network that was not trained on such pixels, or whose statistics were never gathered, does not fit.
    off = float((rows @ found - seen).norm() / seen.norm().clamp(min=1e-9))
    return tuple(found.tolist()) if off < _FITS else None


def _rectified(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Expected max(x, 0) and min(x, 0) of normal x."""
    z = mean / deviation
    above = mean * torch.special.ndtr(z) + deviation * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return above, mean - above
