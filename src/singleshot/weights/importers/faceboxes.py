"""zisianw/FaceBoxes.PyTorch (models/faceboxes.py), and lxg2015/faceboxes (networks.py), whose poolings are others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from singleshot.conventions_faces import FACEBOXES, FACEBOXES_LXG
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import add_heads, face_model, own_or_given
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes

_NETWORK = "faceboxes1024"
# Inception: what each of the four branches goes through; "pool" is the average of 3x3 cells.
_BRANCHES = (
    ("branch1x1",),
    ("pool", "branch1x1_2"),
    ("branch3x3_reduce", "branch3x3"),
    ("branch3x3_reduce_2", "branch3x3_2", "branch3x3_3"),
)


# The same of lxg2015's; "pool" is the largest of 3x3 cells.
_LXG_BRANCHES = (("conv1",), ("pool", "conv2"), ("conv3", "conv4"), ("conv5", "conv6", "conv7"))


def _unit(net: TorchBuilder, x: str, name: str, activation: str = "relu", stride: int = 1) -> str:
    return net.conv_norm(x, f"{name}.conv", f"{name}.bn", activation, stride=stride)


def _crelu(net: TorchBuilder, x: str, name: str, stride: int) -> str:
    """A convolution whose positive and negative parts are kept, then pooling: the side by 2 * stride."""
    x = _unit(net, x, name, "", stride)
    x = net.add(f"{name}.crelu", "crelu", x, channels=2 * net.channels[x])
    return net.add(f"{name}.pool", "maxpool", x, kernel=3, stride=2, padding=1)


def _inception(net: TorchBuilder, x: str, name: str) -> str:
    ends = []
    for branch in _BRANCHES:
        y = x
        for part in branch:
            if part == "pool":
                y = net.add(f"{name}.pool", "avgpool", y, kernel=3, stride=1, padding=1, count_padding=True)
            else:
                y = _unit(net, y, f"{name}.{part}")
        ends.append(y)
    return net.add(name, "concat", *ends, channels=sum(net.channels[end] for end in ends))


def _convert(tensors: ForeignState) -> ImportedModel:
    own, spec = FACEBOXES.prior_spec(_NETWORK), FACEBOXES.inputs[_NETWORK]
    priors, spec = own_or_given(tensors, own, spec, FACEBOXES.project, [f"loc.{i}.bias" for i in range(3)])
    num_classes = count_classes(tensors, "conf.2.bias", priors.per_cell[2])
    net = TorchBuilder(tensors)
    x = _crelu(net, net.image, "conv1", 4)
    x = _crelu(net, x, "conv2", 2)
    for i in (1, 2, 3):
        x = _inception(net, x, f"inception{i}")
    maps = [x]
    for i in (3, 4):
        x = _unit(net, x, f"conv{i}_1")
        x = _unit(net, x, f"conv{i}_2", stride=2)
        maps.append(x)
    add_heads(net, maps, ("loc.{}", "conf.{}"), priors, num_classes)
    tensors.finish(FACEBOXES.project)
    model = net.build(num_classes, priors, spec, "faceboxes1024")
    return face_model(model, FACEBOXES.project, FACEBOXES.detection["faceboxes"])


def _lxg_unit(net: TorchBuilder, x: str, name: str, kernel: int, stride: int = 1) -> str:
    """Its conv_bn_relu: a convolution with bias, normalised and activated."""
    x = net.conv_bias(x, f"{name}.0", kernel=kernel, stride=stride, padding=kernel // 2)
    return net.active(f"{name}.1", net.batch_norm(x, f"{name}.1"), "relu")


def _lxg_inception(net: TorchBuilder, x: str, name: str, unit: Callable[..., str]) -> str:
    ends = []
    for branch in _LXG_BRANCHES:
        y = x
        for part in branch:
            if part == "pool":
                y = net.add(f"{name}.pool", "maxpool", y, kernel=3, stride=1, padding=1)
            else:
                y = unit(net, y, f"{name}.{part}", 3 if part in ("conv4", "conv6", "conv7") else 1)
        ends.append(y)
    return net.add(name, "concat", *ends, channels=sum(net.channels[end] for end in ends))


def _lxg_plain(net: TorchBuilder, x: str, name: str, kernel: int, stride: int = 1) -> str:
    """The same in its first version: the convolution alone (caiyueliang/faceboxes, networks.py)."""
    return net.conv_bias(x, name, kernel=kernel, stride=stride, padding=kernel // 2)


def _convert_lxg(tensors: ForeignState, normalised: bool = True) -> ImportedModel:
    unit = _lxg_unit if normalised else _lxg_plain
    own, spec = FACEBOXES_LXG.prior_spec(_NETWORK), FACEBOXES_LXG.inputs[_NETWORK]
    biases = [f"multilbox.loc_layers.{i}.bias" for i in range(3)]
    priors, spec = own_or_given(tensors, own, spec, FACEBOXES_LXG.project, biases)
    num_classes = count_classes(tensors, "multilbox.conf_layers.2.bias", priors.per_cell[2])
    net = TorchBuilder(tensors)
    x = net.image
    for i, kernel, stride in ((1, 7, 4), (2, 5, 2)):
        x = net.conv_bias(x, f"conv{i}", kernel=kernel, stride=stride, padding=kernel // 2)
        x = net.batch_norm(x, f"bn{i}") if normalised else x
        x = net.add(f"conv{i}.crelu", "crelu", x, channels=2 * net.channels[x])
        x = net.add(f"conv{i}.pool", "maxpool", x, kernel=3, stride=2, padding=1)
    for i in (1, 2, 3):
        x = _lxg_inception(net, x, f"inception{i}", unit)
    maps = [x]
    for i in (3, 4):
        x = unit(net, unit(net, x, f"conv{i}_1", 1), f"conv{i}_2", 3, stride=2)
        maps.append(x)
    add_heads(net, maps, ("multilbox.loc_layers.{}", "multilbox.conf_layers.{}"), priors, num_classes)
    tensors.finish(FACEBOXES_LXG.project)
    model = net.build(num_classes, priors, spec, "faceboxes1024-lxg2015")
    return face_model(model, FACEBOXES_LXG.project, FACEBOXES_LXG.detection["faceboxes-lxg2015"])


IMPORTERS = (
    Importer("faceboxes", _convert),
    Importer("faceboxes-lxg2015", _convert_lxg),
    Importer("faceboxes-lxg2015-plain", partial(_convert_lxg, normalised=False)),
)
