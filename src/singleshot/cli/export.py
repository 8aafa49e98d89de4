"""`singleshot export`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.api.export import FORMATS, EngineExport, ExportOptions, run_export
from singleshot.cli.common import JsonOption, QuietOption
from singleshot.errors import printable

if TYPE_CHECKING:
    from singleshot.deploy.int8 import Report


def export_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of singleshot's, or one of another project that `import` knows.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: MODEL's name with .onnx, in this folder.")
    ] = None,
    to: Annotated[str, typer.Option("--to", help=f"What to write: {', '.join(FORMATS)}.")] = "onnx",
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
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Images that the file takes at a time. Default: any number."),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(min=11, max=18, help="Of ONNX, for readers that take no newer one. Default: 18."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as one file that OpenVINO, ONNX Runtime and others run without PyTorch, and check it.

    Example: singleshot export runs/train-1/best.safetensors --out detector.onnx

    Example: singleshot export runs/train-1/best.safetensors --int8 path/to/data --out detector-int8.onnx

    The file takes uint8 RGB images and gives boxes; normalisation, decoding and NMS are inside, classes and settings in
    its metadata. It is run by every engine that is installed, and by PyTorch on the same pictures, and written only if
    boxes agree to 0.5 pixel and scores to 0.001.

    --int8 calibrates on up to 300 images of the train split, measures mAP50 before and after on up to 500 images of
    --split, and keeps layers in float until it falls by no more than 0.005; if that cannot be, nothing is written.

    --tensorrt writes only what TensorRT 10's parser lists as supported: no branches, and ONNX's own NonMaxSuppression,
    which needs no plugin (none with --raw). TensorRT is not run here: build the engine where it will work and check it.

    --opset writes ONNX for readers that take no newer one: TensorRT 8 and OpenCV's dnn want --raw --opset 12 --batch 1.

    --to tflite writes TensorFlow Lite for phones and small boards, from bytes to TFLite_Detection_PostProcess, with
    class names and metadata inside; --int8 and --raw go with it. What that operator cannot do is refused.

    --to torchvision or amdegroot writes a PyTorch state dict for that project's code. They take SSD300 on VGG16;
    torchvision also an SSDLite320 that came from it. How they normalise images and their default boxes are fixed in
    their code: what this model has otherwise is folded into its weights, or refused where that is not exact.
    amdegroot's code clamps the centres of some default boxes, which ours does not: amdegroot-unclipped is for a copy
    whose data/config.py says 'clip': False.
    """
    done = run_export(ExportOptions.of(locals()), None if quiet else functools.partial(print, file=sys.stderr))
    if as_json:
        print(json.dumps(done.to_dict()))
        return
    for file in done.files:
        print(f"written: {printable(file)}")
    if done.info.pretrained is not None and not quiet:
        print(f"its weights started from {printable(done.info.pretrained.in_words, 200)}", file=sys.stderr)
    if isinstance(done, EngineExport):
        if done.report is not None:
            print(_int8_lines(done.report))
        if not quiet:
            print(_table(done))
    elif not quiet:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(done.info.class_names[:10], start=1))
        more = " ..." if len(done.info.class_names) > 10 else ""
        print(f"for {done.loaded_by}\nlabels: 0 background, {printable(names)}{more}", file=sys.stderr)


def _int8_lines(report: Report) -> str:
    o = report.outcome
    some = f"{report.validation_images} of {report.validation_of} images of {printable(report.split)}"
    kept = f"{len(o.float_layers)} of {report.layers} layers stay in float"
    names = f": {', '.join(o.float_layers)}" if o.float_layers else ""
    return (
        f"int8: mAP50 {o.before:.4f} before, {o.after:.4f} after, on {some};"
        f" calibrated on {report.calibration_images}\n{kept}{names}"
    )


def _table(done: EngineExport) -> str:
    """Size, speed and agreement; what it was measured on below."""
    rows, batch = done.exported.rows, done.options.batch or 1
    compared = any(row.agreement is not None for row in rows)
    head = f"{'engine':<14}{'MB':>8}{'ms/image':>10}"
    lines = [f"{head}{'boxes':>8}{'box px':>9}{'score':>9}" if compared else head]
    for row in rows:
        size = row.size if row.size is not None else _size(done.options.model)
        line = f"{row.speed.engine:<14}{'' if size is None else f'{size / 1e6:.1f}':>8}{row.speed.milliseconds:>10.1f}"
        found = row.agreement
        lines.append(line if found is None else f"{line}{found.boxes:>8}{found.box_px:>9.4f}{found.score:>9.6f}")
    basis = f"largest differences from PyTorch on {done.pictures} pictures; " if compared else ""
    return "\n".join([*lines, f"{basis}{batch} image{'s' if batch > 1 else ''} a run"])


def _size(model: str) -> int | None:
    path = Path(model)
    return path.stat().st_size if path.is_file() else None
