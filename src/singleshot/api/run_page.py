"""The page and the figures of a training or an evaluation, written into its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleshot.errors import SingleshotError, printable
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.api.evaluate import Evaluated
    from singleshot.datasets.dataset import Dataset
    from singleshot.report.evaluation_sections import Measured
    from singleshot.report.html import Section
    from singleshot.report.run_files import RunFiles
    from singleshot.training.loop import Result, Trainer

log = logging.getLogger(__name__)

MOST_IMAGES = 5000  # of a validation that are looked at for the page of a training
LEAST_AP = 0.05  # mean AP below which a model has learnt too little for its errors to be explained one by one


def write_training_page(trainer: Trainer, result: Result) -> None:
    """report.html and eval.json of a training that has ended, of its last best validation. What goes wrong costs the
    page and is one line of the log: the run is saved."""
    folder = trainer.settings.out
    try:
        _write_training_page(trainer, result)
    except KeyboardInterrupt:
        log.warning("%s: stopped, so there is no report.html; singleshot report writes it", printable(folder))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, SingleshotError) else str(error)
        log.warning("%s: the run is saved, but report.html is not (%s)", printable(folder), printable(reason))
        log.debug("report.html", exc_info=error)


def _write_training_page(trainer: Trainer, result: Result) -> None:
    from singleshot.models.cost import model_cost
    from singleshot.report import run_sections
    from singleshot.report.evaluation_sections import evaluation_sections, headline
    from singleshot.report.page import REPORT, render_page, write_page
    from singleshot.report.run_files import read_run
    from singleshot.report.versions import machine, versions
    from singleshot.training.loop import BEST

    folder, model = trainer.settings.out, trainer.model
    run, measured, cost = read_run(folder), _last_validation(trainer), model_cost(model)
    about: dict[str, Any] = {
        "network": model.name,
        "input": model.input_spec.size_text,
        "channels": model.input_spec.channels,
        "default_boxes": model.prior_spec.count,
        "parameters": cost.parameters,
        "gflops": cost.gflops,
        "file_mb": _megabytes(folder / BEST),
        "epochs": result.epochs,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "train_images_per_second": round(result.images_per_second, 2),
        "device": str(trainer.settings.device),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "machine": machine(),
    }
    if measured is not None:
        figures = {"model": str(folder / BEST), "data": run.options.get("data"), "split": trainer.settings.val_split,
                   **measured.to_dict(), "run": about}  # fmt: skip
        write_json(folder / "eval.json", figures)
    splits = {"train": trainer.train_set, "val": trainer.val_set}
    sections = [
        run_sections.course_section(run.history),
        *([] if measured is None else evaluation_sections(measured)),
        None
        if measured is None or trainer.settings.tiling is not None
        else _explained(folder / BEST, measured, str(trainer.settings.device)),
        run_sections.batch_section(trainer.seen_images, trainer.train_set.class_names),
        run_sections.data_section({name: _folder(data) for name, data in splits.items() if data is not None}),
        run_sections.settings_section(run.options, run.recipe, run.command),
        run_sections.model_section(about, versions()),
    ]
    top = [] if measured is None else headline(measured)
    title = f"{model.name} on {_last_part(str(run.options.get('data') or 'data'))}"
    trained = f"{result.epochs} epochs, {result.steps} steps, {result.seconds:.0f} s"
    subtitle = f"{printable(folder)}, {trained}" + ("" if measured is None else f"; {measured.about}")
    page = render_page(title, subtitle, top, [one for one in sections if one is not None])
    write_page(folder / REPORT, page)


def _folder(data: Any) -> Dataset | None:
    """The data set where its labels are in memory; shards are not."""
    from singleshot.datasets.dataset import Dataset

    return data if isinstance(data, Dataset) else None


def _last_validation(trainer: Trainer) -> Measured | None:
    """The validation that the page is about, None where there was none."""
    from dataclasses import replace

    from singleshot.metrics import analyse_errors
    from singleshot.report.evaluation_sections import Measured

    validated = trainer.validated
    if validated is None:
        return None
    dataset, detections, evaluation = validated.dataset, validated.result.detections, validated.result.evaluation
    which = "the best" if validated.best else "the last"
    about = f"{len(dataset)} validation images, after epoch {validated.epoch} ({which} validation)"
    if len(dataset) > MOST_IMAGES:
        dataset, detections = dataset.subset(range(MOST_IMAGES)), detections[:MOST_IMAGES]
        about += f"; errors, sizes and suspects of the first {MOST_IMAGES}"
    truths = [dataset.truth(i) for i in range(len(dataset))]
    errors = analyse_errors(detections, truths, dataset.class_names, image_sizes=dataset.sizes)
    return Measured(replace(evaluation, errors=errors), errors, dataset, about)


def write_evaluation_page(
    done: Evaluated, dataset: Dataset, out: Path, about: Mapping[str, Any], tiled: bool = False
) -> None:
    """eval.json and report.html of an evaluation, with the course and settings of the run that the model lies in.

    about: facts of the model; tiled: whether it looked at tiles.
    """
    from singleshot.report import run_sections
    from singleshot.report.evaluation_sections import Measured, evaluation_sections, headline
    from singleshot.report.page import REPORT, render_page, write_page
    from singleshot.report.run_files import is_run, read_run
    from singleshot.report.versions import machine, versions

    options, evaluation = done.options, done.evaluation
    assert evaluation.errors is not None
    words = f"{evaluation.images} images of {printable(options.data)} ({options.split})"
    measured = Measured(evaluation, evaluation.errors, dataset, words)
    facts = {**about, "file_mb": _megabytes(Path(options.model)), "machine": machine(),
             "images_per_second": round(evaluation.images / done.seconds, 2)}  # fmt: skip
    write_json(out / "eval.json", {**done.to_dict(), **measured.to_dict(), "run": facts})
    folder = Path(options.model).parent
    run = read_run(folder) if is_run(folder) else None
    sections: list[Section | None] = [*evaluation_sections(measured)]
    # Explained is what the model finds by itself in whole images.
    if options.classes is None and options.nms_iou is None and not tiled:
        sections.append(_explained(Path(options.model), measured, options.device, options.rule))
    if run is not None:
        sections.insert(0, run_sections.course_section(run.history))
    sections.append(run_sections.data_section({options.split: dataset}))
    sections.append(_settings(done, run))
    sections.append(run_sections.model_section(facts, versions()))
    title = f"{_last_part(options.model, 2)} on {_last_part(options.data)}, {options.split}"
    subtitle = f"{printable(options.model)} on {words}"
    page = render_page(title, subtitle, headline(measured), [one for one in sections if one is not None])
    write_page(out / REPORT, page)


def _explained(model: Path, measured: Measured, device: str | None, rule: str | None = None) -> Section | None:
    """Some of its errors explained; None where there are none, where the file's outputs do not say why, or where the
    model finds next to nothing."""
    from functools import partial

    from singleshot.api.explain import Explainer
    from singleshot.errors import MissingExtraError
    from singleshot.report.explained_section import explained_section

    if not measured.evaluation.mean_ap >= LEAST_AP:
        return None
    try:
        explainer = Explainer(model, device, rule)
    except MissingExtraError:
        return None
    explain = partial(explainer.explain, receptive_fields=False)
    return explained_section(measured.errors, measured.dataset, explainer.detector.class_names, explain)


def _settings(done: Evaluated, run: RunFiles | None) -> Section:
    from singleshot.report import run_sections

    own = {name: value for name, value in done.options.to_dict().items() if value not in (None, False)}
    if run is None:
        return run_sections.settings_section(own, {}, "")
    return run_sections.settings_section(
        {**run.options, **{f"eval: {k}": v for k, v in own.items()}}, run.recipe, run.command
    )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Plain values as JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2))


def _megabytes(path: Path) -> float | None:
    return round(path.stat().st_size / 1e6, 3) if path.is_file() else None


def _last_part(path: str, parts: int = 1) -> str:
    """The end of a path, as a name."""
    return printable("/".join(path.replace("\\", "/").rstrip("/").split("/")[-parts:]), 60)
