"""Start a backbone from weights that were trained elsewhere: torchvision's, or a file in one of the known layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from singleshot.models import SSD
from singleshot.models.efficientnet_lite import EfficientNetLite0
from singleshot.models.mobilenet import MobileNetV2
from singleshot.models.vgg import VGG16
from singleshot.pretrained import PretrainedWeights
from singleshot.weights.backbone_tensors import adapted, assign, need
from singleshot.weights.checkpoint import load_checkpoint
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import folded
from singleshot.weights.imported_model import ImportedModel
from singleshot.weights.importers import IMPORTERS
from singleshot.weights.importers.vgg import VGG_CONVS, VGG_INDEX
from singleshot.weights.importing import import_foreign
from singleshot.weights.lite0_backbone import load_lite0, packaged_weights
from singleshot.weights.open_model import is_ours
from singleshot.weights.readers.sniff import read_foreign
from singleshot.weights.tflite_backbone import load_tflite_mobilenet

# Where VGG_CONVS are in torchvision's `features` with batch normalisation.
_VGG_BN_INDEX = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
_BN_PARTS = ("weight", "bias", "running_mean", "running_var")
# torchvision's classifiers see (x / 255 - mean) / std.
_IMAGENET = InputSpec(mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Networks trained in Caffe, and Keras' copies of them, see BGR minus the mean.
_CAFFE = InputSpec(colour_order="bgr")
_PLAIN = InputSpec()
# Of its package; its README ("Pre-trained Model License") leaves terms of weights to what they were trained on.
_TORCHVISION_LICENCE = "BSD-3-Clause; terms of the training data may apply"

# "conv1_1.weight", "conv1_1[0]" (readers/caffe.py), "conv1_1/W" (Chainer), "conv1_1/conv1_1_W:0" and
# "block1_conv1/block1_conv1/kernel:0" (Keras): layer, rest.
_NAMED = re.compile(r"(?:block(?P<stage>[1-5])_conv(?P<number>[123])|(?P<layer>conv[1-5]_[123]|fc[1267]))[./\[_](.*)")
_PARTS = (
    ("weight", re.compile(r"(^|[./_])(weights?|kernel|W)(_\d+)?(:0)?$|^0\]$")),
    ("bias", re.compile(r"(^|[./_])(bias|biases|b)(_\d+)?(:0)?$|^1\]$")),
)
_MOBILENET_STEM = "features.0.0.weight"
# Where MobileNetV2's 19 blocks are: alone, in lufficc/SSD, in bubbliiiing/ssd-pytorch, in qfgaohao/pytorch-ssd.
_MOBILENET_PREFIXES = ("features.", "backbone.features.", "mobilenet.", "base_net.")


class _Found(NamedTuple):
    """A VGG16 in a file.

    Attributes:
        about: what it is, in words.
        names: of each layer's tensors, as layer -> part -> key, fc6 and fc7 where they are there.
        spec: what its first convolution saw.
        norms: key of each convolution's batch normalisation.
    """

    about: str
    names: Mapping[str, Mapping[str, str]]
    spec: InputSpec
    norms: Mapping[str, str] = {}


def decimate(weight: Tensor, keep: tuple[int | None, ...]) -> Tensor:
    """Every n-th slice of each dimension (None: all), as fc6 and fc7 were made smaller for SSD (paper section 3)."""
    for dim, step in enumerate(keep):
        if step is not None:
            weight = weight.index_select(dim, torch.arange(0, weight.shape[dim], step))
    return weight


def _reduced(name: str, value: Tensor) -> Tensor:
    """fc6's or fc7's weight or bias of 4096 outputs with every 4th of them, and of the inputs."""
    if value.numel() == 4096:
        return decimate(value.reshape(4096), (4,))
    if name == "fc6":
        return decimate(value.reshape(4096, 512, 7, 7), (4, None, 3, 3))
    return decimate(value.reshape(4096, 4096, 1, 1), (4, 4, None, None))


def load_backbone(model: SSD, source: str | Path) -> str:
    """Fill the model's backbone with weights that were trained elsewhere. Nothing in a file is executed.

    Args:
        model: changed in place.
        source: "imagenet" (torchvision downloads it; EfficientNet-Lite0's come with the extra "pretrained"), or a file:
            torchvision's vgg16, vgg16_bn or mobilenet_v2; EfficientNet-Lite0 of EfficientNet-PyTorch or timm; VGG16
            reduced for SSD, as numbered layers (`vgg16_reducedfc.pth`) or under Caffe's or Keras' names
            (`VGG_ILSVRC_16_layers_fc_reduced.caffemodel`, .h5, .npz); a whole detector, ours or another project's, on
            the same backbone.

    Returns:
        What was found, in words.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
        ConfigError: the model's backbone is not one for which there are weights.
    """
    path, where = Path(source), printable(source)
    if str(source) != "imagenet" and not path.exists() and not path.with_name(path.name + ".index").exists():
        raise CheckpointError(f"{where}: no such file; want auto, imagenet, none or a file")
    if not isinstance(model.backbone, (VGG16, MobileNetV2, EfficientNetLite0)):
        raise ConfigError(
            f"backbone weights: model {model.name!r} has a backbone of its own; load them before building it"
        )
    model.pretrained = None
    words = _fill_backbone(model, path, str(source) == "imagenet")
    model.pretrained = model.pretrained or PretrainedWeights(words, path.name)
    return words


def _fill_backbone(model: SSD, path: Path, imagenet: bool) -> str:
    """Fill the backbone, from a file or with ImageNet weights that are at hand; say what was found."""
    if path.is_file() and is_ours(path):
        other = load_checkpoint(path)[0]
        model.pretrained = other.pretrained
        return _copy(model, other, printable(path), "")
    if isinstance(model.backbone, EfficientNetLite0):
        return load_lite0(model, None if imagenet else path)
    load = _load_vgg if isinstance(model.backbone, VGG16) else _load_mobilenet
    if imagenet:
        words = load(model, ForeignState(_download(model), "ImageNet weights"), None)
        model.pretrained = PretrainedWeights(f"{words}, ImageNet", "torchvision, IMAGENET1K_V1", _TORCHVISION_LICENCE)
        return words
    tensors = read_foreign(path)
    if tensors.kind == "tflite" and isinstance(model.backbone, MobileNetV2):
        return load_tflite_mobilenet(model, tensors)
    return load(model, tensors, path)


def has_imagenet_weights(model: SSD) -> bool:
    """Whether there are ImageNet weights for the model's backbone: torchvision's, or an installed package's."""
    if isinstance(model.backbone, EfficientNetLite0) and packaged_weights() is None:
        return False
    return isinstance(model.backbone, (VGG16, MobileNetV2, EfficientNetLite0))


def _download(model: SSD) -> dict[str, Tensor]:
    from torchvision.models import MobileNet_V2_Weights, VGG16_BN_Weights, VGG16_Weights

    if isinstance(model.backbone, MobileNetV2):
        weights = MobileNet_V2_Weights.IMAGENET1K_V1
    else:
        norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())
        weights = VGG16_BN_Weights.IMAGENET1K_V1 if norm else VGG16_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a wrong checksum a RuntimeError
        raise CheckpointError(
            f"ImageNet weights: cannot be downloaded ({printable(error, 100)});"
            " give a file with --backbone-weights FILE, or train from scratch with --backbone-weights none"
        ) from error


