"""Forms that are not read: their names, and what to export or convert instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from singleshot.datasets.archives import ARCHIVES, is_archive
from singleshot.datasets.readers import kitti, named_rows, tfrecord
from singleshot.datasets.readers.coco_layout import OTHER_TASKS
from singleshot.datasets.readers.csv_columns import SIDES, sniff_columns
from singleshot.datasets.readers.csv_layout import WANTED
from singleshot.datasets.readers.row_meaning import COMMA_ROW
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.storage import LfsPointerError

_PEEK_BYTES = 1 << 16
# Folders of a level; files of an ending that are looked at, in each folder and in all.
_FOLDERS, _FEW, _MANY = 50, 3, 100


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


# MOTChallenge: frame, id, box, confidence and two or three numbers more; eight in all are four corners (CRAFT's).
_MORE = rb"(?:,-?\d{1,9}(?:\.\d{1,12})?)"
_MOT = re.compile(rb"\A\d{1,9},-?\d{1,9}%b{5}(?:%b{2,3})?\s" % (_MORE, _MORE))
# DOTA's rows: the four corners of a turned box, a class, how difficult; two lines about the image may come first.
_DOTA = re.compile(
    rb"\A(?:(?:imagesource|gsd):[^\n]{0,200}\n){0,2}(?:-?\d{1,9}(?:\.\d{1,12})? ){8}[A-Za-z][\w-]{0,99}(?: \d)?\s"
)

_NUMBER = rb"-?\d{1,9}(?:\.\d{1,12})?"
# ICDAR's: four corners and the text in them.
_ICDAR = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:%b, ?){8}[^\s\d-]" % _NUMBER)
_WIDER = re.compile(rb"\A[^\n]{1,200}\.(?:jpg|jpeg|png)\r?\n\d{1,6}\r?\n(?:\d{1,9} ){9}\d", re.IGNORECASE)
# Boxes in JSON of whatever form: a corner and a side or another corner by their usual names, or a list called box.
_BOX_LIST = re.compile(rb'"(?:b?box|bounding_?box|bnd_?box|rect)"\s*:\s*[\[{]', re.IGNORECASE)
_BOX_SIDES = tuple(
    re.compile(rb'"(?:%b)"\s*:\s*-?\d' % names, re.IGNORECASE)
    for names in (b"x|left|x_?min|x1", b"y|top|y_?min|y1", b"w|width|right|x_?max|x2", b"h|height|bottom|y_?max|y2")
)
_RECORDS = tfrecord.FORM.suffixes
_LABEL_SUFFIXES = (".json", ".xml", ".txt", ".csv", ".yaml")
_ONE_IMAGE = (".json", ".xml", ".txt")  # of files that label one image each
# What lies in any project.
_NO_LABELS = re.compile(r"(?:requirements|readme|license|package|tsconfig|manifest|cmakelists|robots)\b")
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
    UnreadForm(
        (".txt",), kitti.is_label, "KITTI's form without images of its names; put them into image_2/, next to label_2/"
    ),
    UnreadForm(
        (".txt",),
        lambda head: bool(COMMA_ROW.match(head)),
        "rows of five numbers with commas, and no images of its names lie where YOLO's do; put them there, or write a "
        "CSV of file,xmin,ymin,xmax,ymax,class",
    ),
    UnreadForm((".txt",), lambda head: bool(_DOTA.match(head)), "DOTA's form; convert it to YOLO-OBB or COCO"),
    UnreadForm((".txt",), lambda head: bool(_ICDAR.match(head)), "ICDAR's form (corners, text); convert it to COCO"),
    UnreadForm((".txt",), lambda head: bool(_WIDER.match(head)), "WIDER FACE's form; convert it to COCO or Pascal VOC"),
    UnreadForm(
        (".txt",),
        named_rows.is_counted,
        "BBox-Label-Tool's form, without images of its names, or in several folders, which may be classes; put "
        "images/ next to labels/, or give one folder",
    ),
    UnreadForm(
        (".txt",),
        named_rows.is_named,
        "rows of class x1 y1 x2 y2 (mAP, OIDv4), or class x y width height, which no images here tell; convert them to "
        "a CSV of file,xmin,ymin,xmax,ymax,class",
    ),
    UnreadForm(
        (".txt",),
        lambda head: named_rows.is_named(head, corners=False),
        "rows of class x y width height; convert them to a CSV of file,xmin,ymin,xmax,ymax,class",
    ),
    UnreadForm((".csv", ".tsv"), _with(b"labels", b"annotation_id"), "Label Studio's CSV; export the project as JSON"),
    UnreadForm((".csv",), _with(b"EncodedPixels"), "Kaggle's CSV of masks; convert it to COCO"),
    UnreadForm((".txt",), lambda head: bool(_MOT.match(head)), "tracks in MOTChallenge's form; convert them to COCO"),
)
_OF_IMAGES = re.compile(
    r"(?:^|[\s,;\"_])(?:image|img|file|path|frame|bbox|x_?min|x_?1)|\.(?:jpe?g|png)\b", re.IGNORECASE
)
_SIZED = {"x", "y", "width", "height"}
_CLASSIFICATION = "_classes.csv"  # Roboflow's name


def find_unread_form(tree: Tree) -> str | None:
    """What lies in a folder in which no form was found, and what to do: "labels.vott is a VoTT project; export it ...";
    None where that is not known either. Looks at a few files of each ending in the folder and three levels below."""
    images = labels = 0
    looked: Counter[tuple[str, str]] = Counter()
    tables, task, own = [], "", ""
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
        labels += suffix in _LABEL_SUFFIXES and not _NO_LABELS.match(last)
        if last == _CLASSIFICATION:
            return f"{printable(name)} has classes of whole images, without boxes; label the objects"
        task = task or next(
            (
                f"{printable(name)} holds {what}; add instances_*.json, which has the boxes"
                for start, what in OTHER_TASKS.items()
                if suffix == ".json" and last.startswith(start)
            ),
            "",
        )
        tables += [name] if suffix in (".csv", ".tsv") else []
        # Of each folder: beside KITTI's labels lie more files of calib/.
        looked.update([(suffix, ""), (suffix, name.rpartition("/")[0])])
        is_first = looked[suffix, name.rpartition("/")[0]] <= _FEW and looked[suffix, ""] <= _MANY
        if is_first and (about := _known(tree, name, suffix)):
            return f"{printable(name)} is {about}"
        if is_first and suffix == ".json" and not own and _has_boxes(_head(tree, name)):
            own = name
    if task:
        return task
    tables = [name for name in tables[:_MANY] if _first_line(tree, name)]
    tables.sort(key=lambda name: not any(map(is_image, _second_row(tree, name))))  # those that name images first
    if about := next(filter(None, (_columns(tree, name) for name in tables[:_FEW])), ""):
        return about
    if archives:
        one = printable(archives[0])
        if len(archives) > 1:
            return f"{one} and {len(archives) - 1} more are archives; unpack them here"
        itself = f"give it, {printable(tree.path(one))}, or " if one.lower().endswith(ARCHIVES) else ""
        return f"{one} is an archive; {itself}unpack it here"
    if images and own:
        return (
            f"{printable(own)} has boxes in a form that is not read; write them as a table:"
            " file,xmin,ymin,xmax,ymax,class"
        )
    if images and not labels:
        sorted_in = f" in {len(image_folders)} folders" if len(image_folders) > 1 else ""
        return (
            f"there are images{sorted_in} and no labels; draw boxes round the objects: singleshot label FOLDER --format"
            " voc --classes NAME,NAME, or any tool that writes COCO or VOC"
        )
    return None


def _has_boxes(head: bytes) -> bool:
    """Whether a JSON file seems to have boxes, by its keys."""
    return _BOX_LIST.search(head) is not None or all(side.search(head) for side in _BOX_SIDES)


def find_second_labels(
    tree: Tree, used: Collection[str], is_label: Mapping[str, Callable[[bytes], bool]]
) -> dict[str, str]:
    """Folder of which no label is read -> the form of labels in it of images that are read: another labelling of them,
    or a copy. used and is_label: as for `find_unread_labels`."""
    names = list(_files(tree))
    # A label next to another image of its name is of that one.
    others = {name.rpartition(".")[0] for name in names if is_image(name) and name not in used}
    free = (name for name in names if name.rpartition(".")[0] not in others)
    found: dict[str, str] = {}
    for name in _first_labels(free, used, {_stem(name) for name in used if is_image(name)}):
        if form := _form_of(tree, name, is_label):
            found.setdefault(name.rpartition("/")[0], form)
    return found


def find_unread_labels(tree: Tree, used: Collection[str], is_label: Mapping[str, Callable[[bytes], bool]]) -> str:
    """The first label file of an image that is not read, in a folder of which nothing is: "test/Labels/1.txt is ICDAR's
    form ..."; "" for none. A split or a part whose labels lie or are written unlike the rest would else be lost unseen.

    used: images and label files that are read; is_label: name of a form that is read -> whether the first bytes of a
    file are its label of one image.
    """
    names = list(_files(tree))
    left = {_stem(name) for name in names if is_image(name) and name not in used}
    for name in _first_labels(names, used, left) if left else ():
        if about := _known(tree, name, _suffix(name)):
            return f"{printable(name)} is {about}"
        if form := _form_of(tree, name, is_label):
            return f"{printable(name)} is {form}'s; put it into the folder of the others"
    return ""


def _first_labels(names: Iterable[str], used: Collection[str], stems: Collection[str]) -> Iterator[str]:
    """Of each folder of which no label is read, the first files that may be labels of images with these stems."""
    read = {name.rpartition("/")[0] for name in used if not is_image(name)}
    looked: Counter[str] = Counter()
    for name in names:
        folder = name.rpartition("/")[0]
        if _suffix(name) in _ONE_IMAGE and _stem(name) in stems and folder not in read:
            looked[folder] += 1
            if looked[folder] <= _FEW:
                yield name


def _form_of(tree: Tree, name: str, is_label: Mapping[str, Callable[[bytes], bool]]) -> str:
    """The form of which a file is the label of one image; "" for none."""
    head = _head(tree, name)
    return next((form for form, is_one in is_label.items() if head and is_one(head)), "")


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _head(tree: Tree, name: str) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        return tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
    except DataError:  # whose form is not known then
        return b""


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def unread_tables(tree: Tree) -> list[str]:
    """CSV files in the folder itself whose columns hold boxes and are not read."""
    tables = ((name, _first_line(tree, name)) for name in tree.files("", (".csv", ".tsv"))[:_FEW])
    return [name for name, line in tables if set(_words(line)) >= _SIZED and sniff_columns(line.encode()) is None]


def _words(line: str) -> list[str]:
    return re.findall(r"\w+", line.lower())


def _first_line(tree: Tree, name: str) -> str:
    """The first line of a table of images; "" of others and where it cannot be read."""
    try:
        lines = tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES).decode("utf-8-sig", "replace").splitlines()
    except DataError:  # whatever it is, nothing can be said of it
        return ""
    return lines[0] if lines and _OF_IMAGES.search(lines[0]) else ""


def _columns(tree: Tree, name: str) -> str:
    """What is said of a table of images that is no CSV of boxes; "" of other tables."""
    line = _first_line(tree, name)
    if not line:
        return ""
    if set(_words(line)) >= _SIZED:
        return (
            f"{printable(name)} has x, y, width and height, where x and y may be a box's corner or its centre; call "
            "them xmin,ymin,w,h if they are the left upper corner, else convert them"
        )
    if _is_of_whole_images(_second_row(tree, name)):
        return f"{printable(name)} has classes of whole images, without boxes; label the objects"
    return f"{printable(name)} starts with {printable(line, 120)!r}; want {WANTED}"


def _second_row(tree: Tree, name: str) -> list[str]:
    """The cells of the second line of a table of images; [] where there is none."""
    lines = _head(tree, name).decode("utf-8-sig", "replace").splitlines()[1:2]
    return [cell.strip(" \"'") for cell in re.split(r"[,;\t]", lines[0])] if lines else []


def _is_of_whole_images(row: list[str]) -> bool:
    """Whether a row names an image and one class, or says of each class whether it is in it."""
    others = [cell for cell in row if not is_image(cell)]
    if len(others) + 1 != len(row) or not others:
        return False
    return set(others) <= {"0", "1"} or (len(others) == 1 and len(re.findall(r"\d+", others[0])) < len(SIDES))


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


def is_unread_text(tree: Tree, name: str) -> bool:
    """Whether a text file is of a form that is not read."""
    return bool(_known(tree, name, ".txt"))


def _known(tree: Tree, name: str, suffix: str) -> str:
    rows = [row for row in UNREAD_FORMS if suffix in row.suffixes or name.lower().endswith(row.suffixes)]
    if re.search(r"\.tfrecord-\d{5}-of-\d{5}$", name.lower()):
        rows += [row for row in UNREAD_FORMS if row.suffixes == _RECORDS]
    if not rows and suffix not in _LABEL_SUFFIXES:
        return ""
    try:
        head = tree.read(name, _PEEK_BYTES, "annotation", most=_PEEK_BYTES)
    except LfsPointerError:
        return "a pointer of Git LFS; fetch what it stands for (git lfs pull)"
    except DataError:  # whatever it is, nothing can be said of it
        return ""
    return next((row.about for row in rows if row.is_one(head)), "")
