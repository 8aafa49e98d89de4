"""Backbone weights from files: VGG16 whole and reduced, MobileNetV2, and everything that is not one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v2

from singleshot.deploy.state_dicts import to_amdegroot, to_torchvision
from singleshot.errors import CheckpointError, ConfigError
from singleshot.inputs import InputSpec
from singleshot.models import build
from singleshot.weights.backbones import adapted, load_backbone
from singleshot.weights.checkpoint import ModelInfo, save_checkpoint

CONVS = [
    (64, 3),
    (64, 64),
    (128, 64),
    (128, 128),
    (256, 128),
    (256, 256),
    (256, 256),
    (512, 256),
    (512, 512),
    (512, 512),
    (512, 512),
    (512, 512),
    (512, 512),
]
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


@pytest.fixture(scope="module")
def whole(classifier, tmp_path_factory) -> Path:
    """torchvision's VGG16 as a file of half a gigabyte."""
    path = tmp_path_factory.mktemp("whole") / "vgg.safetensors"
    save_file(vgg_features("features.") | classifier, path)
    return path


def fc6_fc7(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a classifier's linear layers (torchvision names) become: every 4th output, every 3rd row and column."""
    w6, w7 = state["classifier.0.weight"].view(4096, 512, 7, 7), state["classifier.3.weight"].view(4096, 4096, 1, 1)
    return {
        "fc6.weight": w6[::4, :, ::3, ::3],
        "fc6.bias": state["classifier.0.bias"][::4],
        "fc7.weight": w7[::4, ::4],
        "fc7.bias": state["classifier.3.bias"][::4],
    }


def test_fc6_and_fc7_are_every_fourth_output_and_third_pixel(classifier, whole: Path) -> None:
    model = build("ssd300-vgg16", 2)
    load_backbone(model, whole)
    small = model.backbone.layers.state_dict()
    assert small["fc6.weight"].shape == (1024, 512, 3, 3)
    assert small["fc7.weight"].shape == (1024, 1024, 1, 1)
    full = classifier["classifier.0.weight"].view(4096, 512, 7, 7)
    for out, channel, row, column in ((0, 0, 0, 0), (5, 300, 1, 2), (1023, 511, 2, 2)):
        assert small["fc6.weight"][out, channel, row, column] == full[out * 4, channel, row * 3, column * 3]
    assert small["fc7.weight"][7, 9, 0, 0] == classifier["classifier.3.weight"][28, 36]
    assert small["fc6.bias"][10] == classifier["classifier.0.bias"][40]


def test_a_whole_vgg16_fills_the_backbone_and_takes_the_std_along(classifier, whole: Path) -> None:
    state = vgg_features("features.")
    model = build("ssd300-vgg16", 2)
    assert "fc6 and fc7 included" in load_backbone(model, whole)
    layers = model.backbone.layers
    assert torch.equal(layers.conv5_3.weight, state["features.28.weight"])
    assert torch.equal(layers.fc6.weight, fc6_fc7(classifier)["fc6.weight"])
    # The file's network saw (x / 255 - mean) / std, ours sees x - mean.
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    torch.testing.assert_close(layers.conv1_1.weight * std, state["features.0.weight"])


def test_the_reduced_file_of_the_caffe_ports(tmp_path: Path) -> None:
    state = vgg_features("")
    state |= {
        "31.weight": torch.randn(1024, 512, 3, 3),
        "31.bias": torch.randn(1024),
        "33.weight": torch.randn(1024, 1024, 1, 1),
        "33.bias": torch.randn(1024),
    }
    torch.save(state, tmp_path / "vgg16_reducedfc.pth")
    model = build("ssd300-vgg16", 2)
    load_backbone(model, tmp_path / "vgg16_reducedfc.pth")
    assert torch.equal(model.backbone.layers.conv1_1.weight, state["0.weight"])
    assert torch.equal(model.backbone.layers.fc7.weight, state["33.weight"])


def test_a_bn_form_takes_plain_weights_with_the_biases_in_the_running_means(tmp_path: Path) -> None:
    state = vgg_features("features.")
    torch.save(state, tmp_path / "vgg.pth")
    model = build("ssd300-vgg16-bn", 2)
    assert "start from scratch" in load_backbone(model, tmp_path / "vgg.pth")
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
    path, model = tmp_path / "evil.pth", build("ssdlite320-mobilenetv2", 2)
    path.write_bytes(pickle.dumps({"features.0.weight": Evil()}))
    with pytest.raises(CheckpointError, match=r"evil\.pth: "):
        load_backbone(model, path)
    torch.save({"a": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth: "):
        load_backbone(model, path)
    assert not Path("/tmp/singleshot-was-here").exists()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"conv.weight": torch.zeros(1)}, "not a MobileNetV2 that is known"),
        ({"features.18.0.weight": torch.zeros(1), "features.1.conv.0.0.weight": torch.zeros(1)}, "is missing"),
        ([1, 2], "want a dict of tensors"),
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
    (tmp_path / "some.pth").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="backbone of its own"):
        load_backbone(build("ssd320-mini", 2), tmp_path / "some.pth")


