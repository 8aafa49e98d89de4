"""Training a detector on labelled images, into a run folder."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.options import duration_words
from singleshot.api.train_options import PRIORS_FILE, RUN_FILE, TrainOptions, resolve
from singleshot.api.train_prepare import prepare
from singleshot.api.train_together import on_first, together
from singleshot.class_selection import Classes
from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write, remove_parts
from singleshot.prior_files import write_priors

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector
    from singleshot.training.distributed import World
    from singleshot.training.loop import Result, Trainer
    from singleshot.training.reports import Reporter

log = logging.getLogger(__name__)

__all__ = ["OnStart", "Run", "Started", "TrainOptions", "resolve", "run_training", "train"]


class Started(NamedTuple):
    """A training whose input has all been checked. initial: where its weights come from, in words; val_images: None
    without validation; length: epochs or time, in words; input: of the network, in words."""

    folder: Path
    model: str
    initial: str
    images: int
    val_images: int | None
    classes: int
    batch: int
    precision: str
    device: str
    length: str
    input: str


OnStart = Callable[[Started], Iterable["Reporter"]]


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    folder: where everything lies; best: the checkpoint with the highest validation mAP50 (without validation the last
    one; None where nothing was validated before a stop); last: the latest; metrics: {"val_map50": of the best, None
    where there was none}; history: a row per epoch, by the columns of log.csv; seconds: spent training, earlier parts
    of a resumed run included; interrupted: by Ctrl-C; images_per_second: trained on, in this part of the run; skipped:
    what is wrong with images that could not be read (`skip_broken`).
    """

    folder: Path
    best: Path | None
    last: Path
    metrics: Mapping[str, float | None]
    history: tuple[Mapping[str, Any], ...]
    epochs: int
    steps: int
    seconds: float
    interrupted: bool
    images_per_second: float
    skipped: tuple[str, ...] = ()

    def load(self, device: str | None = None, **options: Any) -> Detector:
        """A detector of the best checkpoint, of the last one where there is no best; options: as `singleshot.load`."""
        from singleshot.api.load import load

        return load(self.best or self.last, device, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the history."""
        return {
            "folder": str(self.folder),
            "best": None if self.best is None else str(self.best),
            "epochs": self.epochs,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            **self.metrics,
            "interrupted": self.interrupted,
            "images_per_second": round(self.images_per_second, 2),
            "skipped": list(self.skipped),
        }


def train(
    data: str | Path = "",
    *,
    model: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    time: str | float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    freeze: int | None = None,
    backbone_weights: str | Path | None = None,
    start: str | Path | None = None,
    size: str | int | tuple[int, int] | None = None,
    grey: bool | None = None,
    resize: str | None = None,
    sixteen_bit: str | None = None,
    tile: str | int | bool | None = None,
    split: str | None = None,
    val_split: str | None = None,
    val_every: int | None = None,
    resume: bool | str = False,
    accept_changes: bool = False,
    seed: int | None = None,
    device: str | None = "auto",
    precision: str | None = None,
    compile: bool = False,
    workers: int | None = None,
    tensorboard: bool = True,
    log: Sequence[str] = (),
    update_ratios: bool = False,
    clip_boxes: bool = False,
    follow_links: bool = False,
    score_min: float | None = None,
    cache: str | Path | None = None,
    cache_size: str | int | None = None,
    classes: Classes | None = None,
    priors: str | Path | None = None,
    fit_priors: bool | None = None,
    skip_broken: bool = False,
    on_start: OnStart | None = None,
) -> Run:
    """Train a detector on labelled images. Nothing is written before all the input has been checked.

    Args:
        data: Folder, file or address in any form that `singleshot data check` reads; not needed with resume.
        model: Which network, a key of singleshot.models.MODELS; None for what suits the weights that are
            installed.
        out: Folder of the run; None for runs/train-N.
        recipe: "paper", "scratch", "finetune", "finetune-small", "finetune-sgd", "adapt", "extend" or a TOML file; None
            for what suits the weights that it starts from and the number of images.
        epochs: Times through the training images; None for the recipe's.
        time: Train for this long instead, such as "20m" or "1h30m", or seconds.
        batch: Images per step; None for the recipe's.
        lr: Learning rate at the recipe's base batch; None for the recipe's.
        freeze: Parts of the backbone, from the image on, that stay as they are; 0 for none, None for the recipe's.
        backbone_weights: "imagenet", "none", a file, or None and "auto" for ImageNet where it can be downloaded.
        start: A checkpoint to start from, ours or another project's; its classes may differ.
        size: Of the network's input: 512, (288, 512) for height and width, "288x512", or "auto" for one that suits the
            data; None for the model's. Default boxes are scaled with it.
        grey: The network takes one channel, the luminance of what colour pictures there are; None for the model's.
        resize: "stretch" or "letterbox"; None for the model's.
        sixteen_bit: How 16-bit pictures become 8 bits: "scale" (None) or "stretch", each picture's own range. The model
            keeps it: evaluation and detection do the same.
        tile: Train and validate on tiles of that many pixels a side, as `detect` with the same tile cuts them, for
            objects that are small in the whole image; "320:0.1" with their overlap in validation. The model keeps it:
            evaluation and detection do the same. False for none; None for what the start was trained on.
        split: Split to train on; None for "train".
        val_split: Split to validate on, "10%" (up to 50%) for so much of the training images, which is held out, "none"
            for no validation; None for "val" where there is one.
        val_every: Epochs between validations, None for 1; with `time` they come as time allows.
        resume: Go on with the run in `out`, by the options that it was started with. Of those that are given again,
            length, cache and where it runs may be others; the rest, and the data, must be the same. "auto": start the
            run where there is none yet, and leave one that is over as it is.
        accept_changes: Go on with images, boxes, recipe, batch, seed, splits, precision and versions as they are now
            where they are not what the run had before; what differs is logged. Classes cannot change.
        seed: Seed of everything random; None for 0.
        device: "cpu", "cuda", "cuda:N", or "auto".
        precision: "auto" (None), "float32", "bfloat16" or "float16" (CUDA).
        compile: Compile the network first (minutes; pays on long runs).
        workers: Processes that load images; None for what suits this machine.
        tensorboard: Write scalars and pictures for TensorBoard.
        log: Who else hears of the training: "mlflow", "wandb", or package.module:Name of a singleshot.Reporter.
        update_ratios: Also how far each layer's weights move.
        clip_boxes: Clip boxes to the image and drop empty ones instead of stopping.
        follow_links: Follow links in the data's folder that lead out of it: for a folder of your own.
        score_min: Of detections that are read as labels, the lowest score to learn from; None for all.
        cache: Keep decoded images: "auto" (None; in memory if all fit), "ram", "none", or a folder for a file.
        cache_size: The most that the cache may take, such as "4G" (None), or bytes.
        classes: Learn these only, in this order: names of the data's classes, "car,truck=vehicle" for some that become
            one, a file with such lines, or {new name: [old names]}; objects of others are left out. None for all.
        priors: Default boxes in place of the model's: a JSON file of `singleshot priors fit`, or a table's name.
        fit_priors: Fit the default boxes to the objects that are trained on, as many of them as the model has, or keep
            the model's. None: fit them where the model's match less than 95 % of 50 objects and more, but not with a
            start, `paper` or shards.
        skip_broken: Train with another image in place of one that cannot be read, and count them, instead of stopping.
        on_start: Called once, when all the input has been checked; gives the reporters that are to be called.

    Returns:
        The run: its folder, checkpoints, metrics and history. Ctrl-C ends a training early and saves it.

    Raises:
        ConfigError: An option is wrong, or the loss became infinite.
        DataError: The data cannot be used.
        TrainingStoppedError: A worker died, the disk is full, or whatever else ended a training that had begun; the
            last whole step is saved and the message says so, as it does after the errors above.
        CheckpointError: Weights or the run to go on with cannot be read.
        MissingExtraError: PyTorch is not installed.
    """
    with together(TrainOptions.of(locals())) as (options, world):
        return run_training(options, on_start, world)


def run_training(options: TrainOptions, on_start: OnStart | None = None, world: World | None = None) -> Run:
    """As `train`, with options that `resolve` gave, and the processes that `together` joined."""
    if world is not None:
        return _run_together(options, on_start, world)
    with needs("train", "training"):
        from singleshot.api.run_folder import held, new_folder

    if options.resume:
        with held(Path(str(options.out)), fresh=False):
            return _run(prepare(options), on_start)
    if options.out is None:
        with new_folder(Path("runs"), "train") as folder:
            return run_training(replace(options, out=str(folder)), on_start)
    ready = prepare(options)
    with held(ready[0].settings.out, fresh=True):
        return _run(ready, on_start)


def _run_together(options: TrainOptions, on_start: OnStart | None, world: World) -> Run:
    """As `run_training`; the first of the processes alone makes and holds the folder."""
    from singleshot.api.run_folder import held, new_folder

    with contextlib.ExitStack() as stack:
        if options.out is None:
            out = on_first(world, lambda: str(stack.enter_context(new_folder(Path("runs"), "train"))))
            options = replace(options, out=out)
        folder = Path(str(options.out))
        ready = None if options.resume else prepare(options, world)
        on_first(world, lambda: stack.enter_context(held(folder, fresh=not options.resume)))
        return _run(ready or prepare(options, world), on_start)


def _run(ready: tuple[Trainer, TrainOptions, str], on_start: OnStart | None) -> Run:
    """Train in a folder that this process holds."""
    from singleshot.api.run_folder import saved_words, write_traceback
    from singleshot.api.run_page import write_training_page
    from singleshot.training import loop

    trainer, options, initial = ready
    folder = trainer.settings.out
    if trainer.over:  # which --resume auto does not mind
        log.info("%s: this run is over, nothing is left to do", printable(folder))
        progress = trainer.progress
        best = progress.best if progress.best >= 0 else None
        return _ended(trainer, loop.Result(progress.epoch, progress.step, progress.seconds, best, False, 0.0))
    world = trainer.settings.world
    about = {"options": options.kept(), "recipe": trainer.recipe.to_dict()}

    def begin() -> None:
        _begin(trainer, options, about)
        if on_start is not None:
            trainer.reporters.extend(on_start(_started(trainer, options, initial)))

    on_first(world, begin)
    try:
        result = trainer.run(about)
    except SingleshotError as error:
        if world is not None and not world.leads:
            raise
        kind = type(error) if isinstance(error, DataError | loop.TrainingStoppedError) else ConfigError
        details = write_traceback(folder, error) if kind is loop.TrainingStoppedError else ""
        raise kind(f"{error}; {saved_words(trainer)}{details}") from error
    if not result.interrupted and (world is None or world.leads):
        write_training_page(trainer, result)
    return _ended(trainer, result)


def _begin(trainer: Trainer, options: TrainOptions, about: Mapping[str, Any]) -> None:
    """Write what the folder of a run has from its start, and open its logs there."""
    from singleshot.api.run_folder import writing
    from singleshot.training import loop, reports

    folder = trainer.settings.out
    with writing(folder):
        remove_parts(folder)
        if options.priors or options.fit_priors:
            origin = f"fitted to {trainer.train_set.source}" if options.fit_priors else f"of {options.priors}"
            write_priors(folder / PRIORS_FILE, trainer.model.prior_spec, f"{trainer.model.name}, {folder.name}", origin)
        with atomic_write(folder / RUN_FILE, durable=True) as temporary:
            temporary.write_text(json.dumps(about, indent=2))
        trainer.reporters.append(reports.CsvReporter(folder / loop.LOG, trainer.progress.history))
        if options.tensorboard:
            trainer.reporters.append(reports.TensorBoardReporter(folder))


def _ended(trainer: Trainer, result: Result) -> Run:
    from singleshot.training import loop

    folder = trainer.settings.out
    best = folder / loop.BEST
    return Run(
        folder=folder,
        best=best if best.exists() else None,
        last=folder / loop.LAST,
        metrics={"val_map50": result.best_map},
        history=tuple(trainer.progress.history),
        epochs=result.epochs,
        steps=result.steps,
        seconds=result.seconds,
        interrupted=result.interrupted,
        images_per_second=result.images_per_second,
        skipped=tuple(trainer.progress.skipped),
    )


def _started(trainer: Trainer, options: TrainOptions, initial: str) -> Started:
    settings, train_set, val_set = trainer.settings, trainer.train_set, trainer.val_set
    per_epoch, tiling = len(trainer.loader) * settings.batch, settings.tiling
    tiles = "" if tiling is None else f", {tiling.words}, {per_epoch} an epoch"
    return Started(
        folder=settings.out,
        model=trainer.model.name,
        initial=initial,
        images=len(train_set),
        val_images=None if val_set is None else len(val_set),
        classes=len(train_set.class_names),
        batch=settings.batch,
        precision=str(trainer.dtype).removeprefix("torch."),
        device=str(settings.device),
        length=duration_words(options.time) if options.time else f"{settings.epochs} epoch{'s'[: settings.epochs > 1]}",
        input=trainer.model.input_spec.size_text + tiles,
    )
