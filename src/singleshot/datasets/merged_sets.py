"""Several data sets as one, whatever their forms and places: classes by name, splits by what they are for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from singleshot.datasets.compared_sets import is_unnamed
from singleshot.datasets.plausible import require_plausible
from singleshot.datasets.raw import CORNERS, RawSet
from singleshot.datasets.readers.common import ONLY_CLASS
from singleshot.datasets.splits import make_splits, role
from singleshot.datasets.writers.strict import FIX
from singleshot.errors import DataError, printable

logger = logging.getLogger(__name__)

_SHOWN = 8


def merge_sets(sets: Sequence[RawSet]) -> RawSet:
    """One set of all images of several, two at least, in their order.

    A class is its name: names come in the order of the sets. Splits of one purpose ("val" and "valid") are one, called
    as the first set calls it; a set without splits adds those that were made of it; where none has any they are made of
    all images. trainval, where only some have it, is made up of train and val of the others. Objects keep all that they
    have but COCO's ids. That a set lacks a class of another, whose objects in its images would then be background, is
    said in the log.

    Raises:
        DataError: classes that are numbers without names next to others, boxes that are no pixels, or an image that two
            of the sets have.
    """
    names = list(dict.fromkeys(name for one in sets for name in one.class_names))
    named = [one for one in sets if one.class_names]  # a set of background alone has none
    unnamed = [one for one in named if is_unnamed(one.class_names) or one.class_names == (ONLY_CLASS,)]
    if unnamed and len(unnamed) < len(named):
        raise DataError(
            f"{printable(unnamed[0].source)}: its classes have no names, those of {_other(named, unnamed[0])} have; put"
            " a list of names, such as classes.txt, into it"
        )
    for one in sets:
        require_plausible(one, f", {FIX}")
    _refuse_shared(sets)
    _say_lacking(sets, names)
    images = [image for one in sets for image in one.images]
    first = sets[0]
    same, made = len({one.form for one in sets}) == 1, all(one.made for one in sets)
    return RawSet(
        first.form if same else "several",
        ", ".join(printable(one.source) for one in sets),
        tuple(names),
        images,
        make_splits([image.path for image in images]) if made else _splits(sets),
        made,
        declared=all(one.declared for one in sets),
        notation=first.notation if same else CORNERS,
    )


def _other(sets: Sequence[RawSet], one: RawSet) -> str:
    names = (other.source for other in sets if not is_unnamed(other.class_names) and other.class_names != (ONLY_CLASS,))
    return printable(next(name for name in names if name != one.source))


def _refuse_shared(sets: Sequence[RawSet]) -> None:
    """An image file in two sets would have the objects of one of them as background in the other."""
    seen: dict[str, RawSet] = {}
    for one in sets:
        for path in {os.path.realpath(image.path) if "://" not in image.path else image.path for image in one.images}:
            if path in seen:
                raise DataError(
                    f"{printable(one.source)}: {printable(path)} is an image of {printable(seen[path].source)} too;"
                    " sets that are joined have different images"
                )
            seen[path] = one


def _say_lacking(sets: Sequence[RawSet], names: Sequence[str]) -> None:
    for one in sets:
        lacking = [name for name in names if name not in one.class_names]
        if lacking:
            shown = ", ".join(printable(name, 60) for name in lacking[:_SHOWN]) + ", ..." * (len(lacking) > _SHOWN)
            logger.warning(
                "%s: has no class %s: what its images show of that counts as background once the sets are joined",
                printable(one.source),
                shown,
            )


def _splits(sets: Sequence[RawSet]) -> dict[str, list[int]]:
    has_whole = any("trainval" in one.splits and not one.made for one in sets)
    called: dict[str, str] = {}
    merged: dict[str, dict[int, None]] = {}
    start = 0
    for one in sets:
        own = {name: at for name, at in one.splits.items() if name != "trainval" or has_whole}
        roles = {role(name): at for name, at in own.items()}
        if has_whole and "trainval" not in own:
            own["trainval"] = sorted({*roles.get("train", ()), *roles.get("val", ())})
        for name, at in own.items():
            split = called.setdefault(role(name), name)
            merged.setdefault(split, {}).update(dict.fromkeys(start + i for i in at))
        start += len(one.images)
    return {split: list(at) for split, at in merged.items()}