# ------------------------------------------------------------------------------------------------------- detectors


def _detector(tensors: ForeignState, path: Path | None) -> ImportedModel | None:
    """The detector that a file holds, if an importer knows it."""
    if path is None or all(importer.fits(tensors) < 1.0 for importer in IMPORTERS):
        return None
    return import_foreign(path)


def _copy(model: SSD, other: SSD, where: str, source: str) -> str:
    """Take another detector's backbone over."""
    own, new = model.backbone.state_dict(), other.backbone.state_dict()
    about = source or f"a model of singleshot's ({other.name})"
    if model.input_spec.channels > other.input_spec.channels:
        raise CheckpointError(
            f"{where}: {about}, which sees {other.input_spec.channels} channels, not {model.input_spec.channels}"
        )
    if type(model.backbone) is not type(other.backbone) or own.keys() != new.keys():
        raise CheckpointError(f"{where}: {about}, whose backbone is not that of {model.name}")
    first = next(iter(new))  # the first convolution's weight
    new[first] = adapted(new[first], other.input_spec, model.input_spec)
    assign(own, new, where)
    model.backbone.load_state_dict(own)
    return f"that of {about}"


# ----------------------------------------------------------------------------------------------------------- VGG16


def _load_vgg(model: SSD, tensors: ForeignState, path: Path | None) -> str:
    found = _find_vgg(tensors)
    if found is None:
        detector = _detector(tensors, path)
        if detector is not None:
            return _copy(model, detector.model, tensors.where, detector.source)
        raise _unknown(tensors, "VGG16")
    own = model.backbone.state_dict()
    norm = "layers.bn1_1.weight" in own
    layers = [*VGG_CONVS, *(name for name in ("fc6", "fc7") if name in found.names)]
    with torch.device("meta"):
        plain = VGG16().state_dict()  # shapes, with biases
    new = {
        f"{layer}.{part}": _taken(tensors, found, layer, part, tuple(plain[f"layers.{layer}.{part}"].shape))
        for layer in layers
        for part in ("weight", "bias")
    }
    new["conv1_1.weight"] = adapted(new["conv1_1.weight"], found.spec, model.input_spec)
    for layer, key in found.norms.items():
        shape = new[f"{layer}.bias"].shape
        parts = [need(tensors, found.about, f"{key}.{part}", *shape) for part in _BN_PARTS]
        if norm:
            new |= {f"bn{layer[4:]}.{part}": value.clone() for part, value in zip(_BN_PARTS, parts, strict=True)}
        else:
            weight, bias = new[f"{layer}.weight"], new[f"{layer}.bias"]
            gamma, beta, mean, variance = parts
            new[f"{layer}.weight"], new[f"{layer}.bias"] = folded(weight, bias, gamma, beta, mean, variance, 1e-5)
    if norm:
        new = _without_biases(new)
    assign(own, {f"layers.{key}": value for key, value in new.items()}, tensors.where)
    model.backbone.load_state_dict(own)
    return f"{found.about}, {'fc6 and fc7 included' if 'fc7' in layers else 'fc6 and fc7 start from scratch'}"


