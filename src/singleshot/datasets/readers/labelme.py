"""LabelMe folders: images and for each a NAME.json with its shapes, in the same folder or in one of their own.

Coordinates are continuous pixels. A detector needs boxes: a polygon, a circle or a mask is taken by what surrounds it.
Images without a JSON are not labelled yet and no part of the set. ISAT's files are read as these: "objects" with a
category and a polygon each (github.com/yatengLG/ISAT_with_segment_anything, docs: annotation format).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import Box, Hull, RawImage, RawObject, RawSet
from singleshot.datasets.readers.common import (
    MADE_SPLITS,
    divide,
    images_by_stem,
    json_number,
    line_of_item,
    parse_json,
    surround,
    whole_side,
)
from singleshot.datasets.readers.image_finder import ImageFinder
from singleshot.datasets.readers.own_lists import listed_splits, read_class_list, read_split_lists
from singleshot.datasets.readers.shapes import report_passed, show
from singleshot.datasets.splits import KNOWN_SPLITS, folder_split, resolve_split, with_numbered
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.storage import read_limited
from singleshot.text import utf8_head

# The image itself may lie in the file as text.
MAX_JSON_BYTES = 512 * 2**20

_PEEK_BYTES = 1 << 16
_FEW = 5
_DEEP = 2  # folders below that of a split
# Shapes whose box surrounds their points, and the points that they need at least.
_SURROUNDED = {"polygon": 3, "quadrilateral": 3, "rotation": 3, "linestrip": 3, "rectangle": 2, "mask": 2}
_WITHOUT_AREA = ("point", "points", "line")
# What LabelMe's own converters leave out.
_IGNORED = ("__ignore__", "_background_", "__background__")
_PARTS, _GROUPED = "parts", "grouped"
# No object has more parts; a group of more that has nearly all shapes of its label is what somebody called a group.
_MOST_PARTS, _NEARLY_ALL = 6, 0.8
_FLAG: dict[object, bool] = {None: False, False: False, True: True}


class _Pair(NamedTuple):
    """A label file, its content, and the image that it is of: names relative to the root."""

    json: str
    image: str
    content: dict[str, Any]


def sniff(tree: Tree) -> bool:
    """Whether it is a folder with such pairs, or with splits that have them."""
    return bool(_split_folders(tree)) or _has_pairs(tree, "") or bool(_label_folder(tree))


def _label_folder(tree: Tree) -> str:
    """The only folder of label files whose images lie elsewhere in the tree; "" for none."""
    found = [name for name in tree.open_folders() if _has_labels(tree, name) and not images_by_stem(tree, name)]
    return found[0] if len(found) == 1 and next(tree.images(), None) is not None else ""


def _has_labels(tree: Tree, folder: str) -> bool:
    """Whether one of the first few JSON files starts as LabelMe's do."""
    return any(_starts_as_label(tree, folder, name) for name in tree.files(folder, (".json",))[:_FEW])


def _has_pairs(tree: Tree, folder: str) -> bool:
    """Whether one of the first few JSON files that have an image beside them starts as LabelMe's do."""
    images = images_by_stem(tree, folder)
    own = (name for name in tree.files(folder, (".json",)) if name[:-5] in images)
    return any(_starts_as_label(tree, folder, name) for name in islice(own, _FEW))


def _starts_as_label(tree: Tree, folder: str, name: str) -> bool:
    found = tree.find(folder, name)
    return is_label(read_limited(tree.path(found or name), MAX_JSON_BYTES, "annotation", most=_PEEK_BYTES))


def is_label(head: bytes) -> bool:
    """Whether a file starts as LabelMe's do."""
    # Written with sorted keys, the image's text comes before the shapes.
    return re.search(rb'"(shapes|imageData)"\s*:|"description"\s*:\s*"ISAT"', utf8_head(head)) is not None


def _split_folders(tree: Tree) -> dict[str, str]:
    """Split -> its folder, of pairs or of labels alone, "train_json" and "valid json", where train may be "json"; {}
    where there are none."""
    found = {name: name for name in tree.folders() if name.lower() in KNOWN_SPLITS and _parts(tree, name)}
    if found:
        numbered = with_numbered(found, tree.folders(), lambda name: bool(_parts(tree, name)))
        return {split: name for name, split in numbered.items()}
    named = [(*folder_split(name), name) for name in tree.open_folders()]
    alone = [(split, name) for split, kind, name in named if kind == "labels" and _has_labels(tree, name)]
    parts = {split or "train": name for split, name in alone}
    return parts if len(parts) == len(alone) > 1 and "train" in parts else {}


