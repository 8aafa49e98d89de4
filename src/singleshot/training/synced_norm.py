"""Batch normalisation over the images of all processes that train together."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from singleshot.training.distributed import World


class _Sum(torch.autograd.Function):
    """The sum over all processes. What each of them computes from it has its part in the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        """Any shape."""
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The same."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def synchronise_norms(model: nn.Module, world: World) -> None:
    """Make the batch normalisations of a model in training take mean and variance over the whole batch, in place.

    The layers stay what they are, with their names, weights and hooks. On CUDA they compute as PyTorch's SyncBatchNorm,
    which has no CPU form; elsewhere as `_synced`. Every process has as many images.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = types.MethodType(_forward(layer, world), layer)  # type: ignore[method-assign]


def release_norms(model: nn.Module) -> None:
    """Undo `synchronise_norms`."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.__dict__.pop("forward", None)


def _forward(layer: _BatchNorm, world: World) -> Callable[[_BatchNorm, Tensor], Tensor]:
    if world.device.type == "cuda":
        fused = nn.SyncBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        fused._parameters, fused._buffers = layer._parameters, layer._buffers  # the same ones, moved with the layer

    def forward(self: _BatchNorm, x: Tensor) -> Tensor:
        if not self.training:  # frozen layers too, and a copy of the model
            return type(self).forward(self, x)
        if world.device.type == "cuda":
            return fused(x)  # type: ignore[no-any-return]
        return _synced(self, x, world)

    return forward


def _synced(layer: _BatchNorm, x: Tensor, world: World) -> Tensor:
    """As `layer`, with the mean and variance of all processes' values; one differentiable all-reduce.

    Each process sends its own mean and variance, and the whole's is put together from these (Chan et al., 1979): sums
    of squares would lose the digits that a large mean takes.
    """
    values, dims = x.float(), [0, *range(2, x.ndim)]
    variance, mean = torch.var_mean(values, dims, correction=0)
    rows = torch.zeros(world.size, 2, len(mean))
    rows[world.rank] = torch.stack([mean, variance])
    means, variances = _Sum.apply(rows).unbind(1)
    mean = means.mean(dim=0)
    variance = (variances + (means - mean).square()).mean(dim=0)
    if layer.track_running_stats:
        _update(layer, mean.detach(), variance.detach(), world.size * x.numel() // len(mean))
    scale = (variance + layer.eps).rsqrt()
    shift = -mean * scale
    if layer.affine:
        scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
    shape = [1, -1, *[1] * (x.ndim - 2)]
    return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(x.dtype)


@torch.no_grad()
def _update(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """The running statistics, as `nn.BatchNorm2d` has them: of the unbiased variance."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked += 1
    weight = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, weight)
    layer.running_var.lerp_(variance * (count / max(count - 1, 1)), weight)
