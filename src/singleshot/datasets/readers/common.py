"""What the readers share: numbers, JSON, folders, image files in the usual places, splits that are made here."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import Box, Hull, RawImage, say_same
from singleshot.datasets.readers.image_finder import ImageFinder, NamedImages, other_endings, say_ending
from singleshot.datasets.splits import make_splits, resolve_split
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image

logger = logging.getLogger(__name__)

MAX_SIDE = 1_000_000
# What objects are called where a form says no class of any: one class was so plain that nobody wrote it.
ONLY_CLASS = "object"
# The splits of a data set that has none, see `make_splits`.
MADE_SPLITS = ("train", "val", "test", "trainval")
_SHOWN = 8
_BLANK = re.compile(r"[\s,]*")

# ---------------------------------------------------------------------------------------------- numbers and boxes


def parse_number(text: str) -> float | None:
    """The number that a text is; None for none, and for Python's own way to write 1_000."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def score_of(text: str | None) -> float:
    """The score of a detection, NaN where a label has none."""
    score = None if text is None else parse_number(text)
    return math.nan if score is None else score


def json_number(value: object) -> float:
    """A value of JSON as float, NaN for anything that is not a number; what no float holds is infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole_side(value: float | None) -> int | None:
    """A side of an image in whole pixels, 0 where it is not known; None for what is no side."""
    return int(value) if value is not None and 0 <= value <= MAX_SIDE and value % 1 == 0 else None


def surround(xs: Sequence[float], ys: Sequence[float]) -> Box:
    """The box around points; all NaN where one coordinate is, since min and max would depend on the order."""
    if any(map(math.isnan, (*xs, *ys))):
        return (math.nan, math.nan, math.nan, math.nan)
    return Hull((min(xs), min(ys), max(xs), max(ys)))


# ---------------------------------------------------------------------------------------------- JSON


def parse_json(data: bytes, where: str) -> object:
    """What a JSON file holds; `where` is its name in messages. Raises DataError."""
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: is not JSON: {error.msg} at line {error.lineno} column {error.colno}; write the file again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON that can be read ({printable(error, 80)}); want UTF-8") from error


def line_of_item(text: str, key: str, number: int) -> int | None:
    """The line, from 1, on which item `number`, from 0, of the first list called `key` starts; None where none does."""
    start = re.search(rf'"{key}"\s*:\s*\[', text)
    if start is None:
        return None
    at, decoder = start.end(), json.JSONDecoder()
    for k in range(number + 1):
        blank = _BLANK.match(text, at)
        at = blank.end() if blank else at
        if text[at : at + 1] in ("", "]"):
            return None
        if k == number:
            return text.count("\n", 0, at) + 1
        try:
            at = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            return None
    return None


# ---------------------------------------------------------------------------------------------- folders and images


def spread(names: Sequence[str], most: int) -> Sequence[str]:
    """At most so many of the names, from all over them: what lies first in a folder may be unlike the rest."""
    return names[:: max(1, -(-len(names) // most))]


def images_by_stem(tree: Tree, folder: str) -> dict[str, list[str]]:
    """Name without ending -> names of the images in a folder; not to be changed."""
    key = f"images by stem {folder}"
    if key not in tree.memo:
        stems: dict[str, list[str]] = {}
        for name in filter(is_image, tree.files(folder)):
            stems.setdefault(name.rpartition(".")[0], []).append(name)
        tree.memo[key] = stems
    return cast("dict[str, list[str]]", tree.memo[key])


def find_images(
    tree: Tree,
    file: str,
    wanted: Sequence[tuple[str, int | None]],
    places: Iterable[str],
    find: Callable[[str, str], str | None],
    problems: RaiseErrors,
    endings: bool = True,
    used: NamedImages | None = None,
) -> list[str]:
    """Names in the tree of the images that a label file lists, "" where missing: in the first of the places that has
    them all, or else in the one that has most; an image that is not there by its name alone, as ImageFinder does, and
    with `endings` those that have another ending there (see `other_endings`, used too).

    wanted: names as written, each with the line that has it; find(place, name): the name in the tree, or None.
    """
    path = tree.path(file)
    best: list[str] = [""] * len(wanted)
    places = list(dict.fromkeys(places))
    best_place, fewest = places[0], len(wanted)
    refused: dict[str, str] = {}
    for place in places:
        if not _is_there(tree, place):
            continue
        found = []
        for name, _ in wanted:
            try:
                found.append(find(place, name) or "")
            except DataError as error:
                refused[name] = f"image {error}"
                found.append("")
        lacking = found.count("")
        if lacking < fewest:
            best, best_place, fewest = found, place, lacking
        if not lacking:
            break
    if fewest:
        finder = ImageFinder(tree)
        for i, (name, _) in enumerate(wanted):
            if not best[i]:
                try:
                    best[i] = finder.find(name, [best_place, *places]) or ""
                except DataError as error:
                    refused[name] = f"image {error}"
        if (
            endings
            and "" in best
            and (meant := other_endings(finder, names := [name for name, _ in wanted], best, used))
        ):
            best = [meant.get(i, there) for i, there in enumerate(best)]
            problems.add("ending-differs", path, say_ending(meant, names))
        fewest = best.count("")
    where = f"not in {printable(tree.path(best_place))}); add the files there"
    if fewest == len(wanted):
        where = f"not below {printable(tree.root)}); add the files"
    for (name, line), there in zip(wanted, best, strict=True):
        if not there:
            message = refused.get(name) or (
                f"image {printable(name)!r} is missing ({fewest} of {len(wanted)} are {where}, or take the images out "
                "of this file"
            )
            problems.add("image-missing", path, message, line=line)
    return best


def _is_there(tree: Tree, place: str) -> bool:
    try:
        return not place or bool(tree.names(place))
    except DataError:  # which is said of each image that is looked for in it
        return True


def shorten_idents(idents: Sequence[str]) -> list[str]:
    """Without folders, but for those of the same last part in several folders."""
    lasts = [ident.rpartition("/")[2] for ident in idents]
    same: dict[str, set[str]] = {}
    for ident, last in zip(idents, lasts, strict=True):
        same.setdefault(last, set()).add(ident)
    return [last if len(same[last]) == 1 else ident for ident, last in zip(idents, lasts, strict=True)]


class UniqueImages:
    """Images of several files: the same one in two of them (train and trainval) is one, unless they say different
    objects of it. A split has it once: the first of its label files counts."""

    def __init__(self) -> None:
        self.images: list[RawImage] = []
        self._seen: dict[str, int] = {}
        self._first: dict[str, dict[str, RawImage]] = {}
        self._again: dict[tuple[str, str], tuple[list[str], list[str]]] = {}

    def place(self, split: str, images: Iterable[RawImage]) -> list[int]:
        """The positions of a split's further images among all, put there if they are new."""
        return [at for at in (self._place(split, image) for image in images) if at is not None]

    def _place(self, split: str, image: RawImage) -> int | None:
        first = self._first.setdefault(split, {}).setdefault(image.path, image)
        if first is not image and first.file != image.file:  # under two ids of one COCO file it is said there
            same = say_same(first.objects, image.objects, near=True)
            self._again.setdefault((first.file, image.file), ([], []))[same].append(image.path)
            return None
        at = self._seen.get(image.path)
        if at is None or not say_same(self.images[at].objects, image.objects):
            at = self._seen[image.path] = len(self.images)
            self.images.append(image)
        return at

    def report(self, problems: RaiseErrors) -> None:
        """Say which label files are of the same images of a split."""
        for (first, file), (other, same) in self._again.items():
            if other:
                message = (
                    f"{len(other)} image{'s' * (len(other) > 1)} with other objects than in {printable(first)} "
                    f"({printable(other[0].rpartition('/')[2], 80)} is the first); both are of one split: keep one of "
                    "the two files, or join them"
                )
                problems.add("labels-contradict", file, message)
            if same:
                message = (
                    f"{len(same)} image{'s' * (len(same) > 1)} with the objects that {printable(first)} has; they "
                    "count once: remove one of the two files"
                )
                problems.add("labels-repeated", file, message)


