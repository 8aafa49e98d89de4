"""Several data sets as one, whatever their forms and places: classes by name, splits by what they are for."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from singleshot.datasets.compared_sets import is_unnamed
from singleshot.datasets.plausible import require_plausible
from singleshot.datasets.raw import CORNERS, RawSet
from singleshot.datasets.readers.common import ONLY_CLASS
from singleshot.datasets.splits import ROLES, make_splits, role
from singleshot.datasets.writers.strict import FIX
from singleshot.errors import DataError, printable
from singleshot.storage import is_remote

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
    unnamed = [one for one in named if _has_no_names(one)]
    if unnamed and len(unnamed) < len(named):
        raise DataError(
            f"{printable(unnamed[0].source)}: its classes have no names, those of {_other(named)} have; put"
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


def _has_no_names(one: RawSet) -> bool:
    return is_unnamed(one.class_names) or (one.class_names == (ONLY_CLASS,) and not one.declared)


def _other(sets: Sequence[RawSet]) -> str:
    return printable(next(other.source for other in sets if not _has_no_names(other)))


def _refuse_shared(sets: Sequence[RawSet]) -> None:
    """An image in two sets, as one file or as copies, would have the objects of one as background in the other, or be
    trained on and tested."""
    alike: dict[int | str, list[tuple[RawSet, str]]] = defaultdict(list)
    for one in sets:
        for path in dict.fromkeys(image.path for image in one.images):
            alike[_size(path)].append((one, path))
    for key, group in alike.items():
        if len({id(one) for one, _ in group}) < 2:
            continue
        contents: dict[bytes | str, tuple[RawSet, str]] = {}
        for one, path in group:
            first, other = contents.setdefault(key if isinstance(key, str) else _digest(path), (one, path))
            if first is not one:
                raise _shared(first, one, other, path)


def _size(path: str) -> int | str:
    """Bytes of a local file; of what is none, or an image within another file, the path."""
    try:
        return path if is_remote(path) else Path(path).stat().st_size
    except OSError:
        return path


def _digest(path: str) -> bytes | str:
    """Of the contents; what cannot be read is itself alone, and said when it is copied."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path


def _shared(one: RawSet, other: RawSet, first: str, second: str) -> DataError:
    same = (
        f"{printable(first)} is in both" if first == second else f"{printable(first)} and {printable(second)} are one"
    )
    return DataError(
        f"{printable(other.source)}: has images of {printable(one.source)} too ({same}); sets that are joined have"
        " different images: take them out of one of the two"
    )


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
            # A set that has val and dev keeps both.
            is_one = sum(role(other) == role(name) for other in own) == 1
            split = called.setdefault(role(name), name) if is_one else name
            merged.setdefault(split, {}).update(dict.fromkeys(start + i for i in at))
        start += len(one.images)
    if "train" in map(role, merged):
        _say_idle(sets, merged)
    return {split: list(at) for split, at in merged.items()}


def _say_idle(sets: Sequence[RawSet], splits: Mapping[str, Iterable[int]]) -> None:
    """Say how many images are in no split that a training looks at."""
    used = {i for split, at in splits.items() if role(split) in ROLES for i in at}
    start = 0
    for one in sets:
        end = start + len(one.images)
        idle = end - start - len(used.intersection(range(start, end)))
        if idle:
            logger.warning(
                "%s: %d of its %d images are in none of train, val and test of the joined set; --split-seed makes"
                " them anew",
                printable(one.source),
                idle,
                len(one.images),
            )
        start = end