def _parts(tree: Tree, folder: str) -> list[str]:
    """The folders of pairs that make up the folder of a split: itself, and those below ("train/0", "train/1")."""
    labelled = (part for part in tree.with_below(folder, _DEEP) if tree.files(part, (".json",)))
    return [part for part in labelled if _has_pairs(tree, part)]  # which costs more, of folders that may be thousands


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits of a LabelMe folder; those that would be made where it has none."""
    return tuple(read_split_lists(tree, CollectErrors(0)) or _split_folders(tree)) or MADE_SPLITS


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a LabelMe folder: the split `wanted`, or all of them. Its class names are its own list's, then the sorted
    names over all splits, so that train and val agree."""
    lists = read_split_lists(tree, problems)
    folders = {} if lists else _split_folders(tree)
    made = not folders and not lists
    chosen = None if wanted is None or not folders else resolve_split(wanted, folders, tree.root)
    images: list[RawImage] = []
    splits_of: dict[str, list[int]] = {}
    names: set[str] = set()
    passed = Counter[str]()
    own = "" if folders or _has_pairs(tree, "") else _label_folder(tree)
    for split, folder in (folders or {"": own}).items():
        parts = (_parts(tree, folder) if folders else []) or [folder]
        found = [
            _image(tree, part[len(folder) :].strip("/"), pair, problems, passed)
            for part in parts
            for pair in _read_pairs(tree, part, problems)
        ]
        names |= {obj.name for image in found for obj in image.objects}
        if chosen in (None, split):
            splits_of[split] = list(range(len(images), len(images) + len(found)))
            images += found
    kinds = {kind: count for kind, count in passed.items() if kind not in (_PARTS, _GROUPED)}
    report_passed(problems, tree.root, kinds)
    if passed[_GROUPED]:
        message = (
            f"{passed[_GROUPED]} shapes are in groups of more than {_MOST_PARTS}, nearly all of their label: "
            "each is an object of its own"
        )
        problems.add("shapes-joined", tree.root, message)
    if passed[_PARTS]:
        message = f"{passed[_PARTS]} shapes are further parts of objects: they have the label and group_id of another"
        problems.add("shapes-joined", tree.root, message)
    if lists:
        splits_of = listed_splits(tree, lists, images, wanted, problems)
    elif made:
        splits_of = divide(tree, [image.path for image in images], wanted)
    if wanted is not None and not any(splits_of.values()):
        raise DataError(f"{printable(tree.root)}: split {printable(wanted)!r} has no labelled images; label some more")
    declared = read_class_list(tree, problems)
    order = (*declared, *sorted(names - set(declared)))
    return RawSet("labelme", tree.root, order, images, splits_of, made, bool(declared))


def line_of(data: bytes, number: int) -> int | None:
    """The line on which shape `number` starts."""
    text = data.decode("utf-8-sig", "replace")
    return line_of_item(text, "shapes", number) or line_of_item(text, "objects", number)


# ---------------------------------------------------------------------------------------------- files


def _read_pairs(tree: Tree, folder: str, problems: RaiseErrors) -> list[_Pair]:
    """The label files of a folder with their images, in the order of their names."""
    by_stem, finder = images_by_stem(tree, folder), ImageFinder(tree)
    jsons = tree.files(folder, (".json",))
    stems = {name[:-5] for name in jsons}
    owner: dict[str, str] = {}
    pairs = []
    for name in jsons:
        path = tree.path(join(folder, name))
        try:
            found = tree.find(folder, name) or name
            content = parse_json(tree.read(found, MAX_JSON_BYTES, "annotation"), printable(path))
        except DataError as error:
            problems.add_unreadable(path, error)
            continue
        content, same = _as_shapes(content), by_stem.get(name[:-5], [])
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            if same:  # any other JSON is no label file
                problems.add("annotation-unreadable", path, 'has no list "shapes"; want what LabelMe writes')
            continue
        try:
            image = _image_of(tree, folder, content.get("imagePath"), same, stems)
            if image is None:
                image = _image_elsewhere(tree, finder, folder, name[:-5], content.get("imagePath"))
        except DataError as error:
            problems.add("image-missing", path, f"image {error}")
            continue
        if image is None:
            message = (
                f"neither its imagePath nor an image called {printable(name[:-5], 80)} is in this folder or below the "
                "data set's; add the image"
            )
            problems.add("image-missing", path, message)
        elif image in owner:
            message = f"{printable(image)} is labelled by {printable(owner[image])} already; remove one of the two"
            problems.add("annotation-unreadable", path, message)
        else:
            owner[image] = found
            pairs.append(_Pair(found, image, _slim(content)))
    return pairs


