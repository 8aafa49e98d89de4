"""What a reader gives: the annotations of a data set as they were written, nothing checked against the images yet."""

from __future__ import annotations

import math
from typing import NamedTuple

Box = tuple[float, float, float, float]


class RawObject(NamedTuple):
    """One object: class name; box x0 y0 x1 y1 in continuous pixels, or in parts of the image where it is `relative`.

    area: as annotated in square pixels, NaN where it is not said; number: place in its file, from 0; line: in that
    file, from 1, where the reader knows it; tag: COCO's annotation id.
    """

    name: str
    box: Box
    difficult: bool = False
    crowd: bool = False
    area: float = math.nan
    number: int = 0
    line: int | None = None
    tag: object = None


class RawImage(NamedTuple):
    """One image: path of its file; ident: VOC stem, COCO id, or the name without its ending; width and height as
    annotated, 0 where they are not; file: the label file, for messages; relative: boxes are parts of the image."""

    path: str
    ident: str
    width: int
    height: int
    objects: list[RawObject]
    file: str
    relative: bool = False


class RawSet(NamedTuple):
    """A data set. splits: name -> positions in images; made: there were none, they were made here; declared: the
    class names are the data set's own list rather than those that objects have."""

    form: str
    source: str
    class_names: tuple[str, ...]
    images: list[RawImage]
    splits: dict[str, list[int]]
    made: bool = False
    declared: bool = False


def say_same(some: list[RawObject], others: list[RawObject]) -> bool:
    """Whether two lists are of the same objects; number, line and tag differ from file to file."""
    return len(some) == len(others) and all(
        (a.name, a.box, a.difficult, a.crowd) == (b.name, b.box, b.difficult, b.crowd)
        and (a.area == b.area or (math.isnan(a.area) and math.isnan(b.area)))
        for a, b in zip(some, others, strict=True)
    )


def show_item(form: str, obj: RawObject) -> str:
    """What messages call an object."""
    if form == "coco":
        return f"annotation {obj.number} (id {obj.tag}, {obj.name})"
    return f"object {obj.number} ({obj.name})"


def show_box(form: str, box: Box) -> str:
    """The box as its file has it, for messages."""
    x0, y0, x1, y1 = box
    if form == "voc":
        values = (x0 + 1, y0 + 1, x1, y1)
        return "box " + " ".join(f"{k} {v:.7g}" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True))
    if form == "coco":
        return f"bbox [{x0:.7g}, {y0:.7g}, {x1 - x0:.7g}, {y1 - y0:.7g}] (x, y, width, height)"
    if form == "yolo":
        return f"box {(x0 + x1) / 2:.7g} {(y0 + y1) / 2:.7g} {x1 - x0:.7g} {y1 - y0:.7g} (centre, width, height)"
    return f"box [{x0:.7g}, {y0:.7g}, {x1:.7g}, {y1:.7g}]"
