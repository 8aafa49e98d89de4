"""YOLO folders: data.yaml, images/ and labels/ with one .txt for each image.

A row of a label has no place for flags: those that are set stand in singleshot-flags.csv at the root.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from singleshot.datasets.packed_strings import is_text
from singleshot.datasets.raw import Notation, RawImage, RawSet
from singleshot.datasets.readers.yolo import FLAGS_FILE, FLAGS_HEADER
from singleshot.datasets.splits import find_split
from singleshot.datasets.writers.common import WritePlan, make_write_plan, refuse_texts, stem_of
from singleshot.errors import DataError
from singleshot.extras import needs

# What data.yaml means by these, and the folder name that readers replace, are no names of splits.
_KEYS = frozenset({"path", "names", "nc", "splits", "download", "kpt_shape", "flip_idx", "images", "channels"})
_USUAL = ("train", "val", "test")
# Readers take numbers from here on for pixels.
_PIXELS = 2.0


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a class whose name UTF-8 cannot hold."""
    found = make_write_plan(raw, by_stem=True, tidy_split=_tidy_split)
    refuse_texts(found, is_text, "YAML")
    return found


def _tidy_split(name: str) -> str:
    return f"{name}-split" if name.casefold() in _KEYS else name


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return f"images/{_folder_of(plan, i)}{plan.names[i]}"


def _folder_of(plan: WritePlan, i: int) -> str:
    split = plan.home[i]
    return f"{split}/" if split else ""


def write(plan: WritePlan, folder: Path) -> None:
    """Labels, also empty ones; lists where splits overlap; flags where there are any; data.yaml."""
    number = {name: k for k, name in enumerate(plan.class_names)}
    flags = []
    for i, image in enumerate(plan.images):
        name = f"labels/{_folder_of(plan, i)}{stem_of(plan.names[i])}.txt"
        label = folder / name
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(_rows(plan.notation, image, number).encode())
        flags += [
            (name, k, int(obj.difficult), int(obj.crowd))
            for k, obj in enumerate(image.objects)
            if obj.difficult or obj.crowd
        ]
    if flags:
        with (folder / FLAGS_FILE).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([FLAGS_HEADER, *flags])
    entries = {}
    for split, members in plan.splits.items():
        entries[split] = f"images/{split}"
        if not plan.home[members[0]]:
            entries[split] = f"{split}.txt"
            text = "".join(f"./{place(plan, i)}\n" for i in members)
            (folder / entries[split]).write_bytes(text.encode())
    (folder / "data.yaml").write_text(_yaml(plan.class_names, entries), encoding="utf-8", newline="\n")


def _rows(notation: Notation, image: RawImage, number: dict[str, int]) -> str:
    """class, centre, width and height in parts of the image, for each object."""
    rows = []
    for obj in image.objects:
        x0, y0, x1, y1 = map(float, obj.box)
        w, h = image.width, image.height
        parts = ((x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h)
        if max(map(abs, parts)) >= _PIXELS:
            raise DataError(
                f"{notation.where(image, obj)}: {notation.box(obj.box)} is too far outside its image of "
                f"{image.width} x {image.height} pixels to be written as parts of it; correct it, or run singleshot "
                "data check --fix"
            )
        rows.append(f"{number[obj.name]} {' '.join(map(part_text, parts))}\n")
    return "".join(rows)


def part_text(value: float) -> str:
    """A part of an image: 12 decimals: a millionth of a pixel in any image, and never an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _yaml(class_names: tuple[str, ...], entries: dict[str, str]) -> str:
    with needs("train", "writing data.yaml"):
        import yaml
    usual = {split: entries[split] for split in _USUAL if split in entries}
    for split in _USUAL:  # other readers know no "valid"
        if split not in usual and (name := find_split(split, entries)) is not None:
            usual[split] = entries[name]
    content: dict[str, Any] = {"path": ".", **usual, **entries}
    others = [split for split in entries if split not in _USUAL]
    if others:  # this project's own: which further keys are splits
        content["splits"] = list(entries)
    content["names"] = dict(enumerate(class_names)) or []
    # A long name stays on its line; "on", "1" and the like get quotes.
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=2**31))
