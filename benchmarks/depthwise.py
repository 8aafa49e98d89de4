"""Why DepthwiseConv2d and `use_fast_depthwise`: gradients of depthwise convolutions, and ReLU6, in bfloat16 on a CPU.

    python benchmarks/depthwise.py [--json]

The 3x3 maps are those of MobileNetV2 at 300 pixels, the 5x5 ones those of EfficientNet-Lite0 at 320, both at batch 16.
"""

from __future__ import annotations

import statistics

import torch
from common import race, tell
from torch import nn

from singleshot.memory import keep_freed_memory
from singleshot.models.blocks import DepthwiseConv2d

# Channels, side, stride, kernel.
SHAPES = (
    (96, 150, 2, 3), (144, 75, 2, 3), (192, 38, 2, 3), (576, 19, 2, 3), (32, 150, 1, 3), (144, 75, 1, 3),
    (240, 40, 1, 5), (480, 20, 1, 5), (672, 20, 1, 5), (672, 20, 2, 5), (1152, 10, 1, 5),
)  # fmt: skip


def main() -> None:
    keep_freed_memory()
    result: dict[str, object] = {}
    for channels, side, stride, kernel in SHAPES:
        x = torch.randn(16, channels, side, side).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
        runs = {}
        for name, kind in (("torch", nn.Conv2d), ("ours", DepthwiseConv2d)):
            layer = kind(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False).train()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = layer(x)
            grad = torch.randn_like(y)
            runs[name] = lambda x=x, y=y, grad=grad, layer=layer: torch.autograd.grad(
                y, (x, layer.weight), grad, retain_graph=True
            )
        seconds = race(runs, 7)
        for name, values in seconds.items():
            key = f"{channels} channels, {side} x {side}, stride {stride}, kernel {kernel}, {name}: ms"
            result[key] = statistics.median(values) * 1e3
    y = torch.randn(16, 96, 150, 150).bfloat16().to(memory_format=torch.channels_last)
    seconds = race({"in place": lambda: nn.functional.relu6(y, inplace=True), "not": lambda: nn.functional.relu6(y)}, 9)
    for name, values in seconds.items():
        result[f"ReLU6 of 96 channels, 150 x 150, {name}: ms"] = statistics.median(values) * 1e3
    tell("depthwise gradients and ReLU6 in bfloat16", result)


if __name__ == "__main__":
    main()