# ------------------------------------------------------------------------------------- other names of the same network


LAYERS = [f"conv{s}_{i}" for s, n in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for i in range(1, n + 1)]


@pytest.fixture(scope="module")
def reduced() -> dict[str, torch.Tensor]:
    """layer.weight, layer.bias of VGG16 with small fc6 and fc7, [outputs, inputs, kh, kw]."""
    state = vgg_features("")
    named = {
        f"{name}.{part}": state[f"{i}.{part}"]
        for name, i in zip(LAYERS, INDEX, strict=True)
        for part in ("weight", "bias")
    }
    g = torch.Generator().manual_seed(6)
    return named | {
        "fc6.weight": torch.randn(1024, 512, 3, 3, generator=g),
        "fc6.bias": torch.randn(1024, generator=g),
        "fc7.weight": torch.randn(1024, 1024, 1, 1, generator=g),
        "fc7.bias": torch.randn(1024, generator=g),
    }


def caffe(layer: str, part: str) -> str:
    return f"{layer}[{'01'[part == 'bias']}]"


def keras(layer: str, part: str) -> str:
    block = layer.replace("conv", "block").replace("_", "_conv") if layer.startswith("conv") else layer
    return f"{block}/{block}/{'kernel' if part == 'weight' else 'bias'}:0"


def keras_1(layer: str, part: str) -> str:
    return f"{layer}/{layer}_{part[0].upper() if part == 'weight' else 'b'}_1:0"


def chainer(layer: str, part: str) -> str:
    return f"{layer}/{part[0].upper() if part == 'weight' else 'b'}"


def plain(layer: str, part: str) -> str:
    return f"{layer}.{part}"


@pytest.mark.parametrize("name_of", [caffe, keras, keras_1, chainer, plain])
def test_vgg16_under_the_names_of_caffe_and_keras_sees_bgr(name_of, reduced, tmp_path: Path) -> None:
    arrays = {}
    for key, value in reduced.items():
        turned = value.permute(2, 3, 1, 0) if name_of in (keras, keras_1) and value.dim() == 4 else value
        arrays[name_of(*key.split("."))] = turned.numpy()
    np.savez(tmp_path / "vgg.npz", **arrays)
    model = build("ssd300-vgg16", 2)
    assert "fc6 and fc7 included" in load_backbone(model, tmp_path / "vgg.npz")
    own = model.backbone.layers.state_dict()
    for key, value in reduced.items():
        assert torch.equal(own[key], value.flip(1) if key == "conv1_1.weight" else value), key


@pytest.mark.slow
def test_a_whole_vgg16_of_caffes_or_keras_is_made_smaller(reduced, classifier, tmp_path: Path) -> None:
    classifier = {key: value.half() for key, value in classifier.items()}  # half the file
    small = fc6_fc7({key: value.float() for key, value in classifier.items()})
    convs = {key: value for key, value in reduced.items() if key.startswith("conv")}
    caffes = {
        "fc6.weight": classifier["classifier.0.weight"],
        "fc6.bias": classifier["classifier.0.bias"],
        "fc7.weight": classifier["classifier.3.weight"],
        "fc7.bias": classifier["classifier.3.bias"],
    }
    files = {"caffe": {caffe(*k.split(".")): v for k, v in (convs | caffes).items()}}
    # Keras flattens rows, columns, channels and has inputs first; its fc6 and fc7 are fc1 and fc2.
    files["keras"] = {
        keras(*key.split(".")): value.permute(2, 3, 1, 0) if value.dim() == 4 else value for key, value in convs.items()
    } | {
        "fc1/fc1/kernel:0": caffes["fc6.weight"].view(4096, 512, 49).transpose(1, 2).reshape(4096, -1).T,
        "fc1/fc1/bias:0": caffes["fc6.bias"],
        "fc2/fc2/kernel:0": caffes["fc7.weight"].T,
        "fc2/fc2/bias:0": caffes["fc7.bias"],
    }
    for name, arrays in files.items():
        torch.save(arrays, tmp_path / f"{name}.pth")
        model = build("ssd300-vgg16", 2)
        load_backbone(model, tmp_path / f"{name}.pth")
        own = model.backbone.layers.state_dict()
        assert all(torch.equal(own[key], value) for key, value in small.items()), name


def test_batch_norm_is_taken_into_a_plain_vgg16(tmp_path: Path) -> None:
    torch.manual_seed(8)
    layers, channels = [], 3
    for v in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        layers += [nn.Conv2d(channels, v, 3, padding=1), nn.BatchNorm2d(v), nn.ReLU()] if v else [nn.MaxPool2d(2, 2)]
        channels = v or channels
    features = nn.Sequential(*layers).eval()
    for module in features:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, tmp_path / "bn.pth")
    x = torch.rand(1, 3, 64, 64) * 255 - 120
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    with torch.inference_mode():
        wanted = features[:33](x / std)  # conv4_3
        for name in ("ssd300-vgg16", "ssd300-vgg16-bn"):
            model = build(name, 2).eval()
            assert "with batch norm" in load_backbone(model, tmp_path / "bn.pth")
            assert torch.allclose(model.backbone(x)[0], wanted, atol=1e-4, rtol=1e-3)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("kind", ["safetensors", "npz", "wrapped"])
