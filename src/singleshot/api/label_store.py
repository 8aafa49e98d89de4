"""The labels of a data set while they are corrected: read and saved image by image, in the set's own files.

Every save starts from what the file holds now, and is refused where that is about other objects than those that were
shown. What a page sees are pixels of the upright image; what a file holds is the editor's matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.datasets.editing.edits import Change, Edit, Editor, LabelObject
from singleshot.datasets.editing.yolo import YoloEditor, shift_flags
from singleshot.datasets.packed_strings import is_name
from singleshot.datasets.raw import Box, RawImage
from singleshot.datasets.readers.yolo import FLAGS_FILE
from singleshot.datasets.readers.yolo_yaml import MAX_CLASSES
from singleshot.datasets.tree import Tree
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_write, locked_folder
from singleshot.images.decode import image_size
from singleshot.storage import read_limited

FOLDER = ".singleshot-label"  # hidden: readers pass over it
MAX_OBJECTS = 10_000
_MAX_BYTES = 2 * 2**30
_ABSENT = b"\0no label file"
_SAME_SHAPE = 0.01  # an annotated size that differs from the image's by more than this in its proportions is another's
_MAX_NAME = 200
_LEAST_SIDE = 1.0  # pixels of a box that is new or changed


class StaleError(Exception):
    """The labels are no longer those that were shown: they were saved elsewhere in the meantime."""


class RefusedError(Exception):
    """What was to be saved cannot be; the message says why."""


class WantedObject(NamedTuple):
    """An object as it is to be. number: that of the object that it was, None for a new one; box: pixels."""

    number: int | None
    name: str
    box: Box


class Shown(NamedTuple):
    """The labels of an image as they are now. version: names this state; objects: boxes in pixels of the upright image;
    fixed: why nothing can be changed here, "" where it can; labelled: whether there is a label file."""

    width: int
    height: int
    version: str
    objects: list[LabelObject]
    labelled: bool
    fixed: str = ""


class LabelStore:
    """The images of a data set and their labels.

    Args:
        tree: The set's folder, on this machine.
        images: All images. One without a label file has its own path as `file`.
        editor: Of the form.
        classes: Names that objects may get.
    """

    def __init__(self, tree: Tree, images: Sequence[RawImage], editor: Editor, classes: Sequence[str]) -> None:
        self.tree, self.images, self.classes = tree, list(images), tuple(classes)
        self.names = [os.path.relpath(image.path, tree.root).replace(os.sep, "/") for image in images]
        self.revision = 0  # of all labels: grows with each save
        self._editor, self._lock = editor, threading.RLock()
        self._folder = Path(tree.root) / FOLDER
        self._backups = self._folder / "backups" / time.strftime("%Y-%m-%d_%H-%M-%S")
        self._looked = self._read_progress()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from labelling the set. Raises ConfigError where one does."""
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            said = f"{printable(self._folder)}: cannot be made ({error.strerror}); give --out DIR to label a copy"
            raise ConfigError(said) from error
        with locked_folder(self._folder, f"{printable(self.tree.root)}: is being labelled already"):
            yield

    def show(self, i: int) -> Shown:
        """The labels of image i as its file has them now. Raises DataError."""
        with self._lock:
            return self._show(i, self._read(i))

    def readable(self, i: int) -> str:
        """The path of image i, which lies in the set's folder. Raises DataError."""
        self._refuse_outside(self.images[i].path)
        return self.images[i].path

    def save(self, i: int, version: str, wanted: Sequence[WantedObject]) -> Shown:
        """Make the labels of image i those. Objects that are not among them are deleted.

        Raises StaleError, RefusedError, DataError; nothing was written then.
        """
        with self._lock:
            data = self._read(i)
            now = self._show(i, data)
            if now.version != version:
                raise StaleError
            if now.fixed:
                raise RefusedError(now.fixed)
            edit = self._edit(i, now, wanted)
            if edit != Edit() or data is None:
                self._write(i, now, data, edit)
            return self._show(i, self._read(i))

    def add_class(self, name: str) -> None:
        """A class that objects may get from now on. Raises RefusedError, DataError; nothing was written then."""
        with self._lock:
            name = name.strip()
            if not is_name(name) or not name.isprintable() or len(name) > _MAX_NAME:
                raise RefusedError(f"class name {printable(name, 60)!r}: want 1 to {_MAX_NAME} signs of one line")
            if name in self.classes:
                raise RefusedError(f"class {printable(name, 60)!r} is there already")
            if len(self.classes) >= MAX_CLASSES:
                raise RefusedError(f"{len(self.classes)} classes; no more are read")
            self._editor.add_class(name, self._rewrite)
            self.classes = (*self.classes, name)
            self.revision += 1

    def _rewrite(self, path: str, change: Callable[[bytes], bytes]) -> None:
        self._refuse_outside(path)
        before = read_limited(path, _MAX_BYTES, "list of classes")
        self._replace(Path(path), before, change(before))

    # ------------------------------------------------------------------------------------------ progress

    @property
    def looked(self) -> frozenset[int]:
        """The images that were looked at, this time or an earlier one."""
        return frozenset(i for i, name in enumerate(self.names) if name in self._looked)

    def look(self, i: int, looked: bool) -> None:
        """Note that image i was looked at, or not."""
        with self._lock:
            change = self._looked.add if looked else self._looked.discard
            if (self.names[i] in self._looked) != looked:
                change(self.names[i])
                self._folder.mkdir(exist_ok=True)
                with atomic_write(self._folder / "progress.json") as place:
                    place.write_text(json.dumps({"looked_at": sorted(self._looked)}, indent=1), encoding="utf-8")

    def _read_progress(self) -> set[str]:
        path = self._folder / "progress.json"
        if not path.is_file():
            return set()
        try:
            names = json.loads(read_limited(path, 2**28, "list of the images that were looked at"))["looked_at"]
            return {str(name) for name in names}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{printable(path)}: is no list of images any more; correct it or remove it") from error

    # ------------------------------------------------------------------------------------------ reading

    def _label(self, i: int) -> str:
        """The label file of image i, there or not."""
        image = self.images[i]
        return image.file if image.file != image.path else self.tree.path(self._editor.place(self.names[i]))

    def _read(self, i: int) -> bytes | None:
        path = self._label(i)
        self._refuse_outside(path)
        return read_limited(path, _MAX_BYTES, "label") if os.path.lexists(path) else None

    def _refuse_outside(self, path: str) -> None:
        root = os.path.realpath(self.tree.root)
        if not os.path.realpath(path).startswith(root.rstrip(os.sep) + os.sep):
            raise DataError(f"{printable(path)}: a link that leads out of {printable(self.tree.root)}; copy it there")

    def _show(self, i: int, data: bytes | None) -> Shown:
        image = self._with_file(i)
        width, height = image_size(self.readable(i))
        digest = hashlib.sha256(_ABSENT if data is None else self._editor.own(data, image)).hexdigest()
        objects = [] if data is None else self._editor.objects(data, image)
        x, y, fixed = _scale(image, width, height)
        boxed = [obj._replace(box=_scaled(obj.box, x, y)) for obj in objects if all(map(math.isfinite, obj.box))]
        return Shown(width, height, digest, boxed, data is not None, fixed)

    def _with_file(self, i: int) -> RawImage:
        return self.images[i]._replace(file=self._label(i))

    # ------------------------------------------------------------------------------------------ saving

    def _edit(self, i: int, now: Shown, wanted: Sequence[WantedObject]) -> Edit:
        if len(wanted) > MAX_OBJECTS:
            raise RefusedError(f"{len(wanted)} objects; want {MAX_OBJECTS} at most")
        there = {obj.number: obj for obj in now.objects}
        x, y, _ = _scale(self.images[i], now.width, now.height)
        changed: dict[int, Change] = {}
        added: list[tuple[str, Box]] = []
        kept: set[int] = set()
        for one in wanted:
            old = None if one.number is None else there.get(one.number)
            if one.number is not None and (old is None or one.number in kept):
                raise RefusedError(f"object {one.number} is not there, or named twice; load the image again")
            name = self._class(one.name) if old is None or old.name != one.name else None
            box = None
            if old is None or old.box != one.box:
                if old is not None and old.fixed:
                    raise RefusedError(f"object {old.number} ({printable(old.name, 60)}): {old.fixed}; its box stays")
                inside = _inside(one.box, now.width, now.height, None if old is None else old.box)
                box = _scaled(inside, 1 / x, 1 / y)
            if old is None:
                assert name is not None
                assert box is not None
                added.append((name, box))
                continue
            kept.add(old.number)
            if name is not None or box is not None:
                changed[old.number] = Change(name, box)
        return Edit(frozenset(there) - kept, changed, added) if (there.keys() - kept or changed or added) else Edit()

    def _class(self, name: str) -> str:
        if name not in self.classes:
            raise RefusedError(f"class {printable(name, 60)!r} is not one of this set; add it first")
        return name

    def _write(self, i: int, now: Shown, data: bytes | None, edit: Edit) -> None:
        image = self._with_file(i)
        if data is None:
            image = image._replace(width=now.width, height=now.height)
            data, before = self._editor.blank(image), None
        else:
            before = data
        new = self._editor.apply(data, image, edit)
        if isinstance(self._editor, YoloEditor) and edit.deleted:
            self._shift_flags(image.file, edit.deleted)
        self._replace(Path(image.file), before, new)
        self.images[i] = image
        self.revision += 1

    def _shift_flags(self, label: str, deleted: frozenset[int]) -> None:
        """Flags of YOLO's rows stand in a file of their own, by the rows' numbers."""
        path = Path(self.tree.root) / FLAGS_FILE
        if not path.is_file():
            return
        self._refuse_outside(str(path))
        before = read_limited(path, _MAX_BYTES, "flags")
        name = os.path.relpath(label, self.tree.root).replace(os.sep, "/")
        after = shift_flags(before, name, deleted)
        if after != before:
            self._replace(path, before, after)

    def _replace(self, path: Path, before: bytes | None, after: bytes) -> None:
        """Write a file whole or not at all; what it held before this run is kept first."""
        self._refuse_outside(str(path))
        path = Path(os.path.realpath(path))  # a link within the set stays one
        mode = None
        if before is not None:
            mode = path.stat().st_mode & 0o7777
            kept = self._backups / os.path.relpath(path, os.path.realpath(self.tree.root))
            if not kept.exists():
                with atomic_write(kept, durable=True) as place:
                    place.write_bytes(before)
        with atomic_write(path, durable=True) as place:
            place.write_bytes(after)
        if mode is not None:
            path.chmod(mode)


