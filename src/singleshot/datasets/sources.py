"""A data set that was found at a path or address: its form, its folder, and reading it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from singleshot.datasets.archives import is_archive, unpacked
from singleshot.datasets.compared_sets import Found
from singleshot.datasets.findings import RAISE_ERRORS, RaiseErrors
from singleshot.datasets.formats import FORMATS, Format, no_line
from singleshot.datasets.joined_splits import divide_as, join_sets, join_splits
from singleshot.datasets.raw import RawSet, above_score, cut_hulls
from singleshot.datasets.readers import coco_layout
from singleshot.datasets.readers.label_files import PEEK_BYTES
from singleshot.datasets.readers.unread_forms import (
    find_second_labels,
    find_unread_form,
    find_unread_labels,
    unread_tables,
)
from singleshot.datasets.search import choose, describe, sets_beside
from singleshot.datasets.shard_index import INDEX, is_pattern
from singleshot.datasets.stated_sizes import fit_to_images
from singleshot.datasets.tree import Tree, join, open_tree
from singleshot.errors import DataError, TooFewImagesError, printable
from singleshot.images.suffixes import IMAGE_SUFFIXES, is_image
from singleshot.storage import is_remote

logger = logging.getLogger(__name__)

_MODEL_SUFFIXES = ("safetensors", "onnx", "pth", "pt", "ckpt", "h5", "tflite", "caffemodel")
# Folders of labels whose images may lie beside the folder; the last ones only where none lie in it.
_LABEL_FOLDERS = ("annotations", "labels")
_FURTHER_FOLDERS = ("annotation", "label", "csv", "data")
_SHOWN = 8


@dataclass(frozen=True)
class Source:
    """A data set that was found: the name of its form, its folder, the file that the user named ("" for a folder).

    formats: those that were looked for in its folder, {} for a named file; others: what was found besides,
    for messages; score_min: of detections that are read as labels, the lowest score to take; None for all.
    """

    form: str
    tree: Tree
    file: str
    format: Format
    formats: Mapping[str, Format] = field(default_factory=dict)
    others: tuple[Found, ...] = ()
    score_min: float | None = None

    @functools.cached_property
    def unread(self) -> str:
        """What is said of labels of other forms in the same folder; "" where there are none. Looked for when asked."""
        others = []
        for key, form in self.formats.items():
            with contextlib.suppress(DataError):  # what is wrong with labels that are not read does not matter
                if key != self.form and form.sniff(self.tree):
                    others.append(form.about)
        if self.formats:
            others += [f"CSV ({printable(name, 80)})" for name in unread_tables(self.tree)]
        if not others:
            return ""
        return f"read as {self.format.about}; the folder holds {' and '.join(others)} labels too, which are not read"

    def unread_beside(self, raw: RawSet) -> str:
        """What is said of sets in other folders, by what was read of all splits; "" where there are none."""
        root = self.tree.given
        start = len(root.path("x")) - 1
        read = {image.file[start:].rpartition("/")[0] + "/" for image in raw.images}
        # Folders that were looked at one by one may be parts of what was read at last.
        others = [
            one
            for one in self.others
            if one.form != self.form or not any(folder.startswith(f"{one.folder}/") for folder in read)
        ]
        where = f" in {printable(root.root)}" if others else ""
        shown = describe(others or sets_beside(self.tree, self.formats, raw), self.formats)
        return f"read as {self.format.about}; also there and not read: {shown}{where}" if shown else ""

    def unread_labels(self, raw: RawSet) -> str:
        """The message about labels of images that are not read, in folders of which nothing is read; "" where there are
        none."""
        if is_remote(self.tree.root):
            return ""
        found = find_unread_labels(self.tree, self._used(raw), self._labels_of_images())
        return f"read as {self.format.about}; there are labels of other images too: {found}" if found else ""

    def second_labels(self, raw: RawSet, said: str) -> str:
        """The message about folders with other labels of the images that are read, but for those that are `said`
        already; "" where there are none."""
        if is_remote(self.tree.root):
            return ""
        kinds = self._labels_of_images()
        if self.unread:  # which names the other forms
            kinds = {about: is_label for about, is_label in kinds.items() if about == self.format.about}
        found = find_second_labels(self.tree, self._used(raw), kinds)
        shown = []
        for folder, form in found.items():
            parts = folder.split("/")
            above = [printable("/".join(parts[:n]) or "the folder itself", 80) for n in range(1, len(parts) + 1)]
            if not any(f" {place} (" in said for place in above):
                shown.append(f"{above[-1]} ({form})")
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        listed = ", ".join(shown[:_SHOWN])
        return f"the same images have other labels, which are not read: {listed}{more}" if shown else ""

    def _used(self, raw: RawSet) -> set[str]:
        """The images and label files that are read, relative to the folder."""
        start = len(self.tree.path("x")) - 1
        return {name[start:] for image in raw.images for name in (image.path, image.file)}

    def _labels_of_images(self) -> dict[str, Callable[[bytes], bool]]:
        return {form.about: form.is_label for form in self.formats.values() if form.is_label is not None}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there or would be made."""
        return self.format.splits(self.tree, self.file)

    def read(self, split: str | None = None, problems: RaiseErrors = RAISE_ERRORS) -> RawSet:
        """The annotations of one split, or of all; DataError at the first problem unless they are collected."""
        return self.fit(self.read_as_written(split, problems), None, problems)

    def read_as_written(self, split: str | None, problems: RaiseErrors) -> RawSet:
        """The same before boxes are held against the sizes of images, for `fit`."""
        if self.unread:
            logger.info("%s: %s", printable(self.tree.root), self.unread)
        raw = self.format.read(self.tree, self.file, split, problems)
        if split is not None and raw.made and not any(raw.splits.values()):
            raise TooFewImagesError(
                f"{printable(self.tree.root)}: too few images to make a split {printable(split)!r} of some of them;"
                " label more, or name another split"
            )
        return raw

    def fit(self, raw: RawSet, true_sizes: np.ndarray | None, problems: RaiseErrors) -> RawSet:
        """What was read as written with boxes of the images' own sizes (see `fit_to_images`), and without detections
        of low scores."""
        raw, message = cut_hulls(fit_to_images(raw, true_sizes, problems))
        if message:
            problems.add("shapes-cut", raw.source, message)
        return raw if self.score_min is None else above_score(raw, self.score_min)

    def line(self, file: str, number: int) -> int | None:
        """The line on which object `number` stands in a label file, given by its whole path; None if unknown."""
        if self.format.line is no_line:
            return None
        try:
            data = Path(file).read_bytes() if not is_remote(file) else b""
        except OSError:
            return None
        return self.format.line(data, number)


