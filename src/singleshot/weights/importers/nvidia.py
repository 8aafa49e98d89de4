"""SSD300 on ResNets: NVIDIA DeepLearningExamples (PyTorch/Detection/SSD, ssd/model.py) and MLPerf training's ssd-v1.

Both cut torchvision's ResNet after conv4_x, take the stride out of that stage (38 cells), and write their heads'
outputs coordinate by coordinate and class by class, for all boxes of a cell at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

from singleshot.conventions import NVIDIA
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import box_major
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes

# Cell by cell, as our heads are; theirs are written box by box.
PRIORS_300 = NVIDIA.prior_spec("ssd300")
# (blocks of the three stages, whether they are bottlenecks) -> depth.
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2), False): 18,
    ((3, 4, 6), False): 34,
    ((3, 4, 6), True): 50,
    ((3, 4, 23), True): 101,
    ((3, 8, 36), True): 152,
}


def _resnet(net: TorchBuilder, stem: str, stages: tuple[str, str, str]) -> tuple[str, str]:
    """torchvision's ResNet up to conv4_x, which keeps the side of conv3_x: its last map and its name.

    stem: prefix of the first convolution ("0") and its normalisation ("1"); stages: prefixes of conv2_x .. conv4_x.
    """
    x = net.conv_norm(net.image, f"{stem}.0", f"{stem}.1", "relu", kernel=7, stride=2)
    x = net.add(f"{stem}.maxpool", "maxpool", x, kernel=3, stride=2, padding=1)
    counts = []
    bottleneck = f"{stages[0]}.0.conv3.weight" in net.tensors
    for i, stage in enumerate(stages):
        x, blocks = net.residual_stage(x, stage, bottleneck, stride=2 if i == 1 else 1)
        counts.append(blocks)
    depth = _DEPTHS.get((tuple(counts), bottleneck))
    return x, f"ResNet{depth}" if depth else "a ResNet"


def _extras(net: TorchBuilder, x: str, norm: bool) -> list[str]:
    """The five additional blocks: 1x1, then 3x3 of stride 2 (the first three) or without padding."""
    maps = [x]
    for i in range(5):
        name, stride, padding = f"additional_blocks.{i}", *((2, 1) if i < 3 else (1, 0))
        if norm:
            x = net.conv_norm(x, f"{name}.0", f"{name}.1", "relu", kernel=1)
            x = net.conv_norm(x, f"{name}.3", f"{name}.4", "relu", 3, stride, padding)
        else:
            x = net.conv_bias(x, f"{name}.0", "relu", kernel=1)
            x = net.conv_bias(x, f"{name}.2", "relu", 3, stride, padding)
        maps.append(x)
    return maps


def _names(tensors: ForeignState, count: int) -> tuple[str, ...] | None:
    """Their files hold label_map: 0 for background, then the classes by number; else those of COCO."""
    labels = tensors.structure.get("label_map") if isinstance(tensors.structure, Mapping) else None
    if isinstance(labels, Mapping):
        names = [labels.get(i) for i in range(1, count + 1)]
        if len(labels) == count + 1 and all(isinstance(name, str) for name in names):
            return tuple(map(str, names))
    return usual_names(count)


def _convert(tensors: ForeignState, project: str, stem: str, stages: tuple[str, str, str], norm: bool) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4)
    net = TorchBuilder(tensors)
    last, backbone = _resnet(net, stem, stages)
    for i, (x, boxes) in enumerate(zip(_extras(net, last, norm), PRIORS_300.per_cell, strict=True)):
        add_head(net, x, f"loc.{i}", f"conf.{i}", boxes, num_classes + 1, (box_major, box_major))
    tensors.finish(f"{project} SSD300")
    model = net.build(num_classes, PRIORS_300, NVIDIA.inputs["ssd300"], f"ssd300-{backbone.lower().split()[-1]}")
    source, thresholds = f"{project} SSD300 on {backbone}", NVIDIA.detection["nvidia-eval"]
    return ImportedModel(model, source, _names(tensors, num_classes), thresholds)


def _convert_nvidia(tensors: ForeignState) -> ImportedModel:
    stem = "feature_extractor.feature_extractor"
    stages = (f"{stem}.4", f"{stem}.5", f"{stem}.6")
    return _convert(tensors, "NVIDIA DeepLearningExamples", stem, stages, norm=True)


def _convert_mlperf(tensors: ForeignState) -> ImportedModel:
    stem = "model.layer1"
    return _convert(tensors, "MLPerf training", stem, (f"{stem}.4", f"{stem}.5", "model.layer2.0"), norm=False)


IMPORTERS = (
    Importer("nvidia", _convert_nvidia),
    Importer("mlperf", _convert_mlperf),
)
