"""sgrvinod/a-PyTorch-Tutorial-to-Object-Detection: SSD300 on VGG16 (model.py)."""

from __future__ import annotations

from torch import Tensor

from singleshot.conventions import SGRVINOD
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.vgg import VGG_CONVS, count_classes, extra_names, vgg_model

# Caffe's names -> theirs: fc6 and fc7 are conv6 and conv7, and the extra layers count on from there.
_EXTRAS = {name: f"aux_convs.conv{8 + i // 2}_{1 + i % 2}" for i, name in enumerate(extra_names(6))}
_NAMES = {
    **{name: f"base.{name}" for name in VGG_CONVS},
    "fc6": "base.conv6",
    "fc7": "base.conv7",
    **_EXTRAS,
}
_MAPS = ("conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")


def _convert(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, "pred_convs.cl_conv4_3.bias", 4)

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            kind = "loc" if layer[0] == "loc" else "cl"
            return tensors.take(f"pred_convs.{kind}_{_MAPS[layer[1]]}.{part}", *shape)
        if layer == "l2norm":
            return tensors.take("rescale_factors", 1, *shape, 1, 1).flatten()
        return tensors.take(f"{_NAMES[layer]}.{part}", *shape)

    model = vgg_model(find, num_classes, SGRVINOD.prior_spec("ssd300"), SGRVINOD.inputs["ssd300"])
    source = f"{SGRVINOD.project} SSD300 on VGG16"
    tensors.finish(source)
    return ImportedModel(model, source, usual_names(num_classes), SGRVINOD.detection["sgrvinod"])


IMPORTERS = (Importer("sgrvinod", _convert),)
