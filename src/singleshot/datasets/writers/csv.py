"""CSV folders: <split>.csv with one row for each box, and images/."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from singleshot.datasets.packed_strings import is_text
from singleshot.datasets.raw import RawSet
from singleshot.datasets.splits import KNOWN_SPLITS
from singleshot.datasets.writers.common import WritePlan, make_write_plan, number_text, refuse_texts

HEADER = ("file", "width", "height", "xmin", "ymin", "xmax", "ymax", "class", "difficult", "crowd")


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`, and for a class that a row, or the list of classes, cannot hold."""
    found = make_write_plan(raw, tidy_split=_tidy_split)
    in_list = found.says_classes
    refuse_texts(found, lambda name: is_text(name) and "\0" not in name and (not in_list or _is_line(name)), "CSV")
    return found


def _tidy_split(name: str) -> str:
    return "classes-split" if name.casefold() == "classes" else name  # classes.csv is a list of classes


def _is_line(name: str) -> bool:
    return len(name.splitlines()) == 1 and not name.startswith("\ufeff")


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return f"images/{plan.names[i]}"


def write(plan: WritePlan, folder: Path) -> None:
    """One file for each split. A column `split` where the files' names do not tell the splits to every reader."""
    usual = all(split in KNOWN_SPLITS for split in plan.splits)
    for split, members in plan.splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(HEADER if usual else (*HEADER, "split"))
            more = () if usual else (split,)
            rows.writerows((*row, *more) for i in members for row in _rows(plan, i))
    if plan.says_classes:
        text = "".join(f"{name}\n" for name in plan.class_names)
        (folder / "classes.txt").write_text(text, encoding="utf-8", newline="\n")


def _rows(plan: WritePlan, i: int) -> Iterator[tuple[object, ...]]:
    """An image without objects has one row, without coordinates and class."""
    image, start = plan.images[i], (place(plan, i), plan.images[i].width, plan.images[i].height)
    for obj in image.objects:
        box = map(number_text, obj.box)
        yield (*start, *box, obj.name, int(obj.difficult), int(obj.crowd))
    if not image.objects:
        yield (*start, "", "", "", "", "", "", "")