def test_files_of_other_kinds(kind: str, tmp_path: Path) -> None:
    state = {key: value for key, value in mobilenet_v2(weights=None).state_dict().items() if "classifier" not in key}
    path = tmp_path / f"m.{'pth' if kind == 'wrapped' else kind}"
    if kind == "npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    model = build("ssdlite320-mobilenetv2", 2)
    assert load_backbone(model, path) == "torchvision MobileNetV2"
    assert torch.equal(model.backbone.features[18][0].weight, state["features.18.0.weight"])


def test_mobilenetv2_with_its_layers_numbered_through(tmp_path: Path) -> None:
    state = mobilenet_v2(weights=None).state_dict()
    units = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    flat = {}
    for key, value in state.items():
        block, _, rest = key.removeprefix("features.").partition(".conv.")
        inner, _, part = rest.rpartition(".")
        flat[f"features.{block}.conv.{(first if block == '1' else units)[inner]}.{part}" if rest else key] = value
    assert "features.1.conv.3.weight" in flat
    torch.save(flat, tmp_path / "flat.pth")
    model = build("ssdlite320-mobilenetv2", 2)
    assert "numbered through" in load_backbone(model, tmp_path / "flat.pth")
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())


def test_the_first_convolution_is_turned_to_our_colours() -> None:
    g = torch.Generator().manual_seed(1)
    weight, x = torch.randn(4, 3, 3, 3, generator=g), torch.rand(1, 3, 9, 9, generator=g) * 255
    specs = [
        InputSpec(std=(58.0, 57.0, 56.0)),
        InputSpec(colour_order="bgr"),
        InputSpec(std=(2.0, 3.0, 4.0)),
        InputSpec(colour_order="bgr", std=(9.0, 8.0, 7.0)),
    ]

    def seen(spec: InputSpec) -> torch.Tensor:
        y = (x - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
        return y.flip(1) if spec.colour_order == "bgr" else y

    for theirs in specs:
        wanted = nn.functional.conv2d(seen(theirs), weight)
        for ours in specs:
            got = nn.functional.conv2d(seen(ours), adapted(weight, theirs, ours))
            assert torch.allclose(got, wanted, atol=1e-2, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- whole detectors


def test_the_backbone_of_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(9)
    source = build("ssd300-vgg16", 3)
    for export, about in ((lambda m: to_amdegroot(m, clip=False), "amdegroot"), (to_torchvision, "torchvision ssd300")):
        torch.save(export(source), tmp_path / "ssd.pth")
        model = build("ssd512-vgg16", 2)
        assert about in load_backbone(model, tmp_path / "ssd.pth")
        for key, value in model.backbone.state_dict().items():
            assert torch.allclose(value, source.backbone.state_dict()[key], atol=1e-3), key
    with pytest.raises(CheckpointError, match="not that of ssdlite320-mobilenetv2"):
        load_backbone(build("ssdlite320-mobilenetv2", 2), tmp_path / "ssd.pth")


def test_the_backbone_of_a_model_of_ours(tmp_path: Path) -> None:
    source = build("ssdlite320-mobilenetv2", 3)
    save_checkpoint(tmp_path / "a.safetensors", source.state_dict(), ModelInfo.of(source, ("a", "b", "c")))
    model = build("ssd300-mobilenetv2", 2)
    assert "ssdlite320-mobilenetv2" in load_backbone(model, tmp_path / "a.safetensors")
    assert all(torch.equal(v, source.backbone.state_dict()[k]) for k, v in model.backbone.state_dict().items())
    with pytest.raises(CheckpointError, match="not that of ssd300-vgg16"):
        load_backbone(build("ssd300-vgg16", 2), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"conv4_2[1]": None}, "conv4_2's bias is missing"),
        ({"conv4_2[0]": np.zeros((512, 512, 3, 5), np.float32)}, r"conv4_2\[0\] has shape \(512, 512, 3, 5\), want"),
        ({"fc6[0]": np.zeros((7, 7), np.float32)}, r"fc6\[0\] has shape \(7, 7\), want"),
        ({"conv1_1[1]": np.full(64, np.nan, np.float32)}, r"conv1_1\[1\] holds NaN"),
    ],
)
def test_what_is_wrong_with_a_vgg16_is_named(change, says: str, reduced, tmp_path: Path) -> None:
    arrays = {caffe(*key.split(".")): value.numpy() for key, value in reduced.items()} | change
    np.savez(tmp_path / "vgg.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(CheckpointError, match=says) as caught:
        load_backbone(build("ssd300-vgg16", 2), tmp_path / "vgg.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacking", ["classifier.0.weight", "features.28.bias"])
def test_a_torchvision_file_that_lacks_something(lacking: str, classifier, tmp_path: Path) -> None:
    state = vgg_features("features.") | classifier
    del state[lacking]
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match=f"but {lacking} is missing"):
        load_backbone(build("ssd300-vgg16", 2), tmp_path / "vgg.pth")
