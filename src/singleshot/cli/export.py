"""`singleshot export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import ConfigError, printable

if TYPE_CHECKING:
    from singleshot.datasets.dataset import Dataset
    from singleshot.deploy.export import Exported, Form, Quantised, Row
    from singleshot.deploy.int8 import Report
    from singleshot.models import SSD
    from singleshot.weights.checkpoint import ModelInfo

# Formats for engines, with the suffix of the main file.
_ENGINES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
# Other projects' weights, and how their code reads the file, for people.
_LOADED_BY = {
    "torchvision": "ssd300_vgg16(weights=None, weights_backbone=None, num_classes={columns})",
    "amdegroot": 'build_ssd("test", 300, {columns})',
    "amdegroot-unclipped": "build_ssd(\"test\", 300, {columns}), with 'clip': False in data/config.py",
}
_UNCLIPPED = "is for a copy whose data/config.py says 'clip': False"
_LITE = "ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes={columns})"
_TARGETS = (*_ENGINES, *_LOADED_BY)


def export_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of singleshot's, or one of another project that `import` knows.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: MODEL's name with .onnx, in this folder.")
    ] = None,
    to: Annotated[str, typer.Option("--to", help=f"What to write: {', '.join(_TARGETS)}.")] = "onnx",
    raw: Annotated[bool, typer.Option("--raw", help="Stop at offsets and logits: no decoding, no NMS.")] = False,
    tensorrt: Annotated[
        bool,
        typer.Option("--tensorrt", help="ONNX without branches, for TensorRT 10. It is not run with TensorRT here."),
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Keep weights in 16 bits (openvino).")] = False,
    int8: Annotated[
        str | None,
        typer.Option("--int8", metavar="DATA", help="Quantise, on these labelled images of the same classes."),
    ] = None,
    split: Annotated[str, typer.Option(help="With --int8: the split on which mAP50 is measured.")] = "val",
    images: Annotated[
        str | None,
        typer.Option(help="Pictures to check with: an image, a folder or a data set. Default: drawn scenes."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images in a run that is timed; the file takes any.")] = 1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as one file that OpenVINO, ONNX Runtime and others run without PyTorch, and check it.

    Example: singleshot export runs/train-1/best.safetensors --out detector.onnx

    Example: singleshot export runs/train-1/best.safetensors --int8 path/to/data --out detector-int8.onnx

    The file takes uint8 RGB images and gives boxes; normalisation, decoding and NMS are inside, classes and settings in
    its metadata. It is run by every engine that is installed, beside PyTorch on the same pictures, and written only if
    boxes agree to 0.5 pixel and scores to 0.001.

    --int8 calibrates on up to 300 images of the train split, measures mAP50 before and after on up to 500 images of
    --split, and keeps layers in float until it falls by no more than 0.005; if that cannot be, nothing is written.

    --tensorrt writes only what TensorRT 10's parser lists as supported: no branches, and ONNX's own NonMaxSuppression,
    which needs no plugin (none with --raw). TensorRT is not run here: build the engine where it will work and check it.

    --to torchvision or amdegroot writes a PyTorch state dict for that project's code. They take SSD300 on VGG16;
    torchvision also an SSDLite320 that came from it. How they normalise images and their default boxes are fixed in
    their code: what this model has otherwise is folded into its weights, or refused where that is not exact.
    amdegroot's code clamps the centres of some default boxes, which ours does not: amdegroot-unclipped is for a copy
    whose data/config.py says 'clip': False.
    """
    if to not in _TARGETS:
        raise ConfigError(f"--to {printable(to, 60)}: want one of {', '.join(_TARGETS)}")
    _refuse_together(to, {"--raw": raw, "--tensorrt": tensorrt, "--half": half, "--int8": int8 is not None}, images)
    name = "-".join(
        [Path(model).stem, *(n for n, on in {"raw": raw, "tensorrt": tensorrt, "half": half}.items() if on)]
    )
    if to in _LOADED_BY:
        _export_weights(model, to, out or Path(f"{name}-{to}.pth"), as_json, quiet)
        return
    out = out or Path(f"{name}{'-int8' if int8 is not None else ''}{_ENGINES[to]}")
    _refuse_place(out, _ENGINES[to])
    from singleshot.deploy.check_images import check_pictures
    from singleshot.deploy.export import Form, export_model
    from singleshot.weights.open_model import open_model

    form = Form(to, raw, tensorrt, half)
    form.check()
    network, info = open_model(model)
    judged = None if int8 is None else _calibration(int8, info, split)
    pictures = check_pictures(images or int8, network)
    quantised, report = (None, None) if judged is None else _quantise(network, info, judged, split, form, quiet)
    done = export_model(network, info, out, pictures, form, batch, quantised)
    if as_json:
        print(json.dumps(_as_json(model, form, info, done, report)))
        return
    for file in done.files:
        print(f"written: {printable(file)}")
    if report is not None:
        print(_int8_lines(report))
    if not quiet:
        print(_table(done.rows, model, len(pictures), batch))


