"""bubbliiiing/retinaface-keras: a file built from its layout, against its network written as a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from singleshot.errors import CheckpointError
from singleshot.prior_tables import PRIORS
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
MEAN = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)  # keras.applications.imagenet_utils, blue first
SSH = ((64, 32), (64, 16), (16, 16), (16, 16), (16, 16))


def _layers(first: int) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Arrays by the names that a file has; those that Keras numbers begin with that number (0: without one)."""
    random, arrays = np.random.default_rng(0), {}

    def put(layer: str, **parts: np.ndarray) -> None:
        arrays.update({f"{layer}/{layer}/{part}:0": value.astype(np.float32) for part, value in parts.items()})

    def kernel(side: int, inputs: int, outputs: int) -> np.ndarray:
        return random.normal(0, (2 / (side * side * inputs)) ** 0.5, (side, side, inputs, outputs))

    def norm(layer: str, channels: int) -> None:
        one, two, three, four = random.normal(0, 1, (4, channels))
        put(layer, gamma=1 + 0.1 * one, beta=0.1 * two, moving_mean=0.1 * three, moving_variance=1 + 0.2 * abs(four))

    def number(kind: str, i: int) -> str:
        return f"{kind}_{first + i}" if first + i else kind

    put("conv1", kernel=kernel(3, 3, 8) / 50)
    norm("conv1_bn", 8)
    inputs = 8
    for i, outputs in enumerate(WIDTHS, 1):
        put(f"conv_dw_{i}", depthwise_kernel=random.normal(0, 0.4, (3, 3, inputs, 1)))
        norm(f"conv_dw_{i}_bn", inputs)
        put(f"conv_pw_{i}", kernel=kernel(1, inputs, outputs))
        norm(f"conv_pw_{i}_bn", outputs)
        inputs = outputs
    for name, side, channels in (("C3_reduced", 1, 64), ("C4_reduced", 1, 128), ("C5_reduced", 1, 256)):
        put(name, kernel=kernel(side, channels, 64), bias=random.normal(0, 0.1, 64))
    for name in ("Conv_P4_merged", "Conv_P3_merged"):
        put(name, kernel=kernel(3, 64, 64), bias=random.normal(0, 0.1, 64))
    norms = [number("batch_normalization", i) for i in range(20)]
    convs = [number("conv2d", i) for i in range(24)]
    for name, channels in zip(norms, [64] * 5 + [outputs for _, outputs in SSH] * 3, strict=True):
        norm(name, channels)
    shapes = [(3, *row) for row in SSH] * 3 + [(1, 64, 2 * n) for n in (4, 2, 10) for _ in range(3)]
    for name, (side, channels, outputs) in zip(convs, shapes, strict=True):
        put(name, kernel=kernel(side, channels, outputs), bias=random.normal(0, 0.1, outputs))
    return arrays, convs, norms


def _theirs(arrays: dict[str, np.ndarray], convs: list[str], norms: list[str], x: Tensor) -> tuple[Tensor, Tensor]:
    """nets/retinaface.py on a normalised image: offsets and logits."""

    def get(layer: str, part: str) -> Tensor:
        return torch.from_numpy(arrays[f"{layer}/{layer}/{part}:0"])

    def conv(x: Tensor, layer: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = get(layer, "depthwise_kernel").permute(2, 3, 0, 1) if depthwise else get(layer, "kernel")
        weight = weight if depthwise else weight.permute(3, 2, 0, 1)
        bias = get(layer, "bias") if f"{layer}/{layer}/bias:0" in arrays else None
        # TensorFlow's SAME: the odd row and column behind.
        totals = [max(0, (-(-n // stride) - 1) * stride + weight.shape[-1] - n) for n in x.shape[:1:-1]]
        pads = [side for total in totals for side in (total // 2, total - total // 2)]
        return F.conv2d(F.pad(x, pads), weight, bias, stride, groups=x.shape[1] if depthwise else 1)

    def normed(x: Tensor, layer: str) -> Tensor:
        parts = (get(layer, part) for part in ("moving_mean", "moving_variance", "gamma", "beta"))
        return F.batch_norm(x, *parts, eps=1e-3)

    def leaky(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.1)

    x, maps = F.relu6(normed(conv(x, "conv1", 2), "conv1_bn")), []
    for i, stride in enumerate(STRIDES, 1):
        x = F.relu6(normed(conv(x, f"conv_dw_{i}", stride, depthwise=True), f"conv_dw_{i}_bn"))
        x = F.relu6(normed(conv(x, f"conv_pw_{i}"), f"conv_pw_{i}_bn"))
        maps += [x] if i in (5, 11, 13) else []
    p3, p4, p5 = (leaky(normed(conv(x, f"C{i + 3}_reduced"), norms[i])) for i, x in enumerate(maps))
    p4 = leaky(normed(conv(F.interpolate(p5, size=p4.shape[2:]) + p4, "Conv_P4_merged"), norms[3]))
    p3 = leaky(normed(conv(F.interpolate(p4, size=p3.shape[2:]) + p3, "Conv_P3_merged"), norms[4]))
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for level, x in enumerate((p3, p4, p5)):
        own = list(zip(convs[5 * level : 5 * level + 5], norms[5 + 5 * level : 10 + 5 * level], strict=True))
        plain, shared = normed(conv(x, own[0][0]), own[0][1]), leaky(normed(conv(x, own[1][0]), own[1][1]))
        five = normed(conv(shared, own[2][0]), own[2][1])
        seven = normed(conv(leaky(normed(conv(shared, own[3][0]), own[3][1])), own[4][0]), own[4][1])
        seen = torch.cat([plain, five, seven], dim=1).relu()
        for part, start, columns in ((rows[0], 15, 4), (rows[1], 18, 2)):
            part.append(conv(seen, convs[start + level]).permute(0, 2, 3, 1).reshape(1, -1, columns))
    return torch.cat(rows[0], dim=1), torch.cat(rows[1], dim=1)


@pytest.mark.parametrize("first", [0, 1, 9])
@pytest.mark.parametrize("side", [96, 104])  # 104: maps of 13 and 7 cells, which SAME pads evenly
def test_outputs_are_those_of_its_network(side, first):
    arrays, convs, norms = _layers(first)
    foreign = import_foreign(arrays, settings=ImportSettings(size=side))
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        offsets, logits = _theirs(arrays, convs, norms, image.flip(1).float() - MEAN)
        raw = foreign.model(image)
    assert torch.allclose(raw.offsets, offsets, atol=1e-4, rtol=1e-4)
    assert torch.allclose(raw.logits, logits, atol=1e-4, rtol=1e-4)
    assert foreign.source == "bubbliiiing/retinaface-keras on MobileNetV1-0.25"
    assert foreign.class_names == ("face",)


def test_its_own_input_has_retinafaces_boxes():
    foreign = import_foreign(_layers(1)[0])
    assert foreign.model.prior_spec == PRIORS["retinaface640"]
    assert foreign.model.input_spec.colour_order == "bgr"


def test_a_changed_copy_is_refused_with_what_it_has():
    arrays, convs, _ = _layers(1)
    fewer = {name: value for name, value in arrays.items() if not name.startswith(f"{convs[-1]}/")}
    with pytest.raises(CheckpointError, match=r"has 23 convolutions and 20 normalisations .* want 24"):
        import_foreign(fewer)
    key = "Conv_P4_merged/Conv_P4_merged/kernel:0"
    with pytest.raises(CheckpointError, match="does not fit"):
        import_foreign(arrays | {key: arrays[key][:1]})
