"""COCO JSON files: images, annotations with bbox x y w h, categories with arbitrary ids.

COCO's boxes are continuous already. Category ids become labels 0, 1, 2, ... in the order of the ids.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from singleshot.data.boxcheck import settle_boxes
from singleshot.data.dataset import Dataset, unknown_class
from singleshot.data.folders import Folder, resolve_split
from singleshot.data.images import read_limited
from singleshot.data.strings import StringTable, offsets_of
from singleshot.errors import DataError, printable

MAX_JSON_BYTES = 2 * 2**30
MAX_SIDE = 1_000_000

# Files of the COCO download that hold no boxes of objects.
_OTHER_TASKS = ("person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_")
_EXPORTED = "_annotations.coco.json"  # Roboflow's name, one in each split's folder


class CocoFile(NamedTuple):
    """One annotation file; root bounds where its images may lie; tag names it ("train2017"); split is "train"."""

    path: Path
    root: Path
    tag: str
    split: str


class _Images(NamedTuple):
    """position: image id -> place in the lists."""

    position: dict[int | str, int]
    ids: list[str]
    files: list[str]
    sizes: np.ndarray


class _Classes(NamedTuple):
    """names: category names in id order; label: category id -> place in names."""

    names: tuple[str, ...]
    label: dict[int, int]


class _Row(NamedTuple):
    """One annotation: x y w h as written, area NaN where it is not said, place and id for messages."""

    image: int
    label: int
    crowd: bool
    box: tuple[float, ...]
    area: float
    number: int
    ident: object


# ---------------------------------------------------------------------------------------------- files


def coco_files(root: Path) -> list[CocoFile]:
    """The annotation files of a COCO folder, by the layouts that are known; [] when there is none."""
    folder = Folder(root)
    found = []
    for place in (root, root / "annotations"):
        for name in sorted(folder.names(place)):
            if name.endswith(".json") and not name.startswith(_OTHER_TASKS) and name != _EXPORTED:
                found.append(_coco_file(place / name, root))
    for name in sorted(folder.names(root)):
        if _EXPORTED in folder.names(root / name):
            found.append(CocoFile(root / name / _EXPORTED, root, name, name))
    return found


def coco_file(path: Path) -> CocoFile:
    """A JSON file that the user named; its images are looked for in its folder, or above annotations/."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return _coco_file(path, root)


def _coco_file(path: Path, root: Path) -> CocoFile:
    tag = path.stem.removeprefix("instances_")
    return CocoFile(path, root, tag, re.sub(r"(?<=[^\d])(19|20)\d\d$", "", tag))


def coco_splits(root: Path) -> tuple[str, ...]:
    """Names of the splits of a COCO folder, without their years."""
    return tuple(dict.fromkeys(file.split for file in coco_files(root)))


def choose_file(root: Path, split: str) -> CocoFile:
    """The file of a split, named with its year or without; DataError when there is none, or more than one."""
    files = coco_files(root)
    exact = [file for file in files if file.tag == split]
    if not exact:
        name = resolve_split(split, {file.split for file in files}, str(root))
        exact = [file for file in files if file.split == name]
    if len(exact) > 1:
        there = ", ".join(printable(file.path.relative_to(root)) for file in exact[:8])
        raise DataError(f"{printable(root)}: several files for split {printable(split)!r} ({there}); name one")
    Folder(root).find(exact[0].path.parent, exact[0].path.name)  # refuses a link that leads out
    return exact[0]


# ---------------------------------------------------------------------------------------------- reading


def read_coco(
    file: CocoFile,
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
) -> Dataset:
    """Read one COCO file.

    class_names None takes the file's categories; given, categories are looked up in it by name. clip_boxes as
    for VOC. Raises DataError for whatever cannot be used, naming the file and the annotation.
    """
    where = printable(file.path)
    content = load_json(file.path)
    images = _images(content["images"], where)
    classes = _classes(content["categories"], where)
    rows, refused = [], set(classes.names) - set(class_names or classes.names)
    for k, item in enumerate(content["annotations"]):
        row = _row(item, where, k, images, classes)
        if refused and classes.names[row.label] in refused:
            name = classes.names[row.label]
            raise DataError(f"{where}: {_shown(k, row.ident, name)}: {unknown_class(name, class_names or ())}")
        rows.append(row)
    del content
    names = _find_images(file, images.files)
    data = _assemble(file, images, classes, rows, names, clip_boxes)
    return data if class_names is None else data.relabel(class_names)


