"""What labels say, held against the images: sizes, boxes, classes, splits. Vectorised over all objects."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from singleshot.datasets.box_rules import NON_FINITE, SWAPPED, ValidatedBoxes, swapped_corners, validate_boxes
from singleshot.datasets.dataset import unknown_class
from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import RawObject, RawSet
from singleshot.datasets.splits import usual_split
from singleshot.errors import printable

# Smaller than this after the image was resized into the square of the default models, a box is less than half a cell of
# their finest feature map (320 / 40 = 8 px).
_SQUARE, _TINY_PX = 320, 4.0
_HUGE = 0.98
_SAME_IOU = 0.95
_MANY, _MANY_PARTS = 10, 0.1  # images without a label file: more may be a mistake
# Boxes of one image and class are compared with so many that start near them; bounds the work of a hostile file.
_REACH = 256


class Table(NamedTuple):
    """All M objects of a set with n images, flat. image_of, names: the object's image and class;
    sizes: int32 [n, 2] what boxes are judged against (the annotated size, else the file's, 0 where neither is known);
    boxes: float64 [M, 4] pixels; known: bool [M], False where boxes are parts of an image without a size."""

    raw: RawSet
    objects: list[RawObject]
    image_of: np.ndarray
    labels: np.ndarray
    names: list[str]
    sizes: np.ndarray
    boxes: np.ndarray
    known: np.ndarray
    judged: ValidatedBoxes

    @property
    def bad(self) -> np.ndarray:
        """bool [M]: boxes that training refuses."""
        j = self.judged
        bad: np.ndarray = self.known & (j.non_finite | j.degenerate | j.outside | j.empty)
        return bad

    def say(self, problems: RaiseErrors, kind: str, j: int, message: str) -> None:
        """Report something about object j."""
        image, obj = self.raw.images[self.image_of[j]], self.objects[j]
        item = self.raw.notation.item(obj)
        problems.add(kind, image.file, message, printable(item, 160), line=obj.line, number=obj.number)


def tabulate(raw: RawSet, true_sizes: np.ndarray) -> Table:
    """true_sizes: int32 [n, 2], width and height of each image as its file has them, 0 where it does not decode."""
    owners = [(i, obj) for i, image in enumerate(raw.images) for obj in image.objects]
    objects = [obj for _, obj in owners]
    image_of = np.array([i for i, _ in owners], np.int64)
    names = list(dict.fromkeys(obj.name for obj in objects))
    number = {name: k for k, name in enumerate(names)}
    annotated = np.array([(image.width, image.height) for image in raw.images], np.int32).reshape(-1, 2)
    sizes = np.where((annotated > 0).all(axis=1, keepdims=True), annotated, true_sizes)
    relative = np.array([image.relative for image in raw.images], bool)[image_of]
    written = np.array([obj.box for obj in objects], np.float64).reshape(-1, 4)
    scales = np.where(relative[:, None], np.tile(sizes[image_of], 2), 1)
    known = ~relative | (sizes[image_of] > 0).all(axis=1)
    with np.errstate(over="ignore"):  # infinite: said of the box
        boxes = written * scales
    labels = np.array([number[obj.name] for obj in objects], np.int64)
    judged = validate_boxes(boxes, sizes[image_of])
    return Table(raw, objects, image_of, labels, names, sizes, boxes, known, judged)


# ---------------------------------------------------------------------------------------------- images and sizes


def turned(annotated: tuple[int, int], true: tuple[int, int], orientation: int) -> bool:
    """Whether an EXIF turn by a quarter explains that a label has other sides than the image that training sees."""
    return orientation >= 5 and annotated == true[::-1] and annotated != true


def check_sizes(raw: RawSet, true_sizes: np.ndarray, orientations: np.ndarray, problems: RaiseErrors) -> None:
    """Annotated sizes against the files', as `Dataset.sample` does when it reads an image; both [n, 2] and [n]."""
    annotated = np.array([(image.width, image.height) for image in raw.images], np.int32).reshape(-1, 2)
    comparable = (annotated > 0).all(axis=1) & (true_sizes > 0).all(axis=1)
    differs = comparable & (annotated != true_sizes).any(axis=1)
    for i in np.flatnonzero(differs).tolist():
        (w, h), (annotated_w, annotated_h) = true_sizes[i].tolist(), annotated[i].tolist()
        if turned((annotated_w, annotated_h), (w, h), int(orientations[i])):
            why = f"its EXIF orientation {orientations[i]} turns it by a quarter; save it upright, or annotate it so"
        else:
            why = "correct the annotation, or take the image that was annotated"
        image = raw.images[i]
        fault = f"says {annotated_w} x {annotated_h} pixels, but {_short(image.path)} is {w} x {h}; {why}"
        problems.add("size-mismatch", image.file, fault, f"image {printable(image.ident, 80)}")
    for i in np.flatnonzero((orientations > 1) & ~differs & (true_sizes > 0).all(axis=1)).tolist():
        fault = f"EXIF orientation {orientations[i]}: training turns it as it says; boxes must fit the turned image"
        problems.add("exif-rotation", raw.images[i].path, fault)


# ---------------------------------------------------------------------------------------------- boxes


def check_boxes(table: Table, problems: RaiseErrors) -> None:
    """Boxes that training refuses, by its own rule; and those that it takes but that look wrong."""
    notation, judged, known = table.raw.notation, table.judged, table.known
    non_finite, degenerate = judged.non_finite & known, judged.degenerate & known
    outside = (judged.outside | judged.empty) & ~degenerate & ~non_finite & known

    def each(kind: str, where: np.ndarray, say: Callable[[int], str]) -> None:
        for j in np.flatnonzero(where).tolist():
            table.say(problems, kind, j, say(j))

    def box(j: int) -> str:
        return notation.box(table.objects[j].box)

    def size(j: int) -> str:
        width, height = table.sizes[table.image_of[j]].tolist()
        return f"{width} x {height} pixels"

    each("box-not-finite", non_finite, lambda j: f"{box(j)} {NON_FINITE}; correct it")
    swapped = swapped_corners(table.boxes, table.sizes[table.image_of])

    def flat(j: int) -> str:
        return f"{box(j)} has no area{f': {SWAPPED}' if swapped[j] else ''}; correct it or remove it"

    each("box-without-area", degenerate, flat)
    each("box-outside", outside, lambda j: f"{box(j)} lies outside the image of {size(j)}; correct it")
    for j, other in duplicated_boxes(table).items():
        annotated = notation.item(table.objects[other])
        table.say(problems, "box-duplicated", j, f"{box(j)} is that of {printable(annotated, 160)}; remove one of them")
    seen = known & ~table.bad & ~np.array([obj.crowd for obj in table.objects], bool)
    image = np.maximum(table.sizes[table.image_of], 1).astype(np.float64)
    sides = judged.inside[:, 2:] - judged.inside[:, :2]
    seen &= (table.sizes[table.image_of] > 0).all(axis=1)
    shown = sides * (_SQUARE / image)

    def tiny(j: int) -> str:
        return (
            f"{box(j)} is {shown[j, 0]:.1f} x {shown[j, 1]:.1f} px once the image is {_SQUARE} x {_SQUARE}; "
            "too small to be learned at that size: correct it, or train on tiles (--tile N) or at a larger --size"
        )

    each("box-tiny", seen & (shown < _TINY_PX).any(axis=1), tiny)
    huge = seen & (sides.astype(np.float64).prod(axis=1) > _HUGE * image.prod(axis=1))
    each("box-huge", huge, lambda j: f"{box(j)} covers nearly the whole image of {size(j)}; see whether that is meant")


def duplicated_boxes(table: Table) -> dict[int, int]:
    """Object -> an earlier one of the same image and class whose box is the same (IoU > .95); crowd regions aside."""
    usable = table.known & ~table.bad & ~np.array([obj.crowd for obj in table.objects], bool)
    rows = np.flatnonzero(usable)
    boxes, group = table.boxes[rows], table.image_of[rows] * max(1, len(table.names)) + table.labels[rows]
    order = np.lexsort((boxes[:, 0], group))
    rows, boxes, group = rows[order], boxes[order], group[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    lowest = np.full(len(usable), len(usable))
    for step in range(1, min(_REACH, len(rows))):
        a, b = boxes[:-step], boxes[step:]
        # Of a same box the left side differs by less than the part of the width that IoU leaves.
        near = (group[:-step] == group[step:]) & (b[:, 0] - a[:, 0] <= (1 - _SAME_IOU) * (a[:, 2] - a[:, 0]))
        if not near.any():
            break
        common = np.clip(np.minimum(a[near, 2:], b[near, 2:]) - np.maximum(a[near, :2], b[near, :2]), 0, None)
        overlap = common.prod(axis=1)
        first, second = np.flatnonzero(near), np.flatnonzero(near) + step
        same = overlap > _SAME_IOU * (area[first] + area[second] - overlap)
        some, others = rows[first[same]], rows[second[same]]
        np.minimum.at(lowest, np.maximum(some, others), np.minimum(some, others))
    again = np.flatnonzero(lowest < len(usable))
    return dict(zip(again.tolist(), lowest[again].tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- classes


def check_classes(table: Table, wanted: Sequence[str] | None, misspelt: dict[str, str], problems: RaiseErrors) -> None:
    """Objects of classes that are not wanted, misspelt ones, and those that a split lacks."""
    counts = dict(zip(table.names, np.bincount(table.labels, minlength=len(table.names)).tolist(), strict=True))
    first = {table.names[label]: j for j, label in reversed(list(enumerate(table.labels.tolist())))}
    if wanted is not None:
        unknown = np.array([name not in wanted for name in table.names], bool)
        messages = {name: unknown_class(name, wanted) for name in table.names if name not in wanted}
        for j in np.flatnonzero(unknown[table.labels]).tolist() if len(table.labels) else ():
            table.say(problems, "class-unknown", j, messages[table.objects[j].name])
    for rare, common in misspelt.items():
        if wanted is not None and rare not in wanted:
            continue  # said already
        fault = (
            f"class {printable(rare)!r} has {_times(counts[rare], 'object')}, {printable(common)!r} has "
            f"{counts[common]}; is it the same?"
        )
        table.say(problems, "class-misspelt", first[rare], fault)
    for name in wanted if wanted is not None else table.raw.class_names:
        if not counts.get(name) and counts:
            fault = f"class {printable(name)!r} has no object in any image; label some, or take it out of the list"
            problems.add("class-absent", table.raw.source, fault)


def check_class_splits(
    table: Table, splits: dict[str, list[int]], misspelt: Iterable[str], problems: RaiseErrors
) -> None:
    """Classes that one of the splits lacks while another has them; splits: those that are not made of others."""
    has = {}
    for split, members in splits.items():
        inside = np.zeros(len(table.raw.images), bool)
        inside[members] = True
        counts = np.bincount(table.labels[inside[table.image_of]], minlength=len(table.names))
        if counts.any():
            has[split] = counts
    skip = set(misspelt)
    for split in has:
        for k, name in enumerate(table.names):
            others = ", ".join(f"{counts[k]} in {printable(s, 40)}" for s, counts in has.items() if counts[k])
            if others and not has[split][k] and name not in skip:
                fault = f"split {printable(split)!r} has no object of class {printable(name)!r} ({others})"
                problems.add("class-absent", table.raw.source, fault)


def misspelt_classes(counts: dict[str, int], right: Sequence[str] = ()) -> dict[str, str]:
    """Rare name -> the common one that it looks like. `right`: names that are known to be meant.

    Names that differ only by case, blanks, hyphens or a plural s are one. One letter more, less or other (two in long
    names) counts only for a class with next to no objects beside one with many: "horse" and "house" both exist.
    """
    found: dict[str, str] = {}
    ranked = sorted(counts, key=lambda name: (-(name in right), -counts[name], name))
    for k, rare in enumerate(ranked):
        if rare in right or not counts[rare]:
            continue
        for common in ranked[:k]:
            if common not in found and _is_misspelt(rare, common, counts[rare], counts[common]):
                found[rare] = common
                break
    return found


def _is_misspelt(rare: str, common: str, few: int, many: int) -> bool:
    a, b = _plain(rare), _plain(common)
    if min(len(a), len(b)) < 3:
        return False
    if a == b:
        return True
    if few > max(3, many // 100) or many < 10 * few:
        return False
    # "class 1" and "class 2", "type a" and "type b", "helmet" and "no helmet" are meant.
    if re.findall(r"\d+", rare) != re.findall(r"\d+", common) or a.endswith(b) or b.endswith(a):
        return False
    words_a, words_b = (re.split(r"[\W_]+", name.casefold()) for name in (rare, common))
    if len(words_a) == len(words_b) and any(
        x != y and max(len(x), len(y)) <= 2 for x, y in zip(words_a, words_b, strict=True)
    ):
        return False
    shorter = min(len(a), len(b))
    return edits(a, b, 2) <= (2 if shorter >= 8 else 1 if shorter >= 4 else 0)


def _plain(name: str) -> str:
    joined = re.sub(r"[\s_\-.]+", "", name.casefold())
    return joined[:-1] if len(joined) > 3 and joined.endswith("s") and not joined.endswith("ss") else joined


def edits(a: str, b: str, most: int) -> int:
    """Letters to add, remove, change or swap with their neighbour; most + 1 where it is more than `most`."""
    if abs(len(a) - len(b)) > most or difflib.SequenceMatcher(None, a, b).quick_ratio() < 0.5:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before_last = row, before
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], before_last[j - 2] + 1)
        before = last
    return min(row[-1], most + 1)


# ---------------------------------------------------------------------------------------------- splits


def base_splits(splits: dict[str, list[int]]) -> dict[str, list[int]]:
    """The splits that are not made of others by construction: trainval = train + val is not."""
    sets = {name: frozenset(members) for name, members in splits.items()}
    base = {}
    for name, members in splits.items():
        own = sets[name]
        parts = [other for key, other in sets.items() if key != name and other and other < own]
        united = frozenset().union(*parts)
        # Joined out of others; or a collection by its name, whatever became of its parts.
        if not ((len(parts) > 1 and united == own) or name in ("trainval", "all")):
            base[name] = members
    return base or dict(splits)


def check_empty(table: Table, raw: RawSet, class_names: Sequence[str] | None, problems: RaiseErrors) -> None:
    """Images and splits without anything in them."""
    if raw.images and not table.objects and class_names is None:
        problems.add("nothing-labelled", raw.source, "no annotation has an object; label some before training")
    empty = [i for i, image in enumerate(raw.images) if not image.objects]
    bare = {i for i in empty if raw.images[i].file == raw.images[i].path}  # which no label file says
    if table.objects and len(bare) >= _MANY and len(bare) > _MANY_PARTS * len(raw.images):
        fault = f"{len(bare)} of {len(raw.images)} images have no label file and train as background; label them, take "
        fault += "them out, or put an empty file for each that shows nothing"
        problems.add("image-without-label", raw.source, f"{fault} ({_short(raw.images[min(bare)].path)} is the first)")
        empty = [i for i in empty if i not in bare]
    if empty and table.objects:
        shown = ", ".join(_short(raw.images[i].path) for i in empty[:5]) + (", ..." if len(empty) > 5 else "")
        fault = f"{len(empty)} of {len(raw.images)} images have no objects ({shown}); they train as background"
        problems.add("image-without-objects", raw.source, fault)
    for name, members in raw.splits.items():
        if not members and not raw.made:
            problems.add("split-unusable", raw.source, f"split {printable(name)!r} has no images that can be used")


def check_names(raw: RawSet, problems: RaiseErrors) -> None:
    """That the numbers of YOLO's classes have names."""
    if raw.form == "yolo" and not raw.declared and raw.class_names:
        fault = (
            f"no names of the {len(raw.class_names)} classes: they are called after their numbers; put a list of "
            "names, such as classes.txt or obj.names, into this folder, or give the folder above if it lies there"
        )
        problems.add("classes-unnamed", raw.source, fault)


def check_train(raw: RawSet, problems: RaiseErrors) -> None:
    """That there is a split to train on."""
    if raw.images and not raw.made and not any(usual_split(split) in ("train", "trainval") for split in raw.splits):
        there = ", ".join(printable(split, 40) for split in raw.splits)
        fault = f"no split 'train' (there are: {there}); give train --split, or only the folder of one of them as DATA"
        problems.add("split-train-missing", raw.source, f"{fault}: without splits it is divided")


def _short(path: str) -> str:
    return printable(PurePosixPath(path.replace("\\", "/")).name, 80)


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
