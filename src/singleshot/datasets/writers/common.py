"""What all writers share: names that every form and file system holds, copies of the image files, boxes in pixels."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO
from urllib.parse import unquote
from xml.sax.saxutils import escape

from singleshot.datasets.box_rules import LIMIT_PX, NON_FINITE
from singleshot.datasets.packed_strings import is_text
from singleshot.datasets.raw import DatasetIds, Notation, RawImage, RawObject, RawSet
from singleshot.datasets.readers.own_lists import CLASS_LIST
from singleshot.errors import DataError, printable
from singleshot.images.decode import FORMATS, MAX_FILE_BYTES, upright_size
from singleshot.images.headers import ending_of
from singleshot.images.suffixes import is_image
from singleshot.storage import is_remote, part_of, read_limited

# What takes time is waiting for the disk or the network; each thread holds one file's bytes.
_THREADS = 8
# No line of a list, no XML file or no file name holds these: control characters, lone surrogates, line ends.
_NOT_IN_NAMES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_NOR_THESE = frozenset("/\\\ufeff\ufffe\uffff")
# Most file systems end at 255 bytes; what the forms add to a name (".xml", "-2") must fit too.
_MAX_NAME_BYTES = 230
# What XML 1.0 cannot hold at all (its section 2.2), even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class WritePlan:
    """A data set as it will be written. notation: of the form that it was read in; images: those of some split, each
    with a file name of its own in `names`; splits: name -> positions in images, each once; class_names: those of the
    data set, then any others that objects have; ids: of the COCO files that it was read from."""

    notation: Notation
    source: str
    class_names: tuple[str, ...]
    images: list[RawImage]
    names: list[str]
    splits: dict[str, list[int]]
    ids: DatasetIds | None = None

    @cached_property
    def home(self) -> list[str]:
        """The one split of each image; all "" where a split shares an image with another."""
        if overlap(self.splits.values()):
            return [""] * len(self.images)
        split_of = {i: split for split, members in self.splits.items() for i in members}
        return [split_of[i] for i in range(len(self.images))]

    @cached_property
    def names_repeat(self) -> bool:
        """Whether images have one name, on some file system."""
        return len({name.casefold() for name in self.names}) < len(self.names)

    @property
    def used(self) -> set[str]:
        """Names of the classes that have objects."""
        return {obj.name for image in self.images for obj in image.objects}

    @property
    def says_classes(self) -> bool:
        """Whether the classes or their order are more than the objects' names, sorted, tell."""
        return self.class_names != tuple(sorted(self.used))


def make_write_plan(
    raw: RawSet, by_stem: bool = False, tidy: Callable[[str], str] = str, tidy_split: Callable[[str], str] = str
) -> WritePlan:
    """Choose names and check what is to be written. by_stem: no two names may differ by their ending alone; tidy and
    tidy_split: what more the form asks of stems and of names of splits.

    Raises DataError for a data set without images and for a box that is not finite.
    """
    chosen = sorted({i for members in raw.splits.values() for i in members})
    if not chosen:
        raise DataError(f"{printable(raw.source)}: no split has an image; nothing to write")
    place = {i: n for n, i in enumerate(chosen)}
    images = [raw.images[i] for i in chosen]
    filled = {name: members for name, members in raw.splits.items() if members}
    split_names = unique_names([(tidy_split(clean_name(name, "split")), "") for name in filled])
    for image in images:
        _refuse_non_finite(raw.notation, image)
    others = {obj.name for image in images for obj in image.objects} - set(raw.class_names)
    class_names = tuple(dict.fromkeys((*raw.class_names, *sorted(others))))
    return WritePlan(
        raw.notation,
        raw.source,
        class_names,
        images,
        unique_names([_file_name(image, tidy) for image in images], by_stem),
        {
            name: [place[i] for i in dict.fromkeys(members)]
            for name, members in zip(split_names, filled.values(), strict=True)
        },
        raw.ids,
    )


def _refuse_non_finite(notation: Notation, image: RawImage) -> None:
    for obj in image.objects:
        # NaN fails every comparison.
        if not all(abs(value) < LIMIT_PX for value in obj.box):
            raise DataError(
                f"{notation.where(image, obj)}: {notation.box(obj.box)} {NON_FINITE}; "
                "correct it, or run singleshot data check --fix"
            )


# ---------------------------------------------------------------------------------------------- names


