"""COCO folders: annotations/instances_<split>.json and images/."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from singleshot.datasets.raw import RawObject, RawSet
from singleshot.datasets.splits import KNOWN_SPLITS
from singleshot.datasets.writers.common import (
    WritePlan,
    area_of,
    clean_name,
    corner_and_size,
    make_write_plan,
    number_text,
    write_items,
)
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image

logger = logging.getLogger(__name__)

_DEEPEST = 8  # folders of a name that is kept


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a data set without a class, which COCO's readers refuse."""
    found = make_write_plan(raw)
    if not found.class_names:
        raise DataError(f"{printable(raw.source)}: has no class, and a COCO file needs one; convert to another form")
    found = _keep_names(found)
    (first, *others) = found.splits
    if others or first in KNOWN_SPLITS:
        return found
    # A COCO folder's only file is divided by its readers unless it names a split that they know.
    logger.info("%s: its only split %s is written as train", printable(raw.source), printable(first))
    return replace(found, splits={"train": found.splits[first]})


def _keep_names(plan: WritePlan) -> WritePlan:
    """With the file names that COCO files list, folders included, where each is one in its split."""
    listed = [image.listed for image in plan.images]
    keys = [f"{split}/{name}".casefold() for split, name in zip(plan.home, listed, strict=True)]
    if len(set(keys)) < len(keys) or not all(map(_is_plain, listed)):
        return plan
    return replace(plan, names=listed)


def _is_plain(name: str) -> bool:
    """Whether a name may stand as it is below images/: it leads nowhere else, and every part is a name everywhere."""
    parts = name.split("/")
    plain = all(part and ":" not in part and clean_name(part, "") == part for part in parts)
    return plain and len(parts) <= _DEEPEST and is_image(name)


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder; names that repeat in another split lie in folders of splits."""
    return f"images/{plan.home[i]}/{plan.names[i]}" if plan.names_repeat else f"images/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    """One file for each split. An image and its annotations have the same ids in each of them, those of the COCO
    files that were read if it was read from some."""
    labels = folder / "annotations"
    labels.mkdir()
    category, idents = _categories(plan), _image_ids(plan)
    first, starts = 1, []  # of annotation ids
    for image in plan.images:
        starts.append(first)
        first += len(image.objects)
    for split, members in plan.splits.items():
        images = (
            {
                "id": idents[i],
                "file_name": plan.names[i],
                "width": plan.images[i].width,
                "height": plan.images[i].height,
            }
            for i in members
        )
        annotations = (
            {"id": starts[i] + k, "image_id": idents[i], "category_id": category[obj.name], **_object(obj)}
            for i in members
            for k, obj in enumerate(plan.images[i].objects)
        )
        with (labels / f"instances_{split}.json").open("w", encoding="ascii", newline="\n") as file:
            categories = ({"id": ident, "name": name} for name, ident in category.items())
            write_items(file, '{"images": [', map(json.dumps, images), "],\n")
            write_items(file, '"annotations": [', map(json.dumps, annotations), "],\n")
            write_items(file, '"categories": [', map(json.dumps, categories), "]}\n")


def _categories(plan: WritePlan) -> dict[str, int]:
    known = {} if plan.ids is None else plan.ids.categories
    if set(plan.class_names) <= set(known):
        return {name: known[name] for name in plan.class_names}
    return {name: ident for ident, name in enumerate(plan.class_names, 1)}


def _image_ids(plan: WritePlan) -> list[int] | list[str]:
    """As they were read where no split has one twice, as it can be when several files are joined."""
    idents = [image.ident for image in plan.images]
    if plan.ids is None or any(len({idents[i] for i in some}) < len(some) for some in plan.splits.values()):
        return list(range(1, len(idents) + 1))
    return [int(ident) for ident in idents] if plan.ids.whole else idents


def _object(obj: RawObject) -> dict[str, Any]:
    box = [number_text(value) for value in corner_and_size(obj)]
    item = {"bbox": box, "area": number_text(area_of(obj.area, obj.box)), "iscrowd": int(obj.crowd)}
    # The key that other converters of VOC's difficult objects write.
    return {**item, "ignore": 1} if obj.difficult else item
