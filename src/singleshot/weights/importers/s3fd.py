"""yxlijun/S3FD.pytorch (s3fd.py): six maps from stride 4 on, one box a cell, and a background of three columns on the
first map, of which the largest counts (max-out)."""

from __future__ import annotations

import torch

from singleshot.conventions_faces import S3FD
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import widened
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import face_model
from singleshot.weights.importers.mobilenet_blocks import add_head
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import VGG_INDEX, count_classes

_NETWORK = "s3fd640"
_POOLED = {2: False, 7: False, 14: True, 21: False, 28: False}  # behind which convolutions, and whether it rounds up
_NORMED = {14: "L2Norm3_3", 21: "L2Norm4_3", 28: "L2Norm5_3"}
_BACKGROUNDS = 3


def _maps(net: TorchBuilder) -> list[str]:
    x, maps = net.image, []
    for i in VGG_INDEX:
        x = net.conv_bias(x, f"vgg.{i}", "relu", 3, padding=1)
        if i in _NORMED:
            maps.append(net.l2_norm(x, _NORMED[i]))
        if i in _POOLED:
            x = net.add(f"vgg.{i + 2}", "maxpool", x, kernel=2, stride=2, round_up=_POOLED[i])
    x = net.conv_bias(x, "vgg.31", "relu", 3, padding=6, dilation=6)
    x = net.conv_bias(x, "vgg.33", "relu", 1)
    maps.append(x)
    for i in (0, 2):
        x = net.conv_bias(x, f"extras.{i}", "relu", 1)
        x = net.conv_bias(x, f"extras.{i + 1}", "relu", 3, 2, 1)
        maps.append(x)
    return maps


def _max_out_head(net: TorchBuilder, x: str, columns: int) -> None:
    """The first map's: its confidence is a layer of the graph, which the head passes on as it is."""
    weight = net.tensors.take("conf.0.weight", _BACKGROUNDS + columns - 1, net.channels[x], 3, 3)
    y = net.conv("conf.0", x, weight, net.tensors.take("conf.0.bias", len(weight)), padding=1)
    y = net.add("conf.0.maxout", "maxout", y, channels=columns, first=_BACKGROUNDS)
    location = net.tensors.take("loc.0.weight", 4, net.channels[x], 3, 3)
    same = widened(torch.eye(columns)[:, :, None, None], 3)
    net.head(x, y, location, net.tensors.take("loc.0.bias", 4), same, torch.zeros(columns))


def _convert(tensors: ForeignState) -> ImportedModel:
    priors = S3FD.prior_spec(_NETWORK)
    num_classes = count_classes(tensors, "conf.5.bias", 1)
    net = TorchBuilder(tensors)
    for i, x in enumerate(_maps(net)):
        if i == 0:
            _max_out_head(net, x, num_classes + 1)
        else:
            add_head(net, x, f"loc.{i}", f"conf.{i}", 1, num_classes + 1)
    tensors.finish(S3FD.project)
    model = net.build(num_classes, priors, S3FD.inputs[_NETWORK], _NETWORK)
    return face_model(model, S3FD.project, S3FD.detection["s3fd"])


IMPORTERS = (Importer("s3fd", _convert),)
