"""Face detectors that go on from others: other names, other backbones, other colours."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from singleshot.prior_tables import PRIORS
from singleshot.priors import prior_table
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign

State = dict[str, Tensor]
CAFFE = torch.tensor([104.0, 117.0, 123.0])  # taken off the channels, whatever their order
EPS = 1e-5


def _yakhyo(name: str) -> str:
    """biubug6's name -> yakhyo's."""
    unit = re.fullmatch(r"body\.(stage\d\.\d+)\.([0134])\.(\w+)", name)
    if unit and unit[1] != "stage1.0":
        block, i, part = unit.groups()
        return f"fx.{block}.{int(i) // 3}.{int(i) % 3}.{part}"
    if head := re.fullmatch(r"(\w+)Head\.(\d)\.conv1x1\.(\w+)", name):
        kind = head[1].lower()
        return f"{kind}_head.{kind}_head.{head[2]}.{head[3]}"
    return name.replace("body.", "fx.")


def _convolution(state: State, name: str, outputs: int, inputs: int, kernel: int, bias: bool = False) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
    if bias:
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1


def _norm(state: State, name: str, channels: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels) * 0.1
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(channels), torch.rand(channels) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def _unit(state: State, name: str, outputs: int, inputs: int, kernel: int) -> None:
    _convolution(state, f"{name}.0", outputs, inputs, kernel)
    _norm(state, f"{name}.1", outputs)


def _normed(state: State, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
    weight = state[f"{conv}.weight"]
    groups = x.shape[1] // weight.shape[1]
    y = F.conv2d(x, weight, state.get(f"{conv}.bias"), stride, weight.shape[-1] // 2, groups=groups)
    parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(y, *parts, eps=EPS)


def _outputs(state: State, maps: list[Tensor], head: str, columns: int) -> Tensor:
    rows = []
    for i, x in enumerate(maps):
        y = F.conv2d(x, state[f"{head}.{i}.weight"], state[f"{head}.{i}.bias"])
        rows.append(y.permute(0, 2, 3, 1).reshape(len(x), -1, columns))
    return torch.cat(rows, dim=1)


def _compare(foreign, offsets: Tensor, logits: Tensor, image: Tensor) -> None:
    with torch.inference_mode():
        raw = foreign.model(image)
    assert torch.allclose(raw.offsets, offsets, atol=1e-4, rtol=1e-4)
    assert torch.allclose(raw.logits, logits, atol=1e-4, rtol=1e-4)


def _picture(side: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------- yakhyo/retinaface-pytorch


def test_yakhyos_names_are_the_same_network(state, agrees):
    tensors = {_yakhyo(key): value for key, value in state("retinaface_mobilenet").items()}
    assert "fx.stage1.1.1.0.weight" in tensors
    assert "class_head.class_head.2.bias" in tensors
    foreign = import_foreign(tensors)
    agrees(foreign.model, "retinaface_mobilenet")
    assert foreign.source == "yakhyo/retinaface-pytorch on MobileNetV1-0.25"
    assert foreign.model.prior_spec == PRIORS["retinaface640"]
    assert "landmarks" in foreign.notes[0]


def _pyramid_state(state: State, inputs: tuple[int, ...], width: int) -> None:
    for i, channels in enumerate(inputs, 1):
        _unit(state, f"fpn.output{i}", width, channels, 1)
        half, quarter = width // 2, width // 4
        for part, outputs, wide in (
            ("conv3X3", half, width),
            ("conv5X5_1", quarter, width),
            ("conv5X5_2", quarter, quarter),
            ("conv7X7_2", quarter, quarter),
            ("conv7x7_3", quarter, quarter),
        ):
            _unit(state, f"ssh{i}.{part}", outputs, wide, 3)
        for kind, columns in (("class", 2), ("bbox", 4), ("landmark", 10)):
            _convolution(state, f"{kind}_head.{kind}_head.{i - 1}", 2 * columns, width, 1, bias=True)
    _unit(state, "fpn.merge1", width, width, 3)
    _unit(state, "fpn.merge2", width, width, 3)


def _pyramid(state: State, maps: list[Tensor], leak: float) -> tuple[Tensor, Tensor]:
    """models/common.py, FPN and SSH, and the heads of models/retinaface.py."""

    def unit(x: Tensor, name: str, active: bool = True) -> Tensor:
        y = _normed(state, x, f"{name}.0", f"{name}.1")
        return F.leaky_relu(y, leak) if active else y

    one, two, three = (unit(x, f"fpn.output{i}") for i, x in enumerate(maps, 1))
    two = unit(two + F.interpolate(three, size=two.shape[2:]), "fpn.merge2")
    one = unit(one + F.interpolate(two, size=one.shape[2:]), "fpn.merge1")
    seen = []
    for i, x in enumerate((one, two, three), 1):
        shared = unit(x, f"ssh{i}.conv5X5_1")
        parts = (
            unit(x, f"ssh{i}.conv3X3", active=False),
            unit(shared, f"ssh{i}.conv5X5_2", active=False),
            unit(unit(shared, f"ssh{i}.conv7X7_2"), f"ssh{i}.conv7x7_3", active=False),
        )
        seen.append(torch.cat(parts, dim=1).relu())
    return _outputs(state, seen, "bbox_head.bbox_head", 4), _outputs(state, seen, "class_head.class_head", 2)


def _mobilenet(state: State, x: Tensor | None, widths: tuple[int, ...]) -> list[Tensor]:
    """models/backbones/mobilenetv1.py: the weights where there is no image, else the maps."""
    rows = ((1, widths[1]), (2, widths[2]), (1, widths[2]), (2, widths[3]), (1, widths[3]))
    stages = [rows, [(2 if i == 0 else 1, widths[4]) for i in range(6)], [(2, widths[5]), (1, widths[5])]]
    maps, inputs = [], widths[0]
    if x is None:
        _unit(state, "fx.stage1.0", widths[0], 3, 3)
    else:
        x = F.leaky_relu(_normed(state, x, "fx.stage1.0.0", "fx.stage1.0.1", 2), 0.1)
    for stage, blocks in enumerate(stages, 1):
        for i, (stride, outputs) in enumerate(blocks, 1 if stage == 1 else 0):
            name = f"fx.stage{stage}.{i}"
            if x is None:
                _unit(state, f"{name}.0", inputs, 1, 3)
                _unit(state, f"{name}.1", outputs, inputs, 1)
            else:
                x = F.leaky_relu(_normed(state, x, f"{name}.0.0", f"{name}.0.1", stride), 0.1)
                x = F.leaky_relu(_normed(state, x, f"{name}.1.0", f"{name}.1.1"), 0.1)
            inputs = outputs
        maps += [] if x is None else [x]
    return maps


def test_yakhyos_wider_mobilenet_is_leaky_under_a_pyramid_that_is_not():
    torch.manual_seed(0)
    state: State = {}
    widths = (16, 32, 64, 128, 256, 512)
    _mobilenet(state, None, widths)
    _pyramid_state(state, widths[3:], 128)
    foreign = import_foreign(state, settings=ImportSettings(size=96))
    assert foreign.source == "yakhyo/retinaface-pytorch on MobileNetV1-0.50"
    image = _picture(96)
    seen = image.flip(1).float() - CAFFE.view(1, 3, 1, 1)
    _compare(foreign, *_pyramid(state, _mobilenet(state, seen, widths), 0.0), image)


@pytest.mark.parametrize("depth", [18, 34])
def test_yakhyos_resnets_are_torchvisions(depth):
    torch.manual_seed(0)
    net = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = {f"fx.{key}": value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    _pyramid_state(state, (128, 256, 512), 128)
    foreign = import_foreign(state, settings=ImportSettings(size=96))
    assert foreign.source == f"yakhyo/retinaface-pytorch on ResNet{depth}"
    image = _picture(96)
    x, maps = image.flip(1).float() - CAFFE.view(1, 3, 1, 1), []
    with torch.inference_mode():
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            maps.append(x)
        offsets, logits = _pyramid(state, maps[1:], 0.0)
    _compare(foreign, offsets, logits, image)


def _filled(net: torch.nn.Module) -> torch.nn.Module:
    """torchvision's network with statistics that matter, and gates and slopes that are not all the same."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def _seen_through(layers: torch.nn.Sequential, ends: tuple[int, ...], image: Tensor) -> list[Tensor]:
    x, maps = image.flip(1).float() - CAFFE.view(1, 3, 1, 1), []
    for i, layer in enumerate(layers):
        x = layer(x)
        maps += [x] if i in ends else []
    return maps


