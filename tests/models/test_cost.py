"""Parameters and operations of a model, next to those counted layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from singleshot.models import build
from singleshot.models.cost import model_cost


@pytest.mark.parametrize("name", ["ssd300-vgg16", "ssdlite320-mobilenetv2"])
def test_operations_are_two_for_each_product_of_a_convolution(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 20).eval()
    products = 0

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal products
        products += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, model.input_spec.channels, *model.input_spec.sides, device="meta"))
    counted = products  # the next call counts once more
    cost = model_cost(model)
    assert cost.gflops == pytest.approx(2 * counted / 1e9)
    assert cost.gflops > 1
    assert cost.parameters == sum(one.numel() for one in model.parameters())
