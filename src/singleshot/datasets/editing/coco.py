"""COCO files: values of single annotations are replaced, whole annotations removed and added."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from singleshot.datasets.editing.edits import Change, Edit, LabelObject, Rewrite, Splice, moved_outline, splice
from singleshot.datasets.raw import Box, RawImage
from singleshot.datasets.readers.coco_values import box_of, id_of, is_points_alone, number, whole
from singleshot.datasets.writers.common import number_text
from singleshot.errors import DataError, printable

MOST_BYTES = 128 * 2**20  # the whole file is read and written for each image that is saved
_KEPT = 3  # scanned files: train, val and test
_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class _Item(NamedTuple):
    """An annotation and where it stands."""

    value: dict[str, Any]
    start: int
    end: int


class _File(NamedTuple):
    """A file that was scanned. opened: where its list of annotations starts; of_image: places of those of an image;
    categories: its list of them; listed: where that list ends."""

    data: bytes
    text: str
    items: list[_Item]
    opened: int
    of_image: dict[str, list[int]]
    categories: list[Any]
    listed: int


class CocoEditor:
    """An Editor of the annotations in COCO files. categories: of each file, class name -> id. The number of an object
    is its place among the annotations of its image: those of other images may come and go.

    A class that a file does not have gets a category in it with its first object there: of the id that it has in the
    set's other files, or of the next free one of all.
    """

    def __init__(self, categories: Mapping[str, Mapping[str, int]]) -> None:
        self._categories = {file: dict(own) for file, own in categories.items()}
        self._given: set[tuple[str, str]] = set()  # file and class that had no category
        self._scanned: dict[str, _File] = {}
        for name in dict.fromkeys(name for own in categories.values() for name in own):
            self._give_id(name)

    def add_class(self, name: str, rewrite: Rewrite) -> None:
        """See Editor: files get the category with its first object."""
        self._give_id(name)

    def _give_id(self, name: str) -> None:
        """An id of the class in each file that has none for it."""
        all_ids = [ident for own in self._categories.values() for ident in own.values()]
        known = [own[name] for own in self._categories.values() if name in own]
        for file, own in self._categories.items():
            if name not in own:
                free = (ident for ident in known if ident not in own.values())
                own[name] = next(free, max(all_ids, default=0) + 1)
                self._given.add((file, name))

    def objects(self, data: bytes, image: RawImage) -> list[LabelObject]:
        """See Editor."""
        file = self._scan(data, image.file)
        declared = {id_of(one.get("id")) for one in file.categories if isinstance(one, dict)}
        names = {ident: name for name, ident in self._categories[image.file].items() if ident in declared}
        found = []
        for number_here, item in enumerate(self._own(file, image)):
            category, box = id_of(item.value.get("category_id")), box_of(item.value)
            if not whole(category) or category not in names or isinstance(box, str) or is_points_alone(item.value):
                continue
            x, y, width, height = box
            corners = (x, y, x + width, y + height)
            difficult = bool(item.value.get("difficult", item.value.get("ignore")))
            crowd = bool(item.value.get("iscrowd"))
            found.append(LabelObject(number_here, names[category], corners, difficult, crowd, _fixed(item.value)))
        return found

    def own(self, data: bytes, image: RawImage) -> bytes:
        """See Editor."""
        file = self._scan(data, image.file)
        texts = (file.text[item.start : item.end] for item in self._own(file, image))
        return "\n".join(texts).encode("utf-8", "surrogatepass")

    def apply(self, data: bytes, image: RawImage, edit: Edit) -> bytes:
        """See Editor."""
        file = self._scan(data, image.file)
        places, categories = file.of_image.get(image.ident, []), self._categories[image.file]
        deleted = frozenset(places[k] for k in edit.deleted)
        splices = _deleted(file.items, deleted)
        names = {change.name for change in edit.changed.values() if change.name is not None}
        given = sorted(name for name in names | {name for name, _ in edit.added} if (image.file, name) in self._given)
        splices += _new_categories(file, {name: categories[name] for name in given}, image.file)
        for k, change in edit.changed.items():
            splices += _changed(file.text, file.items[places[k]], change, categories)
        if edit.added:
            splices.append(_added(file, deleted, edit, image, categories))
        return splice(file.text, splices).encode("utf-8", "surrogatepass")

    def blank(self, image: RawImage) -> bytes:
        """See Editor."""
        raise DataError(f"{printable(image.path)}: is not among the images of the COCO file; add it there")

    def place(self, name: str) -> str:
        """See Editor."""
        raise DataError(f"{printable(name)}: is not among the images of the COCO file; add it there")

    def _own(self, file: _File, image: RawImage) -> list[_Item]:
        return [file.items[k] for k in file.of_image.get(image.ident, [])]

    def _scan(self, data: bytes, path: str) -> _File:
        """The last files are kept: one image after another is shown, and scanning takes as long as reading."""
        file = self._scanned.pop(path, None)
        if file is None or file.data != data:
            text = _decode(data, path)
            items, opened, listed = _items(text)
            of_image: dict[str, list[int]] = {}
            for k, item in enumerate(items):
                of_image.setdefault(_ident(item.value.get("image_id")), []).append(k)
            categories, end = _DECODER.raw_decode(text, listed)
            file = _File(data, text, items, opened, of_image, categories, end - 1)
        self._scanned[path] = file
        if len(self._scanned) > _KEPT:
            del self._scanned[next(iter(self._scanned))]
        return file


def _added(file: _File, deleted: frozenset[int], edit: Edit, image: RawImage, categories: Mapping[str, int]) -> Splice:
    """New annotations at the end of the list, on lines of their own where the last one is."""
    items = file.items
    highest = max((ident for item in items if whole(ident := item.value.get("id"))), default=0)
    at, start = (items[-1].end, items[-1].start) if items else (file.opened, file.opened)
    between = file.text[len(file.text[:start].rstrip(" \t\r\n")) : start] if items else ""
    texts = []
    for k, (name, box) in enumerate(edit.added):
        corner = _corner_and_size(box)
        value = {
            "id": highest + 1 + k,
            "image_id": _image_id(file.text, image),
            "category_id": categories[name],
            "bbox": corner,
            "area": number_text(round(corner[2] * corner[3], 2)),
            "iscrowd": 0,
        }
        texts.append(json.dumps(value))
    comma = "," if len(deleted) < len(items) else ""
    return Splice(at, at, comma + between + f",{between}".join(texts))


def _new_categories(file: _File, wanted: Mapping[str, int], path: str) -> list[Splice]:
    """Those of the classes that the file does not list, name -> id, at the end of its list."""
    listed = {id_of(one.get("id")): one.get("name") for one in file.categories if isinstance(one, dict)}
    new = [{"id": ident, "name": name} for name, ident in wanted.items() if listed.get(ident) != name]
    used = {id_of(item.value.get("category_id")) for item in file.items} if new else set()
    for one in new:
        if one["id"] in listed or one["id"] in used:
            said = f"has no category {printable(one['name'])!r}, and {one['id']}, the id for it, is taken; add it there"
            raise DataError(f"{printable(path)}: {said}")
    text = ", ".join(json.dumps(one, ensure_ascii=False) for one in new)
    at = len(file.text[: file.listed].rstrip(" \t\r\n"))
    return [Splice(at, at, f"{', ' * bool(file.categories)}{text}")] if new else []


def _decode(data: bytes, path: str) -> str:
    """The text. DataError for UTF-16 and for what is too large."""
    if len(data) > MOST_BYTES:
        raise DataError(
            f"{printable(path)}: {len(data) // 2**20} MB, and not changed in place from {MOST_BYTES // 2**20} MB on; "
            "take singleshot data convert DATA --to voc --out DIR, and label that"
        )
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)}: is not UTF-8, and not changed in place; save it as UTF-8") from error


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Key, and start and end of its value, of the object that starts at `at`; the text is JSON."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        end = _DECODER.raw_decode(text, at)[1]
        yield key, at, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _items(text: str) -> tuple[list[_Item], int, int]:
    """The annotations, where their list is opened, and where that of the categories starts."""
    try:
        spans = {key: start for key, start, _ in _members(text, _skip(text, text.startswith("\ufeff")))}
        listed, at = spans["categories"], spans["annotations"] + 1
        opened = at
        items = []
        at = _skip(text, at)
        while text[at] != "]":
            value, end = _DECODER.raw_decode(text, at)
            items.append(_Item(value if isinstance(value, dict) else {}, at, end))
            at = _skip(text, end)
            if text[at] == ",":
                at = _skip(text, at + 1)
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise DataError(f"the COCO file is not JSON with a list of annotations any more ({error}); reload") from error
    return items, opened, listed


def _ident(value: object) -> str:
    """An id of an image as `RawImage.ident` has it."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _image_id(text: str, image: RawImage) -> object:
    """The id of an image as its file writes it."""
    spans = {key: start for key, start, _ in _members(text, _skip(text, text.startswith("\ufeff")))}
    listed = _DECODER.raw_decode(text, spans["images"])[0]
    return next(item["id"] for item in listed if isinstance(item, dict) and _ident(item.get("id")) == image.ident)


