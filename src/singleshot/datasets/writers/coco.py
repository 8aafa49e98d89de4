"""COCO folders: annotations/instances_<split>.json and images/."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from singleshot.datasets.raw import RawObject, RawSet
from singleshot.datasets.splits import KNOWN_SPLITS
from singleshot.datasets.writers.common import WritePlan, area_of, make_write_plan, number_text, write_items
from singleshot.errors import DataError, printable

logger = logging.getLogger(__name__)


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a data set without a class, which COCO's readers refuse."""
    found = make_write_plan(raw)
    if not found.class_names:
        raise DataError(f"{printable(raw.source)}: has no class, and a COCO file needs one; convert to another form")
    (first, *others) = found.splits
    if others or first in KNOWN_SPLITS:
        return found
    # A COCO folder's only file is divided by its readers unless it names a split that they know.
    logger.info("%s: its only split %s is written as train", printable(raw.source), printable(first))
    return replace(found, splits={"train": found.splits[first]})


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return f"images/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    """One file for each split. An image and its annotations have the same ids in each of them."""
    labels = folder / "annotations"
    labels.mkdir()
    category = {name: ident for ident, name in enumerate(plan.class_names, 1)}
    first, starts = 1, []  # of annotation ids
    for image in plan.images:
        starts.append(first)
        first += len(image.objects)
    for split, members in plan.splits.items():
        images = (
            {"id": i + 1, "file_name": plan.names[i], "width": plan.images[i].width, "height": plan.images[i].height}
            for i in members
        )
        annotations = (
            {"id": starts[i] + k, "image_id": i + 1, "category_id": category[obj.name], **_object(obj)}
            for i in members
            for k, obj in enumerate(plan.images[i].objects)
        )
        with (labels / f"instances_{split}.json").open("w", encoding="ascii", newline="\n") as file:
            categories = ({"id": ident, "name": name} for name, ident in category.items())
            write_items(file, '{"images": [', map(json.dumps, images), "],\n")
            write_items(file, '"annotations": [', map(json.dumps, annotations), "],\n")
            write_items(file, '"categories": [', map(json.dumps, categories), "]}\n")


def _object(obj: RawObject) -> dict[str, Any]:
    x0, y0, x1, y1 = map(float, obj.box)
    box = [number_text(v) for v in (x0, y0, x1 - x0, y1 - y0)]
    item = {"bbox": box, "area": number_text(area_of(obj.area, obj.box)), "iscrowd": int(obj.crowd)}
    # The key that other converters of VOC's difficult objects write.
    return {**item, "ignore": 1} if obj.difficult else item