def _scale(image: RawImage, width: int, height: int) -> tuple[float, float, str]:
    """What boxes of the file are multiplied with, and why nothing can be changed, "" where it can."""
    if image.relative:
        return float(width), float(height), ""
    if not (image.width and image.height) or (image.width, image.height) == (width, height):
        return 1.0, 1.0, ""
    x, y = width / image.width, height / image.height
    if abs(x / y - 1) <= _SAME_SHAPE:
        return x, y, ""
    stated = f"its label is for an image of {image.width} x {image.height} pixels"
    return 1.0, 1.0, f"{stated}, this one has {width} x {height}; run singleshot data check --fix"


def _scaled(box: Box, x: float, y: float) -> Box:
    return (box[0] * x, box[1] * y, box[2] * x, box[3] * y)


def _inside(box: Box, width: int, height: int, old: Box | None) -> Box:
    """The box within the image; sides that are as they were stay where they are. Raises RefusedError."""
    if not all(math.isfinite(value) for value in box):
        raise RefusedError("a box with a number that is not finite")
    cut = [min(max(value, 0.0), float(side)) for value, side in zip(box, (width, height, width, height), strict=True)]
    if old is not None:
        cut = [before if before == value else now for before, value, now in zip(old, box, cut, strict=True)]
    if cut[2] - cut[0] < _LEAST_SIDE or cut[3] - cut[1] < _LEAST_SIDE:
        raise RefusedError("a box of less than a pixel, or outside its image; make it larger or delete it")
    return (cut[0], cut[1], cut[2], cut[3])


def shown_values(shown: Shown) -> dict[str, Any]:
    """Plain values for JSON."""
    objects = [{**obj._asdict(), "box": [float(value) for value in obj.box]} for obj in shown.objects]
    return {**shown._asdict(), "objects": objects}
