"""amdegroot/ssd.pytorch: SSD300 on VGG16 (ssd.py, data/config.py)."""

from __future__ import annotations

from dataclasses import replace

from singleshot.inputs import CAFFE_MEAN, InputSpec
from singleshot.priors import PRIORS, PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model

# layers/functions/detection.py: the 200 best of each class before NMS; all that is left is kept.
THRESHOLDS = Thresholds(score_min=0.01, nms_iou=0.45, per_class=200, keep=200)


def priors_of(num_classes: int) -> PriorSpec:
    """ssd.py takes VOC's table for 21 columns and COCO's for any other number; prior_box.py clamps cx cy w h ('clip':
    True in both). Sizes are whole numbers already."""
    table = "ssd300-voc" if num_classes == 20 else "ssd300-coco"
    return replace(PRIORS[table], clip="center", truncate=False)


def _convert(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4, tensors.where)
    priors = priors_of(num_classes)
    find = find_ported(tensors, 6, "", "L2Norm", "loc", "conf")
    model = vgg_model(find, num_classes, priors, InputSpec(size=300, mean=CAFFE_MEAN))
    tensors.finish("amdegroot/ssd.pytorch SSD300")
    told = "default boxes of COCO's table, as its code has for any number of classes but 20"
    notes = () if num_classes in (20, 80) else (told,)
    return ImportedModel(model, "amdegroot/ssd.pytorch SSD300 on VGG16", usual_names(num_classes), THRESHOLDS, notes)


IMPORTERS = (
    Importer(
        "amdegroot",
        "amdegroot/ssd.pytorch, SSD300 on VGG16",
        (
            "vgg.0.weight",
            "vgg.33.bias",
            "L2Norm.weight",
            "extras.0.weight",
            "extras.7.bias",
            "loc.0.weight",
            "conf.5.bias",
        ),
        _convert,
        "pytorch",
    ),
)
