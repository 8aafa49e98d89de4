"""Label files of several data sets in one folder: train.csv and test.csv of one, train_parts.csv and test_parts.csv of
another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from singleshot.datasets.splits import KNOWN_SPLITS
from singleshot.errors import DataError, printable

_SHOWN = 4


class SeveralSetsError(DataError):
    """A folder has labels of several sets, of which the user has to choose."""


class NamedFile(NamedTuple):
    """A label file; split: the usual one that its name says, "" for none; images and names of classes as written."""

    name: str
    split: str
    images: set[str]
    classes: set[str]


def refuse_several(where: str, about: str, files: Sequence[NamedFile]) -> None:
    """Raise SeveralSetsError where two files of one split differ in the other words of their names, and neither an
    image nor a class of the files with the words of the one is in those with the words of the other."""
    sets: dict[tuple[str, ...], list[NamedFile]] = {}
    for file in files:
        if file.split:
            words = re.findall(r"[a-z]+", file.name.lower().rpartition(".")[0])
            sets.setdefault(tuple(word for word in words if word not in KNOWN_SPLITS), []).append(file)
    for one, other in combinations(sets.values(), 2):
        if {file.split for file in one} & {file.split for file in other} and _are_apart(one, other):
            first, second = (" and ".join(printable(file.name, 80) for file in part[:_SHOWN]) for part in (one, other))
            raise SeveralSetsError(
                f"{printable(where)}: {about} files of several sets: {first} share no image or class with {second}; "
                "give each set a folder of its own, or name one file"
            )


def _are_apart(one: list[NamedFile], other: list[NamedFile]) -> bool:
    classes, images = (
        [set().union(*(file[at] for file in part)) for part in (one, other)]
        for at in (NamedFile._fields.index("classes"), NamedFile._fields.index("images"))
    )
    return all(classes) and classes[0].isdisjoint(classes[1]) and images[0].isdisjoint(images[1])
