"""Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: RFB and slim (vision/nn, vision/ssd/mb_tiny*_fd.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from singleshot.conventions_faces import ULTRAFACE
from singleshot.prior_boxes import PriorSpec
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import Grids, ImportedModel, Importer, SizedPriors
from singleshot.weights.importers.faces import add_heads, face_model
from singleshot.weights.importers.mobilenet_blocks import depthwise_bias
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes

STRIDES = (1, 2, 1, 2, 1, 1, 1, 2, 1, 1, 2, 1)  # mb_tiny.py: of the blocks behind the first convolution
_SEEN, _RFB = (7, 10, 12), 7
# mb_tiny_RFB.py, BasicRFB: (stride is 1) the dilation of each branch's last convolution.
_DILATIONS = (2, 3, 5)


def _trunk(net: TorchBuilder) -> list[str]:
    maps = [net.conv_norm(net.image, "base_net.0.0", "base_net.0.1", "relu", 3, 2)]
    for i, stride in enumerate(STRIDES, 1):
        block = f"base_net.{i}"
        rfb = i == _RFB and f"{block}.shortcut.conv.weight" in net.tensors
        maps.append(rfb_block(net, maps[-1], block) if rfb else net.separable_norm(maps[-1], block, "relu", stride))
    return maps


def rfb_block(net: TorchBuilder, x: str, name: str) -> str:
    """A receptive field block: three branches that look ever further, and a shortcut; its scale is 1 here."""
    branches = []
    for b, dilation in enumerate(_DILATIONS):
        y, last = x, 3 if b == 2 else 2
        for i in range(last + 1):
            activation = "relu" if 0 < i < last else ""
            y = _unit(net, y, f"{name}.branch{b}.{i}", activation, dilation if i == last else 1)
        branches.append(y)
    y = net.add(f"{name}.concat", "concat", *branches, channels=sum(net.channels[branch] for branch in branches))
    y = net.add(f"{name}.add", "add", _unit(net, y, f"{name}.ConvLinear"), _unit(net, x, f"{name}.shortcut"))
    return net.add(f"{name}.relu", "relu", y)


def _unit(net: TorchBuilder, x: str, name: str, activation: str = "", dilation: int = 1) -> str:
    """BasicConv: a convolution that keeps the side, and its normalisation."""
    weight = net.tensors.take(f"{name}.conv.weight", None, net.channels[x], None, None)
    padding = weight.shape[-1] // 2 * dilation
    y = net.conv(f"{name}.conv", x, weight, padding=padding, dilation=dilation)
    return net.active(name, net.batch_norm(y, f"{name}.bn"), activation)


def _convert(tensors: ForeignState, kind: str, width: int) -> ImportedModel:
    network = f"ultraface{width}"
    priors, spec = ULTRAFACE.prior_spec(network), ULTRAFACE.inputs[network]
    num_classes = count_classes(tensors, "classification_headers.3.bias", priors.per_cell[3])
    net = TorchBuilder(tensors)
    layers = _trunk(net)
    x = net.conv_bias(layers[-1], "extras.0.0", "relu", 1)
    x = depthwise_bias(net, x, "extras.0.2.0", "", "relu", 2)
    x = net.conv_bias(x, "extras.0.2.2", "relu", 1)
    maps = [*(layers[i] for i in _SEEN), x]
    add_heads(net, maps, ("regression_headers.{}", "classification_headers.{}"), priors, num_classes)
    source = f"{ULTRAFACE.project} {kind}"
    tensors.finish(source)
    model = net.build(num_classes, priors, spec, f"ultraface-{kind}-{width}".lower())
    other = 960 - width
    note = (
        f"weights for {other} x {other * 3 // 4} pixels look the same: give --source ultraface-{kind.lower()}-{other}"
        " for those, --size 128 for 128 x 96"
    )
    found = face_model(model, source, ULTRAFACE.detection["ultraface"], (note,))
    return found._replace(sized_priors=SizedPriors(_sized, "its own, of the same sizes in pixels", _sides))


def _sides(width: int) -> tuple[int, int]:
    """vision/ssd/config/fd_config.py, define_img_size: 128 x 96 to 1280 x 960."""
    return width * 3 // 4, width


def _sized(width: int, grids: Grids) -> PriorSpec:
    return replace(ULTRAFACE.prior_spec("ultraface320"), image_size=_sides(width), maps=tuple(grids))


# Both sizes have the same tensors; 320 x 240, which is its own default, comes first.
IMPORTERS = tuple(
    Importer(f"ultraface-{kind.lower()}-{width}", partial(_convert, kind=kind, width=width))
    for width in (320, 640)
    for kind in ("RFB", "slim")
)
