"""Heads whose classes are improbable before training, as losses by sigmoid want them."""

from __future__ import annotations

import torch

from singleshot.models.ssd import SSD


@torch.no_grad()
def set_class_bias(model: SSD, bias: float) -> None:
    """Give the last layer's bias of every real class this value, in place; a layer without biases stays as it is."""
    for head in model.heads:
        confidence = head.get_submodule("confidence")
        biases = [parameter for name, parameter in confidence.named_parameters() if name.rpartition(".")[2] == "bias"]
        if biases:
            biases[-1].view(-1, model.num_classes + 1)[:, 1:] = bias
