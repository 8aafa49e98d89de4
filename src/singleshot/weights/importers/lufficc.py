"""lufficc/SSD: SSD300 and SSD512 on VGG16, SSDLite320 on MobileNetV2 and V3 (ssd/modeling, configs/*.yaml)."""

from __future__ import annotations

from singleshot.conventions import LUFFICC, data_of
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.mobilenet_blocks import add_head, inverted_residual, mobilenet_v2, nested_parts
from singleshot.weights.importers.torch_blocks import TorchBuilder
from singleshot.weights.importers.vgg import count_classes, find_ported, vgg_model

THRESHOLDS = LUFFICC.detection["lufficc"]
_HEAD = "box_head.predictor"
_V3_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)  # MobileNetV3 paper, table 1


def _convert_vgg(tensors: ForeignState) -> ImportedModel:
    num_classes = count_classes(tensors, f"{_HEAD}.cls_headers.0.bias", 4)
    maps = 7 if "backbone.extras.9.weight" in tensors else 6
    find = find_ported(tensors, maps, "backbone.", "backbone.l2_norm", f"{_HEAD}.reg_headers", f"{_HEAD}.cls_headers")
    size = 300 if maps == 6 else 512
    priors = LUFFICC.prior_spec(f"ssd{size}-{data_of(num_classes)}")
    model = vgg_model(find, num_classes, priors, LUFFICC.inputs[f"ssd{size}"])
    tensors.finish(f"lufficc/SSD SSD{size}")
    return ImportedModel(model, f"lufficc/SSD SSD{size} on VGG16", usual_names(num_classes), THRESHOLDS)


def _convert_v2(tensors: ForeignState) -> ImportedModel:
    net = TorchBuilder(tensors)
    layers = mobilenet_v2(net, "backbone.features", nested_parts)
    maps = [layers["13"], layers["18"]]
    for i in range(4):
        maps.append(inverted_residual(net, maps[-1], f"backbone.extras.{i}", 2, nested_parts)[0])
    return _lite(net, maps, "MobileNetV2")


def _convert_v3(tensors: ForeignState) -> ImportedModel:
    """ssd/modeling/backbone/mobilenetv3.py, large."""
    net, trunk = TorchBuilder(tensors), "backbone.features"
    x = net.conv_norm(net.image, f"{trunk}.0.0", f"{trunk}.0.1", "hardswish", 3, 2)
    maps = []
    for i, stride in enumerate(_V3_STRIDES, 1):
        x = _block_v3(net, x, f"{trunk}.{i}.conv", stride, "hardswish" if i >= 7 else "relu")
        if i == 12:
            maps.append(x)
    maps.append(net.conv_norm(x, f"{trunk}.16.0", f"{trunk}.16.1", "hardswish", 1))
    for i in range(4):
        maps.append(_block_v3(net, maps[-1], f"backbone.extras.{i}.conv", 2, "hardswish"))
    return _lite(net, maps, "MobileNetV3")


def _block_v3(net: TorchBuilder, x: str, name: str, stride: int, activation: str) -> str:
    """The gate comes before the depthwise layer's activation, behind it in a block that does not expand."""
    start, expands = x, f"{name}.7.weight" in net.tensors
    if expands:
        x = net.conv_norm(x, f"{name}.0", f"{name}.1", activation, 1)
    at = 3 if expands else 0
    x = net.conv_norm(x, f"{name}.{at}", f"{name}.{at + 1}", stride=stride, depthwise=True)
    if expands:
        x = _excite(net, x, f"{name}.5")
    x = net.add(f"{name}.{activation}", activation, x)
    if not expands:
        x = _excite(net, x, f"{name}.3")
    x = net.conv_norm(x, f"{name}.{at + 4}", f"{name}.{at + 5}", kernel=1)
    alike = stride == 1 and net.channels[start] == net.channels[x]
    return net.add(f"{name}.add", "add", start, x) if alike else x


def _excite(net: TorchBuilder, x: str, name: str) -> str:
    """SELayer: two linear layers of the map's mean, as 1x1 convolutions; nothing where the block has none."""
    if f"{name}.fc.0.weight" not in net.tensors:
        return x
    y = net.add(f"{name}.mean", "avgpool", x)
    for part, activation in (("fc.0", "relu"), ("fc.2", "hardsigmoid")):
        weight = net.tensors.take(f"{name}.{part}.weight", None, net.channels[y])
        bias = net.tensors.take(f"{name}.{part}.bias", len(weight))
        y = net.conv(f"{name}.{part}", y, weight[:, :, None, None], bias)
        y = net.add(f"{name}.{part}.{activation}", activation, y)
    return net.add(f"{name}.mul", "mul", x, y)


def _lite(net: TorchBuilder, maps: list[str], backbone: str) -> ImportedModel:
    num_classes = count_classes(net.tensors, f"{_HEAD}.cls_headers.5.bias", 6)
    for i, x in enumerate(maps):
        inner = "" if f"{_HEAD}.cls_headers.{i}.weight" in net.tensors else ".conv"
        location, confidence = (f"{_HEAD}.{which}_headers.{i}{inner}" for which in ("reg", "cls"))
        add_head(net, x, location, confidence, 6, num_classes + 1)
    net.tensors.finish("lufficc/SSD SSDLite320")
    name = f"ssdlite320-{backbone.lower()}-lufficc"
    model = net.build(num_classes, LUFFICC.prior_spec("ssdlite320"), LUFFICC.inputs["ssdlite320"], name)
    return ImportedModel(model, f"lufficc/SSD SSDLite320 on {backbone}", usual_names(num_classes), THRESHOLDS)


IMPORTERS = (
    Importer("lufficc-vgg", _convert_vgg),
    Importer("lufficc-mobilenetv2", _convert_v2),
    Importer("lufficc-mobilenetv3", _convert_v3),
)