def _image_elsewhere(tree: Tree, finder: ImageFinder, folder: str, stem: str, image_path: object) -> str | None:
    """The image that imagePath names by the end of its path, anywhere in the set; else the only one of that stem.

    Raises DataError where that fits several.
    """
    if isinstance(image_path, str) and image_path and is_image(image_path):
        try:
            found = finder.find(image_path)
        except DataError:
            found = None  # several: the label file's own name may still tell
        if found is not None:
            return found
    split = folder_split(folder)[0]
    of_split = [name for name in tree.folders() if folder_split(name) in ((split, "images"), (split or None, ""))]
    return finder.of_stem(stem, [folder, *of_split])


def _as_shapes(content: Any) -> Any:
    """The content of ISAT's file as LabelMe writes it; any other as it is."""
    info, objects = (content.get("info"), content.get("objects")) if isinstance(content, dict) else (None, None)
    if not isinstance(info, dict) or info.get("description") != "ISAT" or not isinstance(objects, list):
        return content
    shapes = [_as_shape(item) if isinstance(item, dict) else item for item in objects]
    sides = {"imageWidth": info.get("width"), "imageHeight": info.get("height")}
    return {"shapes": shapes, "imagePath": info.get("name"), **sides}


def _as_shape(item: dict[str, Any]) -> dict[str, Any]:
    group = item.get("group")
    shape = {"label": item.get("category"), "points": item.get("segmentation"), "crowd": item.get("iscrowd")}
    return {**shape, "group_id": None if group == "" else group}


def _slim(content: dict[str, Any]) -> dict[str, Any]:
    """What is used of it: not the image's text, of which a folder may hold gigabytes."""
    return {key: content.get(key) for key in ("shapes", "imageWidth", "imageHeight")}


def _image_of(tree: Tree, folder: str, image_path: Any, same: list[str], stems: set[str]) -> str | None:
    """The image that imagePath names, by its last part alone, unless it is that of another JSON; else the namesake."""
    name = image_path.replace("\\", "/").rpartition("/")[2] if isinstance(image_path, str) else ""
    if name in same:
        return tree.find(folder, name)
    if name not in ("", ".", "..") and "\0" not in name and is_image(name) and name.rpartition(".")[0] not in stems:
        found = tree.find(folder, name)
        if found is not None:
            return found
    return tree.find(folder, min(same)) if same else None


# ---------------------------------------------------------------------------------------------- shapes


def _image(tree: Tree, part: str, pair: _Pair, problems: RaiseErrors, passed: Counter[str]) -> RawImage:
    """The image of a pair; part: where it lies below the folder of its split, "" for there itself."""
    path = tree.path(pair.json)
    width, height = (_side(pair.content, key, path, problems) for key in ("imageWidth", "imageHeight"))
    if not (width and height):
        width = height = 0
    objects: dict[tuple[str, object], RawObject] = {}
    apart = _not_parts(pair.content["shapes"])
    for k, item in enumerate(pair.content["shapes"]):
        obj = _object(item, path, k, problems, passed)
        if obj is None:
            continue
        group = _group_of(item)
        key: tuple[str, object] = (obj.name, k if group is None else f"group {group[1]}")
        if group in apart:
            passed[_GROUPED] += 1
            key = (obj.name, k)
        if key in objects:  # one object in parts, as LabelMe's own converters have it
            passed[_PARTS] += 1
            obj = _joined(objects[key], obj)
        objects[key] = obj
    ident = join(part, pair.json.rpartition("/")[2][:-5])
    return RawImage(tree.path(pair.image), ident, width, height, list(objects.values()), path)


def _group_of(item: Any) -> tuple[str, object] | None:
    """The label and group_id of a shape; None for one without."""
    group, label = (item.get("group_id"), item.get("label")) if isinstance(item, dict) else (None, None)
    return (label.strip(), group) if isinstance(group, int | str) and isinstance(label, str) else None


def _not_parts(shapes: list[Any]) -> set[tuple[str, object] | None]:
    """The groups of an image that are no object in parts: of many shapes, nearly all of their label."""
    sizes = Counter(filter(None, map(_group_of, shapes)))
    names = (item.get("label") for item in shapes if isinstance(item, dict))
    labels = Counter(name.strip() for name in names if isinstance(name, str))
    return {group for group, size in sizes.items() if size > _MOST_PARTS and size >= _NEARLY_ALL * labels[group[0]]}


