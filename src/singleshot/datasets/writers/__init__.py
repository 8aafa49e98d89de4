"""Writing a data set in any of the forms that are read: labels, splits and image files, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from singleshot.datasets.raw import RawSet
from singleshot.datasets.writers import coco, csv, voc, yolo
from singleshot.datasets.writers.common import WritePlan, copy_images, with_sizes
from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_folder


class Writer(NamedTuple):
    """One form. about: for people; plan(raw): names for everything, DataError where the form cannot hold it;
    place(plan, i): where image file i goes; write(plan, folder): the label files; measured: sizes are always taken
    from the files, as the readers of this form do."""

    about: str
    plan: Callable[[RawSet], WritePlan]
    place: Callable[[WritePlan, int], str]
    write: Callable[[WritePlan, Path], None]
    measured: bool = False


WRITERS = {
    "voc": Writer("Pascal VOC", voc.plan, voc.place, voc.write),
    "coco": Writer("COCO", coco.plan, coco.place, coco.write),
    "yolo": Writer("YOLO", yolo.plan, yolo.place, yolo.write, measured=True),
    "csv": Writer("CSV", csv.plan, csv.place, csv.write),
}


class Written(NamedTuple):
    """What was written: how many images and objects, and the images of each split."""

    images: int
    objects: int
    splits: dict[str, int]


def write_dataset(raw: RawSet, out: Path, form: str, on_image: Callable[[], None] | None = None) -> Written:
    """Write `raw` to the new folder `out` as `form`, one of WRITERS: "voc", "coco", "yolo" or "csv".

    Image files are copied with their bytes unchanged, from local or remote paths; labels and splits are written as
    they are in `raw`, boxes outside their image and without area included. An image in no split and a split without
    images are left out. `on_image` is called after each image. The folder appears only once it is complete.

    Raises ConfigError for an unknown form, or where something other than an empty folder is at `out`; DataError for
    an image that cannot be read or measured, a box that is not finite, and a text that the form cannot hold.
    """
    writer = WRITERS.get(form)
    if writer is None:
        raise ConfigError(f"{printable(form)}: no form of data sets that is written (want {', '.join(WRITERS)})")
    plan = writer.plan(raw)
    # The real place: a link to an empty folder cannot be replaced itself.
    out = Path(os.path.realpath(out))
    try:
        with atomic_folder(out) as folder:
            places = [folder / writer.place(plan, i) for i in range(len(plan.images))]
            sizes = copy_images(plan.images, places, writer.measured, on_image)
            plan = with_sizes(plan, sizes)
            writer.write(plan, folder)
    except OSError as error:
        raise ConfigError(f"{printable(out)}: cannot be written ({error.strerror or printable(error)})") from error
    objects = sum(len(image.objects) for image in plan.images)
    return Written(len(plan.images), objects, {name: len(members) for name, members in plan.splits.items()})
