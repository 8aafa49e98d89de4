"""Batch normalisation where a batch leaves one value a channel: there is no variance to take of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from singleshot.models import SSD


def use_running_statistics(model: SSD, batch: int) -> int:
    """Make the normalisation layers that see one value a channel in a batch of that size use their running statistics.

    That is what they do after training too; torch refuses such a batch in training. It happens at batch 1 in the
    maps of a single cell.

    Args:
        model: Changed in place, on its device; its mode is as before afterwards.
        batch: Images in a step.

    Returns:
        How many layers these are.
    """
    if batch > 1:
        return 0
    found: list[nn.Module] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(module)

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    was_training, spec = model.training, model.input_spec
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, spec.channels, *spec.sides, device=model.mean.device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    for layer in found:
        always_running_statistics(layer)
    return len(found)


def always_running_statistics(layer: nn.Module) -> None:
    """Make a normalisation layer use its running statistics in training too, and leave them as they are."""
    layer.register_forward_pre_hook(_in_eval_mode)


def _in_eval_mode(module: nn.Module, _: object) -> None:
    # At every call: model.train() sets the mode of all layers.
    module.training = False