def test_yakhyos_mobilenetv2_is_torchvisions():
    torch.manual_seed(0)
    layers = _filled(torchvision.models.mobilenet_v2(weights=None, width_mult=0.25).features)
    state = {f"fx.features.{key}": value for key, value in layers.state_dict().items()}
    _pyramid_state(state, (8, 24, 1280), 128)
    foreign = import_foreign(state, settings=ImportSettings(size=64))
    assert foreign.source == "yakhyo/retinaface-pytorch on MobileNetV2"
    image = _picture(64)
    with torch.inference_mode():
        wanted = _pyramid(state, _seen_through(layers, (6, 13, 18), image), 0.0)
    _compare(foreign, *wanted, image)


@pytest.mark.parametrize(
    ("kind", "ends", "widths"), [("large", (6, 10, 15), (40, 80, 160)), ("small", (3, 4, 7), (24, 40, 48))]
)
def test_retinaface_on_mobilenetv3(kind, ends, widths):
    """sglee487/Pytorch_Retinaface, whose smaller one halves its last map in a projection."""
    torch.manual_seed(0)
    layers = _filled(getattr(torchvision.models, f"mobilenet_v3_{kind}")(weights=None).features)
    if kind == "small":
        layers[7].block[3][0].stride = (2, 2)
    state: State = {}
    _pyramid_state(state, widths, 64)
    named = {re.sub(r"(\w+)_head\.\w+\.(\d)", lambda m: f"{m[1].capitalize()}Head.{m[2]}.conv1x1", k): v
             for k, v in state.items()}  # fmt: skip
    named |= {f"body.{k}": v for k, v in layers[: ends[-1] + 1].state_dict().items()}
    foreign = import_foreign(named, settings=ImportSettings(size=64))
    assert foreign.source == f"biubug6/Pytorch_Retinaface on MobileNetV3-{kind.capitalize()}"
    image = _picture(64)
    with torch.inference_mode():
        wanted = _pyramid(state, _seen_through(layers, ends, image), 0.1)
    _compare(foreign, *wanted, image)


