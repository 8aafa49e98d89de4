"""What the forms of annotation programs share when they are written: a folder for each split, images beside their
labels, as those programs want them.

Where splits share images or have names that no reader knows, all lies in one folder and a list of this project says
the splits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from singleshot.datasets.raw import RawSet
from singleshot.datasets.readers.own_lists import CLASS_LIST, SPLIT_LIST
from singleshot.datasets.splits import usual_split
from singleshot.datasets.tree import join
from singleshot.datasets.writers.common import WritePlan, make_write_plan, write_class_list

# Label files of whole folders. An image of the same name would make one of them its own.
CREATEML, VIA, LABEL_STUDIO = "_annotations.createml.json", "via_region_data.json", "labelstudio.json"
_TAKEN = {name.rpartition(".")[0] for name in (CREATEML, VIA, LABEL_STUDIO, CLASS_LIST, SPLIT_LIST)}


def plan(raw: RawSet) -> WritePlan:
    """Raises DataError as `make_write_plan`."""
    return make_write_plan(raw, by_stem=True, tidy=_tidy_stem)


def _tidy_stem(stem: str) -> str:
    return f"{stem}-image" if stem.casefold() in _TAKEN else stem


def place(plan: WritePlan, i: int) -> str:
    """Where image file i goes, relative to the folder."""
    return join(folder_of(plan, i), plan.names[i])


def folder_of(plan: WritePlan, i: int) -> str:
    """The folder of image i and its labels."""
    return plan.home[i] if splits_are_usual(plan) else ""


def splits_are_usual(plan: WritePlan) -> bool:
    """Whether folders, or words of the form, say the splits to every reader."""
    return bool(plan.home[0]) and all(usual_split(split) == split for split in plan.splits)


def groups(plan: WritePlan) -> dict[str, list[int]]:
    """Folder -> positions of its images."""
    return dict(plan.splits) if splits_are_usual(plan) else {"": list(range(len(plan.images)))}


def write_split_list(plan: WritePlan, folder: Path, place: Callable[[WritePlan, int], str] = place) -> None:
    """This project's own list of the splits, where they are not the usual ones; place(plan, i): that of image i."""
    if not splits_are_usual(plan):
        lists = [{"split": split, "files": [place(plan, i) for i in at]} for split, at in plan.splits.items()]
        (folder / SPLIT_LIST).write_text(json.dumps(lists, indent=1) + "\n", encoding="utf-8")


def write_lists(plan: WritePlan, folder: Path) -> None:
    """Both lists of this project, where they are needed."""
    write_class_list(plan, folder)
    write_split_list(plan, folder)