def _joined(one: RawObject, other: RawObject) -> RawObject:
    (x0, y0, x1, y1), (x2, y2, x3, y3) = one.box, other.box
    box = surround((x0, x1, x2, x3), (y0, y1, y2, y3))
    return one._replace(box=box, difficult=one.difficult or other.difficult, crowd=one.crowd or other.crowd)


def _side(content: dict[str, Any], key: str, path: str, problems: RaiseErrors) -> int:
    value = content.get(key)
    side = whole_side(json_number(0 if value is None else value))
    if side is None:
        message = f"{key} is {show(value)}; want the image's {key[5:].lower()} in whole pixels"
        problems.add("annotation-malformed", path, message)
    return side or 0


def _object(item: Any, path: str, k: int, problems: RaiseErrors, passed: Counter[str]) -> RawObject | None:
    name = item.get("label") if isinstance(item, dict) else None
    shown = f"object {k} ({printable(name, 80)})" if isinstance(name, str) and name.strip() else f"object {k}"

    def broken(message: str) -> None:
        problems.add("annotation-malformed", path, message, shown, number=k)

    if not isinstance(item, dict):
        broken(f"is {show(item)}; want a shape in braces")
        return None
    if not is_name(name):
        broken(f"label is {show(name)}; say what it is")
        return None
    kind = _passed_over(item, name.strip())
    if kind:
        passed[kind] += 1
        return None
    box = _box(item, broken)
    flags = _flags(item, broken) if box is not None else None
    if box is None or flags is None:
        return None
    return RawObject(name.strip(), box, *flags, number=k)


def _passed_over(item: dict[str, Any], name: str) -> str:
    """What a shape is that is no object: of a label to be ignored, or without area; "" for others."""
    kind, points = item.get("shape_type"), item.get("points")
    if name in _IGNORED:
        return name
    if kind == "linestrip" and isinstance(points, list) and len(points) == 2:
        return "line"
    return str(kind) if kind in _WITHOUT_AREA else ""


def _box(item: dict[str, Any], broken: Callable[[str], None]) -> Box | None:
    """What surrounds the shape; None after a problem."""
    kind = item.get("shape_type")
    kind = "polygon" if kind is None else kind  # the first versions had nothing else
    points = item.get("points")
    numbers = [_point(point) for point in points] if isinstance(points, list) else [None]
    known = [point for point in numbers if point is not None]
    if not isinstance(kind, str) or kind not in (*_SURROUNDED, "circle"):
        broken(f"shape_type is {show(kind)}; want rectangle, polygon, circle, linestrip or mask")
    elif len(known) < len(numbers):
        broken("its points are not pairs of numbers; want [[x, y], [x, y], ...] in pixels")
    elif kind == "circle" and len(known) != 2:
        broken(f"a circle with {len(known)} points; want its centre and one on its edge")
    elif kind != "circle" and len(known) < _SURROUNDED[kind]:
        broken(f"a {kind} with {len(known)} point{'s' * (len(known) != 1)}; want at least {_SURROUNDED[kind]}")
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = known
        radius = math.hypot(edge_x - x, edge_y - y)
        return Hull((x - radius, y - radius, x + radius, y + radius))
    else:
        x0, y0, x1, y1 = surround(*zip(*known, strict=True))
        # The second point of a mask is its last pixel, not where it ends.
        last = kind == "mask" and len(known) == 2
        box = (x0, y0, x1 + last, y1 + last)
        return box if last or kind == "rectangle" else Hull(box)
    return None


def _point(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    if any(isinstance(part, bool) or not isinstance(part, int | float) for part in value):
        return None
    return json_number(value[0]), json_number(value[1])


def _flags(item: dict[str, Any], broken: Callable[[str], None]) -> tuple[bool, bool] | None:
    """difficult and crowd: of the shape (X-AnyLabeling) or among its flags (LabelMe)."""
    own = item.get("flags")
    if own is not None and not isinstance(own, dict):
        broken(f"flags is {show(own)}; want names with true or false, in braces")
        return None
    flags = []
    for key in ("difficult", "crowd"):
        values = [item.get(key), (own or {}).get(key)]
        wrong = next((value for value in values if not isinstance(value, int | None) or value not in _FLAG), None)
        if wrong is not None:
            broken(f"{key} is {show(wrong)}; want true or false")
            return None
        flags.append(any(_FLAG[value] for value in values))
    return flags[0], flags[1]
