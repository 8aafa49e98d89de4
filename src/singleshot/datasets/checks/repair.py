"""A repaired copy of a data set: what can be fixed is fixed, what cannot is left out, and every change is listed.

An image whose labels are not all known would teach that the objects which are missing are background: it goes as a
whole, and where it is not known which image that is, the copy keeps a warning.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from singleshot.datasets.box_rules import swapped_corners
from singleshot.datasets.checks import CheckResult, Progress
from singleshot.datasets.checks.labels import Table, base_splits, duplicated_boxes, tabulate, turned
from singleshot.datasets.checks.left_out import write_left_out
from singleshot.datasets.findings import Finding
from singleshot.datasets.formats import FORMATS, Format, written_formats
from singleshot.datasets.plausible import first_pixel, implausible
from singleshot.datasets.raw import Box, RawImage, RawObject, RawSet
from singleshot.datasets.splits import role
from singleshot.datasets.writing import write_dataset
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.images.orientation import upright
from singleshot.storage import read_limited

# A box that keeps less of its area within its image than this is not the object's any more.
_LEAST_LEFT = 0.5
_ACTIONS = {
    "annotation-unreadable": "unreadable entries of label files left out",
    "annotation-malformed": "unreadable entries of label files left out",
    "split-unusable": "unusable entries of split lists left out",
    "class-unknown": "objects of unknown classes left out",
    "image-missing": "labels without an image left out",
}
_LOST = ("annotation-unreadable", "annotation-malformed", "class-unknown")


class Repaired(NamedTuple):
    """out: the folder written, in `form`; actions: what was done -> to what, a line each; left: what is still wrong;
    counts: what was done -> how often, of which `actions` has the first thousands."""

    out: str
    form: str
    images: int
    objects: int
    splits: dict[str, int]
    actions: dict[str, list[str]]
    left: list[str]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return self._asdict()


class _Log:
    """What was done, in the order in which kinds of actions first happen."""

    def __init__(self) -> None:
        self.actions: dict[str, list[str]] = {}
        self.more = Counter[str]()

    def add(self, action: str, obj: str) -> None:
        self.actions.setdefault(action, []).append(obj)

    def counts(self) -> dict[str, int]:
        """How often each was done."""
        return {action: len(objects) + self.more[action] for action, objects in self.actions.items()}


def repair(
    result: CheckResult, out: Path, progress: Progress | None = None, formats: Mapping[str, Format] = FORMATS
) -> Repaired:
    """Write a repaired copy of what was checked to the new folder `out`; the original is only read.

    Raises DataError where nothing would be left, ConfigError where `out` is there already.
    """
    log = _Log()
    _unreadable(result, log)
    raw = _in_pixels(_rename(result, log), log)
    sizes = result.pictures.sizes[result.file_of]
    lost, unknown = _images_of_lost_entries(result)
    raw = _swap_corners(raw, tabulate(raw, sizes), log)
    table = tabulate(raw, sizes)
    images, doubtful = _repair_objects(table, result, log)
    with tempfile.TemporaryDirectory(prefix="singleshot-") as folder:
        kept = [_repair_image(result, i, image, sizes[i], Path(folder), log) for i, image in enumerate(images)]
        for i, image in enumerate(kept):
            if image is not None and (i in lost or i in doubtful):
                log.add("images left out, since not all of their objects are known", f"{_path(raw, i)} ({image.file})")
                kept[i] = None
        splits = _repair_splits(result, [image is not None for image in kept], log)
        fixed = raw._replace(
            images=[image or images[i] for i, image in enumerate(kept)],
            splits={name: members for name, members in splits.items() if members},
        )
        chosen = {i for members in fixed.splits.values() for i in members}
        if not any(fixed.images[i].objects for i in chosen):
            raise DataError(f"{printable(raw.source)}: nothing usable would be left: {_why_nothing(result)}")
        unknown += [str(finding) for finding in result.findings if finding.kind == "labels-contradict"]
        odd = implausible(result.raw)
        if odd is not None and odd[0] == "boxes-suspicious":
            unknown.append(odd[1])
        form = raw.form if raw.form in written_formats(formats) else "voc"
        with progress(len(chosen), "copying") if progress else nullcontext(None) as advance:
            written = write_dataset(fixed, out, form, advance, formats, trust_sizes=True)
        unknown += _turned_boxes(table, kept)
        write_left_out(out, unknown)
    left = [*unknown, *_unread_images(result)]  # those are found again
    return Repaired(str(out), form, written.images, written.objects, written.splits, log.actions, left, log.counts())


def _images_of_lost_entries(result: CheckResult) -> tuple[set[int], list[str]]:
    """Positions of images of which an entry of their label file could not be used; and, of files that label many
    images, or where there are more findings than are kept, what was lost."""
    of_file: dict[str, list[int]] = {}
    for i, image in enumerate(result.raw.images):
        of_file.setdefault(image.file, []).append(i)
    lost, elsewhere = set(), Counter[str]()
    first: dict[str, Finding] = {}
    for finding in result.findings:
        # With a list of classes others are left out because they are not wanted.
        if finding.kind not in _LOST or (finding.kind == "class-unknown" and result.wanted is not None):
            continue
        images = of_file.get(finding.file, [])
        if len(images) == 1:
            lost.add(images[0])
        elif result.raw.form != "shards" and (images or finding.kind != "annotation-unreadable"):
            elsewhere[finding.file] += 1  # of a file without images nothing is in the copy
            first.setdefault(finding.file, finding)
    unknown = [
        f"{count} entr{'y' if count == 1 else 'ies'} could not be used, and what they label is missing here (first: "
        f"{first[file]})"
        for file, count in elsewhere.items()
    ]
    held = Counter(finding.kind for finding in result.findings)
    more = sum(result.counts.get(kind, 0) - held[kind] for kind in _LOST)
    return lost, [*unknown, *([f"{more} more entries could not be used and are missing here"] if more else [])]


def _unread_images(result: CheckResult) -> list[str]:
    """Images that are in the copy as they are, since converting them is all that they need."""
    return [
        f"{printable(result.pictures.paths[k])}: {message}"
        for k, (kind, message) in sorted(result.pictures.problems.items())
        if kind == "image-unread"
    ]


def _why_nothing(result: CheckResult) -> str:
    """What the user has to do where no image with an object can be used."""
    counts = result.counts
    reasons = {
        "image-missing": "labelled images are not there; put them where the labels name them, or give the folder above "
        "that holds both",
        "image-corrupt": "images do not decode; fetch them again",
        "image-pointer": "set has Git LFS pointers in place of its images; fetch them with: git lfs pull",
        "size-mismatch": "images are of another size than their labels say; take those that were labelled",
        "annotation-unreadable": "label files cannot be read; export them again",
        "annotation-malformed": "entries of label files cannot be used; export them again",
        "class-unknown": "objects have classes that are not listed; correct the list",
        "box-outside": "boxes lie outside their images; see whether these are the images that were labelled",
        "box-not-finite": "boxes are no place; export them again",
        "box-without-area": "boxes have no area; export them again",
    }
    kind = max(reasons, key=lambda kind: counts.get(kind, 0))
    return f"{counts[kind]} {reasons[kind]}" if counts.get(kind) else "no image has an object; label some"


def _in_pixels(raw: RawSet, log: _Log) -> RawSet:
    """Where all boxes are parts of their images, that is what they are."""
    odd = implausible(raw)
    if odd is None or odd[0] != "boxes-in-parts":
        return raw
    log.add("boxes in parts multiplied by the sides of their images", printable(raw.source))
    shift = first_pixel(raw).tolist()

    def whole(obj: RawObject) -> RawObject:
        x0, y0, x1, y1 = (value + more for value, more in zip(obj.box, shift, strict=True))
        return obj._replace(box=(x0, y0, x1, y1), area=float("nan"))

    images = [image._replace(objects=[whole(obj) for obj in image.objects], relative=True) for image in raw.images]
    return raw._replace(images=images)


def _unreadable(result: CheckResult, log: _Log) -> None:
    """What the readers could not use is not in the raw set any more."""
    kept = Counter(finding.kind for finding in result.findings)
    for finding in result.findings:
        if finding.kind in _ACTIONS and not (finding.kind == "class-unknown" and result.wanted is not None):
            log.add(_ACTIONS[finding.kind], str(finding))
    for kind, action in _ACTIONS.items():
        if action in log.actions:
            log.more[action] += result.counts[kind] - kept[kind] if kind in result.counts else 0


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


def _repair_objects(table: Table, result: CheckResult, log: _Log) -> tuple[list[RawImage], set[int]]:
    """The images with boxes that training takes, clipped or dropped; and the positions of those with a box of which it
    is not known where its object is."""
    raw, judged = table.raw, table.judged
    gone = table.known & (judged.non_finite | judged.degenerate | judged.empty)
    outside = table.known & judged.outside & ~gone
    doubtful = table.known & _doubtful(table)
    again = duplicated_boxes(table)
    usable = result.pictures.usable[result.file_of]
    objects: list[list[RawObject]] = [[] for _ in raw.images]
    for j, obj in enumerate(table.objects):
        i = int(table.image_of[j])
        image = raw.images[i]
        if not usable[i]:  # left out as a whole
            continue
        where = f"{raw.notation.where(image, obj)}: {raw.notation.box(obj.box)}"
        if doubtful[j]:
            log.add("boxes that lie mostly outside their image, or nowhere", where)
        elif gone[j]:
            log.add("boxes without area dropped", where)
        elif j in again:
            log.add("duplicated boxes dropped", where)
        elif outside[j]:
            box = _clip(table, j)
            log.add("boxes clipped to their image", f"{where} -> {raw.notation.box(box)}")
            objects[i].append(obj._replace(box=box, area=float("nan")))
        else:
            objects[i].append(obj)
    images = [image._replace(objects=objects[i]) for i, image in enumerate(raw.images)]
    return images, set(table.image_of[doubtful].tolist())


def _swap_corners(raw: RawSet, table: Table, log: _Log) -> RawSet:
    """With the corners in order of boxes that lie in their images then, in the units in which they were written."""
    swapped = swapped_corners(table.boxes, table.sizes[table.image_of]) & table.known
    if not swapped.any():
        return raw
    objects: list[list[RawObject]] = [[] for _ in raw.images]
    shift = first_pixel(raw)
    for j, obj in enumerate(table.objects):
        i = int(table.image_of[j])
        if swapped[j]:
            log.add("corners in the wrong order swapped", f"{raw.notation.where(raw.images[i], obj)}")
            x0, y0, x1, y1 = (np.sort((np.array(obj.box) + shift).reshape(2, 2), axis=0).ravel() - shift).tolist()
            objects[i].append(obj._replace(box=(x0, y0, x1, y1), area=float("nan")))
        else:
            objects[i].append(obj)
    return raw._replace(images=[im._replace(objects=mine) for im, mine in zip(raw.images, objects, strict=True)])


def _doubtful(table: Table) -> np.ndarray:
    """bool [M]: boxes with coordinates that are no place, or of which less than _LEAST_LEFT of the area lies in the
    image; those without area are not."""
    judged = table.judged
    boxes = np.where(judged.non_finite[:, None], 0.0, table.boxes)
    whole, inside = (
        np.maximum(box[:, 2:] - box[:, :2], 0.0).prod(axis=1) for box in (boxes, judged.inside.astype(np.float64))
    )
    doubtful: np.ndarray = judged.non_finite | (inside < _LEAST_LEFT * whole)
    return doubtful


def _turned_boxes(table: Table, kept: list[RawImage | None]) -> list[str]:
    """Boxes whose corners stand in the wrong order, of images that are in the copy: they are dropped like those without
    width or height, but no slip of the mouse."""
    found = []
    for j in np.flatnonzero(table.known & table.judged.degenerate & (table.boxes[:, 2:] != table.boxes[:, :2]).all(1)):
        i, obj = int(table.image_of[j]), table.objects[j]
        if kept[i] is not None:
            where = f"{table.raw.notation.where(table.raw.images[i], obj)}: {table.raw.notation.box(obj.box)}"
            found.append(f"{where} was dropped, so that its object is missing here")
    return found


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
    """The splits without images that are left out; val without copies of train's pictures, and test without those of
    train's or val's."""
    raw, group_of = result.raw, _groups(result)[result.file_of]
    base = base_splits(raw.splits)
    splits = {name: [i for i in members if kept[i]] for name, members in raw.splits.items()}
    seen: dict[int, str] = {}
    for kind in ("train", "val", "test"):
        mine = [name for name in base if role(name) == kind]
        for name in mine:
            for i in splits[name]:
                if (where := seen.get(int(group_of[i]))) is not None:
                    log.add(f"copies of {where} images taken out of {kind}", f"{_path(raw, i)} ({printable(name)})")
            splits[name] = [i for i in splits[name] if int(group_of[i]) not in seen]
        about = {"train": "training", "val": "validation"}.get(kind, kind)
        seen |= {int(group_of[i]): about for name in mine for i in splits[name]}
    # What trainval or the like joins must still be in one of its parts.
    placed = {i for name in base for i in splits[name]}
    was = {i for members in base.values() for i in members}
    splits = {name: [i for i in members if i in placed or i not in was] for name, members in splits.items()}
    for name, members in splits.items():
        if raw.splits[name] and not members:
            log.add("splits without usable images left out", printable(name))
    return splits


def _groups(result: CheckResult) -> np.ndarray:
    """int64 [files]: the same number for files that show the same picture, exactly or nearly."""
    group_of = np.arange(len(result.pictures.paths))
    for group in result.exact:  # which have no file in common
        group_of[group] = group[0]
    for first, second in result.near:
        group_of[group_of == group_of[second]] = group_of[first]
    return group_of


def _path(raw: RawSet, i: int) -> str:
    return printable(raw.images[i].path)
