"""`singleshot data convert`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import FollowLinksOption, JsonOption, LabelScoreOption, QuietOption, count_of, progress_bar
from singleshot.errors import ConfigError, printable
from singleshot.files import is_free


def convert(
    data: Annotated[
        list[str],
        typer.Argument(metavar="A...", help="The data set: a folder, file or address in any form; several are joined."),
    ],
    out: Annotated[Path, typer.Argument(metavar="B", help="A new folder for the converted one.")],
    to: Annotated[str, typer.Option("--to", help="voc, coco, yolo, csv, cvat, createml, via, labelstudio or labelme.")],
    split_seed: Annotated[
        int | None, typer.Option(min=0, help="Make train, val and test anew, by a hash of names and this number.")
    ] = None,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Cut boxes to the image and drop empty ones instead of stopping.")
    ] = False,
    score_min: LabelScoreOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a data set in another form, or several as one: images, boxes, flags and splits. A is left as it is.

    What data check calls an error is not written: it ends the command, and nothing is left of B. Splits that were made
    while reading, where A has none, are written too and so are fixed from then on. Several sets, of any forms, become
    one: classes by name, splits by what they are for.

    Example: singleshot data convert path/to/VOC2007 voc-as-coco --to coco
    Example: singleshot data convert mine theirs joined --to yolo
    """
    from singleshot.datasets import open_source
    from singleshot.datasets.checks.left_out import read_left_out, write_left_out
    from singleshot.datasets.formats import FORMATS, written_formats
    from singleshot.datasets.merged_sets import merge_sets
    from singleshot.datasets.raw import all_above_score
    from singleshot.datasets.splits import make_splits
    from singleshot.datasets.writing import write_dataset

    if to not in written_formats():
        raise ConfigError(f"--to {printable(to)}: want one of {', '.join(written_formats())}")
    started = time.perf_counter()
    for one in data:
        _refuse_place(one, out)
    sources = [open_source(one, follow_links=follow_links) for one in data]
    sets = [source.read(None) for source in sources]
    if score_min is not None:
        sets = all_above_score(sets, score_min)
    raw = sets[0] if len(sets) == 1 else merge_sets(sets)
    if split_seed is not None:
        raw = raw._replace(splits=make_splits([image.path for image in raw.images], split_seed))
    used = {i for members in raw.splits.values() for i in members}
    with progress_bar(len(used), "images", quiet) as advance:
        done = write_dataset(raw, out, to, advance, strict=True, clip_boxes=clip_boxes)
    write_left_out(out, [message for source in sources for message in read_left_out(source)])
    forms = " and ".join(dict.fromkeys(one.form for one in sets))
    seconds = round(time.perf_counter() - started, 2)
    if as_json:
        places = {"data": data[0] if len(data) == 1 else data, "from": forms, "out": str(out), "to": to}
        print(json.dumps({**places, **done._asdict(), "class_names": raw.class_names, "seconds": seconds}))
        return
    splits = ", ".join(f"{printable(name, 60)} {count}" for name, count in done.splits.items())
    print(
        f"{printable(out)}: {FORMATS[to].about}, {count_of(done.images, 'image')} ({splits}),"
        f" {count_of(done.objects, 'object')}"
    )
    if not quiet:
        print(f"converted from {forms} in {seconds:.1f} s", file=sys.stderr)


def _refuse_place(data: str, out: Path) -> None:
    """Raise ConfigError for a place that is taken, or where A and B would lie in each other."""
    where = printable(out)
    there, new = os.path.realpath(data), os.path.realpath(out)
    if "://" not in data:
        # A named file is no folder to be in: its data set may lie where the new one is wanted.
        if new == there or (Path(data).is_dir() and _is_inside(new, there)):
            raise ConfigError(f"{where}: lies in the data set {printable(data)} itself; give a folder outside it")
        if _is_inside(there, new):
            raise ConfigError(f"{where}: holds the data set {printable(data)}; give a new folder")
    try:
        free = is_free(out)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be looked at ({error.strerror}); give another folder") from error
    if not free:
        raise ConfigError(f"{where}: is there already; give a new folder, or remove it")


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
