"""Training a detector on labelled images, into a run folder."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.options import DEFAULT_MODEL, parse_bytes, parse_duration
from singleshot.api.train_options import RUN_FILE, TrainOptions, resolve, saved_run
from singleshot.class_selection import Classes
from singleshot.errors import CheckpointError, ConfigError, DataError, SingleshotError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write, remove_parts
from singleshot.input_shape import size_words

if TYPE_CHECKING:
    from singleshot.datasets.dataset import Dataset
    from singleshot.inputs import Size
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.models import SSD
    from singleshot.runtime.detector import Detector
    from singleshot.training.loop import Trainer
    from singleshot.training.recipes import Recipe
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
    of a resumed run included; interrupted: by Ctrl-C; images_per_second: trained on, in this part of the run.
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
    backbone_weights: str | Path | None = None,
    start: str | Path | None = None,
    size: str | int | tuple[int, int] | None = None,
    grey: bool | None = None,
    resize: str | None = None,
    sixteen_bit: str | None = None,
    split: str | None = None,
    val_split: str | None = None,
    val_every: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    device: str | None = "auto",
    precision: str | None = None,
    compile: bool = False,
    workers: int | None = None,
    tensorboard: bool = True,
    update_ratios: bool = False,
    clip_boxes: bool = False,
    follow_links: bool = False,
    score_min: float | None = None,
    cache: str | Path | None = None,
    cache_size: str | int | None = None,
    classes: Classes | None = None,
    on_start: OnStart | None = None,
) -> Run:
    """Train a detector on labelled images. Nothing is written before all the input has been checked.

    Args:
        data: Folder, file or address in any form that `singleshot data check` reads; not needed with resume.
        model: Which network, a key of singleshot.models.MODELS; None for ssd320-mini.
        out: Folder of the run; None for runs/train-N.
        recipe: "paper", "scratch", "finetune" or a TOML file; None for scratch without pretrained weights, else
            finetune.
        epochs: Times through the training images; None for the recipe's.
        time: Train for this long instead, such as "20m" or "1h30m", or seconds.
        batch: Images per step; None for the recipe's.
        lr: Learning rate at the recipe's base batch; None for the recipe's.
        backbone_weights: "imagenet", "none", a file, or None and "auto" for ImageNet where it can be downloaded.
        start: A checkpoint to start from, ours or another project's; its classes may differ.
        size: Of the network's input: 512, (288, 512) for height and width, "288x512", or "auto" for one that suits the
            data; None for the model's. Default boxes are scaled with it.
        grey: The network takes one channel, the luminance of what colour pictures there are; None for the model's.
        resize: "stretch" or "letterbox"; None for the model's.
        sixteen_bit: How 16-bit pictures become 8 bits: "scale" (None) or "stretch", each picture's own range. The model
            keeps it: evaluation and detection do the same.
        split: Split to train on; None for "train".
        val_split: Split to validate on, "none" for no validation; None for "val" where there is one.
        val_every: Epochs between validations, None for 1; with `time` they come as time allows.
        resume: Go on with the run in `out`, by the options that it was started with. Of those that are given again,
            data, length, splits, cache and where it runs may be others; the rest must be the same.
        seed: Seed of everything random; None for 0.
        device: "cpu", "cuda", "cuda:N", or "auto".
        precision: "auto" (None), "float32", "bfloat16" or "float16" (CUDA).
        compile: Compile the network first (minutes; pays on long runs).
        workers: Processes that load images; None for what suits this machine.
        tensorboard: Write scalars and pictures for TensorBoard.
        update_ratios: Also how far each layer's weights move.
        clip_boxes: Clip boxes to the image and drop empty ones instead of stopping.
        follow_links: Follow links in the data's folder that lead out of it: for a folder of your own.
        score_min: Of detections that are read as labels, the lowest score to learn from; None for all.
        cache: Keep decoded images: "auto" (None; in memory if all fit), "ram", "none", or a folder for a file.
        cache_size: The most that the cache may take, such as "4G" (None), or bytes.
        classes: Learn these only, in this order: names of the data's classes, "car,truck=vehicle" for some that become
            one, a file with such lines, or {new name: [old names]}; objects of others are left out. None for all.
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
    return run_training(resolve(TrainOptions.of(locals())), on_start)