def clean_name(text: str, fallback: str) -> str:
    """The text as a name: one line, no separators of folders, no blanks at its ends, no dots before it."""
    held = "".join("_" if unicodedata.category(c) in _NOT_IN_NAMES or c in _NOR_THESE else c for c in text)
    held = re.sub(r"^[\s.]+|\s+$", "", held)
    # Cut between characters.
    held = held.encode()[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip()
    return held or fallback


def _file_name(image: RawImage, tidy: Callable[[str], str]) -> tuple[str, str]:
    """Stem and ending for the copy of an image; an ending is added where it has none that images have."""
    path = image.path
    base = re.split(r"[/\\]" if os.name == "nt" and not is_remote(path) else "/", path)[-1]
    if path.startswith(("http:", "https:")):
        base = unquote(base)
    if is_image(base):
        stem, _, ending = base.rpartition(".")
        return tidy(clean_name(stem, "image")), f".{ending}"
    ending = ending_of(read_limited(path, MAX_FILE_BYTES, "image", most=64))
    if not ending:
        raise DataError(f"{printable(path)}: not an image that is read here (want {FORMATS}); convert or remove it")
    return tidy(clean_name(base if part_of(path) is None else image.ident, "image")), f".{ending}"


def unique_names(wanted: Sequence[tuple[str, str]], by_stem: bool = False) -> list[str]:
    """Each (stem, ending) as one name; "a-2.png", "a-3.png" where that name is taken. The first one of a name keeps it.

    Capitals and ways to write an accent make no difference, as on many file systems.
    """

    def key(stem: str, ending: str) -> str:
        return unicodedata.normalize("NFC", stem if by_stem else stem + ending).casefold()

    owner: dict[str, int] = {}
    for i, (stem, ending) in enumerate(wanted):
        owner.setdefault(key(stem, ending), i)
    taken, last = set(owner), dict.fromkeys(owner, 1)
    names = []
    for i, (stem, ending) in enumerate(wanted):
        own = first = key(stem, ending)
        free = stem
        while own in taken and owner.get(own) != i:
            last[first] += 1
            free = f"{stem}-{last[first]}"
            own = key(free, ending)
        taken.add(own)
        names.append(free + ending)
    return names


def stem_of(name: str) -> str:
    """The name without its ending."""
    return name.rpartition(".")[0]


def refuse_texts(plan: WritePlan, holds: Callable[[str], bool], form: str) -> None:
    """Raise DataError for a class name that the form cannot hold."""
    for name in plan.class_names:
        if not holds(name):
            raise DataError(
                f"{printable(plan.source)}: class {printable(name)!r} cannot be written as {form}; rename it, "
                "or convert to coco"
            )


def fits_xml(text: str) -> bool:
    """Whether XML can hold the text."""
    return is_text(text) and not _NOT_XML.search(text)


def escape_xml(text: str) -> str:
    """The text of an element; a bare carriage return would be read as a line feed."""
    return escape(text, {"\r": "&#13;"})


def write_class_list(plan: WritePlan, folder: Path) -> None:
    """This project's own list of the classes, where the labels alone would not tell it."""
    if plan.says_classes:
        (folder / CLASS_LIST).write_text(json.dumps(plan.class_names, indent=1) + "\n", encoding="utf-8")


def write_items(file: IO[str], opening: str, items: Iterable[str], closing: str) -> None:
    """A list of JSON, one item a line, written as they come: a whole data set in memory would be large."""
    file.write(opening)
    between = "\n"
    for item in items:
        file.write(between + item)
        between = ",\n"
    file.write("\n" + closing)


# ---------------------------------------------------------------------------------------------- images


Measure = Callable[[RawImage, bytes], tuple[int, int]]


def measured(image: RawImage, data: bytes) -> tuple[int, int]:
    """Width and height of an image file. Raises DataError where it has none."""
    return upright_size(data, image.path)


def as_annotated(image: RawImage, data: bytes) -> tuple[int, int]:
    """Those that the label says, else as `measured`."""
    return (image.width, image.height) if image.width > 0 and image.height > 0 else measured(image, data)


def copy_images(
    images: Sequence[RawImage], places: Sequence[Path], measure: Measure, on_image: Callable[[], None] | None
) -> list[tuple[int, int]]:
    """Copy image i to places[i]; gives the width and height of each, by `measure`.

    Raises DataError for a file that cannot be read, and what `measure` raises; OSError from writing.
    """
    for folder in {place.parent for place in places}:
        folder.mkdir(parents=True, exist_ok=True)

    def copy(image: RawImage, place: Path) -> tuple[int, int]:
        data = read_limited(image.path, MAX_FILE_BYTES, "image")
        place.write_bytes(data)
        return measure(image, data)

    sizes = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for size in pool.map(copy, images, places):
            sizes.append(size)
            if on_image is not None:
                on_image()
    finally:
        # After Ctrl-C or an error the images that are still waiting are not copied.
        pool.shutdown(cancel_futures=True)
    return sizes


def with_sizes(plan: WritePlan, sizes: Sequence[tuple[int, int]]) -> WritePlan:
    """The plan with these sizes, and with boxes in pixels."""
    images = []
    for image, (width, height) in zip(plan.images, sizes, strict=True):
        objects = image.objects
        if image.relative:
            # Parts of the image are those of the size that its label says, if it says one.
            w, h = (image.width, image.height) if image.width and image.height else (width, height)
            objects = [
                obj._replace(box=(obj.box[0] * w, obj.box[1] * h, obj.box[2] * w, obj.box[3] * h)) for obj in objects
            ]
        images.append(image._replace(width=width, height=height, objects=objects, relative=False))
    return replace(plan, images=images)


def corner_and_size(obj: RawObject) -> tuple[float, float, float, float]:
    """x, y, width and height of its box, in pixels."""
    x0, y0, x1, y1 = map(float, obj.box)
    return x0, y0, x1 - x0, y1 - y0


def number_text(value: float) -> int | float:
    """Whole numbers without a fraction, as people write them."""
    value = float(value)  # numpy's have another repr
    return int(value) if value.is_integer() else value


def overlap(groups: Iterable[Sequence[int]]) -> bool:
    """Whether a position is in two groups."""
    seen: set[int] = set()
    for members in groups:
        if not seen.isdisjoint(members):
            return True
        seen.update(members)
    return False


def area_of(area: float, box: Sequence[float]) -> float:
    """As annotated, or else that of the box, in square pixels."""
    if not math.isnan(area):
        return area
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
