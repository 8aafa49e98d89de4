"""TinySSD of Dive into Deep Learning (d2l-ai/d2l-en, chapter_computer-vision/ssd.md), as its PyTorch code names it."""

from __future__ import annotations

from singleshot.conventions import D2L
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import add_heads
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes

_NETWORK = "tinyssd256"
# The blocks that the first four maps come from: the base network is three of them.
_BLOCKS = (("blk_0.0", "blk_0.1", "blk_0.2"), ("blk_1",), ("blk_2",), ("blk_3",))


def _halved(net: TorchBuilder, x: str, name: str) -> str:
    """down_sample_blk: two 3x3 convolutions, each normalised and activated, and pooling."""
    for conv, norm in ((f"{name}.0", f"{name}.1"), (f"{name}.3", f"{name}.4")):
        x = net.conv_bias(x, conv, kernel=3, padding=1)
        x = net.active(norm, net.batch_norm(x, norm), "relu")
    return net.add(f"{name}.pool", "maxpool", x, kernel=2)


def _convert(tensors: ForeignState) -> ImportedModel:
    priors = D2L.prior_spec(_NETWORK)
    num_classes = count_classes(tensors, "cls_0.bias", priors.per_cell[0])
    net = TorchBuilder(tensors)
    x, maps = net.image, []
    for blocks in _BLOCKS:
        for name in blocks:
            x = _halved(net, x, name)
        maps.append(x)
    # AdaptiveMaxPool2d(1): over all of the last map
    maps.append(net.add("blk_4", "maxpool", x, kernel=tensors.take_size(256) // 64))
    add_heads(net, maps, ("bbox_{}", "cls_{}"), priors, num_classes)
    source = "TinySSD of Dive into Deep Learning"
    tensors.finish(source)
    model = net.build(num_classes, priors, D2L.inputs[_NETWORK], _NETWORK)
    return ImportedModel(model, source, usual_names(num_classes), D2L.detection["d2l"])


IMPORTERS = (Importer("d2l", _convert),)
