"""biubug6/Pytorch_Retinaface on MobileNetV1 0.25 and ResNet50 (models/retinaface.py, models/net.py): a feature pyramid
and SSH context modules under SSD's heads. Face-Detector-1MB-with-landmark's has the same names, with other activations
and default boxes; yakhyo/retinaface-pytorch is the same network under other names (models/retinaface.py,
models/common.py), and wider ones."""

from __future__ import annotations

import re

from singleshot.convention_records import Convention
from singleshot.conventions_faces import FACE_1MB, RETINAFACE, RETINAFACE_YAKHYO
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.faces import add_heads, face_model, own_or_given, seen_colours, without_landmarks
from singleshot.weights.importers.retinaface_bodies import (
    MOBILENET_V1,
    MOBILENET_V2,
    MOBILENET_V3,
    RESNET,
    Body,
    is_leaky,
    v3_kind,
)
from singleshot.weights.importers.torch_blocks import Activation, TorchBuilder
from singleshot.weights.importers.vgg import count_classes

_LEAK = 0.1
_HEADS = ("BboxHead.{}.conv1x1", "ClassHead.{}.conv1x1")


def _pyramid(net: TorchBuilder, maps: list[str], activation: Activation) -> list[str]:
    """net.py, FPN: from the smallest map up."""
    sides = [net.conv_norm(x, f"fpn.output{i}.0", f"fpn.output{i}.1", activation, 1) for i, x in enumerate(maps, 1)]
    for i in (1, 0):
        merge = f"fpn.merge{i + 1}"
        up = net.add(f"{merge}.up", "enlarge", sides[i + 1], sides[i])
        x = net.add(f"{merge}.add", "add", sides[i], up)
        sides[i] = net.conv_norm(x, f"{merge}.0", f"{merge}.1", activation, 3)
    return sides


def _context(net: TorchBuilder, x: str, name: str, activation: Activation) -> str:
    """net.py, SSH: what 3x3, 5x5 and 7x7 cells show, the last two by 3x3 convolutions in a row."""

    def unit(x: str, part: str, activation: Activation = "") -> str:
        return net.conv_norm(x, f"{name}.{part}.0", f"{name}.{part}.1", activation, 3)

    shared = unit(x, "conv5X5_1", activation)
    parts = (
        unit(x, "conv3X3"),
        unit(shared, "conv5X5_2"),
        unit(unit(shared, "conv7X7_2", activation), "conv7x7_3"),
    )
    y = net.add(f"{name}.concat", "concat", *parts, channels=sum(net.channels[part] for part in parts))
    return net.add(f"{name}.relu", "relu", y)


def _convert(
    tensors: ForeignState,
    body: Body,
    network: str,
    what: str,
    project: Convention = RETINAFACE,
) -> ImportedModel:
    priors, rule = project.prior_spec(network), next(iter(project.detection.values()))
    biases = [f"{_HEADS[0].format(i)}.bias" for i in range(len(priors.per_cell))]
    priors, spec = own_or_given(tensors, priors, project.inputs[network], project.project, biases)
    num_classes = count_classes(tensors, "ClassHead.0.conv1x1.bias", priors.per_cell[0])
    net = TorchBuilder(tensors)
    # Leaky where the pyramid is narrow: 64 channels in MobileNet's, 256 in ResNet's. MobileNet is always, in yakhyo's.
    width = len(tensors.take("fpn.output1.0.weight", None, None, 1, 1))
    activation: Activation = _LEAK if width <= 64 and project is not FACE_1MB else "relu"
    maps = _pyramid(net, body.add(net, _LEAK if project is RETINAFACE_YAKHYO else activation), activation)
    maps = [_context(net, x, f"ssh{i}", activation) for i, x in enumerate(maps, 1)]
    add_heads(net, maps, _HEADS, priors, num_classes)
    spec, colours = seen_colours(tensors, spec, *body.first)
    notes = without_landmarks(tensors, "LandmarkHead.") + colours
    source = f"{project.project} on {what}"
    tensors.finish(source)
    model = net.build(num_classes, priors, spec, f"{network}-{what.lower()}")
    return face_model(model, source, rule, notes)


def _convert_mobilenet(tensors: ForeignState) -> ImportedModel:
    if is_leaky(tensors):
        return _convert(tensors, MOBILENET_V1, "retinaface640", "MobileNetV1-0.25")
    return _convert(tensors, MOBILENET_V1, "face1mb-mobilenet640", "MobileNetV1-0.25", FACE_1MB)


def _convert_resnet(tensors: ForeignState) -> ImportedModel:
    return _convert(tensors, RESNET, "retinaface840", "ResNet50")


def _convert_v3(tensors: ForeignState) -> ImportedModel:
    """sglee487/Pytorch_Retinaface, which is the same on torchvision's MobileNetV3."""
    return _convert(tensors, MOBILENET_V3, "retinaface640", f"MobileNetV3-{v3_kind(tensors)}")


def _yakhyo_name(name: str) -> str:
    """A name of yakhyo's -> biubug6's: fx.stage1.2.1.0 -> body.stage1.2.3, class_head.class_head.0 ->
    ClassHead.0.conv1x1."""
    if unit := re.fullmatch(r"fx\.(stage\d\.\d+)\.(\d)\.(\d)\.(\w+)", name):
        block, half, layer, part = unit.groups()
        return f"body.{block}.{3 * int(half) + int(layer)}.{part}"
    if head := re.fullmatch(r"(class|bbox|landmark)_head\.\1_head\.(\d+)\.(\w+)", name):
        kind, i, part = head.groups()
        return f"{kind.capitalize()}Head.{i}.conv1x1.{part}"
    return f"body.{name.removeprefix('fx.')}" if name.startswith("fx.") else name


def _convert_yakhyo(tensors: ForeignState) -> ImportedModel:
    same = tensors.renamed(_yakhyo_name)
    if "body.conv1.weight" in same:
        blocks = tuple(sum(f"body.layer{i}.{n}.conv1.weight" in same for n in range(100)) for i in (1, 2, 3, 4))
        deep = "body.layer1.0.conv3.weight" in same
        what = f"ResNet{_RESNETS.get((blocks, deep), '')}"
        return _convert(same, RESNET, "retinaface640", what, RETINAFACE_YAKHYO)
    if "body.features.0.0.weight" in same:
        return _convert(same, MOBILENET_V2, "retinaface640", "MobileNetV2", RETINAFACE_YAKHYO)
    share = same.shape("body.stage1.0.0.weight")[:1]
    what = f"MobileNetV1-{share[0] / 32:.2f}" if share else "MobileNetV1"
    return _convert(same, MOBILENET_V1, "retinaface640", what, RETINAFACE_YAKHYO)


_RESNETS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
}
IMPORTERS = (
    Importer("retinaface-mobilenet", _convert_mobilenet),
    Importer("retinaface-resnet50", _convert_resnet),
    Importer("retinaface-mobilenetv3", _convert_v3),
    Importer("retinaface-yakhyo", _convert_yakhyo),
    Importer("retinaface-yakhyo-resnet", _convert_yakhyo),
    Importer("retinaface-yakhyo-mobilenetv2", _convert_yakhyo),
)
