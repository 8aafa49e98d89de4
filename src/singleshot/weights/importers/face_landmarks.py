"""biubug6/Face-Detector-1MB-with-landmark, RFB and slim (models/net_rfb.py, models/net_slim.py): Ultra-Light's network
with key points of a face, here without them."""

from __future__ import annotations

from singleshot.conventions_faces import FACE_1MB
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import face_model, seen_colours, without_landmarks
from singleshot.weights.importers.mobilenet_blocks import add_head, depthwise_bias
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.ultraface import STRIDES, rfb_block
from singleshot.weights.importers.vgg import count_classes

_SEEN, _RFB = (8, 11, 13), 8  # conv1 is the first convolution, conv2 to conv13 are blocks


def _convert(tensors: ForeignState) -> ImportedModel:
    priors, spec = FACE_1MB.prior_spec("face1mb320"), FACE_1MB.inputs["face1mb320"]
    num_classes = count_classes(tensors, "conf.3.bias", priors.per_cell[3])
    kind = "RFB" if f"conv{_RFB}.ConvLinear.conv.weight" in tensors else "slim"
    net = TorchBuilder(tensors)
    x = net.conv_norm(net.image, "conv1.0", "conv1.1", "relu", 3, 2)
    maps = []
    for i, stride in enumerate(STRIDES, 2):
        rfb = i == _RFB and kind == "RFB"
        x = rfb_block(net, x, f"conv{i}") if rfb else net.separable_norm(x, f"conv{i}", "relu", stride)
        maps += [x] if i in _SEEN else []
    x = net.conv_bias(x, "conv14.0", "relu", 1)
    x = depthwise_bias(net, x, "conv14.2.0", "", "relu", 2)
    maps.append(net.conv_bias(x, "conv14.2.2", "relu", 1))
    for i, (x, boxes) in enumerate(zip(maps, priors.per_cell, strict=True)):
        add_head(net, x, f"loc.{i}", f"conf.{i}", boxes, num_classes + 1)
    spec, colours = seen_colours(tensors, spec, "conv1.0", "conv1.1")
    notes = without_landmarks(tensors, "landm.") + colours
    source = f"{FACE_1MB.project} {kind}"
    tensors.finish(source)
    model = net.build(num_classes, priors, spec, f"face1mb-{kind}-320".lower())
    return face_model(model, source, FACE_1MB.detection["face1mb"], notes)


IMPORTERS = (Importer("face1mb", _convert),)