def run_training(options: TrainOptions, on_start: OnStart | None = None) -> Run:
    """As `train`, with options that `resolve` gave."""
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


def _run(ready: tuple[Trainer, TrainOptions, str], on_start: OnStart | None) -> Run:
    """Train in a folder that this process holds."""
    from singleshot.api.run_folder import saved_words, write_traceback, writing
    from singleshot.training import loop, reports

    trainer, options, initial = ready
    folder = trainer.settings.out
    with writing(folder):
        remove_parts(folder)
        with atomic_write(folder / RUN_FILE, durable=True) as temporary:
            temporary.write_text(json.dumps({"options": options.kept(), "recipe": trainer.recipe.to_dict()}, indent=2))
        trainer.reporters.append(reports.CsvReporter(folder / loop.LOG, trainer.progress.history))
        if options.tensorboard:
            trainer.reporters.append(reports.TensorBoardReporter(folder))
    if on_start is not None:
        trainer.reporters += on_start(_started(trainer, options, initial))
    try:
        result = trainer.run()
    except SingleshotError as error:
        kind = type(error) if isinstance(error, DataError | loop.TrainingStoppedError) else ConfigError
        details = write_traceback(folder, error) if kind is loop.TrainingStoppedError else ""
        raise kind(f"{error}; {saved_words(trainer)}{details}") from error
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
    )


def prepare(options: TrainOptions) -> tuple[Trainer, TrainOptions, str]:
    """Open the data, build the model; gives the trainer, the options with what was still open decided, and words about
    the initial weights. Writes nothing."""
    import torch

    from singleshot.api.run_folder import check_folder
    from singleshot.api.train_data import open_train, open_validation
    from singleshot.devices import pick_device
    from singleshot.loading.few_greys import warn_of_few_greys
    from singleshot.training import loop
    from singleshot.training.checkpoints import has_state

    options = options.filled()
    folder = Path(str(options.out))
    check_folder(folder, options.resume)
    if options.resume and not has_state(folder):
        log.warning("%s: no state to go on from, so the run starts again", printable(folder))
    place = pick_device(options.device)
    train_set = open_train(options)
    val_set = open_validation(options, train_set)
    torch.manual_seed(options.seed or 0)
    model, initial, pretrained = _model(options, train_set)
    if model.input_spec.sixteen_bit == "scale" and not options.resume and not options.sixteen_bit:
        warn_of_few_greys(train_set)
    options = replace(options, recipe=options.recipe or ("finetune" if pretrained else "scratch"))
    recipe = _recipe(options)
    cache_bytes = parse_bytes(options.cache_size or "", "--cache-size")
    options = replace(
        options,
        model=model.name,
        classes=None if train_set.selection is None else train_set.selection.to_dict(),
        size=size_words(model.input_spec.sides),
        grey=model.input_spec.channels == 1,
        resize=model.input_spec.resize,
        sixteen_bit=model.input_spec.sixteen_bit,
        batch=options.batch or recipe.batch,
        cache=_cache(options.cache or "auto", train_set, model.input_spec.sides, cache_bytes),
    )
    settings = loop.Settings(
        out=folder,
        epochs=options.epochs or recipe.epochs,
        batch=options.batch or recipe.batch,
        seconds=parse_duration(options.time) if options.time else None,
        seed=options.seed or 0,
        device=place,
        precision=options.precision or "auto",
        compiled=options.compile,
        workers=options.workers,
        val_every=options.val_every or 1,
        validate_start=bool(options.start),
        update_ratios=options.update_ratios,
        cache=options.cache or "none",
        cache_bytes=cache_bytes,
    )
    trainer = loop.Trainer(model, train_set, val_set, recipe, settings)
    if options.resume and has_state(folder):
        trainer.resume()
        _refuse_if_over(trainer, options)
    return trainer, options, initial


