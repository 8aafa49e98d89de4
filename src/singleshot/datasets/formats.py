"""Which forms of data sets are read and written: one row each, and detecting the form of what lies somewhere.

A new form is one file with its functions, and one row in FORMATS.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from singleshot.datasets.archives import is_archive, unpacked
from singleshot.datasets.findings import RAISE_ERRORS, RaiseErrors
from singleshot.datasets.raw import RawSet, above_score, cut_hulls
from singleshot.datasets.readers import (
    coco,
    coco_layout,
    createml,
    csv,
    cvat,
    fiftyone,
    labelme,
    labelstudio,
    results,
    shards,
    tfrecord,
    via,
    voc,
    yolo,
)
from singleshot.datasets.readers.label_files import PEEK_BYTES, LabelForm
from singleshot.datasets.readers.unread_forms import find_unread_form
from singleshot.datasets.readers.yolo_layout import label_of, labels_without_image
from singleshot.datasets.tree import Tree, describe_contents, open_tree
from singleshot.datasets.writers import coco as coco_writer
from singleshot.datasets.writers import csv as csv_writer
from singleshot.datasets.writers import cvat as cvat_writer
from singleshot.datasets.writers import json_forms, split_folders
from singleshot.datasets.writers import voc as voc_writer
from singleshot.datasets.writers import yolo as yolo_writer
from singleshot.datasets.writers.common import WritePlan
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import IMAGE_SUFFIXES
from singleshot.storage import is_remote

logger = logging.getLogger(__name__)

_LEVELS = 4
_MODEL_SUFFIXES = ("safetensors", "onnx", "pth", "pt", "ckpt", "h5", "tflite", "caffemodel")


class Writer(NamedTuple):
    """How a form is written. plan(raw): names for everything, DataError where the form cannot hold it; place(plan, i):
    where image file i goes; write(plan, folder): the label files; measured: sizes are always taken from the files, as
    the reader of this form does."""

    plan: Callable[[RawSet], WritePlan]
    place: Callable[[WritePlan, int], str]
    write: Callable[[WritePlan, Path], None]
    measured: bool = False


class OwnLabels(NamedTuple):
    """of(tree, image): its label file, or None; without_image(tree, folder of images, most): the label files for that
    folder whose image is not there, the first `most` that are looked at."""

    of: Callable[[Tree, str], str | None]
    without_image: Callable[[Tree, str, int], list[str]]


def no_line(data: bytes, number: int) -> int | None:
    """The `Format.line` of a form whose lines are known when it is read, or that has none."""
    return None


class Format(NamedTuple):
    """One form of data sets.

    about: its name for people; wanted: how to recognise it, for messages; sniff(tree): the sub-folder where such data
    lies ("" for the tree itself), or None; splits(tree, file) and read(tree, file, split or None, problems), where
    file is "" or the one that the user named; line(contents of a label file, object's number): where that object
    stands in it; suffixes: endings of files that a user may name in place of a folder; label_folder: the folder and
    the endings where each image has a label file of its name, so that one that no split lists is found; in_one_file:
    labels stand in one file for all images; writer: None for a form that is only read; own_labels: of a form whose
    images each have a label file that names no image; is_one(first 64 KB): whether a
    file that a user names is of this form, whatever its ending; is_label(the same): whether it is this form's label
    of a single image, which is no data set; is_deep(tree): whether such data lie anywhere below, asked where nothing
    else is found.
    """

    about: str
    wanted: str
    sniff: Callable[[Tree], str | None]
    splits: Callable[[Tree, str], tuple[str, ...]]
    read: Callable[[Tree, str, str | None, RaiseErrors], RawSet]
    line: Callable[[bytes, int], int | None] = no_line
    suffixes: tuple[str, ...] = ()
    label_folder: tuple[str, tuple[str, ...]] | None = None
    in_one_file: bool = False
    writer: Writer | None = None
    own_labels: OwnLabels | None = None
    is_one: Callable[[bytes], bool] | None = None
    is_label: Callable[[bytes], bool] | None = None
    is_deep: Callable[[Tree], bool] | None = None


def _by_content(
    form: LabelForm,
    wanted: str,
    line: Callable[[bytes, int], int | None] = no_line,
    suffixes: tuple[str, ...] = (),
    writer: Writer | None = None,
) -> Format:
    """The row of a form whose files each hold many images and are known by their first bytes."""
    return Format(
        form.about,
        wanted,
        form.sniff,
        form.splits,
        form.read,
        line,
        suffixes=suffixes,
        in_one_file=True,
        writer=writer,
        is_one=form.is_one,
    )


def _in_split_folders(write: Callable[[WritePlan, Path], None]) -> Writer:
    return Writer(split_folders.plan, split_folders.place, write)


# In the order in which they are looked for.
FORMATS: Mapping[str, Format] = {
    "shards": Format("shards", "a folder of shards with shards.json", shards.sniff, shards.splits, shards.read),
    "voc": Format(
        "Pascal VOC",
        "a VOC folder (Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt)",
        voc.sniff,
        voc.splits,
        voc.read,
        voc.line_of,
        label_folder=("Annotations", (".xml",)),
        is_deep=voc.is_deep,
        writer=Writer(voc_writer.plan, voc_writer.place, voc_writer.write),
        is_label=voc.is_annotation,
    ),
    "results": _by_content(
        results.FORM,
        "a folder with results.json as `detect --format json` writes it, and the images",
        results.line_of,
    ),
    "coco": Format(
        "COCO",
        "a COCO JSON file or a folder with train.json or annotations/instances_train*.json",
        coco.sniff,
        coco.splits,
        coco.read,
        coco.line_of,
        suffixes=(".json",),
        in_one_file=True,
        writer=Writer(coco_writer.plan, coco_writer.place, coco_writer.write),
    ),
    "yolo": Format(
        "YOLO",
        "a YOLO data.yaml or a folder with it or with images/ and labels/*.txt",
        yolo.sniff,
        yolo.splits,
        yolo.read,
        yolo.line_of,
        suffixes=(".yaml", ".yml"),
        writer=Writer(yolo_writer.plan, yolo_writer.place, yolo_writer.write, measured=True),
        own_labels=OwnLabels(label_of, labels_without_image),
    ),
    "csv": Format(
        "CSV",
        "a CSV file or a folder with train.csv (file,xmin,ymin,xmax,ymax,class)",
        csv.sniff,
        csv.splits,
        csv.read,
        csv.line_of,
        suffixes=(".csv",),
        writer=Writer(csv_writer.plan, csv_writer.place, csv_writer.write),
    ),
    "cvat": _by_content(
        cvat.FORM,
        "a CVAT annotations.xml with its images",
        suffixes=(".xml",),
        writer=Writer(cvat_writer.plan, cvat_writer.place, cvat_writer.write),
    ),
    "createml": _by_content(
        createml.FORM,
        "a Create ML JSON (a list of images with their annotations)",
        createml.line_of,
        writer=_in_split_folders(json_forms.CREATEML_FORM.write),
    ),
    "via": _by_content(
        via.FORM,
        "a VGG Image Annotator project, JSON or CSV",
        via.line_of,
        writer=_in_split_folders(json_forms.VIA_FORM.write),
    ),
    "labelstudio": _by_content(
        labelstudio.FORM,
        "a Label Studio JSON or JSON-MIN",
        writer=_in_split_folders(json_forms.LABEL_STUDIO_FORM.write),
    ),
    "fiftyone": _by_content(fiftyone.FORM, "FiftyOne's labels.json with data/"),
    "tfrecord": _by_content(tfrecord.FORM, "TFRecord files", suffixes=tfrecord.FORM.suffixes),
    "labelme": Format(
        "LabelMe",
        "a folder of images with LabelMe's NAME.json for each",
        labelme.sniff,
        labelme.splits,
        labelme.read,
        labelme.line_of,
        writer=_in_split_folders(json_forms.write_labelme),
        is_label=labelme.is_label,
    ),
}


def written_formats(formats: Mapping[str, Format] = FORMATS) -> dict[str, Writer]:
    """Name -> writer of every form that can be written."""
    return {name: form.writer for name, form in formats.items() if form.writer is not None}


@dataclass(frozen=True)
class Source:
    """A data set that was found: the name of its form, its folder, the file that the user named ("" for a folder).

    formats: those that were looked for in the folder itself; {} where the set was found otherwise; score_min: of
    detections that are read as labels, the lowest score to take; None for all.
    """

    form: str
    tree: Tree
    file: str
    format: Format
    formats: Mapping[str, Format] = field(default_factory=dict)
    score_min: float | None = None

    @functools.cached_property
    def unread(self) -> str:
        """What is said of labels of other forms in the same folder; "" where there are none. Looked for when asked."""
        others, later = [], False
        for key, form in self.formats.items():
            with contextlib.suppress(DataError):  # what is wrong with labels that are not read does not matter
                deep = key != self.form and form.is_deep is not None and not is_remote(self.tree.root)
                if (later and form.sniff(self.tree) == "") or (deep and form.is_deep and form.is_deep(self.tree)):
                    others.append(form.about)
            later |= key == self.form
        if not others:
            return ""
        return f"read as {self.format.about}; the folder holds {' and '.join(others)} labels too, which are not read"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there or would be made."""
        return self.format.splits(self.tree, self.file)

    def read(self, split: str | None = None, problems: RaiseErrors = RAISE_ERRORS) -> RawSet:
        """The annotations of one split, or of all; DataError at the first problem unless they are collected."""
        if self.unread:
            logger.info("%s: %s", printable(self.tree.root), self.unread)
        raw, message = cut_hulls(self.format.read(self.tree, self.file, split, problems))
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
    # Images may lie next to the folder that holds the labels.
    above, _, folder = parent.replace("\\", "/").rpartition("/")
    if folder in ("annotations", "labels"):
        return Source(form, open_tree(above or ".", follow_links), f"{folder}/{name}", formats[form])
    return Source(form, open_tree(parent, follow_links), name, formats[form])


def _wanted(formats: Mapping[str, Format]) -> str:
    *first, last = (form.wanted for form in formats.values())
    return f"want {', '.join(first)}{', or ' if first else ''}{last}"


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
    if not tree.names():
        raise DataError(f"{where}: empty folder; {_wanted(formats)}")
    found = _look(tree, formats)
    if found is None:
        tree.refuse_links()  # what is not looked at may be all there is
        there = describe_contents(tree)
        unread = find_unread_form(tree)
        why = f": {unread}" if unread is not None else ""
        raise DataError(f"{where}: no data set of a known form (found {there}){why}; {_wanted(formats)}")
    return found


def _look(tree: Tree, formats: Mapping[str, Format], level: int = 0) -> Source | None:
    nested = None
    for key, form in formats.items():
        below = form.sniff(tree)
        if below == "":
            return Source(key, tree, "", form, formats)
        # What lies deeper counts only where nothing is found here: a COCO folder may hold VOC ones.
        if below is not None and nested is None:
            nested = Source(key, tree.below(below), "", form)
    only = tree.open_folders()
    if nested is None and len(only) == 1 and level < _LEVELS:  # a folder that only holds the folder of the set
        nested = _look(tree.below(only[0]), formats, level + 1)
    deep = (
        Source(key, tree, "", form, formats) for key, form in formats.items() if form.is_deep and form.is_deep(tree)
    )
    return nested or next(deep, None)
