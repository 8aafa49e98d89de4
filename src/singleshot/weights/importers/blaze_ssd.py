"""zineos/blazeface (blazeface/models/net_blaze.py): BlazeFace's blocks under RetinaFace's heads, boxes and loss, so an
SSD; MediaPipe's own BlazeFace is none."""

from __future__ import annotations

from singleshot.conventions_faces import BLAZE_ZINEOS
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import add_heads, face_model, seen_colours, without_landmarks
from singleshot.weights.importers.torch_blocks import Activation, TorchBuilder
from singleshot.weights.importers.vgg import count_classes

_BLOCKS, _SEEN = range(2, 13), (9, 12)  # conv2 to conv12, of which these give the maps


def _unit(net: TorchBuilder, x: str, name: str, activation: Activation, stride: int, depthwise: bool) -> str:
    """A 5x5 convolution and a 1x1, each normalised ({name}.0, .1, .3, .4); ReLU between them, the activation behind."""
    x = net.conv_norm(x, f"{name}.0", f"{name}.1", "relu", 5, stride, depthwise=depthwise)
    return net.conv_norm(x, f"{name}.3", f"{name}.4", activation, 1)


def _block(net: TorchBuilder, x: str, name: str) -> str:
    """One unit, or two of which the second has a full 5x5 (conv_pw), plus a shortcut that halves the map where there is
    one."""
    double, halves = f"{name}.conv.2.0.weight" in net.tensors, f"{name}.shortcut.1.weight" in net.tensors
    y = _unit(net, x, f"{name}.conv.0", "relu" if double else "", 2 if halves else 1, depthwise=True)
    if double:
        y = _unit(net, y, f"{name}.conv.2", "relu", 1, depthwise=False)
    if halves:
        short = net.add(f"{name}.shortcut.0", "maxpool", x, kernel=2, stride=2, padding=0)
        short = net.conv_bias(short, f"{name}.shortcut.1", "", 1)
        x = net.active(f"{name}.shortcut.2", net.batch_norm(short, f"{name}.shortcut.2"), "relu")
    return net.add(f"{name}.relu", "relu", net.add(f"{name}.add", "add", y, x))


def _convert(tensors: ForeignState) -> ImportedModel:
    priors = BLAZE_ZINEOS.prior_spec("blazeface320")
    spec, colours = seen_colours(tensors, BLAZE_ZINEOS.inputs["blazeface320"], "conv1.0", "conv1.1")
    num_classes = count_classes(tensors, "conf.1.2.bias", priors.per_cell[1])
    net = TorchBuilder(tensors)
    x = net.conv_norm(net.image, "conv1.0", "conv1.1", "relu", 3, 2)
    maps = []
    for i in _BLOCKS:
        x = _block(net, x, f"conv{i}")
        maps += [x] if i in _SEEN else []
    add_heads(net, maps, ("loc.{}", "conf.{}"), priors, num_classes)
    notes = without_landmarks(tensors, "landm.") + colours
    source = BLAZE_ZINEOS.project
    tensors.finish(source)
    model = net.build(num_classes, priors, spec, "blazeface320")
    return face_model(model, source, BLAZE_ZINEOS.detection["blazeface-zineos"], notes)


IMPORTERS = (Importer("blazeface-zineos", _convert),)
