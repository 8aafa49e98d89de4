"""Backbone weights from files: VGG16 whole and reduced, MobileNetV2, and everything that is not one."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from singleshot.errors import CheckpointError
from singleshot.models import build
from singleshot.weights.backbones import fc6_fc7, load_backbone

CONVS = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256),
         (512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]  # fmt: skip
INDEX = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def vgg_features(prefix: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    state = {}
    for i, (out, into) in zip(INDEX, CONVS, strict=True):
        state[f"{prefix}{i}.weight"] = torch.randn(out, into, 3, 3, generator=g) * 0.01
        state[f"{prefix}{i}.bias"] = torch.randn(out, generator=g)
    return state


@pytest.fixture(scope="module")
def classifier() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "classifier.0.weight": torch.randn(4096, 25088, generator=g),
        "classifier.0.bias": torch.randn(4096, generator=g),
        "classifier.3.weight": torch.randn(4096, 4096, generator=g),
        "classifier.3.bias": torch.randn(4096, generator=g),
    }


def test_fc6_and_fc7_are_every_fourth_output_and_third_pixel(classifier) -> None:
    small = fc6_fc7(classifier)
    assert small["fc6.weight"].shape == (1024, 512, 3, 3)
    assert small["fc7.weight"].shape == (1024, 1024, 1, 1)
    full = classifier["classifier.0.weight"].view(4096, 512, 7, 7)
    for out, channel, row, column in ((0, 0, 0, 0), (5, 300, 1, 2), (1023, 511, 2, 2)):
        assert small["fc6.weight"][out, channel, row, column] == full[out * 4, channel, row * 3, column * 3]
    assert small["fc7.weight"][7, 9, 0, 0] == classifier["classifier.3.weight"][28, 36]
    assert small["fc6.bias"][10] == classifier["classifier.0.bias"][40]


def test_a_whole_vgg16_fills_the_backbone_and_takes_the_std_along(classifier, tmp_path: Path) -> None:
    state = vgg_features("features.") | classifier
    save_file(state, tmp_path / "vgg.safetensors")
    model = build("ssd300-vgg16", 2)
    assert "fc6 and fc7 included" in load_backbone(model, tmp_path / "vgg.safetensors")
    layers = model.backbone.layers
    assert torch.equal(layers.conv5_3.weight, state["features.28.weight"])
    assert torch.equal(layers.fc6.weight, fc6_fc7(classifier)["fc6.weight"])
    # The file's network saw (x / 255 - mean) / std, ours sees x - mean.
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    torch.testing.assert_close(layers.conv1_1.weight * std, state["features.0.weight"])


def test_the_reduced_file_of_the_caffe_ports(tmp_path: Path) -> None:
    state = vgg_features("")
    state |= {"31.weight": torch.randn(1024, 512, 3, 3), "31.bias": torch.randn(1024),
              "33.weight": torch.randn(1024, 1024, 1, 1), "33.bias": torch.randn(1024)}  # fmt: skip
    torch.save(state, tmp_path / "vgg16_reducedfc.pth")
    model = build("ssd300-vgg16", 2)
    load_backbone(model, tmp_path / "vgg16_reducedfc.pth")
    assert torch.equal(model.backbone.layers.conv1_1.weight, state["0.weight"])
    assert torch.equal(model.backbone.layers.fc7.weight, state["33.weight"])


def test_a_bn_form_takes_plain_weights_with_the_biases_in_the_running_means(tmp_path: Path) -> None:
    state = vgg_features("features.")
    torch.save(state, tmp_path / "vgg.pth")
    model = build("ssd300-vgg16-bn", 2)
    assert "start from nothing" in load_backbone(model, tmp_path / "vgg.pth")
    torch.testing.assert_close(model.backbone.layers.bn3_2.running_mean, -state["features.12.bias"])


def test_mobilenetv2(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = mobilenet_v2(weights=None)
    torch.save(source.state_dict(), tmp_path / "m.pth")
    for name in ("ssd300-mobilenetv2", "ssdlite320-mobilenetv2-fine"):
        model = build(name, 2)
        assert load_backbone(model, tmp_path / "m.pth") == "torchvision MobileNetV2"
        for key, value in model.backbone.state_dict().items():
            assert torch.equal(value, source.state_dict()[key])


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/singleshot-was-here"),))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"features.0.weight": Evil()}))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_backbone(build("ssd320-mini", 2), path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_backbone(build("ssdlite320-mobilenetv2", 2), path)
    assert not Path("/tmp/singleshot-was-here").exists()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"conv.weight": torch.zeros(1)}, "not a MobileNetV2 that is known"),
        ({"features.18.0.weight": torch.zeros(1), "features.1.conv.0.0.weight": torch.zeros(1)}, "is missing"),
        ([1, 2], "something else than a dict of tensors"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, state, says: str) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=says):
        load_backbone(build("ssdlite320-mobilenetv2", 2), tmp_path / "w.pth")


def test_a_misshapen_tensor_is_named(tmp_path: Path) -> None:
    state = mobilenet_v2(weights=None).state_dict()
    state["features.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"features.0.0.weight has shape \(16, 3, 3, 3\), want \(32, 3, 3, 3\)"):
        load_backbone(build("ssdlite320-mobilenetv2", 2), tmp_path / "w.pth")


def test_no_file_and_no_known_backbone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_backbone(build("ssdlite320-mobilenetv2", 2), tmp_path / "none.pth")