def _refuse_together(to: str, options: dict[str, bool], images: str | None) -> None:
    """Raise ConfigError for options that do not go together, before anything slow."""
    given = [name for name, on in options.items() if on]
    if to in _LOADED_BY and (given or images is not None):
        raise ConfigError(f"--to {to}: writes the weights alone, so {(given or ['--images'])[0]} has no meaning")
    if to == "torch" and (wrong := [name for name in given if name != "--raw"]):
        raise ConfigError(f"--to torch: writes the network in float with raw outputs, so {wrong[0]} has no meaning")
    if options["--half"] and to != "openvino":
        raise ConfigError("--half: goes with --to openvino; other engines take the precision when they run")
    if options["--tensorrt"] and to != "onnx":
        raise ConfigError("--tensorrt: goes with --to onnx")
    if options["--int8"] and options["--half"]:
        raise ConfigError("--int8, --half: want one of them")
    if options["--int8"] and options["--tensorrt"]:
        raise ConfigError("--int8, --tensorrt: TensorRT wants its own quantisation; export with --tensorrt alone")


def _refuse_place(out: Path, suffix: str) -> None:
    if out.suffix != suffix:
        raise ConfigError(f"--out {printable(out)}: want a name that ends in {suffix}")
    for path in (out, out.with_suffix(".bin")) if suffix == ".xml" else (out,):
        if path.exists():
            raise ConfigError(f"{printable(path)}: is there already; give another --out, or remove it")


# ----------------------------------------------------------------------------------------------------------- engines


def _calibration(data: str, info: ModelInfo, split: str) -> tuple[Dataset, Dataset]:
    from singleshot.deploy.int8 import open_calibration

    return open_calibration(data, info, split)


def _quantise(
    network: SSD, info: ModelInfo, judged: tuple[Dataset, Dataset], split: str, form: Form, quiet: bool
) -> tuple[Quantised, Report]:
    from singleshot.deploy.int8 import quantise

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    return quantise(network, info, *judged, split, form.tensorrt_compatible, say)


def _int8_lines(report: Report) -> str:
    o = report.outcome
    some = f"{report.validation_images} of {report.validation_of} images of {printable(report.split)}"
    kept = f"{len(o.float_layers)} of {report.layers} layers stay in float"
    names = f": {', '.join(o.float_layers)}" if o.float_layers else ""
    return (
        f"int8: mAP50 {o.before:.4f} before, {o.after:.4f} after, on {some};"
        f" calibrated on {report.calibration_images}\n{kept}{names}"
    )


def _table(rows: tuple[Row, ...], model: str, pictures: int, batch: int) -> str:
    """Size, speed and agreement; what it was measured on below."""
    compared = any(row.agreement is not None for row in rows)
    head = f"{'engine':<14}{'MB':>8}{'ms/image':>10}"
    lines = [f"{head}{'boxes':>8}{'box px':>9}{'score':>9}" if compared else head]
    for row in rows:
        size = row.size if row.size is not None else _size(model)
        line = f"{row.speed.engine:<14}{'' if size is None else f'{size / 1e6:.1f}':>8}{row.speed.milliseconds:>10.1f}"
        found = row.agreement
        lines.append(line if found is None else f"{line}{found.boxes:>8}{found.box_px:>9.4f}{found.score:>9.6f}")
    said = f"largest differences from PyTorch on {pictures} pictures; " if compared else ""
    return "\n".join([*lines, f"{said}{batch} image{'s' if batch > 1 else ''} a run"])


def _size(model: str) -> int | None:
    path = Path(model)
    return path.stat().st_size if path.is_file() else None


def _as_json(model: str, form: Form, info: ModelInfo, done: Exported, report: Report | None) -> dict[str, Any]:
    rows = [
        {"engine": row.speed.engine, "ms_per_image": round(row.speed.milliseconds, 3), "bytes": row.size,
         "agreement": None if row.agreement is None else row.agreement._asdict()}
        for row in done.rows
    ]  # fmt: skip
    raw = form.raw or form.to == "torch"
    return {
        "model": model, "to": form.to, "out": str(done.files[0]), "files": [str(file) for file in done.files],
        "bytes": sum(file.stat().st_size for file in done.files), "outputs": "raw" if raw else "detections",
        "precision": "int8" if report is not None else "float16" if form.half else "float32",
        "classes": list(info.class_names), "engines": rows,
        **({} if report is None else {"quantisation": report.to_dict()}),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------- other projects' weights


def _export_weights(model: str, to: str, out: Path, as_json: bool, quiet: bool) -> None:
    if out.suffix not in (".pth", ".pt"):
        raise ConfigError(f"--out {printable(out)}: want a name that ends in .pth")
    if out.exists():
        raise ConfigError(f"{printable(out)}: is there already; give another --out, or remove it")
    from singleshot.deploy.state_dicts import TARGETS, save_state_dict
    from singleshot.weights.open_model import open_model

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
