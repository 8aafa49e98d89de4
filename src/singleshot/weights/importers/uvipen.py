"""uvipen/SSD-pytorch: SSDLite on MobileNetV2 (src/model.py, src/utils.py). Its SSD on ResNet50 is NVIDIA's.

The first head looks at the expansion of torchvision's block 14, the second at the last map; outputs are written
coordinate by coordinate and class by class, for all boxes of a cell at a time, as NVIDIA's are.
"""

from __future__ import annotations

from singleshot.conventions import NVIDIA, QFGAOHAO
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import box_major
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import (
    EXPAND_14,
    add_head,
    inverted_residual,
    mobilenet_v2,
    nested_parts,
)
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes

# utils.py, generate_dboxes("ssdlite"): the sizes, steps and ratios of qfgaohao's MobileNets.
PRIORS_300 = QFGAOHAO.prior_spec("mb1-ssd")
_SOURCE = "uvipen/SSD-pytorch SSDLite on MobileNetV2"


def _convert(tensors: ForeignState) -> ImportedModel:
    boxes = PRIORS_300.per_cell
    num_classes = count_classes(tensors, "conf.5.bias", boxes[5])
    net = TorchBuilder(tensors)
    layers = mobilenet_v2(net, "feature_extractor.feature_extractor", nested_parts)
    maps = [layers.get(EXPAND_14, layers["14"]), layers["18"]]
    for i in range(4):
        maps.append(inverted_residual(net, maps[-1], f"additional_blocks.{i}", 2, nested_parts)[0])
    for i, (x, count) in enumerate(zip(maps, boxes, strict=True)):
        add_head(net, x, f"loc.{i}", f"conf.{i}", count, num_classes + 1, (box_major, box_major))
    tensors.finish(_SOURCE)
    model = net.build(num_classes, PRIORS_300, NVIDIA.inputs["ssd300"], "ssdlite300-mobilenetv2-uvipen")
    return ImportedModel(model, _SOURCE, usual_names(num_classes), NVIDIA.detection["nvidia-eval"])


IMPORTERS = (Importer("uvipen", _convert),)
