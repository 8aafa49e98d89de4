"""`singleshot train`."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from singleshot.cli.common import (
    SKIPPED,
    STOPPED,
    ClassesOption,
    DeviceOption,
    FollowLinksOption,
    JsonOption,
    LabelScoreOption,
    NoTileOption,
    QuietOption,
    WorkersOption,
    count_of,
    one_tile,
)

if TYPE_CHECKING:
    from singleshot.api.train import Run, Started, TrainOptions
    from singleshot.training.distributed import World
    from singleshot.training.reports import Reporter

RESUME_AUTO = "--resume-auto"


class TrainCommand(TyperCommand):
    """`train`, where `auto` may follow --resume: the parser knows options with a value and options without one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `--resume auto` and `--resume=auto` as one word."""
        words: list[str] = []
        for word in args:
            if word == "--resume=auto":
                words.append(RESUME_AUTO)
            elif word == "auto" and words[-1:] == ["--resume"] and "--" not in words:
                words[-1] = RESUME_AUTO
            else:
                words.append(word)
        return super().parse_args(ctx, words)


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder, file or address in any form that data check reads, or some shards:"
            " https://host/shards/train-{000000..000031}.tar. Not needed with --resume."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Which network. Default: by the weights that are installed. See: priors show."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/train-N.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper, scratch, finetune, finetune-small, finetune-sgd, adapt, extend or a TOML file. Default: by"
            " what is pretrained: nothing (scratch), the backbone (finetune; finetune-small for 500 images and fewer),"
            " a whole detector (adapt), most of its classes (extend)."
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
    freeze: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="First parts of the backbone that stay as they are. Default: the recipe's."),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            help="auto (ImageNet where it can be downloaded), imagenet, none, or a file (.pth, .safetensors)."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="A checkpoint to start from, ours or another project's; its classes may differ.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW|auto",
            help="Of the input: 512, 288x512 (height x width), or auto for one that suits the data. Default: the"
            " model's.",
        ),
    ] = None,
    grey: Annotated[
        bool | None, typer.Option("--grey", help="One channel: the luminance of what colour pictures there are.")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="stretch or letterbox. Default: stretch, as the paper.")] = None,
    sixteen_bit: Annotated[
        str | None,
        typer.Option(help="How 16-bit pictures become 8: scale (default) or stretch, each picture's own range."),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="N[:OVERLAP]",
            help="Train on tiles of N pixels a side, as detect --tile N cuts them, for small objects. The model"
            " keeps it.",
        ),
    ] = None,
    no_tile: NoTileOption = False,
    split: Annotated[str | None, typer.Option(help="Split to train on. Default: train.")] = None,
    val_split: Annotated[
        str | None,
        typer.Option(
            help="Split to validate on; 10% holds out a tenth of the training images, in place of a split; none for no"
            " validation. Default: val."
        ),
    ] = None,
    val_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs between validations. Default: 1; with --time as time allows."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out. --resume auto: start it where there is none to go on with."
        ),
    ] = False,
    resume_auto: Annotated[bool, typer.Option(RESUME_AUTO, hidden=True)] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="With --resume: go on with data, recipe, batch, seed, precision and versions as they are now.",
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Seed of everything random. Default: 0.")
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16 (CUDA). Default: auto.")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (minutes; pays on long runs).")
    ] = False,
    workers: WorkersOption = None,
    tensorboard: Annotated[bool, typer.Option(help="Write scalars and pictures for TensorBoard.")] = True,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Also log to mlflow, wandb, or package.module:Name, a class of yours; repeatable."
        ),
    ] = None,
    update_ratios: Annotated[
        bool, typer.Option("--update-ratios", help="Also how far each layer's weights move.")
    ] = False,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Clip boxes to the image and drop empty ones instead of stopping.")
    ] = False,
    follow_links: FollowLinksOption = False,
    score_min: LabelScoreOption = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Keep decoded images: auto (default: in memory if all fit), ram, none, or a folder, which keeps the"
            " files of remote shards."
        ),
    ] = None,
    cache_size: Annotated[str | None, typer.Option(help="The most that the cache may take. Default: 4G.")] = None,
    classes: ClassesOption = None,
    priors: Annotated[
        str | None, typer.Option(help="Default boxes in place of the model's: a file of priors fit, or a table's name.")
    ] = None,
    fit_priors: Annotated[
        bool | None,
        typer.Option(
            help="Fit the default boxes to this data, or keep the model's. Default: fit them where the"
            " model's match less than 95 % of the objects, but not with --start, paper or shards. See: priors fit."
        ),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Go on without images that cannot be read, and count them; exit code 3."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a detector on a folder of labelled images.

    The run folder holds best.safetensors (highest validation mAP50), last.safetensors, resume.safetensors, log.csv,
    report.html, eval.json and TensorBoard's files. Ctrl-C saves; --resume goes on.
    Several processes share each batch: torchrun --nproc-per-node 4 -m singleshot train ...

    Example: singleshot train path/to/VOC2007 --time 20m --out runs/first
    """
    from singleshot.api.train import TrainOptions, run_training
    from singleshot.api.train_together import together

    given = {
        **locals(),
        "data": data or "",
        "classes": classes or None,
        "log": log or (),
        "tile": one_tile(tile, no_tile),
        "resume": "auto" if resume_auto else resume,
    }
    with together(TrainOptions.of(given)) as (options, world):
        leads = world is None or world.leads
        if not quiet and leads:
            print("starting ...", file=sys.stderr, flush=True)  # PyTorch takes seconds to import
        run = run_training(options, functools.partial(watch, quiet=quiet), world)
        if as_json and leads:
            print(json.dumps(run.to_dict()))
        elif (not quiet or run.interrupted) and leads:
            _print_end(run, options, world)
    if not leads and (run.interrupted or run.skipped):
        sys.exit(STOPPED if run.interrupted else SKIPPED)
    if run.interrupted:
        raise typer.Exit(STOPPED)
    if run.skipped:
        if not quiet:
            shards = sum(".tar: " in text for text in run.skipped)
            parts = f" and parts of {count_of(shards, 'shard')}" if shards else ""
            images = count_of(len(run.skipped) - shards, "image")
            print(f"not read and skipped: {images}{parts}", file=sys.stderr)
        raise typer.Exit(SKIPPED)


