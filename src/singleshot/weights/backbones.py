"""Start a backbone from weights that were trained elsewhere: torchvision's, or a file in one of the known layouts."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.models import SSD
from singleshot.models.mobilenet import MobileNetV2
from singleshot.models.vgg import VGG16

# Convolutions of VGG16 in the order of torchvision's `features` and of the reduced file's numbering.
_VGG_NAMES = [f"conv{s}_{i}" for s, n in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for i in range(1, n + 1)]
_VGG_INDEX = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG_BN_INDEX = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
# torchvision's classifiers see (x / 255 - mean) / std.
_IMAGENET_STD = (58.395, 57.12, 57.375)


def decimate(weight: Tensor, keep: tuple[int | None, ...]) -> Tensor:
    """Every n-th slice of each dimension (None: all), as fc6 and fc7 were made smaller for SSD (paper section 3)."""
    for dim, step in enumerate(keep):
        if step is not None:
            weight = weight.index_select(dim, torch.arange(0, weight.shape[dim], step))
    return weight


def fc6_fc7(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fc6 [1024, 512, 3, 3] and fc7 [1024, 1024, 1, 1] from a VGG16 classifier's linear layers.

    4096x512x7x7 and 4096x4096, every 4th output and every 3rd row and column. state: torchvision names.
    """
    fc6 = state["classifier.0.weight"].view(4096, 512, 7, 7)
    fc7 = state["classifier.3.weight"].view(4096, 4096, 1, 1)
    return {
        "fc6.weight": decimate(fc6, (4, None, 3, 3)),
        "fc6.bias": decimate(state["classifier.0.bias"], (4,)),
        "fc7.weight": decimate(fc7, (4, 4, None, None)),
        "fc7.bias": decimate(state["classifier.3.bias"], (4,)),
    }


def load_backbone(model: SSD, source: str | Path) -> str:
    """Fill the model's backbone from "imagenet" (torchvision downloads it) or from a file; say what was found.

    Files: .pth, .pt (read with weights_only) or .safetensors holding torchvision's vgg16, vgg16_bn or mobilenet_v2, or
    the reduced VGG16 of the Caffe ports (`vgg16_reducedfc.pth`). Raises CheckpointError or ConfigError.
    """
    state = _download(model) if str(source) == "imagenet" else read_state(source)
    where = "ImageNet weights" if str(source) == "imagenet" else printable(source)
    if isinstance(model.backbone, VGG16):
        return _load_vgg(model, state, where)
    if isinstance(model.backbone, MobileNetV2):
        return _load_mobilenet(model.backbone, state, where)
    raise ConfigError(f"backbone weights: model {model.name!r} has a backbone of its own; load them before building it")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A flat dict of tensors from a .pth, .pt or .safetensors file; nothing in the file is executed."""
    path, where = Path(path), printable(path)
    if not path.is_file():
        raise CheckpointError(f"{where}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 120)
        raise CheckpointError(f"{where}: cannot be read as weights ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{where}: holds something else than a dict of tensors")
    return {re.sub(r"^module\.", "", key): value for key, value in state.items()}


def has_imagenet_weights(model: SSD) -> bool:
    """Whether torchvision has weights for the model's backbone."""
    return isinstance(model.backbone, (VGG16, MobileNetV2))


def _download(model: SSD) -> dict[str, Tensor]:
    from torchvision.models import MobileNet_V2_Weights, VGG16_BN_Weights, VGG16_Weights

    if isinstance(model.backbone, MobileNetV2):
        weights = MobileNet_V2_Weights.IMAGENET1K_V1
    elif isinstance(model.backbone, VGG16):
        norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())
        weights = VGG16_BN_Weights.IMAGENET1K_V1 if norm else VGG16_Weights.IMAGENET1K_V1
    else:
        raise ConfigError(f"backbone weights: no ImageNet weights are known for model {model.name!r}")
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a wrong checksum a RuntimeError
        raise CheckpointError(
            f"ImageNet weights: cannot be downloaded ({printable(error, 100)});"
            " give a file with --backbone-weights FILE, or train from nothing with --backbone-weights none"
        ) from error


