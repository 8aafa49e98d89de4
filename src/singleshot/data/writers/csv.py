"""CSV folders: <split>.csv with one row for each box, and images/."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from singleshot.data.raw import RawSet
from singleshot.data.splits import KNOWN_SPLITS
from singleshot.data.writers.common import Plan, is_text, make_plan, number_text, refuse_texts

HEADER = ("file", "width", "height", "xmin", "ymin", "xmax", "ymax", "class", "difficult", "crowd")


def plan(raw: RawSet) -> Plan:
    """Raises DataError as `make_plan`, and for a class that a row, or the list of classes, cannot hold."""
    found = make_plan(raw, tidy_split=_tidy_split)
    in_list = found.says_classes
    refuse_texts(found, lambda name: is_text(name) and "\0" not in name and (not in_list or _is_line(name)), "CSV")
    return found


def _tidy_split(name: str) -> str:
    return "classes-split" if name.casefold() == "classes" else name  # classes.csv is a list of classes


def _is_line(name: str) -> bool:
    return len(name.splitlines()) == 1 and not name.startswith("\ufeff")


def place(plan: Plan, i: int) -> str:
    return f"images/{plan.names[i]}"


def write(plan: Plan, folder: Path) -> None:
    """One file for each split. A column `split` where the files' names do not tell the splits to every reader."""
    told = all(split in KNOWN_SPLITS for split in plan.splits)
    for split, members in plan.splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(HEADER if told else (*HEADER, "split"))
            more = () if told else (split,)
            rows.writerows((*row, *more) for i in members for row in _rows(plan, i))
    if plan.says_classes:
        text = "".join(f"{name}\n" for name in plan.class_names)
        (folder / "classes.txt").write_text(text, encoding="utf-8", newline="\n")


def _rows(plan: Plan, i: int) -> Iterator[tuple[object, ...]]:
    """An image without objects has one row, without coordinates and class."""
    image, start = plan.images[i], (place(plan, i), plan.images[i].width, plan.images[i].height)
    for thing in image.objects:
        box = map(number_text, thing.box)
        yield (*start, *box, thing.name, int(thing.difficult), int(thing.crowd))
    if not image.objects:
        yield (*start, "", "", "", "", "", "", "")
