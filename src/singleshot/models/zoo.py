"""The presets by name, and `build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from singleshot.conventions import IMAGENET_MEAN, IMAGENET_STD
from singleshot.errors import ConfigError
from singleshot.inputs import CAFFE_MEAN, InputSpec
from singleshot.models import mini, mobilenet, vgg
from singleshot.models.blocks import Head, L2Norm, init_he, init_xavier, use_fast_depthwise
from singleshot.models.ssd import SSD
from singleshot.priors import PRIORS, PriorSpec

MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Preset:
    """A model that can be built by name: what it is, its default boxes and input, and the builder."""

    about: str
    priors: str
    input_spec: InputSpec
    builder: Callable[[PriorSpec, InputSpec, int, str], SSD]


def _vgg(norm: bool) -> Callable[[PriorSpec, InputSpec, int, str], SSD]:
    def builder(priors: PriorSpec, input_spec: InputSpec, num_classes: int, name: str) -> SSD:
        backbone = vgg.VGG16(norm)
        # The extras follow the table, not the picture's size: 300 and 512 differ in depth.
        extras, channels = vgg.extra_layers(300 if len(priors.maps) == 6 else 512, norm)
        kind = "norm" if norm else "conv"
        widths = [*vgg.SOURCE_CHANNELS, *channels]
        heads = _heads(widths, priors, num_classes, [kind] * len(widths))
        init_xavier(backbone, *extras, *heads)
        norms = [L2Norm(512, scale=20.0), nn.Identity()]
        return SSD(backbone, norms, extras, heads, priors, input_spec, num_classes, name)

    return builder


def _mobilenetv2(
    sources: dict[int | tuple[int, str], int], l2_norm: bool, lite: bool
) -> Callable[[PriorSpec, InputSpec, int, str], SSD]:
    """sources: MobileNetV2 taps and their channels."""

    def builder(priors: PriorSpec, input_spec: InputSpec, num_classes: int, name: str) -> SSD:
        extras, channels = mobilenet.extra_layers()
        widths = [*sources.values(), *channels]
        kinds = ["lite" if lite else "conv"] * (len(widths) - 1) + ["point" if lite else "conv"]
        heads = _heads(widths, priors, num_classes, kinds)
        init_xavier(*heads)
        first = L2Norm(widths[0], scale=20.0) if l2_norm else nn.Identity()
        norms = [first, *(nn.Identity() for _ in list(sources)[1:])]
        backbone = mobilenet.MobileNetV2(tuple(sources))
        for module in (backbone, *extras, *heads):
            use_fast_depthwise(module)
        return SSD(backbone, norms, extras, heads, priors, input_spec, num_classes, name)

    return builder


def _mini(priors: PriorSpec, input_spec: InputSpec, num_classes: int, name: str) -> SSD:
    extras, channels = mini.extra_layers()
    widths = [*mini.SOURCE_CHANNELS, *channels]
    heads = _heads(widths, priors, num_classes, ["conv"] * (len(widths) - 1) + ["point"])
    backbone = mini.MiniNet()
    for module in (backbone, *extras):
        init_he(module)
        use_fast_depthwise(module)
    init_xavier(*heads)
    norms = [nn.Identity() for _ in mini.SOURCE_CHANNELS]
    return SSD(backbone, norms, extras, heads, priors, input_spec, num_classes, name)


def _heads(widths: list[int], priors: PriorSpec, num_classes: int, kinds: list[str]) -> list[nn.Module]:
    rows = zip(widths, priors.per_cell, kinds, strict=True)
    return [Head(width, boxes, num_classes, kind) for width, boxes, kind in rows]


_CAFFE_300 = InputSpec(size=300, mean=CAFFE_MEAN)
_CAFFE_512 = InputSpec(size=512, mean=CAFFE_MEAN)
# torchvision's ImageNet statistics, which its MobileNetV2 weights expect.
_MOBILE_300 = InputSpec(size=300, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_MOBILE_320 = InputSpec(size=320, mean=IMAGENET_MEAN, std=IMAGENET_STD)

MODELS: dict[str, Preset] = {
    "ssd300-vgg16": Preset("SSD300 as published: VGG16, 8732 priors", "ssd300-voc", _CAFFE_300, _vgg(norm=False)),
    "ssd512-vgg16": Preset("SSD512 as published: VGG16, 24564 priors", "ssd512-voc", _CAFFE_512, _vgg(norm=False)),
    "ssd300-vgg16-bn": Preset(
        "SSD300 with batch norm everywhere, for training from nothing",
        "ssd300-voc",
        _CAFFE_300,
        _vgg(norm=True),
    ),
    "ssd512-vgg16-bn": Preset(
        "SSD512 with batch norm everywhere, for training from nothing",
        "ssd512-voc",
        _CAFFE_512,
        _vgg(norm=True),
    ),
    "ssd300-mobilenetv2": Preset(
        "SSD300 on MobileNetV2 with full 3x3 heads, 3000 priors",
        "ssd300-mobilenetv2",
        _MOBILE_300,
        _mobilenetv2({13: 96, 18: 1280}, l2_norm=True, lite=False),
    ),
    "ssdlite320-mobilenetv2": Preset(
        "SSDLite on MobileNetV2, 3234 priors: the smallest and fastest",
        "ssdlite320",
        _MOBILE_320,
        _mobilenetv2({13: 96, 18: 1280}, l2_norm=False, lite=True),
    ),
    "ssdlite320-mobilenetv2-fine": Preset(
        "SSDLite with a map at stride 8 besides, 9624 priors: for small objects and training from nothing",
        "ssdlite320-fine",
        _MOBILE_320,
        _mobilenetv2({(7, "expand"): 192, (14, "expand"): 576, 18: 1280}, l2_norm=False, lite=True),
    ),
    "ssd320-mini": Preset(
        "SSD on a small plain residual network with a map at stride 8: the quickest to train from nothing on a CPU",
        "ssdlite320-fine",
        _MOBILE_320,
        _mini,
    ),
}


def build(name: str, num_classes: int, priors: PriorSpec | None = None, input_spec: InputSpec | None = None) -> SSD:
    """A freshly initialised model (torch's global generator decides the weights).

    num_classes counts real classes, without background. priors and input_spec replace the preset's own; their
    feature maps must be those of the architecture. Raises ConfigError.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r}: want one of {', '.join(MODELS)}")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"number of classes {num_classes}: want 1 to {MAX_CLASSES}")
    preset = MODELS[name]
    own = PRIORS[preset.priors]
    spec, inputs = priors or own, input_spec or preset.input_spec
    if len(spec.maps) != len(own.maps):
        raise ConfigError(f"model {name}: priors for {len(spec.maps)} feature maps, want {len(own.maps)}")
    return preset.builder(spec, inputs, num_classes, name)
