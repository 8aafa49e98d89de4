"""The models that can be built by name: what each is, its default boxes and its input. No torch here.

Adding one takes a module under `singleshot.models` with a `build_network`, and one row in MODELS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from singleshot.inputs import CAFFE_MEAN, IMAGENET_MEAN, IMAGENET_STD, InputSpec


@dataclass(frozen=True)
class Preset:
    """A model that can be built by name.

    Attributes:
        about: one line for people.
        priors: name of its table of default boxes (`singleshot.priors.PRIORS`).
        input_spec: what its input looks like.
        network: name of the module under `singleshot.models` whose `build_network` builds it.
        options: keyword arguments of that `build_network`.
    """

    about: str
    priors: str
    input_spec: InputSpec
    network: str
    options: Mapping[str, object] = field(default_factory=dict)


_CAFFE_300 = InputSpec(size=300, mean=CAFFE_MEAN)
_CAFFE_512 = InputSpec(size=512, mean=CAFFE_MEAN)
_IMAGENET_300 = InputSpec(size=300, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_IMAGENET_320 = InputSpec(size=320, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# EfficientNet-Lite0's pixels were (x - 127) / 128.
_LITE0_320 = InputSpec(size=320, mean=(127.0,) * 3, std=(128.0,) * 3)
# Feature blocks of MobileNetV2 that the heads look at, and their channels (see models.mobilenet).
_LAST_TWO = {13: 96, 18: 1280}
_FROM_STRIDE_8 = {(7, "expand"): 192, (14, "expand"): 576, 18: 1280}

MODELS: dict[str, Preset] = {
    "ssd300-vgg16": Preset("SSD300 as published: VGG16, 8732 priors", "ssd300-voc", _CAFFE_300, "vgg", {"size": 300}),
    "ssd512-vgg16": Preset("SSD512 as published: VGG16, 24564 priors", "ssd512-voc", _CAFFE_512, "vgg", {"size": 512}),
    "ssd300-vgg16-bn": Preset(
        "SSD300 with batch norm everywhere, for training from scratch",
        "ssd300-voc",
        _CAFFE_300,
        "vgg",
        {"size": 300, "norm": True},
    ),
    "ssd512-vgg16-bn": Preset(
        "SSD512 with batch norm everywhere, for training from scratch",
        "ssd512-voc",
        _CAFFE_512,
        "vgg",
        {"size": 512, "norm": True},
    ),
    "ssd300-mobilenetv2": Preset(
        "SSD300 on MobileNetV2 with full 3x3 heads, 3000 priors",
        "ssd300-mobilenetv2",
        _IMAGENET_300,
        "mobilenet",
        {"sources": _LAST_TWO, "l2_norm": True},
    ),
    "ssdlite320-mobilenetv2": Preset(
        "SSDLite on MobileNetV2, 3234 priors: the smallest and fastest",
        "ssdlite320",
        _IMAGENET_320,
        "mobilenet",
        {"sources": _LAST_TWO, "lite": True},
    ),
    "ssdlite320-mobilenetv2-fine": Preset(
        "SSDLite with a map at stride 8 as well, 9624 priors: for small objects and training from scratch",
        "ssdlite320-fine",
        _IMAGENET_320,
        "mobilenet",
        {"sources": _FROM_STRIDE_8, "lite": True},
    ),
    "ssd320-mini": Preset(
        "SSD on a small plain residual network with maps from stride 8, to train from scratch on a CPU",
        "ssdlite320-fine",
        _IMAGENET_320,
        "mini",
    ),
    "ssd320-lite0": Preset(
        "SSD on EfficientNet-Lite0 with a top-down neck and maps from stride 8: for photos, from ImageNet weights",
        "ssdlite320-fine",
        _LITE0_320,
        "efficientnet_lite",
        {"width": 96},
    ),
    "singleshot-n": Preset(
        "Half of ssd320-mini, with a top-down neck: the best of a short training from scratch, the quickest in int8",
        "ssdlite320-fine",
        _IMAGENET_320,
        "mini",
        {"widths": (24, 32, 64, 128, 192), "blocks": (1, 1, 2, 1), "neck": 64},
    ),
}
