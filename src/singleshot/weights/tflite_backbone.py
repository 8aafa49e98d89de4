"""A MobileNetV2 classifier in a .tflite file as a backbone: dequantised, under torchvision's names."""

from __future__ import annotations

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.models.mobilenet import MobileNetV2
from singleshot.weights.backbone_tensors import in_colour
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.tflite import input_spec
from singleshot.weights.importers.tflite_graph import GraphImport

NOTE = (
    "its normalisations are folded in, so ours start at unit statistics; TensorFlow pads strided convolutions below and"
    " to the right alone: features are the same for inputs of 32n + 1 pixels, up to 31 pixels aside at 300 or 320"
)


def load_tflite_mobilenet(model: SSD, tensors: ForeignState) -> str:
    """Fill a MobileNetV2 backbone from a TensorFlow Lite network; say what was found. Raises CheckpointError.

    Convolutions are paired in the order in which they run, which is the same in both, and must have the same shapes.
    A folded normalisation becomes one that adds the bias: weight 1, mean 0, variance 1 - eps, so that outputs are the
    same in evaluation. The first convolution takes in the difference between the file's normalisation of pixels and
    the model's, exactly but for the border: zeros around the input are the file's mean there, and the model's here.

    Padding: where a strided convolution sees an even side, TensorFlow's SAME adds a row and a column at the end and
    torchvision's backbone at the start. On 24 photos the last map's correlation with LiteRT's is 0.99 at 225 and 321
    pixels, where all sides are odd, and 0.44, 0.65 and 0.43 at 224, 300 and 320, where it lies aside; the file's own
    classifier behind it keeps its class on 96 % and 88 % of them, and on 75 %, 79 % and 71 %.
    """
    assert isinstance(model.backbone, MobileNetV2)
    where = tensors.where
    graph = GraphImport(tensors)
    theirs, _ = input_spec(graph.network, where)
    features = model.backbone.features
    convs = [(f"features.{name}", m) for name, m in features.named_modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in features.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ops = [op for op in graph.network.operations if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")][: len(convs)]
    if len(ops) < len(convs):
        raise CheckpointError(f"{where}: not a MobileNetV2: {len(ops)} convolutions, want {len(convs)}")
    found = []
    for i, (op, (name, conv)) in enumerate(zip(ops, convs, strict=True)):
        weight, bias, _ = graph.weights(op)
        stride = op.options["stride_h"], op.options["stride_w"]
        shape = conv.weight.shape if i else (conv.out_channels, 3, *conv.kernel_size)
        if weight.shape != shape or stride != conv.stride:
            raise CheckpointError(
                f"{where}: not a MobileNetV2 of width 1: convolution {i + 1} ({printable(name, 60)}) is"
                f" {tuple(weight.shape)}, stride {stride}, want {tuple(shape)}, stride {conv.stride}"
            )
        bias = torch.zeros(len(weight)) if bias is None else bias
        found.append((weight, bias) if i else _renormalised(weight, bias, theirs, model.input_spec))
    with torch.no_grad():
        for (weight, bias), (_, conv), norm in zip(found, convs, norms, strict=True):
            conv.weight.copy_(weight)
            norm.weight.fill_(1.0)
            norm.bias.copy_(bias)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
    return f"TensorFlow Lite MobileNetV2 ({NOTE})"


def _renormalised(weight: Tensor, bias: Tensor, theirs: InputSpec, ours: InputSpec) -> tuple[Tensor, Tensor]:
    """A first convolution that does with our normalised pixels what it did with the file's (both RGB); of one channel
    what it did with three equal ones."""
    is_grey, ours = ours.channels == 1, in_colour(ours)
    factor = torch.tensor([o / t for o, t in zip(ours.std, theirs.std, strict=True)], dtype=torch.float64)
    shift = torch.tensor(
        [(o - t) / s for o, t, s in zip(ours.mean, theirs.mean, theirs.std, strict=True)], dtype=torch.float64
    )
    new_bias = bias.double() + (weight.double() * shift.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    new_weight = weight.double() * factor.view(1, 3, 1, 1)
    if ours.colour_order == "bgr":
        new_weight = new_weight.flip(1)
    if is_grey:
        new_weight = new_weight.sum(dim=1, keepdim=True)
    return new_weight.float(), new_bias.float()