def _fixed(item: dict[str, Any]) -> str:
    if item.get("bbox") in (None, []):
        return "it has an outline and no box of its own"
    if isinstance(item.get("segmentation"), dict):
        return "it has a mask, which would not fit any more"
    return ""


def _deleted(items: list[_Item], deleted: frozenset[int]) -> list[Splice]:
    """Each goes with the comma before it; those before the first that stays with the comma after them."""
    splices, is_first = [], True
    for k, item in enumerate(items):
        if k not in deleted:
            is_first = False
        elif not is_first:
            splices.append(Splice(items[k - 1].end, item.end, ""))
        else:
            splices.append(Splice(item.start, items[k + 1].start if k + 1 < len(items) else item.end, ""))
    return splices


def _changed(text: str, item: _Item, change: Change, categories: Mapping[str, int]) -> list[Splice]:
    new: dict[str, Any] = {}
    if change.name is not None:
        category = item.value.get("category_id")
        ident = categories[change.name]
        new["category_id"] = str(ident) if isinstance(category, str) else ident
    if change.box is not None:
        x, y, width, height = map(number, item.value["bbox"])
        old: Box = (x, y, x + width, y + height)
        new["bbox"] = _corner_and_size(change.box)
        outline = item.value.get("segmentation")
        if isinstance(outline, list) and outline:
            new["segmentation"] = _moved(outline, old, change.box)
        if item.value.get("area") is not None:
            share = number(item.value["area"]) / (width * height) if width * height else 1.0
            new["area"] = number_text(round(share * new["bbox"][2] * new["bbox"][3], 2))
    spans = {key: (start, end) for key, start, end in _members(text, item.start)}
    return [Splice(*spans[key], json.dumps(value)) for key, value in new.items()]


def _moved(outline: list[Any], old: Box, new: Box) -> list[Any]:
    if not isinstance(outline[0], list):
        values = [number(value) for value in outline]
        xs, ys = moved_outline((values[::2], values[1::2]), old, new)
        return [number_text(round(value, 2)) for point in zip(xs, ys, strict=True) for value in point]
    return [_moved(part, old, new) if part else part for part in outline]


def _corner_and_size(box: Box) -> list[int | float]:
    x0, y0, x1, y1 = (round(value, 2) for value in box)
    return [number_text(round(value, 2)) for value in (x0, y0, x1 - x0, y1 - y0)]
