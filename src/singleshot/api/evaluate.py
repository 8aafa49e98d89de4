"""Average precision of a model, a checkpoint or an exported file, on labelled images."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.options import Options, Progress, check_range, no_progress
from singleshot.errors import ConfigError, printable
from singleshot.extras import needs, require
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.metrics import Evaluation
    from singleshot.records import ImageDetections
    from singleshot.runtime.detector import Detector


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What is evaluated and how; see `evaluate`."""

    model: str
    data: str
    split: str = "test"
    metric: str = "voc"
    out: str | None = None
    batch: int = 16
    rule: str | None = None
    score_min: float | None = None
    nms_iou: float | None = None
    device: str | None = "auto"
    engine: str | None = None
    threads: int | None = None
    precision: str | None = None
    workers: int | None = None
    clip_boxes: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        check_range("--batch", self.batch, 1, 4096)
        check_range("--workers", self.workers, 0, 256)


class Evaluated(NamedTuple):
    """An evaluation with what was asked for; seconds: spent on reading and detecting."""

    options: EvaluateOptions
    evaluation: Evaluation
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as eval.json holds them."""
        options, evaluation = self.options, self.evaluation
        head = {"model": options.model, "data": options.data, "split": options.split, "images": evaluation.images}
        return {**head, "seconds": round(self.seconds, 2), **evaluation.to_dict()}


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    metric: str = "voc",
    out: str | Path | None = None,
    batch: int = 16,
    rule: str | None = None,
    score_min: float | None = None,
    nms_iou: float | None = None,
    device: str | None = "auto",
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    workers: int | None = None,
    clip_boxes: bool = False,
    follow_links: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Average precision of a model on labelled images, per class and over all; an exported file needs no PyTorch.

    Args:
        model: A checkpoint, ours or another project's, or an exported file.
        data: Folder, file or address in any form that `singleshot data check` reads.
        split: Which split.
        metric: "voc07" (11 points), "voc" (area under the curve) or "coco" (.5:.95, by size).
        out: Folder for eval.json and curves.png.
        batch: Images per call of the network.
        rule: Detect as another codebase does, such as "caffe"; this and the next two are for checkpoints.
        score_min: Ignore lower scores; None for the model's, .01.
        nms_iou: IoU over which a weaker box is dropped; None for the model's.
        device: "cpu", "cuda", "cuda:N", or "auto".
        engine: Of an exported file: "openvino", "onnxruntime", or "auto" for the faster one.
        threads: Of an exported file's engine; None for all cores.
        precision: Of an exported file's engine: "float32", "bfloat16", "float16" or "fastest".
        workers: Threads that read images, None for what suits this machine.
        clip_boxes: Clip ground truth to the image instead of stopping.
        follow_links: Follow links in the data's folder that lead out of it: for a folder of your own.
        progress: Shows how far it is: progress(images, "images") is a context that gives the function to call after
            each image.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: An option is wrong, or not for this kind of model.
        DataError: The data cannot be used, or has classes that the model has not.
        MissingExtraError: A package is not installed; the message names the extra.
    """
    return run_evaluation(EvaluateOptions.of(locals()), progress).evaluation


def run_evaluation(options: EvaluateOptions, progress: Progress = no_progress) -> Evaluated:
    """As `evaluate`, with what was asked for and the seconds it took."""
    from singleshot.datasets import open_dataset
    from singleshot.evaluation.engine_loop import SquareBatch, evaluate_engine, read_batches
    from singleshot.metrics import METRICS
    from singleshot.runtime.engines.table import is_exported

    if options.metric not in METRICS:
        raise ConfigError(f"--metric {options.metric}: want one of {', '.join(METRICS)}")
    if options.out is not None:
        require("report", "--out: curves.png", "matplotlib")
    detector = _exported(options) if is_exported(options.model) else _checkpoint(options)
    engine, spec, names = detector.engine, detector.input_spec, detector.class_names
    dataset = open_dataset(options.data, options.split, names, options.clip_boxes, options.follow_links)

    def detect(batch: SquareBatch) -> list[ImageDetections]:
        return engine(batch.images)

    started = time.perf_counter()
    with progress(len(dataset), "images") as advance:
        batches = read_batches(dataset, spec, options.batch, options.workers)
        evaluation = evaluate_engine(detect, batches, dataset, spec.sides, options.metric, advance).evaluation
    done = Evaluated(options, evaluation, time.perf_counter() - started)
    if options.out is not None:
        _write_report(done, Path(options.out))
    return done


def _exported(options: EvaluateOptions) -> Detector:
    from singleshot.runtime.engines.table import EngineOptions
    from singleshot.runtime.load import open_detector

    if options.rule is not None or options.score_min is not None or options.nms_iou is not None:
        raise ConfigError(
            f"--rule, --score-min, --nms-iou: {printable(options.model)} has them built in; give the checkpoint"
        )
    how = EngineOptions(options.device, options.threads, options.precision, options.batch)
    return open_detector(options.model, options.engine, how)


def _checkpoint(options: EvaluateOptions) -> Detector:
    if options.engine not in (None, "torch", "auto") or options.threads is not None or options.precision is not None:
        raise ConfigError(
            f"--engine, --threads, --precision: for exported files; {printable(options.model)} is a checkpoint"
        )
    with needs("train", f"{printable(options.model)}: evaluating a checkpoint"):
        from singleshot.evaluation.torch_engine import open_checkpoint
    from singleshot.devices import place_model
    from singleshot.runtime.detector import Detector
    from singleshot.runtime.engines.table import EngineOptions

    engine = open_checkpoint(Path(options.model), EngineOptions(options.device, rule=options.rule))
    place_model(engine.model, engine.device)
    if options.score_min is not None:
        engine.thresholds = replace(engine.thresholds, score_min=options.score_min)
    if options.nms_iou is not None:
        engine.thresholds = replace(engine.thresholds, nms_iou=options.nms_iou)
    assert engine.info is not None
    return Detector(engine, engine.info.input_spec, engine.info.class_names)


def _write_report(done: Evaluated, out: Path) -> None:
    """eval.json and the precision-recall curves."""
    from singleshot.report.curves import draw_curves

    with atomic_write(out / "eval.json") as temporary:
        temporary.write_text(json.dumps(done.to_dict(), indent=2))
    draw_curves(done.evaluation, out / "curves.png")
