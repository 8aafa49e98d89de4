"""Which data set lies in a folder or below it: all forms are tried in it, and where none has a labelled image, in the
folders below."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from singleshot.datasets.compared_sets import BYTES, FILES, Found, divided_like, quiet, without_copies
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.formats import Format
from singleshot.datasets.part_sets import join_parts
from singleshot.datasets.raw import RawSet
from singleshot.datasets.readers.common import MADE_SPLITS
from singleshot.datasets.readers.several_sets import SeveralSetsError
from singleshot.datasets.splits import KNOWN_SPLITS, split_of, word_split
from singleshot.datasets.tree import EnoughError, Tree, join
from singleshot.errors import DataError, printable
from singleshot.storage import is_remote

_LEVELS, _FOLDERS, _FAR_FOLDERS = 4, 1000, 50
# What is read to find out whether a set has a labelled image; one of more counts as having some.
_COUNTED = 30
_SHOWN = 8
_CODE = ("node_modules", "__pycache__", "site-packages", "venv", "env", "dist", "build", "docs")
# Folders that are parts of a set.
_PARTS = frozenset(
    "annotations annotation labels label jpegimages images image imgs img imagesets labeltxt xml xmls "  # noqa: SIM905
    "segmentationclass segmentationobject".split()
)
# Words in names of folders whose sets count only where no other is: what comes with a program to show how it works.
_DEMOS = frozenset(("sample", "samples", "demo", "demos", "example", "examples", "tutorial", "tutorials"))


class Choice(NamedTuple):
    """The set that is meant, and the others that were seen on the way to it."""

    chosen: Found
    others: tuple[Found, ...] = ()


def choose(tree: Tree, formats: Mapping[str, Format]) -> Choice | None:
    """The set in a folder, or the only one below it; None where there is none.

    A set without a labelled image counts only where no other is there, and copies of others (`Format.is_copy`) after
    all that have one. Raises DataError that lists them where there are several below.
    """
    formats = dict(sorted(formats.items(), key=lambda row: row[1].is_table))
    here = [Found(key, "", None) for key, form in formats.items() if form.sniff(tree)]
    certain = len(here) == 1 and not formats[here[0].form].is_copy
    if certain and not any(map(_may_be_set, tree.folders())):
        return Choice(here[0])  # no rival is possible, so that nothing has to be read
    counted = [
        one._replace(labelled=count_labelled(formats[one.form], tree)) for one in here if not formats[one.form].is_copy
    ]
    if best := _fullest(counted):
        others = [one for one in counted if one is not best]
        if best.labelled is not None and not is_remote(tree.root):
            others += _sets_below(tree, formats, has_parts=True)
        return Choice(divided_like(tree, formats, best, others))
    empty = counted
    below = _sets_below(tree, formats, has_parts=bool(empty))
    for ranked in _by_rank(tree, formats, here, empty, below):
        group = without_copies(tree, formats, ranked)
        if len(group) > 1:
            joined = join_parts(tree, formats, group)
            if isinstance(joined, str):
                why = f" (not read as one: {joined})" if joined else ""
                raise DataError(
                    f"{printable(tree.root)}: sets below: {describe(group, formats)}; name one, or join them"
                    f" with `singleshot data convert`{why}"
                )
            group = [joined]
        if group:
            read = {group[0].folder, *group[0].folders, *(folder for _, folder in group[0].parts)}
            others = [one for one in (*here, *below) if one.form != group[0].form or one.folder not in read]
            is_plain = group[0].labelled and not group[0].parts and not group[0].folders and not group[0].divided_as
            return Choice(divided_like(tree, formats, group[0], others) if is_plain else group[0], tuple(others))
    return None


def _fullest(counted: list[Found]) -> Found | None:
    """The first form of a folder that has at least half of the labelled images of any other there: a few labels of
    another form do not stand in for many. None where none has a labelled image."""
    counts = [math.inf if one.labelled is None else one.labelled for one in counted]
    most = max(counts, default=0)
    return next((one for one, count in zip(counted, counts, strict=True) if 2 * count >= most > 0), None)


def _by_rank(
    tree: Tree, formats: Mapping[str, Format], here: list[Found], empty: list[Found], below: list[Found]
) -> Iterator[list[Found]]:
    """Groups of sets of which the first that is not empty has the one that is meant; empty: those here without a
    labelled image."""
    full = [one for one in below if one.labelled != 0]
    usable = [one for one in full if not formats[one.form].is_copy]
    usable = [one for one in usable if not _is_demo(one.folder)] or usable
    yield _splits_of_one(tree, formats, usable) or _joined_splits(tree, formats, usable) or usable
    deep = [Found(key, "", None) for key, form in formats.items() if not empty and form.is_deep and form.is_deep(tree)]
    yield [one for one in deep if count_labelled(formats[one.form], tree) != 0][:1]
    yield [one for one in here if formats[one.form].is_copy][:1]
    yield [one for one in full if formats[one.form].is_copy]
    yield empty[:1]
    yield deep[:1]
    yield below


def describe(sets: list[Found] | tuple[Found, ...], formats: Mapping[str, Format]) -> str:
    """ "images (Pascal VOC, 180), data (CSV, 2)": folders, forms and numbers of labelled images."""
    shown = []
    for one in sets[:_SHOWN]:
        count = "" if one.labelled is None else f", {one.labelled}"
        place = " and ".join(f"{printable(folder, 80)} as {split}" for split, folder in one.parts)
        if one.folders:
            more = f" and {len(one.folders) - _SHOWN} more" if len(one.folders) > _SHOWN else ""
            place = ", ".join(printable(folder, 80) for folder in one.folders[:_SHOWN]) + f"{more} as one"
        place = place or printable(one.folder or "the folder itself", 80)
        shown.append(f"{place} ({formats[one.form].about}{count})")
    more = f" and {len(sets) - _SHOWN} more" if len(sets) > _SHOWN else ""
    return ", ".join(shown) + more


def sets_beside(tree: Tree, formats: Mapping[str, Format], raw: RawSet) -> list[Found]:
    """Sets below a folder that was read: in folders of which no label was read, and of other forms in folders of
    which some was."""
    if is_remote(tree.root):
        return []
    start = len(tree.path("x")) - 1
    read = {image.file[start:].rpartition("/")[0] for image in raw.images}
    used = {"/".join(parts[:n]) for parts in (name.split("/") for name in read) for n in range(1, len(parts) + 1)}
    # Of two files that say the same of images only the first is theirs.
    pictured = {image.path[start:].rpartition("/")[0] for image in raw.images}
    below = _sets_below(tree, formats, has_parts=False, used={"", *used})
    others = {key: form for key, form in formats.items() if key != raw.form}
    same = [_set_in(tree.below(folder), folder, others, is_counted=True) for folder in sorted(read - {""})[:_SHOWN]]
    return [one for one in same if one and one.labelled != 0] + [
        one
        for one in below
        if one.labelled != 0 and one.folder not in used and not (one.form == raw.form and one.folder in pictured)
    ]


def count_labelled(form: Format, tree: Tree) -> int | None:
    """How many images of a set are there and have an object; None where that would be read from afar or be much."""
    if is_remote(tree.root):
        return None
    try:
        with quiet():
            raw = form.read(tree.limited(FILES, BYTES), "", None, CollectErrors(0))
    except (EnoughError, SeveralSetsError):  # which reading it says
        return None
    except DataError:
        return 0
    return sum(bool(image.objects) for image in raw.images)


# ---------------------------------------------------------------------------------------------- folders below


def _sets_below(tree: Tree, formats: Mapping[str, Format], has_parts: bool, used: Collection[str] = ()) -> list[Found]:
    """The sets in folders below, the nearest first, of each folder the first with a labelled image or else the first.

    has_parts: there is a set in the tree itself, whose parts are none; used: folders that were read of it.
    Below a set with a labelled image no other is looked for, nor in folders of code. Raises DataError where nothing is
    found and a folder cannot be looked into.
    """
    found: list[Found] = []
    level, left = [""], _FAR_FOLDERS if is_remote(tree.root) else _FOLDERS
    for _ in range(_LEVELS):
        below: list[str] = []
        for parent in level:
            for name in tree.open_folders(parent):
                folder = join(parent, name)
                if name.lower() in _CODE or (has_parts and not parent and not _may_be_set(name)):
                    continue
                left -= 1
                if left < 0:
                    return found
                one = None if folder in used else _set_in(tree.below(folder), folder, formats, len(found) < _COUNTED)
                weak = one is None or one.labelled == 0 or formats[one.form].is_copy
                if one is not None and not (weak and _is_part_of(one, found)):
                    found.append(one)
                if weak:
                    below.append(folder)
        level = below
    if not found and not has_parts and not used:
        for name in tree.folders():
            tree.names(name)  # refuses a link
    return found


def _may_be_set(name: str) -> bool:
    """Whether a folder beside labels may be a set of its own, by its name."""
    return name.lower() not in (*_PARTS, *_CODE) and split_of(name) not in KNOWN_SPLITS


def _is_part_of(one: Found, found: list[Found]) -> bool:
    """Whether it lies in a set of its form."""
    return any(one.form == other.form and one.folder.startswith(f"{other.folder}/") for other in found)


def _set_in(tree: Tree, folder: str, formats: Mapping[str, Format], is_counted: bool) -> Found | None:
    found = []
    for key, form in formats.items():
        with contextlib.suppress(DataError):  # whatever lies there, it is no set that can be read
            if form.sniff(tree):
                one = Found(key, folder, count_labelled(form, tree) if is_counted else None)
                if one.labelled is None:
                    return one
                found.append(one)
    return _fullest(found) or next(iter(found), None)


def _splits_of_one(tree: Tree, formats: Mapping[str, Format], sets: list[Found]) -> list[Found]:
    """The folder itself where all of several sets below are splits of one that is read from there; else []."""
    forms = {one.form for one in sets}
    if len(sets) < 2 or len(forms) > 1:
        return []
    form, splits = formats[sets[0].form], sorted(word_split(one.folder) for one in sets)
    if form.is_deep is None or not form.is_deep(tree) or sorted(form.splits(tree, "")) != splits:
        return []
    return [Found(sets[0].form, "", sum(one.labelled or 0 for one in sets))]


def _joined_splits(tree: Tree, formats: Mapping[str, Format], sets: list[Found]) -> list[Found]:
    """One set of several below whose folders are each called after another usual split, where all have the same form
    and none has splits of its own ("train_set/labels.csv" and "test_set/labels.csv"), and without train the same
    classes; else []."""
    if len(sets) < 2 or len({one.form for one in sets}) > 1:
        return []
    names = [one.folder.split("/") for one in sets]
    shared = 0
    while len({tuple(parts[: shared + 1]) for parts in names}) == 1:
        shared += 1
    # "TrainImages" is two words.
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join(parts[shared:])) for parts in names]
    splits, form = [word_split(text) for text in words], formats[sets[0].form]
    if "" in splits or len(set(splits)) < len(splits):
        return []
    own = [form.splits(tree.below(one.folder), "") for one in sets]
    if any(len(names) > 1 and names != MADE_SPLITS for names in own):
        return []
    if "train" not in splits and not _have_same_classes(tree, form, sets):
        return []
    parts = tuple(sorted(zip(splits, (one.folder for one in sets), strict=True), key=lambda part: part[0] != "train"))
    counts = [one.labelled for one in sets if one.labelled is not None]
    return [Found(sets[0].form, "", sum(counts) if len(counts) == len(sets) else None, parts)]


def _have_same_classes(tree: Tree, form: Format, sets: list[Found]) -> bool:
    """Whether the classes of each set are those of all, but for some that it lacks."""
    if is_remote(tree.root):
        return False
    try:
        with quiet():
            parts = [form.read(tree.below(one.folder), "", None, CollectErrors(0)) for one in sets]
    except DataError:
        return False
    most = max((set(part.class_names) for part in parts), key=len)
    return all(most.issuperset(part.class_names) for part in parts)


def _is_demo(folder: str) -> bool:
    """Whether a set comes with a program to show how it works, by the words of its folder's name."""
    return any(word in _DEMOS for word in re.findall(r"[a-z]+", folder.lower()))
