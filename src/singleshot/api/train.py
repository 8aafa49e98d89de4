"""Training a detector on labelled images, into a run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.options import DEFAULT_MODEL, Options, check_range, parse_bytes, parse_duration
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.extras import needs, require
from singleshot.files import atomic_write, is_free, numbered_folder

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

RUN_FILE = "run.json"
# Where and how a run is done on this machine: what is not kept in run.json.
_NOT_KEPT = ("out", "resume", "device", "compile", "workers", "tensorboard", "update_ratios")
# What a resumed run keeps; of the rest only its length may change.
_FIXED = ("model", "recipe", "batch", "lr", "backbone_weights", "start", "resize")


@dataclass(frozen=True)
class TrainOptions(Options):
    """What a training is asked for, by the names of the command's options; see `train`."""

    data: str = ""
    model: str | None = None
    out: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    time: str | float | None = None
    batch: int | None = None
    lr: float | None = None
    backbone_weights: str | None = None
    start: str | None = None
    resize: str | None = None
    split: str = "train"
    val_split: str = "val"
    val_every: int = 1
    resume: bool = False
    seed: int = 0
    device: str | None = "auto"
    precision: str = "auto"
    compile: bool = False
    workers: int | None = None
    tensorboard: bool = True
    update_ratios: bool = False
    clip_boxes: bool = False
    cache: str = "auto"
    cache_size: str | int = "4G"

    def __post_init__(self) -> None:
        check_range("--epochs", self.epochs, 1, 10**9)
        check_range("--batch", self.batch, 1, 4096)
        check_range("--val-every", self.val_every, 1, 10**9)
        check_range("--seed", self.seed, 0, 2**31 - 1)

    def kept(self) -> dict[str, Any]:
        """What run.json keeps, for a resume."""
        return {name: value for name, value in self.to_dict().items() if name not in _NOT_KEPT}