def open_source(
    path: str | os.PathLike[str],
    formats: Mapping[str, Format] = FORMATS,
    score_min: float | None = None,
    follow_links: bool = False,
) -> Source:
    """Find out what lies at a path or address. Raises DataError with what is wanted and what is there.

    score_min: see Source; follow_links: links may lead out of the folder, ConfigError for an address.
    """
    return replace(_open(path, formats, follow_links), score_min=score_min)


def _open(path: str | os.PathLike[str], formats: Mapping[str, Format], follow_links: bool) -> Source:
    where, wanted = printable(path), _wanted(formats)
    folder, _, name = str(path).rpartition("/")
    if "shards" in formats and (is_pattern(name) or (name == INDEX and is_remote(path))):
        # No listing is asked for: storage need not have one.
        return Source("shards", open_tree(folder or ".", follow_links), name, formats["shards"])
    if is_archive(str(path)) and ("::" not in str(path) if is_remote(path) else Path(path).is_file()):
        path = unpacked(path)
        where = printable(path)
    if is_remote(path):
        parent, _, name = str(path).rstrip("/").rpartition("/")
        is_folder = _form_of_file(name, formats) is None
    else:
        place = Path(path)
        parent, name = str(place.parent), place.name
        try:
            is_folder, is_there = place.is_dir(), place.exists()
        except (OSError, ValueError) as error:  # a name too long, or with a NUL
            raise DataError(f"{where}: is no path ({error}); {wanted}") from error
        if not is_there:
            raise DataError(f"{where}: no such file or folder")
    if is_folder:
        return _find(open_tree(path, follow_links), where, formats)
    form = _form_by_content(open_tree(parent, follow_links), name, formats)
    if form is None:
        suffix = name.lower().rpartition(".")[2]
        what = "an image" if f".{suffix}" in IMAGE_SUFFIXES else "a model" if suffix in _MODEL_SUFFIXES else ""
        is_one = f"is {what}, " if what else ""
        raise DataError(f"{where}: {is_one}not a data set that is read here; {wanted}")
    above, _, folder = parent.replace("\\", "/").rpartition("/")
    own = open_tree(parent, follow_links)
    if not is_remote(path):
        own.find("", name)  # refuses a link that leads out of its own folder, whichever folder the set's is
    if _is_beside_images(own, folder):
        return Source(form, open_tree(above or ".", follow_links), f"{folder}/{name}", formats[form])
    return Source(form, open_tree(parent, follow_links), name, formats[form])