# -------------------------------------------------------------------------------------------------- zineos/blazeface

BLAZE = [(24, 24, 0, 1), (24, 24, 0, 1), (24, 48, 0, 2), (48, 48, 0, 1), (48, 48, 0, 1), (48, 24, 96, 2)]
BLAZE += [(96, 24, 96, 1), (96, 24, 96, 1), (96, 24, 96, 2), (96, 24, 96, 1), (96, 24, 96, 1)]
CELL = ((8, 11), (14, 19, 26, 38, 64, 149))


def _blaze_state() -> State:
    state: State = {}
    _unit(state, "conv1", 24, 3, 3)
    for i, (inputs, narrow, wide, stride) in enumerate(BLAZE, 2):
        rows = [(f"conv{i}.conv.0", inputs, 1, narrow)] + ([(f"conv{i}.conv.2", narrow, narrow, wide)] if wide else [])
        for name, channels, each, outputs in rows:
            _convolution(state, f"{name}.0", channels, each, 5)
            _norm(state, f"{name}.1", channels)
            _convolution(state, f"{name}.3", outputs, channels, 1)
            _norm(state, f"{name}.4", outputs)
        if stride == 2:
            _convolution(state, f"conv{i}.shortcut.1", wide or narrow, inputs, 1, bias=True)
            _norm(state, f"conv{i}.shortcut.2", wide or narrow)
    for (i, sizes), (kind, columns) in product(enumerate(CELL), (("loc", 4), ("conf", 2), ("landm", 10))):
        _convolution(state, f"{kind}.{i}.0", 96, 1, 3, bias=True)
        _convolution(state, f"{kind}.{i}.2", columns * len(sizes), 96, 1, bias=True)
    return state


