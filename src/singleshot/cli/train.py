"""`singleshot train`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    WorkersOption,
    is_free,
    numbered_folder,
    parse_bytes,
    parse_duration,
)
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.datasets.dataset import Dataset
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.models import SSD
    from singleshot.training.loop import Result
    from singleshot.training.recipes import Recipe

RUN_FILE = "run.json"
DEFAULT_MODEL = "ssd320-mini"


@dataclass(frozen=True)
class TrainOptions:
    """What a run was asked for, by the names of the command's options; kept in run.json for --resume."""

    data: str
    model: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    time: str | None = None
    batch: int | None = None
    lr: float | None = None
    backbone_weights: str | None = None
    start: str | None = None
    resize: str | None = None
    split: str = "train"
    val_split: str = "val"
    val_every: int = 1
    seed: int = 0
    precision: str = "auto"
    clip_boxes: bool = False
    cache: str = "auto"
    cache_size: str = "4G"


def train(
    data: Annotated[
        str | None,
        typer.Argument(help="Folder, file or address in any form that data check reads. Not needed with --resume."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"Which network; default {DEFAULT_MODEL}. See: priors show.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/train-N.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper, scratch, finetune or a TOML file. Default: scratch without pretrained weights, else finetune."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Times through the training images. Default: the recipe's.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Train for this long instead, such as 20m or 1h30m.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=4096, help="Images per step. Default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the recipe's base batch.")] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            help="auto (ImageNet where it can be downloaded), imagenet, none, or a file (.pth, .safetensors)."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="A checkpoint to start from, ours or another project's; its classes may differ.")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="stretch or letterbox. Default: stretch, as the paper.")] = None,
    split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to validate on; none for no validation.")] = "val",
    val_every: Annotated[
        int, typer.Option(min=1, help="Epochs between validations (with --time: as time allows).")
    ] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16 (CUDA).")] = "auto",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (minutes; pays on long runs).")
    ] = False,
    workers: WorkersOption = None,
    tensorboard: Annotated[bool, typer.Option(help="Write scalars and pictures for TensorBoard.")] = True,
    update_ratios: Annotated[
        bool, typer.Option("--update-ratios", help="Also how far each layer's weights move.")
    ] = False,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Clip boxes to the image and drop empty ones instead of stopping.")
    ] = False,
    cache: Annotated[
        str,
        typer.Option(help="Keep decoded images: auto (in memory if all fit), ram, none, or a folder for a file."),
    ] = "auto",
    cache_size: Annotated[str, typer.Option(help="The most that the cache may take.")] = "4G",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a detector on a folder of labelled images.

    The run folder holds best.safetensors (highest validation mAP50), last.safetensors, resume.safetensors, log.csv and
    TensorBoard's files. Ctrl-C saves; --resume goes on.

    Example: singleshot train path/to/VOC2007 --time 20m --out runs/first
    """
    options = TrainOptions(
        data=data or "", model=model, recipe=recipe, epochs=epochs, time=time, batch=batch, lr=lr,
        backbone_weights=backbone_weights, start=start, resize=resize, split=split, val_split=val_split,
        val_every=val_every, seed=seed, precision=precision, clip_boxes=clip_boxes, cache=cache, cache_size=cache_size,
    )  # fmt: skip
    if resume:
        options = _resumed(out, options)
    elif data is None:
        raise ConfigError("train: which data? Give a folder of labelled images: singleshot train DATA")
    if options.time and options.epochs:
        raise ConfigError("--time and --epochs exclude each other: a budget of time decides the epochs")
    result, folder = run_training(options, out, resume, device, compile_, workers, tensorboard, update_ratios, quiet)
    _tell(result, folder, options, as_json, quiet)


def _resumed(out: Path | None, given: TrainOptions) -> TrainOptions:
    """The options that the run was started with; only its length may be changed."""
    if out is None:
        raise ConfigError("--resume: which run? Give its folder: singleshot train --resume --out runs/train-1")
    path = out / RUN_FILE
    if not path.is_file():
        raise CheckpointError(f"{printable(out)}: no {RUN_FILE} there; --resume wants a folder that train wrote")
    try:
        values = json.loads(path.read_text())["options"]
        if not isinstance(values, dict) or set(values) != set(asdict(given)):
            raise ValueError("other options than this version's")
        saved = TrainOptions(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error)})") from error
    for key in ("model", "recipe", "batch", "lr", "backbone_weights", "start", "resize"):
        wanted = getattr(given, key)
        if wanted is not None and wanted != getattr(saved, key):
            raise ConfigError(f"--resume: --{key.replace('_', '-')} cannot change in a run; start a new one with --out")
    if given.data:
        saved = replace(saved, data=given.data)
    if given.epochs is not None or given.time is not None:
        saved = replace(saved, epochs=given.epochs, time=given.time)
    return saved


def run_training(
    options: TrainOptions,
    out: Path | None,
    resume: bool = False,
    device: str = "auto",
    compiled: bool = False,
    workers: int | None = None,
    tensorboard: bool = True,
    update_ratios: bool = False,
    quiet: bool = False,
) -> tuple[Result, Path]:
    """Open the data, build the model, train. Nothing is written before all the input has been checked."""
    if not quiet:
        print("starting ...", file=sys.stderr, flush=True)  # PyTorch takes seconds to import
    import torch

    from singleshot.devices import pick_device
    from singleshot.loading.shard_stream import open_training_set
    from singleshot.training import loop, reports

    place = pick_device(device)
    train_set = open_training_set(options.data, options.split, clip_boxes=options.clip_boxes)
    val_set = _open_validation(options, train_set)
    torch.manual_seed(options.seed)
    model, found, pretrained = _model(options, len(train_set.class_names), fresh=not resume)
    options = replace(options, recipe=options.recipe or ("finetune" if pretrained else "scratch"))
    recipe = _recipe(options)
    cache_bytes = parse_bytes(options.cache_size, "--cache-size")
    options = replace(options, cache=_cache(options.cache, train_set, model.input_spec.size, cache_bytes))
    seconds = parse_duration(options.time) if options.time else None
    folder = out or numbered_folder(Path("runs"), "train")
    if not resume and not is_free(folder):
        raise ConfigError(
            f"{printable(folder)}: is there already; give another --out, or go on with that run: --resume"
        )
    settings = loop.Settings(
        out=folder, epochs=options.epochs or recipe.epochs, batch=options.batch or recipe.batch, seconds=seconds,
        seed=options.seed, device=place, precision=options.precision, compiled=compiled, workers=workers,
        val_every=options.val_every, update_ratios=update_ratios, cache=options.cache, cache_bytes=cache_bytes,
    )  # fmt: skip
    trainer = loop.Trainer(model, train_set, val_set, recipe, settings)
    if resume:
        trainer.resume()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / RUN_FILE) as temporary:
        temporary.write_text(json.dumps({"options": asdict(options), "recipe": recipe.to_dict()}, indent=2))
    if not quiet:
        length = options.time or f"{settings.epochs} epochs"
        val = f", {len(val_set)} to validate on" if val_set is not None else ""
        print(f"{model.name} ({found}) on {len(train_set)} images{val}, {len(train_set.class_names)} classes; batch "
              f"{settings.batch}, {trainer.dtype} on {place}, {length}; into {folder}", file=sys.stderr)  # fmt: skip
    trainer.reporters += reports.console_reporter(quiet)
    trainer.reporters.append(reports.CsvReporter(folder / "log.csv", trainer.progress.history))
    if tensorboard:
        trainer.reporters.append(reports.TensorBoardReporter(folder))
    try:
        return trainer.run(), folder
    except loop.NonFiniteLossError as error:
        raise ConfigError(f"{error}; saved: {printable(folder)}") from error


def _cache(wanted: str, train_set: Dataset | ShardStream, size: int, most: int) -> str:
    """The cache, settled once: a resumed run must read the same pixels."""
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
        print("singleshot: no split 'val' in the data: training without validation (name one with --val-split)",
              file=sys.stderr)  # fmt: skip
        return None
    return open_dataset(options.data, name, class_names=train_set.class_names, clip_boxes=options.clip_boxes)


def _model(options: TrainOptions, num_classes: int, fresh: bool) -> tuple[SSD, str, bool]:
    """The model with its starting weights, words about where they come from, and whether they are pretrained."""
    from singleshot.models import build
    from singleshot.presets import MODELS
    from singleshot.weights.initial_weights import start_from_checkpoint, start_model

    if options.start:
        return *start_from_checkpoint(options.start, num_classes, options.model), True
    name = options.model or DEFAULT_MODEL
    inputs = MODELS[name].input_spec if name in MODELS else None
    if inputs is not None and options.resize:
        inputs = replace(inputs, resize=options.resize)
    model = build(name, num_classes, input_spec=inputs)
    return model, *start_model(model, options.backbone_weights or "auto", fresh)


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


def _tell(result: Result, folder: Path, options: TrainOptions, as_json: bool, quiet: bool) -> None:
    best = folder / "best.safetensors"
    if as_json:
        print(json.dumps({
            "folder": str(folder), "best": str(best) if best.exists() else None, "epochs": result.epochs,
            "steps": result.steps, "seconds": round(result.seconds, 1), "val_map50": result.best_map,
            "interrupted": result.interrupted, "images_per_second": round(result.images_per_second, 2),
        }))  # fmt: skip
    elif not quiet or result.interrupted:
        score = f", best validation mAP50 {result.best_map:.4f}" if result.best_map is not None else ""
        how = "stopped and saved" if result.interrupted else "trained"
        print(f"{how} after {result.epochs} epochs, {result.steps} steps, {result.seconds:.0f} s{score}: {folder}")
        if result.interrupted:
            print(f"go on:    singleshot train --resume --out {folder}")
        else:
            print(f"evaluate: singleshot eval {best} {options.data} --split test")
            print(f"detect:   singleshot detect {best} IMAGES")
    if result.interrupted:
        raise typer.Exit(130)
