"""Optimizers, their parameter groups, and weight averaging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from singleshot.training.recipes import Recipe

# What each optimizer keeps of a parameter, by name.
SLOTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
}
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, weight_decay: float, bias_lr_factor: float, decay_only: str = "convolutions"
) -> list[dict[str, object]]:
    """Four groups: weights; biases at `bias_lr_factor` times the rate (Caffe ssd_pascal.py: lr_mult 2); scales of
    normalisation layers and of conv4_3; shifts of normalisation layers.

    decay_only says which of them decay. "convolutions": weights of convolutions and linear layers alone, as the L2
    terms of ssd_keras, ljanyst and balancap; ssd_keras' l2_regularization has no half before it, so its 0.0005 is a
    weight_decay of 0.001 here. "all-but-biases": the scales as well, as Caffe, whose decay_mult is 0 for biases alone.
    "everything": as one group of torch.optim (amdegroot, lufficc, torchvision).
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    shifts: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, _NORMS) or (parameter.ndim <= 1 and name != "bias"):
                (shifts if name == "bias" else scales).append(parameter)
            elif name == "bias":
                biases.append(parameter)
            else:
                weights.append(parameter)
    on_biases = weight_decay if decay_only == "everything" else 0.0
    on_scales = 0.0 if decay_only == "convolutions" else weight_decay
    return [
        {"params": weights, "weight_decay": weight_decay, "factor": 1.0},
        {"params": biases, "weight_decay": on_biases, "factor": bias_lr_factor},
        {"params": scales, "weight_decay": on_scales, "factor": 1.0},
        {"params": shifts, "weight_decay": on_biases, "factor": 1.0},
    ]


def slower_backbone(groups: list[dict[str, Any]], backbone: nn.Module, factor: float) -> list[dict[str, Any]]:
    """Each of the groups as two: the backbone's parameters at `factor` times the rate, and the others."""
    slow = {id(parameter) for parameter in backbone.parameters()}
    return [
        {**group, "params": [p for p in group["params"] if (id(p) in slow) == there], "factor": group["factor"] * rate}
        for there, rate in ((True, factor), (False, 1.0))
        for group in groups
    ]


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """SGD or AdamW, fused: one pass over the parameters. Each group keeps its `factor` on the learning rate."""
    groups: list[dict[str, Any]]
    groups = parameter_groups(model, recipe.weight_decay, recipe.bias_lr_factor, recipe.decay_only)
    if recipe.backbone_lr_factor != 1.0:
        assert isinstance(model.backbone, nn.Module)
        groups = slower_backbone(groups, model.backbone, recipe.backbone_lr_factor)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=lr, betas=(recipe.momentum, 0.999), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group's rate: lr times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


class ModelEMA:
    """Exponential moving average of a model's state (parameters and the running statistics of normalisation).

    The decay rises with the number of updates, (1 + n) / (10 + n) at most, so that a short training is not
    dominated by its first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        current = model.state_dict()
        self.state = {key: value.detach().clone() for key, value in current.items()}
        # Loading copies into the same tensors, so these lists stay true; making them anew would cost every step.
        floats = [key for key, value in current.items() if value.is_floating_point()]
        self._averages, self._floats = [self.state[k] for k in floats], [current[k] for k in floats]
        self._counts = [(self.state[k], current[k]) for k in current if k not in set(floats)]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights in after a step."""
        self.updates += 1
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._floats, weight)
        for kept, value in self._counts:
            kept.copy_(value)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        for key, value in self.state.items():
            value.copy_(state[key])
        self.updates = updates
