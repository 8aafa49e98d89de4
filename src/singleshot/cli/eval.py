"""`singleshot eval`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import (
    DeviceOption,
    EngineOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RuleOption,
    ThreadsOption,
    WorkersOption,
    progress_bar,
)
from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.metrics import Evaluation


def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, such as runs/train-1/best.safetensors, or an exported file.")
    ],
    data: Annotated[str, typer.Argument(help="Labelled images, in any form that data check reads.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    metric: Annotated[str, typer.Option(help="voc07 (11 points), voc (area) or coco (.5:.95, by size).")] = "voc",
    out: Annotated[Path | None, typer.Option(help="Folder for eval.json and curves.png.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images per forward pass.")] = 16,
    rule: RuleOption = None,
    score_min: Annotated[float | None, typer.Option(help="Ignore lower scores. Default: the model's, .01.")] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="IoU over which a weaker box is dropped. Default: the model's.")
    ] = None,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Clip ground truth to the image instead of stopping.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Average precision of a model on labelled images: per class and over all; difficult objects are ignored.

    Example: singleshot eval runs/train-1/best.safetensors path/to/VOC2007 --split test --metric voc07 --out report
    """
    from singleshot.runtime.engines.table import is_exported

    if is_exported(model):
        if rule is not None or score_min is not None or nms_iou is not None:
            raise ConfigError(
                f"--rule, --score-min, --nms-iou: {printable(model)} has them built in; give the checkpoint"
            )
        options = {"engine": engine, "threads": threads, "precision": precision, "batch": batch}
        result, images, seconds = evaluate_exported(
            model, data, split, metric, device, workers, clip_boxes, quiet, options
        )
    else:
        if engine not in (None, "torch", "auto") or threads is not None or precision is not None:
            raise ConfigError(
                f"--engine, --threads, --precision: for exported files; {printable(model)} is a checkpoint"
            )
        result, images, seconds = run_evaluation(
            model, data, split, metric, batch, score_min, nms_iou, device, workers, clip_boxes, quiet, rule
        )
    report = {"model": model, "data": data, "split": split, "images": images, "seconds": round(seconds, 2),
              **result.to_dict()}  # fmt: skip
    if out is not None:
        write_report(out, report, result)
    if as_json:
        print(json.dumps(report))
        return
    from singleshot.metrics.table import format_table

    print(format_table(result))
    if not quiet:
        print(f"{images} images of {split} in {seconds:.1f} s", file=sys.stderr)
        if out is not None:
            print(f"written: {out / 'eval.json'}, {out / 'curves.png'}", file=sys.stderr)


def write_report(out: Path, report: dict[str, Any], result: Evaluation) -> None:
    """eval.json and the precision-recall curves."""
    from singleshot.report.curves import draw_curves

    with atomic_write(out / "eval.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2))
    draw_curves(result, out / "curves.png")


def run_evaluation(
    model_path: str,
    data: str,
    split: str,
    metric: str = "voc",
    batch: int = 16,
    score_min: float | None = None,
    nms_iou: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    clip_boxes: bool = False,
    quiet: bool = False,
    rule: str | None = None,
) -> tuple[Evaluation, int, float]:
    """Evaluate a checkpoint; returns the evaluation, the number of images and the seconds it took.

    rule: a detection rule in place of the model's own; score_min and nms_iou change either.
    """
    from dataclasses import replace

    from singleshot.conventions import detection_rule
    from singleshot.datasets import open_dataset
    from singleshot.devices import pick_device, place_model
    from singleshot.evaluation.validate import validate
    from singleshot.loading.loader import EvalLoader
    from singleshot.metrics import METRICS
    from singleshot.weights.open_model import open_model

    if metric not in METRICS:
        raise ConfigError(f"--metric {metric}: want one of {', '.join(METRICS)}")
    if rule is not None:
        detection_rule(rule)  # a name that is wrong is told before anything is read
    place = pick_device(device)
    model, info = open_model(model_path)
    place_model(model, place)
    dataset = open_dataset(data, split, class_names=info.class_names, clip_boxes=clip_boxes)
    thresholds = info.thresholds if rule is None else info.thresholds.under(detection_rule(rule))
    if score_min is not None:
        thresholds = replace(thresholds, score_min=score_min)
    if nms_iou is not None:
        thresholds = replace(thresholds, nms_iou=nms_iou)
    loader = EvalLoader(dataset, model.input_spec, batch, workers)
    started = time.perf_counter()
    try:
        with progress_bar(len(dataset), "images", quiet) as advance:
            result = validate(model, dataset, loader, thresholds, place, metric, on_image=advance)
    finally:
        loader.close()
    return result.evaluation, len(dataset), time.perf_counter() - started


def evaluate_exported(
    path: str,
    data: str,
    split: str,
    metric: str = "voc",
    device: str = "auto",
    workers: int | None = None,
    clip_boxes: bool = False,
    quiet: bool = False,
    options: dict[str, Any] | None = None,
) -> tuple[Evaluation, int, float]:
    """As `run_evaluation`, of an exported file through its engine; options: those of singleshot.load."""
    from singleshot.datasets import open_dataset
    from singleshot.evaluation.validate import validate_engine
    from singleshot.loading.loader import EvalLoader
    from singleshot.metrics import METRICS
    from singleshot.runtime.engines.table import EngineOptions
    from singleshot.runtime.load import open_detector

    if metric not in METRICS:
        raise ConfigError(f"--metric {metric}: want one of {', '.join(METRICS)}")
    chosen = dict(options or {})
    detector = open_detector(path, chosen.pop("engine", None), EngineOptions(device, **chosen))
    dataset = open_dataset(data, split, class_names=detector.class_names, clip_boxes=clip_boxes)
    loader = EvalLoader(dataset, detector.input_spec, detector.batch_size, workers)
    started = time.perf_counter()
    try:
        with progress_bar(len(dataset), "images", quiet) as advance:
            result = validate_engine(detector, dataset, loader, metric, on_image=advance)
    finally:
        loader.close()
    return result.evaluation, len(dataset), time.perf_counter() - started
