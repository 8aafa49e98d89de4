"""Batch normalisation over the images of all processes that train together."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from singleshot.training.distributed import World


class _Normalise(torch.autograd.Function):
    """Batch normalisation by the mean and variance of all processes' values, in PyTorch's own kernels for one process.

    Written out in operators, a layer takes eight times as long: each of them passes over the map in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, world: World) -> tuple[Tensor, ...]:
        """[B, C, ...] -> the same, and the mean and the biased variance [C] of the whole batch.

        Each process sends its own mean and variance, and the whole's is put together from these (Chan et al., 1979):
        sums of squares would lose the digits that a large mean takes.
        """
        unused = torch.zeros_like(weight)  # statistics in the weights' format, whatever that of the map is
        own = torch.stack(torch.batch_norm_update_stats(x, unused, unused, 0.0))
        means, variances = world.each_of(own).unbind(1)
        spread, mean = torch.var_mean(means, dim=0, correction=0)
        variance = variances.mean(dim=0) + spread
        out = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count, ctx.world = eps, world.size * x.numel() // x.shape[1], world
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Of the map by the sums of all processes, of weight and bias by this one's."""
        x, weight, mean, variance = ctx.saved_tensors
        sums = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )[1:]
        total = ctx.world.sum(torch.stack(sums))
        scale = weight * (variance + ctx.eps).rsqrt()
        # scale * (gradient - level - normalised x * slope), where slope and level are the means of `total`
        slope, level = (total * (scale / -ctx.count)).unbind()
        given = torch.native_batch_norm(x, slope, level, mean, variance, False, 0.0, ctx.eps)[0]
        given.addcmul_(gradient, scale.to(gradient.dtype).view(1, -1, *[1] * (x.ndim - 2)))
        return given, *sums, None, None


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
    """As `layer`, with the mean and variance of all processes' values."""
    kind = torch.promote_types(x.dtype, torch.float32)
    weight: Tensor = layer.weight if layer.affine else torch.ones(x.shape[1], dtype=kind)
    bias: Tensor = layer.bias if layer.affine else torch.zeros(x.shape[1], dtype=kind)
    out, mean, variance = _Normalise.apply(x, weight, bias, layer.eps, world)
    if layer.track_running_stats:
        _update(layer, mean, variance, world.size * x.numel() // len(mean))
    return out  # type: ignore[no-any-return]


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
