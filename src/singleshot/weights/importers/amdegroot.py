"""amdegroot/ssd.pytorch: SSD300 on VGG16 (ssd.py, data/config.py)."""

from __future__ import annotations

from singleshot.conventions import AMDEGROOT
from singleshot.priors import PriorSpec
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model


def priors_of(num_classes: int) -> PriorSpec:
    """ssd.py takes VOC's table for 21 columns and COCO's for any other number."""
    return AMDEGROOT.prior_spec("ssd300-voc" if num_classes == 20 else "ssd300-coco")


def _convert(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "conf.0.bias", 4)
    find = find_ported(tensors, 6, "", "L2Norm", "loc", "conf")
    model = vgg_model(find, num_classes, priors_of(num_classes), AMDEGROOT.inputs["ssd300"])
    tensors.finish("amdegroot/ssd.pytorch SSD300")
    assumed = "default boxes of COCO's table, as its code has for any number of classes but 20"
    notes = () if num_classes in (20, 80) else (assumed,)
    source, thresholds = "amdegroot/ssd.pytorch SSD300 on VGG16", AMDEGROOT.detection["amdegroot"]
    return ImportedModel(model, source, usual_names(num_classes), thresholds, notes)


IMPORTERS = (Importer("amdegroot", _convert),)