class Started(NamedTuple):
    """A training whose input has all been checked. initial: where its weights come from, in words; val_images: None
    without validation; length: epochs or time, in words."""

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
    resize: str | None = None,
    split: str = "train",
    val_split: str = "val",
    val_every: int = 1,
    resume: bool = False,
    seed: int = 0,
    device: str | None = "auto",
    precision: str = "auto",
    compile: bool = False,
    workers: int | None = None,
    tensorboard: bool = True,
    update_ratios: bool = False,
    clip_boxes: bool = False,
    cache: str | Path = "auto",
    cache_size: str | int = "4G",
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
        resize: "stretch" or "letterbox"; None for the model's.
        split: Split to train on.
        val_split: Split to validate on; "none" for no validation.
        val_every: Epochs between validations; with `time` as time allows.
        resume: Go on with the run in `out`.
        seed: Seed of everything random.
        device: "cpu", "cuda", "cuda:N", or "auto".
        precision: "auto", "float32", "bfloat16" or "float16" (CUDA).
        compile: Compile the network first (minutes; pays on long runs).
        workers: Processes that load images; None for what suits this machine.
        tensorboard: Write scalars and pictures for TensorBoard.
        update_ratios: Also how far each layer's weights move.
        clip_boxes: Clip boxes to the image and drop empty ones instead of stopping.
        cache: Keep decoded images: "auto" (in memory if all fit), "ram", "none", or a folder for a file.
        cache_size: The most that the cache may take, such as "4G", or bytes.
        on_start: Called once, when all the input has been checked; gives the reporters that are to be called.

    Returns:
        The run: its folder, checkpoints, metrics and history. Ctrl-C ends a training early and saves it.

    Raises:
        ConfigError: An option is wrong, or the loss became infinite (what was good is saved).
        DataError: The data cannot be used.
        CheckpointError: Weights or the run to go on with cannot be read.
        MissingExtraError: PyTorch is not installed.
    """
    return run_training(resolve(TrainOptions.of(locals())), on_start)


def resolve(given: TrainOptions) -> TrainOptions:
    """The options of a run: of one that goes on those that it was started with.

    Raises:
        ConfigError, CheckpointError: An option is wrong, or the run cannot be read.
        MissingExtraError: PyTorch is not installed.
    """
    require("train", "training", "torch")
    if given.resume:
        given = _resumed(given)
    elif not given.data:
        raise ConfigError("train: which data? Give a folder of labelled images: singleshot train DATA")
    if given.time and given.epochs:
        raise ConfigError("--time and --epochs exclude each other: a budget of time decides the epochs")
    return given


def _resumed(given: TrainOptions) -> TrainOptions:
    """The options that the run was started with; only its length may be changed."""
    if given.out is None:
        raise ConfigError("--resume: which run? Give its folder: singleshot train --resume --out runs/train-1")
    path = Path(given.out) / RUN_FILE
    if not path.is_file():
        raise CheckpointError(f"{printable(given.out)}: no {RUN_FILE} there; --resume wants a folder that train wrote")
    try:
        values = json.loads(path.read_text())["options"]
        if not isinstance(values, dict) or set(values) != set(given.kept()):
            raise ValueError("other options than this version's")
        here = {name: getattr(given, name) for name in _NOT_KEPT}
        saved = TrainOptions.from_dict({**here, **values})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error)})") from error
    for name in _FIXED:
        wanted = getattr(given, name)
        if wanted is not None and wanted != getattr(saved, name):
            raise ConfigError(
                f"--resume: --{name.replace('_', '-')} cannot change in a run; start a new one with --out"
            )
    if given.data:
        saved = replace(saved, data=given.data)
    if given.epochs is not None or given.time is not None:
        saved = replace(saved, epochs=given.epochs, time=given.time)
    return saved


def run_training(options: TrainOptions, on_start: OnStart | None = None) -> Run:
    """As `train`, with options that `resolve` gave."""
    with needs("train", "training"):
        from singleshot.training import loop, reports

    trainer, options, initial = _prepare(options)
    folder = trainer.settings.out
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps({"options": options.kept(), "recipe": trainer.recipe.to_dict()}, indent=2))
    if on_start is not None:
        trainer.reporters += on_start(_started(trainer, options, initial))
    trainer.reporters.append(reports.CsvReporter(folder / "log.csv", trainer.progress.history))
    if options.tensorboard:
        trainer.reporters.append(reports.TensorBoardReporter(folder))
    try:
        result = trainer.run()
    except loop.NonFiniteLossError as error:
        raise ConfigError(f"{error}; saved: {printable(folder)}") from error
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


def _prepare(options: TrainOptions) -> tuple[Trainer, TrainOptions, str]:
    """Open the data, build the model; gives the trainer, the options with what was still open decided, and words about
    the initial weights. Writes nothing."""
    import torch

    from singleshot.devices import pick_device
    from singleshot.loading.shard_stream import open_training_set
    from singleshot.training import loop

    place = pick_device(options.device)
    train_set = open_training_set(options.data, options.split, clip_boxes=options.clip_boxes)
    val_set = _open_validation(options, train_set)
    torch.manual_seed(options.seed)
    model, initial, pretrained = _model(options, train_set.class_names)
    options = replace(options, recipe=options.recipe or ("finetune" if pretrained else "scratch"))
    recipe = _recipe(options)
    cache_bytes = parse_bytes(options.cache_size, "--cache-size")
    options = replace(options, cache=_cache(options.cache, train_set, model.input_spec.sides, cache_bytes))
    settings = loop.Settings(
        out=_folder(options),
        epochs=options.epochs or recipe.epochs,
        batch=options.batch or recipe.batch,
        seconds=parse_duration(options.time) if options.time else None,
        seed=options.seed,
        device=place,
        precision=options.precision,
        compiled=options.compile,
        workers=options.workers,
        val_every=options.val_every,
        update_ratios=options.update_ratios,
        cache=options.cache,
        cache_bytes=cache_bytes,
    )
    trainer = loop.Trainer(model, train_set, val_set, recipe, settings)
    if options.resume:
        trainer.resume()
    return trainer, options, initial


def _folder(options: TrainOptions) -> Path:
    """The run's folder, free unless it goes on. Raises ConfigError."""
    folder = numbered_folder(Path("runs"), "train") if options.out is None else Path(options.out)
    if not options.resume and not is_free(folder):
        raise ConfigError(
            f"{printable(folder)}: is there already; give another --out, or go on with that run: --resume"
        )
    return folder


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


def _open_validation(options: TrainOptions, train_set: Dataset | ShardStream) -> Dataset | None:
    from singleshot.datasets import available_splits, find_split, open_dataset

    name = options.val_split
    if name == "none":
        return None
    if name == "val" and find_split("val", available_splits(options.data)) is None:
        log.warning("no split 'val' in the data: training without validation (name one with --val-split)")
        return None
    return open_dataset(options.data, name, class_names=train_set.class_names, clip_boxes=options.clip_boxes)


def _model(options: TrainOptions, class_names: tuple[str, ...]) -> tuple[SSD, str, bool]:
    """The model with its initial weights, words about where they come from, and whether they are pretrained."""
    from singleshot.models import build
    from singleshot.presets import MODELS
    from singleshot.weights.initial_weights import start_from_checkpoint, start_model

    if options.start:
        return *start_from_checkpoint(options.start, class_names, options.model, options.resize), True
    name = options.model or DEFAULT_MODEL
    inputs = MODELS[name].input_spec if name in MODELS else None
    if inputs is not None and options.resize:
        inputs = replace(inputs, resize=options.resize)
    model = build(name, len(class_names), input_spec=inputs)
    return model, *start_model(model, options.backbone_weights or "auto", fresh=not options.resume)


def _recipe(options: TrainOptions) -> Recipe:
    from singleshot.training.recipes import Recipe, first_problem, load_recipe

    assert options.recipe is not None
    recipe = load_recipe(options.recipe)
    if options.lr is None:
        return recipe
    try:
        return Recipe.model_validate({**dict(recipe), "lr": options.lr})
    except ValueError as error:
        raise ConfigError(f"--lr {options.lr}: {first_problem(error)}") from error