# ---------------------------------------------------------------------------------------------- splits


def say_parts(tree: Tree, files: Sequence[str], problems: RaiseErrors) -> None:
    """Say which label files are read as one, where they are several."""
    if len(files) < 2:
        return
    shown = ", ".join(printable(name, 60) for name in files[:_SHOWN]) + ", ..." * (len(files) > _SHOWN)
    problems.add("sets-joined", tree.root, f"{shown} are read as one set without splits; to read one of them, name it")


def without_repeated(
    splits: dict[str, list[int]], again: Mapping[str, str], source: str, problems: RaiseErrors
) -> dict[str, list[int]]:
    """The splits without those that are a further file of one with just its images, and so its labels: of train.csv and
    train_colab.csv, which differ in the paths of two machines, the first. again: such a file's split -> that one."""
    kept = dict(splits)
    for name, first in again.items():
        if splits.get(name) and sorted(splits[name]) == sorted(splits.get(first, ())):
            message = f"split {printable(name)!r} has the images and objects of {first!r}: it counts once; remove one"
            problems.add("labels-repeated", source, f"{message} of the label files")
            del kept[name]
    return kept


def divide(tree: Tree, names: Sequence[str], wanted: str | None) -> dict[str, list[int]]:
    """The splits that are made of images without any, by a hash of their names: positions, of all splits or of the
    wanted one alone. Raises DataError where that is none of them."""
    splits = make_splits(names)
    counts = ", ".join(f"{name} {len(members)}" for name, members in splits.items())
    logger.info("%s: no splits, split by hash of the names: %s", printable(tree.root), counts)
    if wanted is None:
        return splits
    split = resolve_split(wanted, splits, tree.root)
    return {split: splits[split]}
