"""`singleshot demo`: the main job from end to end, on embedded scenes or on your own data."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from singleshot.api.options import DEFAULT_MODEL
from singleshot.cli.common import STOPPED, DeviceOption
from singleshot.cli.detect import RunPrinter
from singleshot.cli.detect import run as detect
from singleshot.cli.train import watch
from singleshot.errors import DataError, printable
from singleshot.extras import require
from singleshot.files import atomic_write

if TYPE_CHECKING:
    from singleshot.metrics import Evaluation

PICTURES = 12


def demo(
    data: Annotated[
        str | None, typer.Argument(help="Your own folder of labelled images; default: drawn scenes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    time: Annotated[str, typer.Option("--time", help="How long to train.")] = "4m30s",
    model: Annotated[str, typer.Option(help="Which network.")] = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train, evaluate and detect in one go, and say what to type next.

    Example: singleshot demo, or singleshot demo path/to/VOC2007
    """
    from singleshot.api.detect import DetectOptions
    from singleshot.api.evaluate import EvaluateOptions, run_evaluation
    from singleshot.api.train import TrainOptions, run_training
    from singleshot.datasets import open_dataset
    from singleshot.metrics.table import format_table

    require("train", "demo", "torch")  # before scenes are drawn
    source = data if data is not None else _scenes(out)
    unseen = _unseen_split(source)
    test_set = open_dataset(source, unseen)  # before training: a mistake in it should show at once
    print("starting ...", file=sys.stderr, flush=True)  # PyTorch takes seconds to import
    from singleshot.api.run_folder import new_folder

    with new_folder(out, "run") as folder:
        options = TrainOptions(
            source, model, str(folder), "scratch", time=time, backbone_weights="none", seed=seed, device=device
        )
        run = run_training(options, watch)
    best = str(run.best or run.last)
    if run.interrupted:
        print(f"stopped; go on with: singleshot train --resume --out {folder}")
        raise typer.Exit(STOPPED)
    evaluated = run_evaluation(EvaluateOptions(best, source, unseen, out=str(folder), device=device))
    print(format_table(evaluated.evaluation))
    pictures = tuple(_file(test_set.names[i], folder / "unseen" / f"{i}") for i in range(min(PICTURES, len(test_set))))
    found = folder / "detections"
    code = detect(DetectOptions(best, pictures, str(found), device=device), RunPrinter(quiet=True))
    if code:
        raise typer.Exit(code)
    evaluation = evaluated.evaluation
    print(f"""
{_score(evaluation)} on {evaluation.images} unseen pictures ({unseen}), after {run.seconds:.0f} s of training
  the model     {best}
  pictures      {found}
  results       {found}/results.json
  report        {folder / "report.html"}
  figures       {folder / "eval.json"}, {folder / "curves.png"}, {folder / "log.csv"}
next, with your own labelled images:
  singleshot train path/to/your/data --time 20m --out runs/mine
  singleshot eval runs/mine/best.safetensors path/to/your/data --split test
  singleshot detect runs/mine/best.safetensors photo.jpg folder/ video.mp4""")


def _score(evaluation: Evaluation) -> str:
    """The figure in words; without an object that counts there is none."""
    measured = not math.isnan(evaluation.mean_ap)
    return f"mAP50 {evaluation.mean_ap:.4f}" if measured else "nothing to measure (no mAP50): no object counts"


def _unseen_split(source: str) -> str:
    """The split to evaluate on. Raises DataError where there is none."""
    from singleshot.datasets import available_splits, find_split

    splits = available_splits(source)
    unseen = find_split("test", splits) or find_split("val", splits)
    if unseen is None:
        raise DataError(f"{printable(source)}: has no split test or val to evaluate on; it has {', '.join(splits)}")
    return unseen


def _file(name: str, copy: Path) -> str:
    """The path of an image that may lie in a tar or behind an address; then it is copied."""
    if Path(name).is_file():
        return name
    from singleshot.images.decode import MAX_FILE_BYTES
    from singleshot.storage import read_limited

    with atomic_write(copy) as temporary:
        temporary.write_bytes(read_limited(name, MAX_FILE_BYTES, "image"))
    return str(copy)


def _scenes(out: Path) -> str:
    from singleshot.scenes.scenes import write_scenes

    folder = out / "scenes"
    print(f"drawing the scenes into {folder} ...", file=sys.stderr, flush=True)
    write_scenes(folder)
    return str(folder)