def _refuse_if_over(trainer: Trainer, options: TrainOptions) -> None:
    """Raise ConfigError for a run that has nothing left to do."""
    if not trainer.over:
        return
    progress, folder = trainer.progress, printable(trainer.settings.out)
    if trainer.settings.seconds is not None:
        raise ConfigError(
            f"{folder}: this run has trained for {progress.seconds:.0f} s already, which --time {options.time} leaves"
            " nothing of; go on with a longer --time, or with --epochs"
        )
    raise ConfigError(
        f"{folder}: this run is over, {progress.epoch} of {trainer.settings.epochs} epochs; go on with a higher"
        " --epochs, or with --time"
    )


def _started(trainer: Trainer, options: TrainOptions, initial: str) -> Started:
    settings, train_set, val_set = trainer.settings, trainer.train_set, trainer.val_set
    return Started(
        folder=settings.out,
        model=trainer.model.name,
        initial=initial,
        images=len(train_set),
        val_images=None if val_set is None else len(val_set),
        classes=len(train_set.class_names),
        batch=settings.batch,
        precision=str(trainer.dtype),
        device=str(settings.device),
        length=str(options.time) if options.time else f"{settings.epochs} epochs",
        input=trainer.model.input_spec.size_text,
    )


def _cache(wanted: str, train_set: Dataset | ShardStream, size: Size, most: int) -> str:
    """The cache, decided once: a resumed run must read the same pixels."""
    from singleshot.datasets.dataset import Dataset
    from singleshot.loading.cache import pick_cache

    if isinstance(train_set, Dataset):
        return pick_cache(train_set, size, most) if wanted == "auto" else wanted
    if wanted not in ("auto", "none"):
        raise ConfigError(f"--cache {printable(wanted)}: shards are read in a stream and not kept; leave --cache out")
    return "none"


def _model(options: TrainOptions, train_set: Dataset | ShardStream) -> tuple[SSD, str, bool]:
    """The model with its initial weights, words about where they come from, and whether they are pretrained."""
    from singleshot.api.train_input import choose_input
    from singleshot.models import build
    from singleshot.models.zoo import outline
    from singleshot.presets import MODELS
    from singleshot.training.checkpoints import LAST, has_state
    from singleshot.weights.checkpoint import build_model, read_info
    from singleshot.weights.initial_weights import start_from_checkpoint, start_model

    going_on = options.resume and has_state(Path(str(options.out)))
    last = Path(str(options.out)) / LAST
    if going_on and last.is_file():
        # The network as it is: what it was started from may have been moved since.
        return build_model(read_info(last)), "resumed", True
    class_names, choose = train_set.class_names, functools.partial(choose_input, options, train_set)
    if options.start:
        rules = options.resize, options.sixteen_bit, choose
        return *start_from_checkpoint(options.start, class_names, options.model, *rules), True
    name = options.model or DEFAULT_MODEL
    inputs = MODELS[name].input_spec if name in MODELS else None
    if inputs is not None:
        rule = options.sixteen_bit or inputs.sixteen_bit
        inputs = replace(inputs, resize=options.resize or inputs.resize, sixteen_bit=rule)
        inputs = choose(inputs, lambda: outline(name))
    model = build(name, len(class_names), input_spec=inputs)
    return model, *start_model(model, options.backbone_weights or "auto", fresh=not going_on)


def _recipe(options: TrainOptions) -> Recipe:
    from singleshot.training.recipes import Recipe, first_problem, load_recipe

    if options.resume:
        assert options.out is not None
        try:  # the run's own: a file may have been edited since
            return Recipe(**saved_run(options.out).recipe)
        except (ValueError, TypeError, ConfigError) as error:
            where = printable(Path(options.out) / RUN_FILE)
            raise CheckpointError(f"{where}: its recipe cannot be read ({printable(first_problem(error))})") from error
    assert options.recipe is not None
    recipe = load_recipe(options.recipe)
    if options.lr is None:
        return recipe
    try:
        return Recipe.model_validate({**dict(recipe), "lr": options.lr})
    except ValueError as error:
        raise ConfigError(f"--lr {options.lr}: {first_problem(error)}") from error
