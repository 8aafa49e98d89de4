"""What a reader gives: the annotations of a data set as they were written, nothing checked against the images yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from singleshot.errors import ConfigError, printable

Box = tuple[float, float, float, float]
# Labelling tools round and count from 0 or 1 as they please: this far outside the image is cut without a word.
EDGE_PX = 2.0
_STEP = 1.01  # what rounding and counting from 1 change, with what parts of the image lose as text


class Hull(tuple[float, float, float, float]):
    """A Box that surrounds a polygon, an ellipse or a turned box. It may reach out of the image where tools draw such
    shapes over its edge, and is cut then; its sides are numbers of the file, its centre is not."""

    __slots__ = ()


class RawObject(NamedTuple):
    """One object: class name; box x0 y0 x1 y1 in continuous pixels, or in parts of the image where it is `relative`.

    area: as annotated in square pixels, NaN where it is not said; number: place in its file, from 0; line: in that
    file, from 1, where the reader knows it; tag: COCO's annotation id; score: of a detection, NaN for a label.
    """

    name: str
    box: Box
    difficult: bool = False
    crowd: bool = False
    area: float = math.nan
    number: int = 0
    line: int | None = None
    tag: object = None
    score: float = math.nan


class RawImage(NamedTuple):
    """One image: path of its file; ident: VOC stem, COCO id, or the name without its ending; width and height as
    annotated, 0 where they are not; file: the label file, for messages; relative: boxes are parts of the image;
    listed: COCO's file_name, "" in other forms; ignored: regions in pixels in which nobody labelled the objects."""

    path: str
    ident: str
    width: int
    height: int
    objects: list[RawObject]
    file: str
    relative: bool = False
    listed: str = ""
    ignored: tuple[Box, ...] = ()


def is_region(box: Box) -> bool:
    """Whether the corners of a box are finite and in order."""
    return all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]


class Notation(NamedTuple):
    """How messages of a form show an object: item(object) its name, box(box) the numbers that its file has."""

    item: Callable[[RawObject], str]
    box: Callable[[Box], str]

    def where(self, image: RawImage, obj: RawObject) -> str:
        """File, line where it is known, and object."""
        line = f":{obj.line}" if obj.line is not None else ""
        return f"{printable(image.file)}{line}: {printable(self.item(obj), 160)}"


def show_item(obj: RawObject) -> str:
    """An object by its place in its file and its class."""
    return f"object {obj.number} ({obj.name})"


def show_corners(box: Box) -> str:
    """The four numbers of a corner box."""
    return "box [" + ", ".join(f"{value:.7g}" for value in box) + "]"


CORNERS = Notation(show_item, show_corners)


class DatasetIds(NamedTuple):
    """What COCO numbers. categories: class name -> id; whole: whether image ids are whole numbers, not texts."""

    categories: dict[str, int]
    whole: bool


class RawSet(NamedTuple):
    """A data set. splits: name -> positions in images; made: there were none, they were made here; declared: the
    class names are the data set's own list rather than those that objects have; notation: for messages; ids: those of
    COCO files, None in other forms and where files of one set contradict each other."""

    form: str
    source: str
    class_names: tuple[str, ...]
    images: list[RawImage]
    splits: dict[str, list[int]]
    made: bool = False
    declared: bool = False
    notation: Notation = CORNERS
    ids: DatasetIds | None = None


def cut_hulls(raw: RawSet) -> tuple[RawSet, str]:
    """The same with each Hull cut to its image where a part of it lies inside and the size is known; and what to
    say of those that are not only rounded, "" for none."""
    images, count, first = list(raw.images), 0, ""
    for i, image in enumerate(images):
        if not any(isinstance(obj.box, Hull) for obj in image.objects):
            continue
        width, height = (1.0, 1.0) if image.relative else (float(image.width), float(image.height))
        edge = 0.003 if image.relative else EDGE_PX
        cut = [_cut(obj, width, height) if isinstance(obj.box, Hull) else obj for obj in image.objects]
        for obj, inside in zip(image.objects, cut, strict=True):
            if obj is not inside and max(abs(a - b) for a, b in zip(obj.box, inside.box, strict=True)) > edge:
                count, first = count + 1, first or raw.notation.where(image, obj)
        if any(obj is not inside for obj, inside in zip(image.objects, cut, strict=True)):
            images[i] = image._replace(objects=cut)
    what = f"{count} polygons or turned boxes reach out of their images and are cut there" if count > 1 else ""
    what = what or "1 polygon or turned box reaches out of its image and is cut there"
    return raw._replace(images=images), f"{what} (first: {first})" if count else ""


def _cut(obj: RawObject, width: float, height: float) -> RawObject:
    x0, y0, x1, y1 = obj.box
    inside = Hull((max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)))
    overlaps = inside[0] < inside[2] and inside[1] < inside[3]
    same = inside == obj.box or not overlaps or not all(map(math.isfinite, obj.box))
    return obj if same else obj._replace(box=inside)


def all_above_score(sets: Sequence[RawSet], least: float) -> list[RawSet]:
    """`above_score` of those sets that have scores, the others as they are. Raises ConfigError where none has one."""
    scored = [has_scores(raw) for raw in sets]
    is_wanted = scored if any(scored) else [True] * len(scored)  # which says the first
    return [above_score(raw, least) if yes else raw for raw, yes in zip(sets, is_wanted, strict=True)]


def has_scores(raw: RawSet) -> bool:
    """Whether an object has one, as detections have and labels made by hand have not."""
    return any(not math.isnan(obj.score) for image in raw.images for obj in image.objects)


def above_score(raw: RawSet, least: float) -> RawSet:
    """Without the detections that score lower; objects without a score stay. Raises ConfigError where none has one."""
    if not has_scores(raw):
        raise ConfigError(f"--score-min {least:g}: no object of {printable(raw.source)} has a score; leave it out")
    images = [image._replace(objects=[obj for obj in image.objects if not obj.score < least]) for image in raw.images]
    return raw._replace(images=images)


def say_same(some: list[RawObject], others: list[RawObject], near: bool = False) -> bool:
    """Whether two lists are of the same objects; number, line and tag differ from file to file. near: in any order, and
    boxes may differ as rounding does; areas do not matter."""
    if len(some) != len(others):
        return False
    if not near:
        return all(
            _is_as(a, b) and a.box == b.box and (a.area == b.area or (math.isnan(a.area) and math.isnan(b.area)))
            for a, b in zip(some, others, strict=True)
        )
    left = list(others)
    for obj in some:
        at = next((i for i, b in enumerate(left) if _is_as(obj, b) and _rounded(obj.box, b.box)), None)
        if at is None:
            return False
        del left[at]
    return True


def _is_as(a: RawObject, b: RawObject) -> bool:
    return (a.name, a.difficult, a.crowd) == (b.name, b.difficult, b.crowd)


def _rounded(box: Box, other: Box) -> bool:
    """Whether the numbers of two boxes differ by a pixel, or that part of an image, at most."""
    if box == other:  # infinite sides too
        return True
    step = _STEP if max(map(abs, (*box, *other))) > 2 else 0.005
    return all(abs(a - b) <= step for a, b in zip(box, other, strict=True))
