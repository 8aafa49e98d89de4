"""COCO JSON files: images, annotations with bbox x y w h, categories with arbitrary ids.

COCO's boxes are continuous already. Category ids become labels 0, 1, 2, ... in the order of the ids.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any, NamedTuple

from singleshot.datasets.findings import RAISE_ERRORS, CollectErrors, RaiseErrors
from singleshot.datasets.packed_strings import is_encodable, is_name
from singleshot.datasets.raw import Box, DatasetIds, Hull, Notation, RawImage, RawObject, RawSet
from singleshot.datasets.readers import coco_results
from singleshot.datasets.readers.coco_layout import CocoFile, choose_files, coco_file, coco_files, is_undivided
from singleshot.datasets.readers.coco_values import box_of, id_of, is_points_alone, number, whole
from singleshot.datasets.readers.common import (
    MADE_SPLITS,
    UniqueImages,
    divide,
    find_images,
    line_of_item,
    parse_json,
    say_parts,
    whole_side,
    without_repeated,
)
from singleshot.datasets.readers.shapes import report_passed
from singleshot.datasets.splits import left_for_train, say_held_back
from singleshot.datasets.tree import Tree, join, open_tree
from singleshot.errors import DataError, printable

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2 * 2**30

_LISTS = ("images", "annotations", "categories")


class _Images(NamedTuple):
    """position: image id -> place in the lists."""

    position: dict[int | str, int]
    files: list[str]
    sizes: list[tuple[int, int]]


class _Read(NamedTuple):
    """One file: class names and their ids, in the order of the ids; whether image ids are numbers; the images; whether
    a name has two ids."""

    ids: DatasetIds
    images: list[RawImage]
    is_doubled: bool


def sniff(tree: Tree) -> bool:
    """Whether it is a folder with COCO files."""
    return bool(coco_files(tree))


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits of a COCO folder, without their years; of a file the one that its name says."""
    files = [coco_file(file)] if file else coco_files(tree)
    if is_undivided(files, file):
        return MADE_SPLITS
    return tuple(dict.fromkeys(found.split for found in files))