def load_json(path: Path) -> dict[str, Any]:
    """The file as a dict that has the lists images, annotations and categories; DataError otherwise."""
    where = printable(path)
    data = read_limited(path, MAX_JSON_BYTES, "annotation")
    try:
        content = json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: is not JSON: {error.msg} at line {error.lineno} column {error.colno}; write the file again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON that can be read ({printable(error, 80)})") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        raise DataError(f"{where}: holds a {type(content).__name__}; want a COCO object with {', '.join(wanted)}")
    missing = [key for key in wanted if not isinstance(content.get(key), list)]
    if missing:
        there = ", ".join(printable(key, 40) for key in list(content)[:8]) or "nothing"
        raise DataError(f"{where}: is not COCO: no list {', '.join(missing)} (it holds {there})")
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f"{where}: its list of {key} is empty; want at least one")
    return content


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _require_dict(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(f"{where}: is of type {type(item).__name__}; want an object in braces")
    return item


def _images(items: list[Any], where: str) -> _Images:
    position: dict[int | str, int] = {}
    files, sizes = [], np.zeros((len(items), 2), np.int32)
    for i, entry in enumerate(items):
        here = f"{where}: image {i}"
        item = _require_dict(entry, here)
        ident, name = item.get("id"), item.get("file_name")
        if not (_whole(ident) or (isinstance(ident, str) and _encodable(ident))):
            raise DataError(f"{here}: id {printable(repr(ident), 60)}; want a whole number or a text")
        if ident in position:
            raise DataError(f"{here}: id {printable(ident, 60)} is image {position[ident]}'s already; want one each")
        if not isinstance(name, str) or not name or not _encodable(name):
            raise DataError(f"{here} (id {printable(ident, 60)}): file_name {printable(repr(name), 60)}; want a name")
        position[ident] = i
        files.append(name)
        side = [_side(item, key, f"{here} ({printable(name)})") for key in ("width", "height")]
        if all(side):
            sizes[i] = side
    return _Images(position, [str(ident) for ident in position], files, sizes)


def _side(item: dict[str, Any], key: str, where: str) -> int:
    value = item.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SIDE or value % 1:
        raise DataError(f"{where}: {key} {printable(repr(value), 60)}; want the image's {key} in whole pixels")
    return int(value)


def _classes(items: list[Any], where: str) -> _Classes:
    names: dict[int, str] = {}
    for i, entry in enumerate(items):
        here = f"{where}: category {i}"
        item = _require_dict(entry, here)
        ident, name = item.get("id"), item.get("name")
        if not _whole(ident):
            raise DataError(f"{here}: id {printable(repr(ident), 60)}; want a whole number")
        if not isinstance(name, str) or not name.strip() or not _encodable(name):
            raise DataError(f"{here} (id {ident}): name {printable(repr(name), 60)}; want a name")
        if ident in names:
            raise DataError(f"{here} ({printable(name)}): id {ident} is {printable(names[ident])!r} already")
        if name.strip() in names.values():
            raise DataError(f"{here}: name {printable(name)!r} is taken by another id; want each name once")
        names[ident] = name.strip()
    order = sorted(names)
    return _Classes(tuple(names[ident] for ident in order), {ident: n for n, ident in enumerate(order)})


def _number(value: object) -> float:
    """The value as float; NaN for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(k: int, ident: object, name: str = "") -> str:
    """What messages call annotation k; made only when there is a message, since it costs more than the checks."""
    return f"annotation {k} (id {printable(ident, 60)}{', ' * bool(name)}{printable(name, 80)})"


def _row(item: Any, where: str, k: int, images: _Images, classes: _Classes) -> _Row:
    if not isinstance(item, dict):
        _require_dict(item, f"{where}: annotation {k}")
    own, ident, category, box = item.get("id"), item.get("image_id"), item.get("category_id"), item.get("bbox")
    if not isinstance(ident, int | str) or ident not in images.position:
        shown = printable(repr(ident), 60)
        raise DataError(f"{where}: {_shown(k, own)}: image_id {shown} is not in images; add it or remove this")
    if not _whole(category) or category not in classes.label:
        there = ", ".join(str(c) for c in list(classes.label)[:8])
        shown = printable(repr(category), 60)
        raise DataError(f"{where}: {_shown(k, own)}: category_id {shown} is not in categories ({there})")
    label, wrong = classes.label[category], ""
    numbers = [_number(v) for v in box] if isinstance(box, list) and len(box) == 4 else [math.nan]
    crowd, area = item.get("iscrowd", 0), math.nan
    if any(map(math.isnan, numbers)):
        wrong = f"bbox {printable(repr(box), 80)}; want the four numbers x, y, width, height"
    elif crowd not in (0, 1):
        wrong = f"iscrowd {printable(repr(crowd), 40)}; want 0 or 1"
    elif item.get("area") is not None:
        area = _number(item["area"])
        if not 0 <= area < math.inf:
            wrong = f"area {printable(repr(item['area']), 40)}; want square pixels, 0 or more"
    if wrong:
        raise DataError(f"{where}: {_shown(k, own, classes.names[label])}: {wrong}")
    return _Row(images.position[ident], label, bool(crowd), tuple(numbers), area, k, own)


# ---------------------------------------------------------------------------------------------- images


def _find_images(file: CocoFile, files: list[str]) -> list[str]:
    """Paths of the image files, all in the first of the known places that has them all."""
    root, tags = file.root, dict.fromkeys((file.tag, file.split))
    places = [root / "images" / tag for tag in tags] + [root / "images"]
    places += [root / tag for tag in tags] + [root / f"{file.split}2017", file.path.parent, root]
    folder, best, where = Folder(root), None, printable(file.path)
    fewest: list[str] = []
    for place in dict.fromkeys(places):
        try:
            if best is not None and not folder.names(place):
                continue
            found = [folder.find(place, name) for name in files]
        except DataError as error:
            raise DataError(f"{where}: image {error}") from error
        missing = [name for name, path in zip(files, found, strict=True) if path is None]
        if not missing:
            return [str(path) for path in found]
        if best is None or len(missing) < len(fewest):
            best, fewest = place, missing
    raise DataError(
        f"{where}: image {printable(fewest[0])!r} is missing ({len(fewest)} of {len(files)} are not in "
        f"{printable(best)}); add the files there, or take the images out of the JSON"
    )


# ---------------------------------------------------------------------------------------------- arrays


def _describer(where: str, rows: list[_Row], classes: _Classes) -> Callable[[int], str]:
    def describe(j: int) -> str:
        box = ", ".join(f"{v:.7g}" for v in rows[j].box)
        shown = _shown(rows[j].number, rows[j].ident, classes.names[rows[j].label])
        return f"{where}: {shown}: bbox [{box}] (x, y, width, height)"

    return describe


def _assemble(
    file: CocoFile, images: _Images, classes: _Classes, rows: list[_Row], names: list[str], clip_boxes: bool
) -> Dataset:
    rows.sort(key=lambda row: row.image)  # stable: the file's order within an image
    image_of = np.array([row.image for row in rows], np.int64)
    xywh = np.array([row.box for row in rows], np.float64).reshape(-1, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    flat = ~np.all(xywh[:, 2:] > 0, axis=1)
    describe = _describer(printable(file.path), rows, classes)
    settled = settle_boxes(corners, flat, images.sizes[image_of], clip_boxes, describe)
    settled.warn(printable(file.path))
    keep, boxes_px = settled.keep, settled.boxes[settled.keep]
    told = np.array([row.area for row in rows], np.float32)[keep]
    own = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(axis=1)
    return Dataset(
        source=f"{file.path} ({file.split})",
        class_names=classes.names,
        names=StringTable.from_iterable(names),
        image_ids=StringTable.from_iterable(images.ids),
        sizes=images.sizes,
        ptr=offsets_of(np.bincount(image_of[keep], minlength=len(names))),
        boxes_px=boxes_px,
        labels=np.array([row.label for row in rows], np.int64)[keep],
        difficult=np.zeros(len(boxes_px), bool),
        crowd=np.array([row.crowd for row in rows], bool)[keep],
        area=np.where(np.isnan(told), own, told).astype(np.float32),
        clip_boxes=clip_boxes,
    )
