"""balancap/SSD-Tensorflow: SSD300 and SSD512 on VGG16 (nets/ssd_vgg_300.py, nets/ssd_vgg_512.py), for Pascal VOC."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from singleshot.conventions import BALANCAP
from singleshot.importable import importable
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.vgg import VGG_CONVS, count_classes, extra_names, vgg_model
from singleshot.weights.readers.tf_tensors import OPTIMIZER_SLOT

_USUAL_PREFIX = "ssd_300_vgg/"
_TAIL = "block4_box/L2Normalization/gamma"
_AVERAGE = "/ExponentialMovingAverage"
# tf_utils.py, configure_optimizer, and counters.
_TRAINING = re.compile(OPTIMIZER_SLOT + r"|(^|/)(global_step|beta1_power|beta2_power|local_step)$")


def _prefix(names: Iterable[str]) -> str | None:
    """The scope around the network, "ssd_300_vgg/" unless the training named another; None if it is not there."""
    return next((name.removesuffix(_TAIL) for name in names if name.endswith(_TAIL)), None)


def _matches(tensors: ForeignState) -> bool:
    prefix = _prefix(tensors)
    names = importable()["balancap"].signature
    return prefix is not None and all(prefix + name.removeprefix(_USUAL_PREFIX) in tensors for name in names)


def _blocks(maps: int) -> dict[str | tuple[str, int], str]:
    """Caffe's layer names -> theirs."""
    blocks: dict[str | tuple[str, int], str] = {name: f"{name[:5]}/{name}" for name in VGG_CONVS}
    blocks |= {"fc6": "conv6", "fc7": "conv7", "l2norm": "block4_box/L2Normalization"}
    for i, name in enumerate(extra_names(maps)):
        kernel = "conv1x1" if i % 2 == 0 else "conv4x4" if i // 2 == 4 else "conv3x3"
        blocks[name] = f"block{8 + i // 2}/{kernel}"
    for i, block in enumerate([4, *range(7, 6 + maps)]):
        blocks["loc", i], blocks["conf", i] = f"block{block}_box/conv_loc", f"block{block}_box/conv_cls"
    return blocks


def _convert(tensors: ForeignState) -> ImportedModel:
    prefix = _prefix(tensors) or ""
    maps = 7 if f"{prefix}block12/conv4x4/weights" in tensors else 6
    side = 300 if maps == 6 else 512
    num_classes = count_classes(tensors, f"{prefix}block4_box/conv_cls/biases", 4)
    blocks = _blocks(maps)

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        key = prefix + blocks[layer]
        if layer == "l2norm":
            return tensors.take(f"{key}/gamma", *shape)
        if part == "bias":
            return tensors.take(f"{key}/biases", *shape)
        outputs, inputs, height, width = shape
        return tensors.take(f"{key}/weights", height, width, inputs, outputs).permute(3, 2, 0, 1).contiguous()

    # The offsets are dx dy dw dh, although boxes are y first everywhere else (nets/ssd_common.py:
    # tf_ssd_bboxes_decode_layer).
    network = f"ssd{side}"
    model = vgg_model(find, num_classes, BALANCAP.prior_spec(network), BALANCAP.inputs[network])
    notes = _ignore_training(tensors)
    tensors.finish(f"balancap/SSD-Tensorflow SSD{side}")
    source = f"balancap/SSD-Tensorflow SSD{side} on VGG16"
    return ImportedModel(model, source, usual_names(num_classes), BALANCAP.detection["balancap"], notes)


def _ignore_training(tensors: ForeignState) -> tuple[str, ...]:
    """Leave out what only training needs; a note says so where averages are there."""
    slots = [name for name in tensors if _TRAINING.search(name)]
    averages = [name for name in tensors if name.endswith(_AVERAGE)]
    tensors.ignore(*slots, *averages)
    if not averages:
        return ()
    # eval_ssd_network.py takes them only when asked to (moving_average_decay).
    return ("the file also holds moving averages of the weights; the plain weights were taken, as its evaluation does",)


IMPORTERS = (Importer("balancap", _convert, "tensorflow", _matches),)
