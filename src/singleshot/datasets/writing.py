"""Writing a data set in any form that has a writer: labels, splits and image files, all or nothing."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from singleshot.datasets.formats import FORMATS, Format, written_formats
from singleshot.datasets.ignored import ignored_as_crowds
from singleshot.datasets.plausible import require_plausible
from singleshot.datasets.raw import RawSet
from singleshot.datasets.writers.common import WritePlan, area_of, as_annotated, copy_images, measured, with_sizes
from singleshot.datasets.writers.strict import FIX, refuse_image, usable_boxes
from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_folder

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """What was written: how many images and objects, and the images of each split."""

    images: int
    objects: int
    splits: dict[str, int]


def write_dataset(
    raw: RawSet,
    out: Path,
    form: str,
    on_image: Callable[[], None] | None = None,
    formats: Mapping[str, Format] = FORMATS,
    *,
    strict: bool = False,
    clip_boxes: bool = False,
    trust_sizes: bool = False,
) -> Written:
    """Write `raw` to the new folder `out` as `form`, one of the `formats` that have a writer.

    Image files are copied with their bytes unchanged, from local or remote paths; labels and splits are written as
    they are in `raw`, boxes outside their image and without area included, unless `strict`: then what `data check`
    calls an error is refused, and with clip_boxes such boxes are cut or dropped. trust_sizes: those in `raw` are the
    files', which need not be of a kind that is read. An image in no split and a split without images are left out.
    `on_image` is called after each image. The folder appears only once it is complete.

    Raises ConfigError for an unknown form, or where something other than an empty folder is at `out`; DataError for
    an image that cannot be read or measured, a box that is not finite, a text that the form cannot hold, and what
    `strict` refuses.
    """
    writers = written_formats(formats)
    writer = writers.get(form)
    if writer is None:
        raise ConfigError(f"{printable(form)}: no form of data sets that is written (want {', '.join(writers)})")
    if strict:
        require_plausible(raw, f", {FIX}")
    plan = writer.plan(ignored_as_crowds(raw))
    measure = refuse_image if strict else measured if writer.measured and not trust_sizes else as_annotated
    _say_lost(plan, form)
    # The real place: a link to an empty folder cannot be replaced itself.
    out = Path(os.path.realpath(out))
    try:
        with atomic_folder(out) as folder:
            places = [folder / writer.place(plan, i) for i in range(len(plan.images))]
            plan = with_sizes(plan, copy_images(plan.images, places, measure, on_image))
            if strict:
                plan = usable_boxes(plan, clip_boxes)
                if not writer.measured:  # read again as pixels, of which those that are left may all lie within one
                    require_plausible(raw._replace(images=plan.images, form=form), f", {FIX}")
            writer.write(plan, folder)
    except OSError as error:
        raise ConfigError(f"{printable(out)}: cannot be written ({error.strerror or printable(error)})") from error
    objects = sum(len(image.objects) for image in plan.images)
    return Written(len(plan.images), objects, {name: len(members) for name, members in plan.splits.items()})


def _say_lost(plan: WritePlan, form: str) -> None:
    """Say in the log what the form has no place for and no list of ours keeps."""
    objects = [obj for image in plan.images for obj in image.objects]
    areas = sum(not math.isnan(obj.area) and not math.isclose(obj.area, area_of(math.nan, obj.box)) for obj in objects)
    if areas and form != "coco":
        logger.info("areas that are not those of the boxes have no place in %s: %d are left out", form, areas)
    turned = sum(obj.box[0] > obj.box[2] or obj.box[1] > obj.box[3] for obj in objects)
    if turned and form == "labelme":
        logger.info("boxes that end before they start are written in order: %d", turned)
