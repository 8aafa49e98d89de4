"""Which forms of data sets are read and written: one row each.

A new form is one file with its functions, and one row in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.raw import RawSet
from singleshot.datasets.readers import (
    coco,
    createml,
    csv,
    cvat,
    fiftyone,
    keras_txt,
    kitti,
    labelme,
    labelstudio,
    named_rows,
    results,
    shards,
    tfrecord,
    via,
    voc,
    yolo,
)
from singleshot.datasets.readers.label_files import LabelForm
from singleshot.datasets.readers.row_files import RowForm
from singleshot.datasets.readers.yolo_layout import label_of, labels_without_image
from singleshot.datasets.tree import Tree
from singleshot.datasets.writers import coco as coco_writer
from singleshot.datasets.writers import csv as csv_writer
from singleshot.datasets.writers import cvat as cvat_writer
from singleshot.datasets.writers import json_forms, split_folders
from singleshot.datasets.writers import voc as voc_writer
from singleshot.datasets.writers import yolo as yolo_writer
from singleshot.datasets.writers.common import WritePlan


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

    about: its name for people; sniff(tree): whether such data lie in the folder itself; splits(tree, file) and
    read(tree, file, split or None, problems), where file is "" or the one that the user named; line(contents of a label
    file, object's number): where that object stands in it; suffixes: endings of files that a user may name in place of
    a folder; label_folder: the folder and the endings where each image has a label file of its name, so that one that
    no split lists is found; in_one_file: labels stand in one file for all images; writer: None for a form that is only
    read; is_one(first 64 KB): whether a file that a user names is of this form, whatever its ending; is_label(the
    same): whether it is this form's label of a single image, which is no data set; is_deep(tree): whether such data lie
    anywhere below, asked where nothing else is found; is_copy: what other forms were made into, which counts where
    none of them is found; is_table: what scripts write from other forms, which are tried before it; own_labels: of a
    form whose images each have a label file that names no image; is_divided: whether its splits are those of a copy.
    """

    about: str
    sniff: Callable[[Tree], bool]
    splits: Callable[[Tree, str], tuple[str, ...]]
    read: Callable[[Tree, str, str | None, RaiseErrors], RawSet]
    line: Callable[[bytes, int], int | None] = no_line
    suffixes: tuple[str, ...] = ()
    label_folder: tuple[str, tuple[str, ...]] | None = None
    in_one_file: bool = False
    writer: Writer | None = None
    own_labels: OwnLabels | None = None
    is_divided: bool = False
    is_one: Callable[[bytes], bool] | None = None
    is_label: Callable[[bytes], bool] | None = None
    is_deep: Callable[[Tree], bool] | None = None
    is_copy: bool = False
    is_table: bool = False


def _by_content(
    form: LabelForm,
    line: Callable[[bytes, int], int | None] = no_line,
    suffixes: tuple[str, ...] = (),
    writer: Writer | None = None,
) -> Format:
    """The row of a form whose files each hold many images and are known by their first bytes."""
    return Format(
        form.about,
        form.sniff,
        form.splits,
        form.read,
        line,
        suffixes=suffixes,
        in_one_file=True,
        writer=writer,
        is_one=form.is_one,
    )


def _of_rows(form: RowForm) -> Format:
    """The row of a form with a text file of rows for each image."""
    return Format(form.about, form.sniff, form.splits, form.read)


def _in_split_folders(write: Callable[[WritePlan, Path], None]) -> Writer:
    return Writer(split_folders.plan, split_folders.place, write)


# In the order in which they are looked for.
FORMATS: Mapping[str, Format] = {
    "shards": Format("shards", shards.sniff, shards.splits, shards.read),
    "voc": Format(
        "Pascal VOC",
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
        results.line_of,
    ),
    "coco": Format(
        "COCO",
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
        csv.sniff,
        csv.splits,
        csv.read,
        csv.line_of,
        suffixes=(".csv",),
        writer=Writer(csv_writer.plan, csv_writer.place, csv_writer.write),
        is_table=True,
    ),
    "keras-txt": _by_content(keras_txt.FORM)._replace(is_table=True),
    "kitti": _of_rows(kitti.FORM),
    "named-rows": _of_rows(named_rows.NAMED),
    "corner-size-rows": _of_rows(named_rows.CORNER_SIZED),
    "centre-size-rows": _of_rows(named_rows.CENTRE_SIZED),
    "counted-rows": _of_rows(named_rows.COUNTED),
    "cvat": _by_content(
        cvat.FORM,
        suffixes=(".xml",),
        writer=Writer(cvat_writer.plan, cvat_writer.place, cvat_writer.write),
    ),
    "createml": _by_content(
        createml.FORM,
        createml.line_of,
        writer=_in_split_folders(json_forms.CREATEML_FORM.write),
    ),
    "via": _by_content(
        via.FORM,
        via.line_of,
        writer=_in_split_folders(json_forms.VIA_FORM.write),
    ),
    "labelstudio": _by_content(
        labelstudio.FORM,
        writer=_in_split_folders(json_forms.LABEL_STUDIO_FORM.write),
    ),
    "fiftyone": _by_content(fiftyone.FORM),
    "tfrecord": _by_content(tfrecord.FORM, suffixes=tfrecord.FORM.suffixes)._replace(is_copy=True),
    "labelme": Format(
        "LabelMe",
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