def watch(started: Started, quiet: bool = False) -> list[Reporter]:
    """Print what is about to be trained; gives who shows its course on standard error."""
    from singleshot.training.reports import console_reporter

    if not quiet:
        val = "" if started.val_images is None else f", {started.val_images} to validate on"
        classes = count_of(started.classes, "class", "classes")
        print(
            f"{started.model} ({started.initial}), input {started.input},"
            f" on {count_of(started.images, 'image')}{val}, {classes};"
            f" batch {started.batch}, {started.precision} on {started.device}, {started.length}; into {started.folder}",
            file=sys.stderr,
        )
    return console_reporter(quiet)


def _print_end(run: Run, options: TrainOptions, world: World | None) -> None:
    from singleshot.api.train_together import go_on

    best = run.metrics["val_map50"]
    score = f", best validation mAP50 {best:.4f}" if best is not None else ""
    how = "stopped and saved" if run.interrupted else "trained"
    length = f"{count_of(run.epochs, 'epoch')}, {count_of(run.steps, 'step')}, {run.seconds:.0f} s"
    print(f"{how} after {length}{score}: {run.folder}")
    if run.interrupted:
        print(f"go on:    {go_on(run.folder, world)}")
    else:
        model = shlex.quote(str(run.best or run.last))
        if (run.folder / "report.html").is_file():
            print(f"report:   {run.folder / 'report.html'}")
        print(f"evaluate: singleshot eval {model} {_data_to_evaluate(options, best is not None)}")
        print(f"detect:   singleshot detect {model} IMAGES")


def _data_to_evaluate(options: TrainOptions, validated: bool = True) -> str:
    """The data and a split of it that is there and was not trained on, as the command line wants them; a placeholder
    where there is none. validated: whether there were objects to measure on, without which splits may be empty."""
    from singleshot.datasets import find_split, open_source
    from singleshot.datasets.findings import CollectErrors
    from singleshot.errors import DataError

    source = open_source(options.data, follow_links=options.follow_links)
    trained = find_split(options.split or "train", source.splits)
    found = (find_split(name, source.splits) for name in ("test", options.val_split or "val", "val"))
    name = next((name for name in found if name not in (None, trained)), None)
    try:
        if name is not None and not validated:
            source.read_as_written(name, CollectErrors(0))
    except DataError:  # which is the next command's to say
        name = None
    if name is None:
        return "OTHER_DATA"
    data = shlex.quote(options.data) + " --follow-links" * options.follow_links
    return f"{data} --split {shlex.quote(name)}"
