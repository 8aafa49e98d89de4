"""`singleshot demo`: the main job from end to end, on embedded scenes or on your own data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import DeviceOption, numbered_folder
from singleshot.errors import DataError, printable
from singleshot.files import atomic_write

DEMO_MODEL = "ssd320-mini"
PICTURES = 12


def demo(
    data: Annotated[
        str | None, typer.Argument(help="Your own folder of labelled images; default: drawn scenes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    time: Annotated[str, typer.Option("--time", help="How long to train.")] = "4m30s",
    model: Annotated[str, typer.Option(help="Which network.")] = DEMO_MODEL,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train, evaluate and detect in one go, and say what to type next.

    Example: singleshot demo, or singleshot demo path/to/VOC2007
    """
    from singleshot.cli.detect import run_detection
    from singleshot.cli.eval import run_evaluation, write_report
    from singleshot.cli.train import TrainOptions, run_training
    from singleshot.datasets import available_splits, find_split, open_dataset
    from singleshot.metrics.table import format_table

    source = data if data is not None else _scenes(out)
    splits = available_splits(source)
    unseen = find_split("test", splits) or find_split("val", splits)
    if unseen is None:
        raise DataError(f"{printable(source)}: has no split test or val to evaluate on; it has {', '.join(splits)}")
    test_set = open_dataset(source, unseen)  # before training: a mistake in it should show at once
    folder = numbered_folder(out, "run")
    options = TrainOptions(source, model=model, recipe="scratch", time=time, backbone_weights="none", seed=seed)
    result, _ = run_training(options, folder, device=device)
    best = folder / "best.safetensors"
    if result.interrupted:
        print(f"stopped; go on with: singleshot train --resume --out {folder}")
        raise typer.Exit(130)
    evaluation, images, _ = run_evaluation(str(best), source, unseen, device=device)
    report = {"model": str(best), "data": source, "split": unseen, "images": images, **evaluation.to_dict()}
    write_report(folder, report, evaluation)
    print(format_table(evaluation))
    pictures = [_file(test_set.names[i], folder / "unseen" / f"{i}") for i in range(min(PICTURES, len(test_set)))]
    code = run_detection(str(best), pictures, folder / "detections", device=device, quiet=True)
    if code:
        raise typer.Exit(code)
    print(f"""
mAP50 {evaluation.mean_ap:.4f} on {images} unseen pictures ({unseen}), after {result.seconds:.0f} s of training
  the model     {best}
  pictures      {folder / "detections"}
  results       {folder / "detections"}/results.json
  figures       {folder / "eval.json"}, {folder / "curves.png"}, {folder / "log.csv"}
next, with your own labelled images:
  singleshot train path/to/your/data --time 20m --out runs/mine
  singleshot eval runs/mine/best.safetensors path/to/your/data --split test
  singleshot detect runs/mine/best.safetensors photo.jpg folder/ video.mp4""")


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