def _is_beside_images(tree: Tree, folder: str) -> bool:
    """Whether the images of a label file may lie next to its folder, of that name, in place of in it."""
    if folder in _LABEL_FOLDERS:
        return True
    return folder.lower() in _FURTHER_FOLDERS and not tree.folders() and not any(map(is_image, tree.files()))


def _wanted(formats: Mapping[str, Format]) -> str:
    *first, last = (form.about for form in formats.values())
    return f"want {', '.join(first)}{' or ' if first else ''}{last} (see docs: Data)"


def _form_of_file(name: str, formats: Mapping[str, Format]) -> str | None:
    """The form that a file is by its ending."""
    return next((key for key, form in formats.items() if form.suffixes and name.lower().endswith(form.suffixes)), None)


def _form_by_content(tree: Tree, name: str, formats: Mapping[str, Format]) -> str | None:
    """The form that a named file is by its first bytes, of those that are known by them; else the one by its ending.

    Raises DataError for the label of a single image.
    """
    by_ending = _form_of_file(name, formats)
    try:
        head = tree.read(name, PEEK_BYTES, "annotation", most=PEEK_BYTES)
    except DataError:  # which the reader of the form by its ending says
        return by_ending
    known = next((key for key, one in formats.items() if one.is_one is not None and one.is_one(head)), None)
    if known is None and by_ending is not None and formats[by_ending].in_one_file and not coco_layout.has_lists(head):
        label = next((one for one in formats.values() if one.is_label is not None and one.is_label(head)), None)
        if label is not None:
            raise DataError(
                f"{printable(tree.path(name))}: is {label.about}'s label of one image; give the folder of all of them"
            )
    return known or by_ending


def _find(tree: Tree, where: str, formats: Mapping[str, Format]) -> Source:
    """The source that lies in a folder or below it."""
    if not tree.names():
        raise DataError(f"{where}: empty folder; {_wanted(formats)}")
    choice = choose(tree, formats)
    if choice is None:
        tree.refuse_links()  # what is not looked at may be all there is
        unread = find_unread_form(tree)
        why = unread if unread is not None else _wanted(formats)
        raise DataError(f"{where}: no data set of a known form (found {_contents(tree)}): {why}")
    form = choice.chosen
    below = tree.below(form.folder) if form.folder else tree
    if form.folder or form.parts or form.folders:
        logger.info("%s: the set is %s", where, describe([form], formats))
    row = join_splits(formats[form.form], dict(form.parts)) if form.parts else formats[form.form]
    row = join_sets(row, form.folders) if form.folders else row
    if form.divided_as is not None:
        copy, folder = form.divided_as
        row = divide_as(row, formats[copy], tree.below(folder) if folder else tree)
    return Source(form.form, below, "", row, formats, choice.others)


def _contents(tree: Tree, most: int = 20_000) -> str:
    """What lies in a folder and two levels below it, by file ending, for messages."""
    counts: dict[str, int] = {}
    level, seen = [""], 0
    for _ in range(3):
        below: list[str] = []
        for folder in level:
            try:
                names = tree.names(folder)
            except DataError:
                continue
            for name, is_folder in names.items():
                seen += 1
                if seen > most:
                    break
                if is_folder:
                    below.append(join(folder, name))
                else:
                    suffix = PurePosixPath(name).suffix.lower()
                    kind = "image" if suffix in IMAGE_SUFFIXES else suffix or "suffixless"
                    counts[kind] = counts.get(kind, 0) + 1
        level = below
    kinds = sorted(counts.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{n} {printable(kind, 20)} file{'s' * (n > 1)}" for kind, n in kinds) or "nothing"
