"""Average precision of a model, a checkpoint or an exported file, on labelled images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.class_names import read_groups
from singleshot.api.options import Options, Progress, check_folder_name, check_range, check_results_folder, no_progress
from singleshot.api.tile_option import chosen_tiling
from singleshot.class_selection import Classes
from singleshot.errors import ConfigError, printable
from singleshot.extras import needs, require
from singleshot.hub import local_model

if TYPE_CHECKING:
    from singleshot.datasets import Dataset
    from singleshot.evaluation.measured_classes import MeasuredClasses
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
    save: str | None = None
    form: str | None = None
    errors: str | None = None
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
    classes: Classes | None = None
    follow_links: bool = False
    tile: str | int | bool | None = None
    tiles_only: bool | None = None

    def __post_init__(self) -> None:
        check_range("--batch", self.batch, 1, 4096)
        check_range("--workers", self.workers, 0, 256)
        if self.form is not None and self.save is None:
            raise ConfigError(f"--format {printable(self.form)}: of what? It goes with --save FOLDER")


class Evaluated(NamedTuple):
    """An evaluation with what was asked for; seconds: spent on reading and detecting; classes: what was compared."""

    options: EvaluateOptions
    evaluation: Evaluation
    seconds: float
    classes: MeasuredClasses

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as eval.json holds them."""
        options, evaluation = self.options, self.evaluation
        head = {"model": options.model, "data": options.data, "split": options.split, "images": evaluation.images}
        left_out = {"not_in_data": list(self.classes.unlabelled), "not_in_model": list(self.classes.unknown)}
        figures = {"seconds": round(self.seconds, 2), **evaluation.to_dict()}
        return {**head, "classes": self.classes.data.to_dict(), **left_out, **figures}


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    metric: str = "voc",
    out: str | Path | None = None,
    save: str | Path | None = None,
    form: str | None = None,
    errors: str | Path | None = None,
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
    classes: Classes | None = None,
    follow_links: bool = False,
    tile: str | int | bool | None = None,
    tiles_only: bool | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Average precision of a model on labelled images, per class and over all, and which kinds of errors cost how much
    of it (`.errors`); an exported file needs no PyTorch.

    Args:
        model: A checkpoint, ours or another project's, an exported file, or an address of one on the hub.
        data: Folder, file or address in any form that `singleshot data check` reads.
        split: Which split.
        metric: "voc07" (11 points), "voc" (area under the curve) or "coco" (.5:.95, by size).
        out: Folder for report.html, eval.json and curves.png.
        save: New or empty folder for the detections, all that were evaluated.
        form: How they are written: "json", "coco", "voc", "yolo" or "csv"; None for COCO where the data is COCO, with
            its ids, else JSON.
        errors: New or empty folder for the worst errors and the suspected label errors: pictures, and lists of all.
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
        classes: Measure these only, in this order: names of the model's or the data's classes, "car,truck=vehicle" for
            some that become one in both, a file with such lines, or {new name: [old names]}. None for all that both
            have; what the model learnt under another name is taken so in the data too.
        follow_links: Follow links in the data's folder that lead out of it: for a folder of your own.
        tile: Look at tiles of that many pixels a side too and merge what is found, as `detect` does: 640, or
            "640:0.1" with the overlap; False for none, None for those that the model was trained on.
        tiles_only: Not at the whole image too; None for as the model was trained.
        progress: Shows how far it is: progress(images, "images") is a context that gives the function to call after
            each image.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: An option is wrong, or not for this kind of model.
        DataError: The data cannot be used, or has no class that the model has.
        MissingExtraError: A package is not installed; the message names the extra.
    """
    return run_evaluation(EvaluateOptions.of(locals()), progress).evaluation


def run_evaluation(options: EvaluateOptions, progress: Progress = no_progress) -> Evaluated:
    """As `evaluate`, with what was asked for and the seconds it took."""
    from singleshot.datasets.tiles import TiledSamples
    from singleshot.evaluation.engine_loop import SquareBatch, evaluate_engine, read_batches
    from singleshot.evaluation.measured_classes import ModelClasses, open_measured
    from singleshot.metrics import METRICS, analyse_errors
    from singleshot.metrics.evaluation import with_rows
    from singleshot.runtime.class_filter import ClassFilter
    from singleshot.runtime.engines.table import is_exported
    from singleshot.runtime.result_files import FORMATS

    if options.metric not in METRICS:
        raise ConfigError(f"--metric {options.metric}: want one of {', '.join(METRICS)}")
    if options.form not in (None, *FORMATS):
        raise ConfigError(f"--format {printable(options.form)}: want one of {', '.join(FORMATS)}")
    if options.out is not None:
        check_folder_name("--out", options.out)
        require("report", "--out: report.html and curves.png", "matplotlib", "jinja2")
    if options.save is not None:
        check_results_folder("--save", options.save)
    if options.errors is not None:
        require("report", "--errors", "jinja2")
        check_results_folder("--errors", options.errors)
    chosen_tiling(None, options.tile)
    options = replace(options, model=str(local_model(options.model)))
    wanted = None if options.classes is None else read_groups(options.classes)
    detector = _exported(options) if is_exported(options.model) else _checkpoint(options)
    engine, spec = detector.engine, detector.input_spec
    tiling = chosen_tiling(detector, options.tile, options.tiles_only, options.model)
    model = ModelClasses(detector.class_names, detector.learnt)
    dataset, classes, rows, unknown = open_measured(
        options.data, options.split, model, wanted, options.clip_boxes, options.follow_links
    )
    chosen = ClassFilter(classes.labels, detector.nms_iou)

    def detect(batch: SquareBatch) -> list[ImageDetections]:
        return [chosen(found) for found in engine(batch.images)]

    started = time.perf_counter()
    with progress(len(dataset), "images") as advance:
        tiles = None if tiling is None else TiledSamples(dataset, tiling, spec.sides)
        batches = read_batches(tiles or dataset, spec, options.batch, options.workers)
        evaluated = evaluate_engine(detect, batches, dataset, spec.sides, options.metric, advance, tiles=tiles)
    seconds = time.perf_counter() - started
    truths = [dataset.truth(i) for i in range(len(dataset))]
    errors = analyse_errors(evaluated.detections, truths, dataset.class_names, image_sizes=dataset.sizes)
    evaluation = replace(with_rows(evaluated.evaluation, rows, unknown), errors=errors)
    done = Evaluated(options, evaluation, seconds, classes)
    if options.save is not None:
        _save_detections(options, dataset, evaluated.detections)
    if options.errors is not None:
        from singleshot.report.error_files import write_errors

        write_errors(Path(options.errors), errors, dataset)
    if options.out is not None:
        from singleshot.api.run_page import write_evaluation_page
        from singleshot.report.curves import draw_curves

        write_evaluation_page(done, dataset, Path(options.out), _facts(detector), tiling is not None)
        draw_curves(evaluation, Path(options.out) / "curves.png")
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
    detector = Detector(engine, engine.info.input_spec, engine.info.class_names, thresholds=engine.thresholds)
    detector.learnt, detector.tiling = engine.info.selection, engine.info.tiling
    return detector


def _save_detections(options: EvaluateOptions, dataset: Dataset, found: list[ImageDetections]) -> None:
    """What was detected in each image, in the folder --save; images and classes of COCO data keep their ids."""
    from singleshot.api.coco_ids import ids_of_dataset
    from singleshot.images.decode import image_size
    from singleshot.runtime.detections import Detections
    from singleshot.runtime.result_files import open_writer

    form = options.form or ("json" if dataset.ids is None else "coco")
    ids = None if dataset.ids is None else ids_of_dataset(dataset)
    writer, _ = open_writer(form, Path(str(options.save)), options.model, dataset.class_names, ids)
    with writer:
        for i, record in enumerate(found):
            name, (width, height) = dataset.names[i], dataset.sizes[i].tolist()
            size = (width, height) if width and height else image_size(name)
            writer.add(Detections.of(record, dataset.class_names, name, *size))


def _facts(detector: Detector) -> dict[str, Any]:
    """What is known of a model, for its page; None for what cannot be measured."""
    engine, spec = detector.engine, detector.input_spec
    info, name = getattr(engine, "info", None), getattr(engine, "name", None)
    facts: dict[str, Any] = {
        "input": spec.size_text,
        "channels": spec.channels,
        "parameters": None,
        "gflops": None,
        "engine": name,
    }
    if info is not None and info.model:
        facts = {"network": info.model, **facts}
    if name == "torch":
        from singleshot.models.cost import model_cost

        model = engine.model  # type: ignore[attr-defined]
        cost = model_cost(model)
        facts |= {
            "default_boxes": model.prior_spec.count,
            "parameters": cost.parameters,
            "gflops": round(cost.gflops, 4),
        }
    return facts
