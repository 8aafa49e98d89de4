"""`singleshot eval`."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import (
    ClassesOption,
    DeviceOption,
    EngineOption,
    FollowLinksOption,
    JsonOption,
    NoTileOption,
    PrecisionOption,
    QuietOption,
    RuleOption,
    ThreadsOption,
    TileOption,
    TilesOnlyOption,
    count_of,
    one_tile,
    progress_bar,
)


def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, such as runs/train-1/best.safetensors, or an exported file.")
    ],
    data: Annotated[str, typer.Argument(help="Labelled images, in any form that data check reads.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    metric: Annotated[str, typer.Option(help="voc07 (11 points), voc (area) or coco (.5:.95, by size).")] = "voc",
    out: Annotated[Path | None, typer.Option(help="Folder for report.html, eval.json and curves.png.")] = None,
    save: Annotated[Path | None, typer.Option(help="New or empty folder for the detections.")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="With --save: json, coco, coco-labels, voc, yolo or csv. Default: coco, with its ids, for COCO data, "
            "else json.",
        ),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for the worst errors and suspected label errors: pictures and lists."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images per forward pass.")] = 16,
    rule: RuleOption = None,
    score_min: Annotated[float | None, typer.Option(help="Ignore lower scores. Default: the model's, .01.")] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="IoU over which a weaker box is dropped. Default: the model's.")
    ] = None,
    device: DeviceOption = "auto",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, max=64, help="Threads that read images.")] = None,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Clip ground truth to the image instead of stopping.")
    ] = False,
    classes: ClassesOption = None,
    follow_links: FollowLinksOption = False,
    tile: TileOption = None,
    no_tile: NoTileOption = False,
    tiles_only: TilesOnlyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Average precision of a model on labelled images: per class and over all; difficult objects are ignored.

    Then what is wrong (class, location, duplicates, background, missed objects) and how much of it each kind costs.

    Example: singleshot eval runs/train-1/best.safetensors path/to/VOC2007 --split test --metric voc07 --out report
    """
    from singleshot.api.evaluate import EvaluateOptions, run_evaluation

    options = EvaluateOptions.of({**locals(), "classes": classes or None, "tile": one_tile(tile, no_tile)})
    done = run_evaluation(options, functools.partial(progress_bar, quiet=quiet))
    if as_json:
        print(json.dumps(done.to_dict()))
        return
    from singleshot.metrics import format_errors, format_table

    print(format_table(done.evaluation))
    if done.evaluation.errors is not None:
        print(f"\n{format_errors(done.evaluation.errors)}")
    if not quiet:
        print(f"{count_of(done.evaluation.images, 'image')} of {split} in {done.seconds:.1f} s", file=sys.stderr)
        if out is not None:
            print(f"written: {out / 'report.html'}, {out / 'eval.json'}, {out / 'curves.png'}", file=sys.stderr)
        if errors is not None:
            print(f"errors: {errors}", file=sys.stderr)
        if save is not None:
            print(f"detections: {save}", file=sys.stderr)
