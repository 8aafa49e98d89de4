"""The JSON forms of annotation programs: Create ML, VIA 2, Label Studio and LabelMe.

Flags go where the program has attributes of objects, else under their names beside the box, where it passes over them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from singleshot.datasets.raw import RawObject
from singleshot.datasets.writers.common import WritePlan, corner_and_size, number_text, stem_of, write_items
from singleshot.datasets.writers.split_folders import (
    CREATEML,
    LABEL_STUDIO,
    VIA,
    folder_of,
    groups,
    place,
    write_lists,
)


class JsonForm(NamedTuple):
    """A form with one file of all images in a folder. name: of that file; brackets: round its images; image(plan, i,
    folder): the text of one of them, whose file lies in that folder already."""

    name: str
    brackets: str
    image: Callable[[WritePlan, int, Path], str]

    def write(self, plan: WritePlan, folder: Path) -> None:
        """The label file of each split, and the lists of this project where they are needed."""
        for below, members in groups(plan).items():
            with (folder / below / self.name).open("w", encoding="ascii", newline="\n") as file:
                items = (self.image(plan, i, folder) for i in members)
                write_items(file, self.brackets[0], items, f"{self.brackets[1]}\n")
        write_lists(plan, folder)


def _flags(obj: RawObject, yes: object = True) -> dict[str, object]:
    """Those that are set."""
    return {key: yes for key, flag in (("difficult", obj.difficult), ("crowd", obj.crowd)) if flag}


# ---------------------------------------------------------------------------------------------- Create ML


def _createml_image(plan: WritePlan, i: int, folder: Path) -> str:
    notes = []
    for obj in plan.images[i].objects:
        x, y, width, height = corner_and_size(obj)
        middle = {"x": x + width / 2, "y": y + height / 2, "width": width, "height": height}
        box = {key: number_text(value) for key, value in middle.items()}
        notes.append({"label": obj.name, "coordinates": box, **_flags(obj)})
    return json.dumps({"image": plan.names[i], "annotations": notes})


# ---------------------------------------------------------------------------------------------- VIA


def _via_image(plan: WritePlan, i: int, folder: Path) -> str:
    regions = []
    for obj in plan.images[i].objects:
        values = dict(zip(("x", "y", "width", "height"), map(number_text, corner_and_size(obj)), strict=True))
        attributes = {"class": obj.name, **_flags(obj, "1")}  # those of VIA are texts
        regions.append({"shape_attributes": {"name": "rect", **values}, "region_attributes": attributes})
    name, size = plan.names[i], (folder / place(plan, i)).stat().st_size
    content = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    return f"{json.dumps(f'{name}{size}')}: {json.dumps(content)}"


# ---------------------------------------------------------------------------------------------- Label Studio


def _studio_task(plan: WritePlan, i: int, folder: Path) -> str:
    image = plan.images[i]
    size = {"original_width": image.width, "original_height": image.height, "image_rotation": 0}
    results = []
    for k, obj in enumerate(image.objects):
        sides = (image.width, image.height) * 2
        percent = [number_text(100 * v / side) for v, side in zip(corner_and_size(obj), sides, strict=True)]
        value: dict[str, Any] = dict(zip(("x", "y", "width", "height"), percent, strict=True))
        value |= {"rotation": 0, "rectanglelabels": [obj.name]}
        control = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
        flags = {"meta": _flags(obj)} if obj.difficult or obj.crowd else {}
        results.append({"id": f"{i + 1}-{k + 1}", **control, **size, "value": value, **flags})
    # How Label Studio calls files of a local storage whose root is the folder.
    data = {"image": f"/data/local-files/?d={quote(place(plan, i))}"}
    return json.dumps({"id": i + 1, "data": data, "annotations": [{"id": i + 1, "result": results}]})


# ---------------------------------------------------------------------------------------------- LabelMe


def write_labelme(plan: WritePlan, folder: Path) -> None:
    """A JSON beside each image."""
    for i, image in enumerate(plan.images):
        shapes = []
        for obj in image.objects:
            x0, y0, x1, y1 = map(number_text, obj.box)
            shape = {"label": obj.name, "points": [[x0, y0], [x1, y1]], "group_id": None, "description": ""}
            shapes.append({**shape, "shape_type": "rectangle", "flags": _flags(obj)})
        content: dict[str, Any] = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": plan.names[i],
            "imageData": None,
        }
        content |= {"imageHeight": image.height, "imageWidth": image.width}
        text = json.dumps(content, indent=2) + "\n"
        label = folder / folder_of(plan, i) / f"{stem_of(plan.names[i])}.json"
        label.write_text(text, encoding="ascii", newline="\n")
    write_lists(plan, folder)


CREATEML_FORM = JsonForm(CREATEML, "[]", _createml_image)
VIA_FORM = JsonForm(VIA, "{}", _via_image)
LABEL_STUDIO_FORM = JsonForm(LABEL_STUDIO, "[]", _studio_task)
