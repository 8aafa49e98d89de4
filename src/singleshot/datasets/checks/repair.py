"""A repaired copy of a data set: what can be fixed is fixed, what cannot is left out, and every change is listed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from singleshot.datasets.checks import CheckResult, Progress
from singleshot.datasets.checks.labels import Table, base_splits, duplicated_boxes, role, tabulate, turned
from singleshot.datasets.formats import FORMATS, Format, written_formats
from singleshot.datasets.raw import Box, RawImage, RawObject, RawSet
from singleshot.datasets.writing import write_dataset
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.images.headers import upright
from singleshot.storage import read_limited

# Two boxes of the same corners up to rounding.
_SAME_PX = 0.01


class Repaired(NamedTuple):
    """out: the folder written, in `form`; actions: what was done -> to what, a line each."""

    out: str
    form: str
    images: int
    objects: int
    splits: dict[str, int]
    actions: dict[str, list[str]]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return self._asdict()


class _Log:
    """What was done, in the order in which kinds of actions first happen."""

    def __init__(self) -> None:
        self.actions: dict[str, list[str]] = {}

    def add(self, action: str, obj: str) -> None:
        self.actions.setdefault(action, []).append(obj)


def repair(
    result: CheckResult, out: Path, progress: Progress | None = None, formats: Mapping[str, Format] = FORMATS
) -> Repaired:
    """Write a repaired copy of what was checked to the new folder `out`; the original is only read.

    Raises DataError where nothing would be left, ConfigError where `out` is there already.
    """
    log = _Log()
    _unreadable(result, log)
    raw = _rename(result, log)
    sizes = result.pictures.sizes[result.file_of]
    images = _repair_objects(tabulate(raw, sizes), result, log)
    with tempfile.TemporaryDirectory(prefix="singleshot-") as folder:
        kept = [_repair_image(result, i, image, sizes[i], Path(folder), log) for i, image in enumerate(images)]
        splits = _repair_splits(result, [image is not None for image in kept], log)
        fixed = raw._replace(
            images=[image or images[i] for i, image in enumerate(kept)],
            splits={name: members for name, members in splits.items() if members},
        )
        chosen = {i for members in fixed.splits.values() for i in members}
        if not any(fixed.images[i].objects for i in chosen):
            raise DataError(f"{printable(raw.source)}: nothing usable would be left; label it anew")
        form = raw.form if raw.form in written_formats(formats) else "voc"
        with progress(len(chosen), "copying") if progress else nullcontext(None) as advance:
            written = write_dataset(fixed, out, form, advance, formats)
    return Repaired(str(out), form, written.images, written.objects, written.splits, log.actions)


def _unreadable(result: CheckResult, log: _Log) -> None:
    """What the readers could not use is not in the raw set any more."""
    for finding in result.findings:
        if finding.kind in ("annotation-unreadable", "annotation-malformed"):
            log.add("unreadable entries of label files left out", str(finding))
        elif finding.kind == "split-unusable":
            log.add("unusable entries of split lists left out", str(finding))
        elif finding.kind == "class-unknown" and result.wanted is None:
            log.add("objects of unknown classes left out", str(finding))
        elif finding.kind == "image-missing":
            log.add("labels without an image left out", str(finding))


def _rename(result: CheckResult, log: _Log) -> RawSet:
    """Misspelt classes get the name of the common one; objects of classes that are not wanted go."""
    raw, names = result.raw, result.misspelt
    for rare, common in names.items():
        log.add(
            "misspelt classes renamed", f"{printable(rare)} -> {printable(common)} ({result.classes[rare]} objects)"
        )
    wanted = None if result.wanted is None else set(result.wanted)
    images = []
    for image in raw.images:
        objects = [obj._replace(name=names[obj.name]) if obj.name in names else obj for obj in image.objects]
        if wanted is not None:
            for obj in objects:
                if obj.name not in wanted:
                    log.add("objects of unknown classes left out", raw.notation.where(image, obj))
            objects = [obj for obj in objects if obj.name in wanted]
        images.append(image._replace(objects=objects))
    kept = [name for name in raw.class_names if name not in names and (wanted is None or name in wanted)]
    return raw._replace(images=images, class_names=tuple(dict.fromkeys((*kept, *names.values()))))


# ---------------------------------------------------------------------------------------------- objects


def _repair_objects(table: Table, result: CheckResult, log: _Log) -> list[RawImage]:
    """The images with boxes that training takes: clipped, or dropped."""
    raw, judged = table.raw, table.judged
    gone = table.known & (judged.non_finite | judged.degenerate | judged.empty)
    outside = table.known & judged.outside & ~gone
    again = {
        j for j, i in duplicated_boxes(table).items() if (np.abs(table.boxes[j] - table.boxes[i]) < _SAME_PX).all()
    }
    usable = result.pictures.usable[result.file_of]
    objects: list[list[RawObject]] = [[] for _ in raw.images]
    for j, obj in enumerate(table.objects):
        i = int(table.image_of[j])
        image = raw.images[i]
        if not usable[i]:  # left out as a whole
            continue
        where = f"{raw.notation.where(image, obj)}: {raw.notation.box(obj.box)}"
        if gone[j]:
            why = "coordinates that are no place" if judged.non_finite[j] else "no area in the image"
            log.add("boxes dropped", f"{where} ({why})")
        elif j in again:
            log.add("duplicated boxes dropped", where)
        elif outside[j]:
            box = _clip(table, j)
            log.add("boxes clipped to their image", f"{where} -> {raw.notation.box(box)}")
            objects[i].append(obj._replace(box=box, area=float("nan")))
        else:
            objects[i].append(obj)
    return [image._replace(objects=objects[i]) for i, image in enumerate(raw.images)]


def _clip(table: Table, j: int) -> Box:
    """Box j cut to its image, in the units in which it was written."""
    i = table.image_of[j]
    size = np.tile(table.sizes[i].astype(np.float64), 2)
    box = np.clip(table.boxes[j], 0, size) / (size if table.raw.images[i].relative else 1)
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1


# ---------------------------------------------------------------------------------------------- images and splits


def _repair_image(
    result: CheckResult, i: int, image: RawImage, size: np.ndarray, folder: Path, log: _Log
) -> RawImage | None:
    """The image with the size of its file, turned upright where labels need that; None where it is left out."""
    where = printable(image.path)
    width, height = (int(v) for v in size)
    if not width:
        kind, message = result.pictures.problems[int(result.file_of[i])]
        if kind != "image-missing":  # those are said already
            log.add("corrupt images left out", f"{where}: {message.partition('; ')[0]}")
        return None
    annotated = (image.width, image.height)
    if not all(annotated):
        return image._replace(width=width, height=height)
    if annotated == (width, height):
        return image
    orientation = int(result.pictures.orientations[result.file_of[i]])
    if not turned(annotated, (width, height), orientation):
        fault = f"{where} is {width} x {height}, its label says {annotated[0]} x {annotated[1]} (no guess is made)"
        log.add("images of another size than their labels left out", fault)
        return None
    # Under its own name, since the copy is called after it.
    copy = folder / str(i) / (image.path.replace("\\", "/").rpartition("/")[2] or "image")
    copy.parent.mkdir()
    copy.write_bytes(upright(read_limited(image.path, MAX_FILE_BYTES, "image")))
    log.add("EXIF turns taken out, so that labels fit", f"{where} (orientation {orientation})")
    return image._replace(path=str(copy))


def _repair_splits(result: CheckResult, kept: list[bool], log: _Log) -> dict[str, list[int]]:
    """The splits without images that are left out, and without copies of train's in val and test."""
    raw, file_of = result.raw, result.file_of
    group_of = np.arange(len(result.pictures.paths))
    for group in result.exact:
        group_of[group] = group[0]
    base = base_splits(raw.splits)
    trained = {int(group_of[file_of[i]]) for name, members in base.items() if role(name) == "train" for i in members}
    splits = {name: [i for i in members if kept[i]] for name, members in raw.splits.items()}
    for name in base:
        if role(name) in ("val", "test"):
            for i in splits[name]:
                if int(group_of[file_of[i]]) in trained:
                    log.add(
                        "copies of training images taken out of val and test", f"{_path(raw, i)} ({printable(name)})"
                    )
            splits[name] = [i for i in splits[name] if int(group_of[file_of[i]]) not in trained]
    # What trainval or the like joins must still be in one of its parts.
    placed = {i for name in base for i in splits[name]}
    was = {i for members in base.values() for i in members}
    splits = {name: [i for i in members if i in placed or i not in was] for name, members in splits.items()}
    for name, members in splits.items():
        if raw.splits[name] and not members:
            log.add("splits without usable images left out", printable(name))
    return splits


def _path(raw: RawSet, i: int) -> str:
    return printable(raw.images[i].path)