def _load_vgg(model: SSD, state: dict[str, Tensor], where: str) -> str:
    own = model.backbone.state_dict()
    norm = "layers.bn1_1.weight" in own
    new: dict[str, Tensor] = {}
    if "31.weight" in state and "33.weight" in state:
        found, prefix, index, with_fc = "VGG16 reduced (fc6, fc7 as convolutions)", "", _VGG_INDEX, True
        for name, i in (("fc6", 31), ("fc7", 33)):
            new |= {f"{name}.{part}": state[f"{i}.{part}"] for part in ("weight", "bias") if f"{i}.{part}" in state}
    elif "features.0.weight" in state:
        bn = "features.1.running_mean" in state
        found, prefix = f"torchvision VGG16{' with batch norm' if bn else ''}", "features."
        index = _VGG_BN_INDEX if bn else _VGG_INDEX
        # torchvision's VGG16 for SSD ("IMAGENET1K_FEATURES") has NaN there: it was made without a classifier.
        with_fc = "classifier.3.weight" in state and bool(torch.isfinite(state["classifier.3.weight"]).all())
        if with_fc:
            new |= fc6_fc7(state)
    else:
        raise _unknown(state, where, "VGG16")
    for name, i in zip(_VGG_NAMES, index, strict=True):
        for part in ("weight", "bias"):
            key = f"{prefix}{i}.{part}"
            if key not in state:
                raise CheckpointError(f"{where}: {found}, but {key} is missing")
            new[f"{name}.{part}"] = state[key]
        if norm and index is _VGG_BN_INDEX:
            for part in ("weight", "bias", "running_mean", "running_var"):
                new[f"bn{name[4:]}.{part}"] = state[f"{prefix}{i + 1}.{part}"].clone()
    if prefix and with_fc:
        # These saw inputs divided by std, SSD's VGG sees plain 0..255 minus the mean: the filters take the factor.
        std = torch.tensor([s / m for s, m in zip(_IMAGENET_STD, model.input_spec.std, strict=True)])
        new["conv1_1.weight"] = new["conv1_1.weight"] / std.view(1, 3, 1, 1)
    if norm:
        new = _without_biases(new)
    _assign(own, {f"layers.{key}": value for key, value in new.items()}, where)
    model.backbone.load_state_dict(own)
    return f"{found}, {'fc6 and fc7 included' if with_fc else 'fc6 and fc7 start from nothing'}"


def _without_biases(new: dict[str, Tensor]) -> dict[str, Tensor]:
    """A normalised convolution has no bias: the running mean takes it."""
    for key in [k for k in new if k.startswith(("conv", "fc")) and k.endswith(".bias")]:
        mean = key.replace("conv", "bn").replace("fc", "bn_fc").replace(".bias", ".running_mean")
        new[mean] = new[mean] - new[key] if mean in new else -new[key]
        del new[key]
    return new


def _load_mobilenet(backbone: MobileNetV2, state: dict[str, Tensor], where: str) -> str:
    new = {key: value for key, value in state.items() if key.startswith("features.")}
    if "features.18.0.weight" not in new or "features.1.conv.0.0.weight" not in new:
        raise _unknown(state, where, "MobileNetV2")
    own = backbone.state_dict()
    missing = [key for key in own if key not in new and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{where}: torchvision MobileNetV2, but {missing[0]} is missing")
    _assign(own, new, where)
    backbone.load_state_dict(own)
    return "torchvision MobileNetV2"


def _assign(own: dict[str, Tensor], new: Mapping[str, Tensor], where: str) -> None:
    for key, value in new.items():
        if key not in own or own[key].shape != value.shape:
            want = tuple(own[key].shape) if key in own else "nothing of that name"
            raise CheckpointError(f"{where}: {key} has shape {tuple(value.shape)}, want {want}")
        own[key] = value


def _unknown(state: Mapping[str, Tensor], where: str, wanted: str) -> CheckpointError:
    names = printable(", ".join(list(state)[:3]), 80)
    return CheckpointError(f"{where}: not a {wanted} that is known (it starts with {names}); want torchvision's names")