# ---------------------------------------------------------------------------------------------- reading


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a COCO folder, or the one `file` of it: the split `wanted`, or all of them.

    A named file is one split, whatever is wanted. A folder's only file that names no split, or its parts, are divided
    here; one part may be asked for by its name.
    """
    every = files = [coco_file(file)] if file else coco_files(tree)
    made = is_undivided(files, file, wanted)
    if made:
        say_parts(tree, [one.name for one in files], problems)
    if not (made or file or wanted is None):
        files = choose_files(tree, files, wanted)
    names: list[str] = []
    ids: list[DatasetIds] = []
    unique = UniqueImages()
    splits_of: dict[str, list[int]] = {}
    again: dict[str, str] = {}
    is_doubled = False
    for one in files:
        found = _read_file(tree, one, problems)
        if found is None:
            continue
        if one.is_rest:
            found = _left_for_train(tree, one, found, [other for other in every if other is not one], problems)
        names += [name for name in found.ids.categories if name not in names]
        ids.append(found.ids)
        is_doubled |= found.is_doubled
        # Two files of one split are told apart by their whole names.
        split = one.split if one.split not in splits_of else one.tag
        again |= {split: one.split} if split != one.split else {}
        split = "" if made else split
        splits_of.setdefault(split, []).extend(unique.place(split, found.images))
    unique.report(problems)
    if file and wanted is not None:
        splits_of = dict(zip([wanted], splits_of.values(), strict=False))
    splits_of = without_repeated(splits_of, again, tree.root, problems)
    if made:
        splits_of = divide(tree, [image.path for image in unique.images], wanted)
    source = tree.path(files[0].name) if len(files) == 1 else tree.root
    shown = Notation(_show_item, _show_box)
    joined = None if is_doubled else _joined(ids)
    return RawSet("coco", source, tuple(names), unique.images, splits_of, made, True, shown, joined)


def _left_for_train(tree: Tree, file: CocoFile, found: _Read, others: list[CocoFile], problems: RaiseErrors) -> _Read:
    """Without the images that files of other splits have."""
    read = filter(None, (_read_file(tree, other, CollectErrors(0)) for other in others))
    of_others = [image.path for other in read for image in other.images]
    left = left_for_train([image.path for image in found.images], of_others)
    if len(left) < len(found.images):
        problems.add("labels-unread", tree.path(file.name), say_held_back(len(found.images) - len(left)))
    return found._replace(images=[found.images[at] for at in left])


def _joined(ids: list[DatasetIds]) -> DatasetIds | None:
    """The ids of all files together; None where a name has two or two names have the same."""
    pairs = {pair for one in ids for pair in one.categories.items()}
    names, numbers = {name for name, _ in pairs}, {number for _, number in pairs}
    if not pairs or not len(pairs) == len(names) == len(numbers):
        return None
    return DatasetIds(dict(sorted(pairs, key=lambda pair: pair[1])), all(one.whole for one in ids))


def _show_item(obj: RawObject) -> str:
    return f"annotation {obj.number} (id {obj.tag}, {obj.name})"


def _show_box(box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"bbox [{x0:.7g}, {y0:.7g}, {x1 - x0:.7g}, {y1 - y0:.7g}] (x, y, width, height)"


def line_of(data: bytes, number: int) -> int | None:
    """The line on which annotation `number` starts."""
    return line_of_item(data.decode("utf-8", "replace"), "annotations", number)


def _read_file(tree: Tree, file: CocoFile, problems: RaiseErrors) -> _Read | None:
    path = tree.path(file.name)
    try:
        content = load_json(tree, file.name)
        order = _classes(_without_root(content, path), printable(path))
    except DataError as error:
        problems.add_unreadable(path, error)
        return None
    doubled = _doubled(order)
    _report_doubled(order, doubled, path, problems)
    listed = _images(content["images"], path, problems)
    objects: list[list[RawObject]] = [[] for _ in listed.files]
    passed = Counter[str]()
    for k, item in enumerate(content["annotations"]):
        if is_points_alone(item):
            passed["keypoints"] += 1
            continue
        found = _row(item, path, k, listed, order, problems)
        if found is not None:
            objects[found[0]].append(found[1])
    report_passed(problems, path, passed)
    del content
    images = [
        RawImage(found, str(ident), *listed.sizes[i], objects[i], path, listed=listed.files[i])
        for (ident, i), found in zip(listed.position.items(), _find_images(tree, file, listed, problems), strict=True)
        if found
    ]
    _report_twice(images, path, problems)
    whole_ids = all(isinstance(ident, int) for ident in listed.position)
    categories: dict[str, int] = {}
    for ident, name in order.items():
        categories.setdefault(name, ident)
    return _Read(DatasetIds(categories, whole_ids), images, bool(doubled))


def _doubled(order: dict[int, str]) -> list[str]:
    """Names that several ids have."""
    return [name for name, count in Counter(order.values()).items() if count > 1]


def _report_doubled(order: dict[int, str], doubled: list[str], path: str, problems: RaiseErrors) -> None:
    """Names of several ids, as a tool writes them whose classes were imported twice: a class is its name."""
    if doubled:
        shown = ", ".join(
            f"{printable(name, 60)!r} ({', '.join(str(ident) for ident, own in order.items() if own == name)})"
            for name in doubled[:8]
        )
        message = f"several ids have one name: {shown}{', ...' * (len(doubled) > 8)}; each name is read as one class"
        problems.add("class-doubled", path, f"{message}: rename one of them if two classes are meant")


def _report_twice(images: list[RawImage], path: str, problems: RaiseErrors) -> None:
    """Files under several ids, in one finding: what is labelled under one of them is background under the other."""
    first: dict[str, RawImage] = {}
    twice = [(first[image.path], image) for image in images if first.setdefault(image.path, image) is not image]
    if twice:
        one, other = twice[0]
        message = (
            f"{len(twice)} image{'s are' * (len(twice) > 1) or ' is'} listed twice: {printable(one.listed, 120)} is"
            f" {printable(one.ident, 60)} and {printable(other.ident, 60)}; join their annotations under one id"
        )
        problems.add("image-listed-twice", path, message)


def load_json(tree: Tree, name: str) -> dict[str, Any]:
    """The file as a dict that has the lists images, annotations and categories; DataError otherwise."""
    where = printable(tree.path(name))
    content = parse_json(tree.read(name, MAX_JSON_BYTES, "annotation"), where)
    if isinstance(content, list) and all(isinstance(row, dict) and "score" in row for row in content[:1]):
        content = coco_results.complete(tree, name, content, load_json)
    if not isinstance(content, dict):
        raise DataError(f"{where}: holds a {type(content).__name__}; want a COCO object with {', '.join(_LISTS)}")
    missing = [key for key in _LISTS if not isinstance(content.get(key), list)]
    if missing:
        there = ", ".join(printable(key, 40) for key in list(content)[:8]) or "nothing"
        raise DataError(f"{where}: is not COCO: no list {', '.join(missing)} (it holds {there})")
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f"{where}: its list of {key} is empty; want at least one")
    return content


def read_ids(path: str) -> tuple[dict[str, int], dict[str, int | str]]:
    """(class name -> id, file_name -> image id) of a COCO annotation file. Raises DataError."""
    folder, _, name = path.replace("\\", "/").rpartition("/")
    tree = open_tree(folder or ("/" if path.startswith("/") else "."))
    content = load_json(tree, name)
    listed = _images(content["images"], path, RAISE_ERRORS)
    order = _classes(_without_root(content, path), printable(path))
    categories = {label: ident for ident, label in order.items()}
    if doubled := _doubled(order):
        where, shown = printable(path), printable(doubled[0])
        raise DataError(f"{where}: several categories are called {shown!r}; want each name once")
    return categories, {listed.files[at]: ident for ident, at in listed.position.items()}


def _without_root(content: dict[str, Any], path: str) -> list[Any]:
    """The categories without Roboflow's root: the one of the lowest id, without objects, that is the others'
    supercategory; it may be called as one of them."""
    items = content["categories"]
    if len(items) < 2 or not all(
        isinstance(item, dict) and whole(id_of(item.get("id"))) and is_name(item.get("name")) for item in items
    ):
        return list(items)
    lowest = min(items, key=lambda item: id_of(item["id"]))  # type: ignore[arg-type, return-value]
    ident = id_of(lowest["id"])
    if any(item.get("supercategory") != lowest.get("name") for item in items if item is not lowest) or any(
        isinstance(item, dict) and id_of(item.get("category_id")) == ident for item in content["annotations"]
    ):
        return list(items)
    logger.info(
        "%s: category %s is left out: it has no objects and stands above all others",
        printable(path),
        printable(lowest.get("name")),
    )
    return [item for item in items if item is not lowest]


def _image_id(item: dict[str, Any], images: _Images) -> object:
    """The image_id as the images have it: 2 for 2.0 and, where no image is called so, for "2" and the reverse."""
    value = item.get("image_id")
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    spellings = (value, id_of(value), str(value)) if isinstance(value, int | float | str) else ()
    return next((spelling for spelling in spellings if spelling in images.position), value)


def _images(items: list[Any], path: str, problems: RaiseErrors) -> _Images:
    listed = _Images({}, [], [])
    for i, item in enumerate(items):
        here = f"image {i}"

        def broken(message: str, here: str = here) -> None:
            problems.add("annotation-malformed", path, message, here)

        if not isinstance(item, dict):
            broken(f"is of type {type(item).__name__}; want an object in braces")
            continue
        ident, name = item.get("id"), item.get("file_name", _name_in_address(item))
        ident = int(ident) if isinstance(ident, float) and ident.is_integer() else ident
        if not (whole(ident) or (isinstance(ident, str) and is_encodable(ident))):
            broken(f"id {printable(repr(ident), 60)}; want a whole number or a text")
        elif ident in listed.position:
            first = listed.position[ident]
            broken(f"id {printable(ident, 60)} is image {first}'s already; want one each")
        elif not isinstance(name, str) or not name or not is_encodable(name):
            here = f"{here} (id {printable(ident, 60)})"
            broken(f"file_name {printable(repr(name), 60)}; want a name", here)
        else:
            here = f"{here} ({printable(name)})"
            side = [_side(item, key, path, here, problems) for key in ("width", "height")]
            listed.position[ident] = len(listed.files)
            listed.files.append(name)
            listed.sizes.append((side[0], side[1]) if all(side) else (0, 0))
    return listed


def _name_in_address(item: dict[str, Any]) -> str | None:
    """LVIS names no file: folder and name are the end of coco_url."""
    address = item.get("coco_url")
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) else None


def _side(item: dict[str, Any], key: str, path: str, here: str, problems: RaiseErrors) -> int:
    value = item.get(key)
    side = whole_side(number(value or 0))
    if side is None or value is False:
        message = f"{key} {printable(repr(value), 60)}; want the image's {key} in whole pixels"
        problems.add("annotation-malformed", path, message, here)
    return side or 0


def _classes(items: list[Any], where: str) -> dict[int, str]:
    """Category id -> name, in the order of the ids. DataError: without its classes a file says nothing."""
    names: dict[int, str] = {}
    for i, item in enumerate(items):
        here = f"{where}: category {i}"
        if not isinstance(item, dict):
            raise DataError(f"{here}: is of type {type(item).__name__}; want an object in braces")
        ident, name = id_of(item.get("id")), item.get("name")
        if not whole(ident):
            raise DataError(f"{here}: id {printable(repr(ident), 60)}; want a whole number")
        if not is_name(name):
            raise DataError(f"{here} (id {ident}): name {printable(repr(name), 60)}; want a name")
        if ident in names:
            raise DataError(f"{here} ({printable(name)}): id {ident} is {printable(names[ident])!r} already")
        names[ident] = name.strip()
    return {ident: names[ident] for ident in sorted(names)}


def _row(
    item: Any, path: str, k: int, images: _Images, classes: dict[int, str], problems: RaiseErrors
) -> tuple[int, RawObject] | None:
    """Place of its image, and the object."""
    if not isinstance(item, dict):
        message = f"is of type {type(item).__name__}; want an object in braces"
        problems.add("annotation-malformed", path, message, f"annotation {k}", number=k)
        return None
    own, ident, category = item.get("id"), _image_id(item, images), id_of(item.get("category_id"))
    kind, message = "annotation-malformed", ""
    crowd, area, name = item.get("iscrowd") or 0, math.nan, ""
    numbers = box_of(item)
    # "ignore" is what converters of VOC files write for difficult objects (mmdetection's among them).
    difficult = item.get("difficult", item.get("ignore")) or 0
    if not isinstance(ident, int | str) or ident not in images.position:
        message = f"image_id {printable(repr(ident), 60)} is not in images; add it or remove this"
    elif not whole(category) or category not in classes:
        there = ", ".join(str(c) for c in list(classes)[:8])
        kind, message = "class-unknown", f"category_id {printable(repr(category), 60)} is not in categories ({there})"
    else:
        name = classes[category]
        if isinstance(numbers, str):
            message = numbers
        elif crowd not in (0, 1):
            message = f"iscrowd {printable(repr(crowd), 40)}; want 0 or 1"
        elif difficult not in (0, 1):
            message = f"difficult {printable(repr(difficult), 40)}; want 0 or 1"
        elif item.get("area") is not None:
            area = number(item["area"])
            if not 0 <= area < math.inf:
                message = f"area {printable(repr(item['area']), 40)}; want square pixels, 0 or more"
    if message or isinstance(numbers, str):
        shown = f"annotation {k} (id {printable(own, 60)}{', ' * bool(name)}{printable(name, 80)})"
        problems.add(kind, path, message, shown, number=k)
        return None
    x, y, width, height = numbers
    place = images.position[ident]  # type: ignore[index]
    box: Box = (x, y, x + width, y + height)
    box, score = Hull(box) if item.get("bbox") in (None, []) else box, number(item.get("score"))
    return place, RawObject(name, box, bool(difficult), bool(crowd), area, number=k, tag=own, score=score)


# ---------------------------------------------------------------------------------------------- images


def _find_images(tree: Tree, file: CocoFile, listed: _Images, problems: RaiseErrors) -> list[str]:
    """Paths of the image files, "" where missing."""
    tags, folder = dict.fromkeys((file.tag, file.split)), file.name.rpartition("/")[0]
    places = [f"images/{tag}" for tag in tags] + ["images"]
    places += [*tags, f"{file.split}2017", *(f"{tag}_images" for tag in tags), folder, ""]
    places += ["JPEGImages", "data", "img", join(folder, "images"), join(folder, "data")]
    wanted = [(name, None) for name in listed.files]
    found = find_images(tree, file.name, wanted, places, tree.find, problems)
    return [tree.path(name) if name else "" for name in found]