def _blaze(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """blazeface/models/net_blaze.py, in a loop."""
    x, maps = _normed(state, x, "conv1.0", "conv1.1", 2).relu(), []
    for i, (_, _, wide, stride) in enumerate(BLAZE, 2):
        y = _normed(state, x, f"conv{i}.conv.0.0", f"conv{i}.conv.0.1", stride).relu()
        y = _normed(state, y, f"conv{i}.conv.0.3", f"conv{i}.conv.0.4")
        if wide:
            y = _normed(state, y.relu(), f"conv{i}.conv.2.0", f"conv{i}.conv.2.1").relu()
            y = _normed(state, y, f"conv{i}.conv.2.3", f"conv{i}.conv.2.4").relu()
        if stride == 2:
            x = _normed(state, F.max_pool2d(x, 2, 2), f"conv{i}.shortcut.1", f"conv{i}.shortcut.2").relu()
        x = (y + x).relu()
        maps += [x] if i in (9, 12) else []
    both = []
    for kind, columns in (("loc", 4), ("conf", 2)):
        seen = [
            F.conv2d(m, state[f"{kind}.{i}.0.weight"], state[f"{kind}.{i}.0.bias"], padding=1, groups=96).relu()
            for i, m in enumerate(maps)
        ]
        heads = {key.replace(".2.", "."): value for key, value in state.items() if key.startswith(f"{kind}.")}
        heads |= {f"{kind}.{i}.{p}": state[f"{kind}.{i}.2.{p}"] for i in (0, 1) for p in ("weight", "bias")}
        both.append(_outputs(heads, seen, kind, columns))
    return both[0], both[1]


@pytest.mark.parametrize("side", [320, 128])
def test_blazeface_with_an_ssds_boxes(side):
    torch.manual_seed(0)
    state = _blaze_state()
    settings = ImportSettings(size=side) if side != 320 else None
    foreign = import_foreign({f"module.{key}": value for key, value in state.items()}, settings=settings)
    assert foreign.source == "zineos/blazeface"
    assert foreign.class_names == ("face",)
    image = _picture(side)
    _compare(foreign, *_blaze(state, image.flip(1).float() - CAFFE.view(1, 3, 1, 1)), image)
    rows = [
        ((j + 0.5) * step, (i + 0.5) * step, size, size)
        for step, sizes in zip((8, 16), CELL, strict=True)
        for i, j in product(range(side // step), repeat=2)
        for size in sizes
    ]
    assert np.abs(foreign.model.priors.numpy() - np.array(rows) / side).max() < 1e-6
    assert len(prior_table(PRIORS["blazeface320-zineos"])) == 5600


# ----------------------------------------------------------------------------------------------------------- colours


def _having_seen(tensors: State, conv: str, norm: str, channels: tuple[float, float, float]) -> State:
    """The tensors with what their first normalisation would have seen of images of these channels on average."""
    pixel = torch.tensor(channels) - CAFFE
    return tensors | {f"{norm}.running_mean": tensors[f"{conv}.weight"].sum((2, 3)) @ pixel}


@pytest.mark.parametrize("yakhyo", [False, True])
@pytest.mark.parametrize(
    ("channels", "order", "mean"),
    [
        ((100.0, 108.0, 117.0), "bgr", (123.0, 117.0, 104.0)),  # blue first, redder than blue
        ((119.0, 112.0, 107.0), "rgb", (104.0, 117.0, 123.0)),  # blue first, they would be bluer than red
        ((112.0, 112.0, 112.0), "bgr", (123.0, 117.0, 104.0)),  # grey
    ],
)
def test_statistics_say_which_colour_came_first(channels, order, mean, yakhyo, state):
    """bubbliiiing/retinaface-pytorch takes the same means off colours that come red first."""
    tensors = _having_seen(state("retinaface_mobilenet"), "body.stage1.0.0", "body.stage1.0.1", channels)
    foreign = import_foreign({_yakhyo(k): v for k, v in tensors.items()} if yakhyo else tensors)
    spec = foreign.model.input_spec
    assert (spec.colour_order, spec.mean) == (order, mean)
    assert any("red first" in note and "--colour-order bgr" in note for note in foreign.notes) == (order == "rgb")


def test_what_the_user_says_of_colours_stands(state):
    tensors = _having_seen(state("retinaface_mobilenet"), "body.stage1.0.0", "body.stage1.0.1", (119.0, 112.0, 107.0))
    given = ImportSettings(colour_order="bgr", mean=(123.0, 117.0, 104.0))
    spec = import_foreign(tensors, settings=given).model.input_spec
    assert (spec.colour_order, spec.mean) == ("bgr", (123.0, 117.0, 104.0))


def test_statistics_that_no_pixels_explain_say_nothing(state):
    tensors = state("retinaface_mobilenet")
    norm = "body.stage1.0.1.running_mean"
    seen = _having_seen(tensors, "body.stage1.0.0", "body.stage1.0.1", (140.0, 117.0, 90.0))[norm]
    for changed in (seen + seen.norm() * torch.randn(len(seen), generator=torch.Generator().manual_seed(0)), seen * 0):
        assert import_foreign(tensors | {norm: changed}).model.input_spec.colour_order == "bgr"
    assert import_foreign(tensors | {norm: seen}).model.input_spec.colour_order == "rgb"
