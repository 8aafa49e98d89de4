"""Forms that are not read: their names, and what to export or convert instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.archives import ARCHIVES, is_archive
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image

_PEEK_BYTES = 1 << 16
_FOLDERS, _FEW = 50, 5


class UnreadForm(NamedTuple):
    """A form that is not read: endings of its files, ("" for any); is_one(first bytes) of such a file; about: its name
    and what to do."""

    suffixes: tuple[str, ...]
    is_one: Callable[[bytes], bool]
    about: str


def _any(head: bytes) -> bool:
    return True


def _with(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: all(mark in head for mark in marks)


# KITTI's 15 columns: a class, truncated, occluded, alpha, then the box and what is known in space.
_KITTI = re.compile(rb"\A[A-Za-z]\S{0,99}(?: -?\d{1,9}(?:\.\d{1,12})?){14,15}\s")
# MOTChallenge: frame, id, box, confidence and three numbers more.
_MOT = re.compile(rb"\A\d{1,9},-?\d{1,9}(?:,-?\d{1,9}(?:\.\d{1,12})?){5,8}\s")
# DOTA's rows: the four corners of a turned box, a class, how difficult; two lines about the image may come first.
_DOTA = re.compile(
    rb"\A(?:(?:imagesource|gsd):[^\n]{0,200}\n){0,2}(?:-?\d{1,9}(?:\.\d{1,12})? ){8}[A-Za-z][\w-]{0,99}(?: \d)?\s"
)

_RECORDS = (".tfrecord", ".tfrecords", ".tfrec", ".record", ".records")
UNREAD_FORMS = (
    UnreadForm(_RECORDS, lambda head: head[:2] == b"\x1f\x8b", "compressed TFRecord; unpack it (gunzip)"),
    UnreadForm(_RECORDS, _any, "called like a TFRecord and is none, or damaged; fetch it again, or export it as COCO"),
    UnreadForm((".vott",), _any, "a VoTT project; export it from VoTT as Pascal VOC"),
    UnreadForm((".json",), _with(b'"asset"', b'"regions"'), "VoTT's JSON; export the project as Pascal VOC"),
    UnreadForm((".json",), _with(b'"classTitle"'), "Supervisely's form; export the project as COCO"),
    UnreadForm((".json",), _with(b'"_cls"', b'"Detection'), "FiftyOne's own form; export it as COCODetectionDataset"),
    UnreadForm((".json",), _with(b'"schema_ref"', b"darwin"), "Darwin (V7); export the set as COCO"),
    UnreadForm((".json",), _with(b'"items"', b'"categories"', b'"label"'), "Datumaro's form; export it as COCO 1.0"),
    UnreadForm((".json",), _with(b'"box2d"'), "BDD100K's form; convert it to COCO (bdd100k.label.to_coco)"),
    UnreadForm((".ndjson",), _any, "Labelbox's NDJSON; convert it to COCO"),
    UnreadForm((".manifest", ".json", ".jsonl"), _with(b'"source-ref"'), "a SageMaker manifest; convert it to COCO"),
    UnreadForm((".parquet", ".arrow"), _any, "a table of Hugging Face's datasets; save its images and boxes as COCO"),
    UnreadForm((".mat",), _any, "MATLAB's form; convert it to COCO or Pascal VOC"),
    UnreadForm((".txt",), lambda head: bool(_KITTI.match(head)), "KITTI's form; convert it to COCO or Pascal VOC"),
    UnreadForm((".txt",), lambda head: bool(_DOTA.match(head)), "DOTA's form; convert it to YOLO-OBB or COCO"),
    UnreadForm((".csv", ".tsv"), _with(b"labels", b"annotation_id"), "Label Studio's CSV; export the project as JSON"),
    UnreadForm((".csv",), _with(b"EncodedPixels"), "Kaggle's CSV of masks; convert it to COCO"),
    UnreadForm((".txt",), lambda head: bool(_MOT.match(head)), "tracks in MOTChallenge's form; convert them to COCO"),
)
_CLASSIFICATION = "_classes.csv"  # Roboflow's name


def find_unread_form(tree: Tree) -> str | None:
    """What lies in a folder in which no form was found, and what to do: "labels.vott is a VoTT project; export it ...";
    None where that is not known either. Looks at a few files of each ending in the folder and three levels below."""
    images = labels = 0
    looked: dict[str, int] = {}
    image_folders, archives = set(), []
    for name in _files(tree):
        last = name.rpartition("/")[2].lower()
        if is_image(last):
            images += 1
            image_folders.add(name.rpartition("/")[0])
            continue
        if is_archive(last):
            archives.append(name)
            continue
        suffix = last[last.rfind(".") :] if "." in last else ""
        labels += suffix in (".json", ".xml", ".txt", ".csv", ".yaml")
        if last == _CLASSIFICATION:
            return f"{printable(name)} has classes of whole images, without boxes; label the objects"
        looked[suffix] = looked.get(suffix, 0) + 1
        if looked[suffix] <= _FEW and (about := _known(tree, name, suffix)):
            return f"{printable(name)} is {about}"
    if archives:
        one = printable(archives[0])
        if len(archives) > 1:
            return f"{one} and {len(archives) - 1} more are archives; unpack them here"
        itself = f"give it, {printable(tree.path(one))}, or " if one.lower().endswith(ARCHIVES) else ""
        return f"{one} is an archive; {itself}unpack it here"
    if images and not labels:
        sorted_in = f" in {len(image_folders)} folders" if len(image_folders) > 1 else ""
        return f"there are images{sorted_in} and no labels; draw boxes round the objects with any tool, as COCO or VOC"
    return None


def _files(tree: Tree) -> Iterator[str]:
    """Files of the folder and three levels below, as far as they can be listed."""
    level = [""]
    for _ in range(4):
        below: list[str] = []
        for folder in level[:_FOLDERS]:
            try:
                names, folders = tree.files(folder), tree.folders(folder)
            except DataError:  # a link that leads out: nothing of it is looked at
                continue
            yield from (join(folder, name) for name in islice(names, 1000) if not name.startswith("."))
            below += [join(folder, name) for name in folders[:_FOLDERS]]
        level = below


def _known(tree: Tree, name: str, suffix: str) -> str:
    rows = [row for row in UNREAD_FORMS if suffix in row.suffixes or name.lower().endswith(row.suffixes)]
    if re.search(r"\.tfrecord-\d{5}-of-\d{5}$", name.lower()):
        rows += UNREAD_FORMS[:2]
    if not rows:
        return ""
    try:
        head = tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
    except DataError:  # whatever it is, nothing can be said of it
        return ""
    return next((row.about for row in rows if row.is_one(head)), "")