def _find_vgg(tensors: ForeignState) -> _Found | None:
    """Which kind of VGG16 it is, if it is one alone."""

    def numbered(prefix: str, index: tuple[int, ...], fc: tuple[str, ...]) -> dict[str, dict[str, str]]:
        keys = {name: f"{prefix}{i}" for name, i in zip(VGG_CONVS, index, strict=True)}
        keys |= dict(zip(("fc6", "fc7"), fc, strict=False))
        return {name: {part: f"{key}.{part}" for part in ("weight", "bias")} for name, key in keys.items()}

    for prefix in ("", "features."):  # the second is mmdetection's, whose list goes on with fc6 and fc7
        fc = f"{prefix}31", f"{prefix}33"
        if all(f"{key}.weight" in tensors and len(tensors.shape(f"{key}.weight")) == 4 for key in fc):
            return _Found("VGG16 reduced (fc6, fc7 as convolutions)", numbered(prefix, VGG_INDEX, fc), _PLAIN)
    if "features.0.weight" in tensors and "features.0.0.weight" not in tensors:
        bn = "features.1.running_mean" in tensors
        index = _VGG_BN_INDEX if bn else VGG_INDEX
        # torchvision's VGG16 for SSD ("IMAGENET1K_FEATURES") has NaN there: it was made without a classifier, by Caffe.
        whole = "classifier.3.weight" in tensors and bool(torch.isfinite(tensors["classifier.3.weight"]).all())
        names = numbered("features.", index, ("classifier.0", "classifier.3") if whole else ())
        norms = {name: f"features.{i + 1}" for name, i in zip(VGG_CONVS, index, strict=True)} if bn else {}
        about = f"torchvision VGG16{' with batch norm' if bn else ''}"
        return _Found(about, names, _IMAGENET if whole or bn else _PLAIN, norms)
    names = _named(tensors)
    if "conv1_1" in names:
        return _Found("VGG16 under Caffe's or Keras' names", names, _CAFFE)
    return None


def _named(tensors: ForeignState) -> dict[str, dict[str, str]]:
    """layer -> part -> key, for files that name layers as Caffe or Keras does."""
    names: dict[str, dict[str, str]] = {}
    for key in tensors:
        match = _NAMED.match(key)
        part = next((part for part, pattern in _PARTS if match and pattern.search(match[4])), None)
        if match is None or part is None:
            continue
        layer = match["layer"] or f"conv{match['stage']}_{match['number']}"
        names.setdefault({"fc1": "fc6", "fc2": "fc7"}.get(layer, layer), {})[part] = key
    return names


