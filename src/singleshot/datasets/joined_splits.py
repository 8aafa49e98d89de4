"""A data set whose splits are sets of their own, each in a folder that is called after it, or those of a copy; and one
whose parts are sets of their own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

from singleshot.datasets.compared_sets import by_names, called_so
from singleshot.datasets.findings import CollectErrors, RaiseErrors
from singleshot.datasets.formats import Format
from singleshot.datasets.raw import RawImage, RawSet
from singleshot.datasets.readers.common import divide, shorten_idents
from singleshot.datasets.splits import resolve_split
from singleshot.datasets.tree import Tree
from singleshot.errors import printable

_SHOWN = 8


def join_splits(form: Format, folders: Mapping[str, str]) -> Format:
    """The form with these splits; folders: each split's folder below the tree that is read."""

    def splits(tree: Tree, file: str) -> tuple[str, ...]:
        return tuple(folders)

    def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
        chosen = None if wanted is None else resolve_split(wanted, folders, tree.root)
        # All are read, so that train and test have the same classes.
        with made_splits_unsaid():
            parts = {name: form.read(tree.below(folder), "", None, problems) for name, folder in folders.items()}
        images: list[RawImage] = []
        places: dict[str, list[int]] = {}
        for name, part in parts.items():
            if chosen in (None, name):
                places[name] = list(range(len(images), len(images) + len(part.images)))
                images += [image._replace(ident=f"{folders[name]}/{image.ident}") for image in part.images]
        idents = shorten_idents([image.ident for image in images])
        images = [image._replace(ident=ident) for image, ident in zip(images, idents, strict=True)]
        names = list(dict.fromkeys(name for part in parts.values() for name in part.class_names))
        declared = all(part.declared for part in parts.values())
        order = tuple(names if declared else sorted(names))
        first = next(iter(parts.values()))
        return RawSet(first.form, tree.root, order, images, places, declared=declared, notation=first.notation)

    return form._replace(splits=splits, read=read, label_folder=None)


def join_sets(form: Format, folders: Sequence[str]) -> Format:
    """The form read from all of these folders below the tree, each a part of the set: with the splits that all have, or
    with splits that are made of all images."""

    def splits(tree: Tree, file: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for folder in folders for name in form.splits(tree.below(folder), "")))

    def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
        chosen = None if wanted is None else resolve_split(wanted, splits(tree, file), tree.root)
        with made_splits_unsaid():
            parts = [form.read(tree.below(folder), "", None, problems) for folder in folders]
        shown = ", ".join(printable(folder, 60) for folder in folders[:_SHOWN]) + ", ..." * (len(folders) > _SHOWN)
        message = f"{shown} are read as one set: the same classes, and other images; to read one of them, name it"
        problems.add("sets-joined", tree.root, message)
        images: list[RawImage] = []
        places: dict[str, list[int]] = {}
        for folder, part in zip(folders, parts, strict=True):
            for name, positions in part.splits.items():
                places.setdefault(name, []).extend(len(images) + i for i in positions)
            images += [image._replace(ident=f"{folder}/{image.ident}") for image in part.images]
        idents = shorten_idents([image.ident for image in images])
        images = [image._replace(ident=ident) for image, ident in zip(images, idents, strict=True)]
        made = parts[0].made
        places = divide(tree, [image.path for image in images], wanted) if made else places
        places = {name: positions for name, positions in places.items() if chosen in (None, name)}
        first = max(parts, key=lambda part: len(part.class_names))  # which has the classes of all
        order = first.class_names if first.declared else tuple(sorted(first.class_names))
        return RawSet(
            first.form, tree.root, order, images, places, made, declared=first.declared, notation=first.notation
        )

    return form._replace(splits=splits, read=read, label_folder=None)


def divide_as(form: Format, copy: Format, there: Tree) -> Format:
    """The form with the splits of a copy in another folder, `there`; images are the same by their names."""

    def splits(tree: Tree, file: str) -> tuple[str, ...]:
        return copy.splits(there, "")

    def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
        chosen = None if wanted is None else resolve_split(wanted, splits(tree, file), tree.root)
        with made_splits_unsaid():
            raw = form.read(tree, "", None, problems)
        divided = copy.read(there, "", None, CollectErrors(0))
        called = by_names(image.path for image in raw.images)
        places = {
            split: [at for i in positions for at in called_so(called, divided.images[i].path)[:1]]
            for split, positions in divided.splits.items()
            if chosen in (None, split)
        }
        message = f"the splits are those of {copy.about} in {printable(there.root)}, which has the same boxes"
        problems.add("splits-elsewhere", tree.root, message)
        unused = len(raw.images) - len({at for several in places.values() for at in several})
        if unused and chosen is None:
            problems.add("image-unused", there.root, f"{unused} labelled images are in no split there; add them to one")
        return raw._replace(splits=places, made=False)

    return form._replace(splits=splits, read=read, is_divided=True)


@contextlib.contextmanager
def made_splits_unsaid() -> Iterator[None]:
    """A part is one split: those that its reader makes of it are not used."""
    loggers = [logging.getLogger(f"singleshot.datasets.readers.{name}") for name in ("common", "voc")]
    for log in loggers:
        log.addFilter(_is_other)
    try:
        yield
    finally:
        for log in loggers:
            log.removeFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    return "split by hash of the names" not in str(record.msg)
