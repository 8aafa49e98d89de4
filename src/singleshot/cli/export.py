"""`singleshot export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import ConfigError, printable

# How the other project reads the file, for people.
_LOADED_BY = {
    "torchvision": "ssd300_vgg16(weights=None, weights_backbone=None, num_classes={columns})",
    "amdegroot": 'build_ssd("test", 300, {columns})',
    "amdegroot-unclipped": "build_ssd(\"test\", 300, {columns}), with 'clip': False in data/config.py",
}
_UNCLIPPED = "is for a copy whose data/config.py says 'clip': False"
_LITE = "ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes={columns})"


def export_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of singleshot's, or one of another project that `import` knows.")
    ],
    to: Annotated[str, typer.Option("--to", help=f"Whose code will load it: {', '.join(_LOADED_BY)}.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: MODEL's name with -TO.pth, in this folder.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model's weights so that another project's code finds the same objects with them.

    Example: singleshot export runs/train-1/best.safetensors --to torchvision --out ssd300.pth

    The file is a PyTorch state dict. torchvision and amdegroot take SSD300 on VGG16; torchvision also an SSDLite320
    that came from it. How they normalise images and their default boxes are fixed in their code: what this model has
    otherwise is folded into its weights, or refused where that is not exact. amdegroot's code clamps the centres of
    some default boxes, which ours does not: amdegroot-unclipped is for a copy whose data/config.py says 'clip': False.
    Other formats come later.
    """
    if to not in _LOADED_BY:
        raise ConfigError(f"--to {printable(to, 60)}: want one of {', '.join(_LOADED_BY)}")
    out = out or Path(f"{Path(model).stem}-{to}.pth")
    if out.suffix not in (".pth", ".pt"):
        raise ConfigError(f"--out {printable(out)}: want a name that ends in .pth")
    if out.exists():
        raise ConfigError(f"{printable(out)}: is there already; give another --out, or remove it")
    from singleshot.deploy.state_dicts import TARGETS, save_state_dict
    from singleshot.weights.opening import open_model

    network, info = open_model(model)
    if info.thresholds.activation != "softmax":
        raise ConfigError(
            f"{printable(model)}: its scores are by {info.thresholds.activation}, those of {to} by softmax"
        )
    try:
        state = TARGETS[to](network)
    except ConfigError as error:
        hint = f"; --to amdegroot-unclipped {_UNCLIPPED}" if to == "amdegroot" and "centres" in str(error) else ""
        raise ConfigError(f"{printable(model)}: {error}{hint}") from error
    save_state_dict(out, state)
    lite = "backbone.features.0.0.0.weight" in state
    code = (_LITE if lite else _LOADED_BY[to]).format(columns=network.num_classes + 1)
    if as_json:
        report = {"model": model, "to": to, "out": str(out), "tensors": len(state), "bytes": out.stat().st_size,
                  "classes": list(info.class_names), "loaded_by": code}  # fmt: skip
        print(json.dumps(report))
        return
    print(f"written: {printable(out)}")
    if not quiet:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(info.class_names[:10], start=1))
        more = " ..." if len(info.class_names) > 10 else ""
        print(f"for {code}\nlabels: 0 background, {printable(names)}{more}", file=sys.stderr)