def _taken(tensors: ForeignState, found: _Found, layer: str, part: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor as our VGG16 has it: kernels of TensorFlow turned round, classifiers made smaller."""
    key = found.names.get(layer, {}).get(part)
    if key is None:
        raise CheckpointError(f"{tensors.where}: {found.about}, but {layer}'s {part} is missing")
    value = need(tensors, found.about, key)
    if value.shape == shape:
        return value
    if len(shape) == 4 and value.shape == (shape[2], shape[3], shape[1], shape[0]):  # [kh, kw, in, out]
        return value.permute(3, 2, 0, 1).contiguous()
    if layer.startswith("fc"):
        squeezed = value.squeeze()
        if squeezed.shape == (25088, 4096):  # Keras, which flattens rows, columns, channels
            return _reduced(layer, squeezed.view(7, 7, 512, 4096).permute(3, 2, 0, 1))
        if layer == "fc7" and part == "weight" and ("kernel" in key or "_W" in key):
            squeezed = squeezed.T  # [in, out]
        if squeezed.numel() in (4096, 4096 * 25088, 4096 * 4096):
            return _reduced(layer, squeezed)
    raise CheckpointError(
        f"{tensors.where}: {printable(key, 80)} has shape {tuple(value.shape)}, want {shape} ({found.about})"
    )


def _without_biases(new: dict[str, Tensor]) -> dict[str, Tensor]:
    """A normalised convolution has no bias: the running mean takes it."""
    for key in [k for k in new if k.startswith(("conv", "fc")) and k.endswith(".bias")]:
        mean = key.replace("conv", "bn").replace("fc", "bn_fc").replace(".bias", ".running_mean")
        new[mean] = new[mean] - new[key] if mean in new else -new[key]
        del new[key]
    return new


# ----------------------------------------------------------------------------------------------------- MobileNetV2


def _load_mobilenet(model: SSD, tensors: ForeignState, path: Path | None) -> str:
    prefix = next((p for p in _MOBILENET_PREFIXES if f"{p}1.conv.0.0.weight" in tensors), None)
    flat = next((p for p in _MOBILENET_PREFIXES if f"{p}1.conv.3.weight" in tensors), None)
    detector = None if prefix == "features." or flat == "features." else _detector(tensors, path)
    start = prefix or flat
    if start is None:
        if detector is not None:
            return _copy(model, detector.model, tensors.where, detector.source)
        raise _unknown(tensors, "MobileNetV2")
    own = model.backbone.state_dict()
    about = f"that of {detector.source}" if detector is not None else "torchvision MobileNetV2"
    new = {}
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = key.removeprefix("features.")
        name = name if prefix is not None else _flat_name(name)
        shape = value.shape if key != _MOBILENET_STEM else (value.shape[0], 3, *value.shape[2:])
        new[key] = need(tensors, about, f"{start}{name}", *shape)
    spec = detector.model.input_spec if detector is not None else _IMAGENET
    new[_MOBILENET_STEM] = adapted(new[_MOBILENET_STEM], spec, model.input_spec)
    assign(own, new, tensors.where)
    model.backbone.load_state_dict(own)
    return about if prefix is not None or detector is not None else "MobileNetV2 with its layers numbered through"


def _flat_name(name: str) -> str:
    """tonylins/pytorch-mobilenet-v2, which qfgaohao took: a block's layers in one list, activations counted."""
    match = re.fullmatch(r"(\d+)\.conv\.(\d)(?:\.(\d))?\.(\w+)", name)
    if match is None:
        return name
    unit, inner = int(match[2]), match[3]
    # torchvision: units of (convolution, normalisation, activation), then the last two alone.
    last = 1 if match[1] == "1" else 2
    number = 3 * unit + int(inner) if inner is not None else 3 * last + unit - last
    return f"{match[1]}.conv.{number}.{match[4]}"


def _unknown(tensors: ForeignState, wanted: str) -> CheckpointError:
    names = printable(", ".join(list(tensors)[:3]), 80)
    return CheckpointError(
        f"{tensors.where}: not a {wanted} that is known (it starts with {names}); want torchvision's names"
    )
