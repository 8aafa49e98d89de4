"""Pascal VOC folders: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt.

VOC's pixels are 1-based and inclusive. Here, and nowhere else, they become continuous coordinates: 1 is
subtracted from xmin and ymin only, so that a box of xmin == xmax is one pixel wide.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import ParseError

from singleshot.datasets.findings import RAISE_ERRORS, RaiseErrors
from singleshot.datasets.raw import Box, Notation, RawImage, RawObject, RawSet, show_item
from singleshot.datasets.readers.common import MAX_SIDE, images_by_stem, only_folder, parse_number, whole_side
from singleshot.datasets.splits import make_splits, resolve_split
from singleshot.datasets.tree import Tree, is_image, join
from singleshot.errors import DataError, printable
from singleshot.extras import needs

logger = logging.getLogger(__name__)

MAX_XML_BYTES = 16 * 2**20
MAX_LIST_BYTES = 256 * 2**20

_LABELS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
# This project's own: classes in their order, as a JSON list, where the annotations do not tell it.
CLASS_LIST = "singleshot-classes.json"
DEVKIT_CLASSES = frozenset(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "  # noqa: SIM905
    "pottedplant sheep sofa train tvmonitor".split()
)
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAG = {"": False, "0": False, "1": True, "false": False, "true": True, "unspecified": False}


class VocAnnotation(NamedTuple):
    """One XML file; width and height are 0 where it does not say them."""

    width: int
    height: int
    filename: str
    objects: list[RawObject]


class _Splits(NamedTuple):
    """stems: split -> annotation stems; made: there are no lists, the splits were made here."""

    stems: dict[str, list[str]]
    made: bool


def sniff(tree: Tree) -> str | None:
    """The folder that holds Annotations/: the tree's own (""), or the only one of */ and VOCdevkit/*/; else None.

    Raises DataError when several folders below are VOC folders.
    """
    if _LABELS in tree.names():
        return ""
    found = [
        join(parent, name)
        for parent in ("", "VOCdevkit")
        for name in tree.folders(parent)
        if _LABELS in tree.names(join(parent, name))
    ]
    return only_folder(tree, found, "VOC", certain=True)


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits of a VOC folder; DataError when it holds no annotation."""
    return tuple(_read_splits(tree, None, RAISE_ERRORS).stems)


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a VOC folder: the split `wanted`, or all of them. Its class names are the sorted names over all splits, so
    that train and val agree."""
    there = _read_splits(tree, wanted, problems)
    stems_of = there.stems
    if wanted is not None:
        split = resolve_split(wanted, stems_of, tree.root)
        if not stems_of[split]:
            raise DataError(f"{printable(tree.root)}: split {printable(split)!r} has no images; add some to its list")
        stems_of = {split: stems_of[split]}
    if there.made:
        counts = ", ".join(f"{name} {len(members)}" for name, members in there.stems.items())
        logger.info("%s: no %s/*.txt, split by hash of the names: %s", printable(tree.root), _LISTS, counts)
    xmls = _annotations(tree)
    stems_of = {split: _require_annotations(tree, split, stems, xmls, problems) for split, stems in stems_of.items()}
    stems = list(dict.fromkeys(stem for members in stems_of.values() for stem in members))
    annotations = _read_annotations(tree, stems, xmls, problems)
    names = {obj.name for annotation in annotations.values() for obj in annotation.objects}
    others = {stem for members in there.stems.values() for stem in members} - set(stems)
    if others:
        more = _read_annotations(tree, sorted(others & set(xmls)), xmls, problems)
        names |= {obj.name for annotation in more.values() for obj in annotation.objects}
    images = _find_images(tree, stems_of, annotations, xmls, problems)
    position = {image.ident: i for i, image in enumerate(images)}
    positions = {s: [position[stem] for stem in members if stem in position] for s, members in stems_of.items()}
    declared = _class_list(tree, problems)
    order = (*declared, *sorted(names - set(declared)))
    return RawSet(
        "voc", tree.root, order, images, positions, there.made, bool(declared), Notation(show_item, _show_box)
    )


def _show_box(box: Box) -> str:
    values = (box[0] + 1, box[1] + 1, box[2], box[3])
    return "box " + " ".join(f"{side} {value:.7g}" for side, value in zip(_SIDES, values, strict=True))


def line_of(data: bytes, number: int) -> int | None:
    """The line on which object `number` of an annotation starts."""
    starts = [match.start() for match in re.finditer(rb"<object[\s>]", data)]
    return data.count(b"\n", 0, starts[number]) + 1 if number < len(starts) else None


def _class_list(tree: Tree, problems: RaiseErrors) -> tuple[str, ...]:
    if CLASS_LIST not in tree.names():
        return ()
    try:
        declared = json.loads(tree.read(CLASS_LIST, MAX_XML_BYTES, "class list"))
    except (ValueError, RecursionError):
        declared = None
    if not isinstance(declared, list) or not all(isinstance(name, str) and name.strip() for name in declared):
        message = "is not a list of names in JSON; correct it or remove it"
        problems.add("annotation-unreadable", tree.path(CLASS_LIST), message)
        return ()
    return tuple(dict.fromkeys(name.strip() for name in declared))


# ---------------------------------------------------------------------------------------------- splits


def _annotations(tree: Tree) -> dict[str, str]:
    """Stem -> name of the XML file."""
    return {name[:-4]: join(_LABELS, name) for name in reversed(tree.files(_LABELS, (".xml",)))}


def _read_splits(tree: Tree, wanted: str | None, problems: RaiseErrors) -> _Splits:
    listed = {name[:-4]: name for name in tree.files(_LISTS) if name.endswith(".txt")}
    if listed:
        # The devkit has one list per class and split besides: "aeroplane_train.txt" beside "train.txt".
        own = sorted(s for s in listed if "_" not in s or s.partition("_")[0] not in DEVKIT_CLASSES)
        return _Splits({s: _read_list(tree, listed[s], problems) for s in own}, made=False)
    stems = sorted(_annotations(tree))
    if not stems:
        raise DataError(f"{printable(tree.path(_LABELS))}: no .xml file; want one annotation for each image")
    return _Splits({s: [stems[i] for i in members] for s, members in make_splits(stems).items()}, made=True)


def _read_list(tree: Tree, name: str, problems: RaiseErrors) -> list[str]:
    path = join(_LISTS, name)
    text = tree.read(path, MAX_LIST_BYTES, "split list").decode("utf-8-sig", "surrogateescape")
    xmls = tree.names(_LABELS)
    stems: dict[str, None] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stem = line.strip()
        if not stem:
            continue
        if f"{stem}.xml" not in xmls:
            parts = stem.rsplit(None, 1)
            if parts[-1] in ("1", "-1", "0"):  # the per-class lists' flag; a name may hold spaces itself
                stem = parts[0]
        if stem in stems:
            message = f"line {number} lists {printable(stem)!r} again; remove one of them"
            problems.add("split-unusable", tree.path(path), message, line=None)
            continue
        stems[stem] = None
    return list(stems)


def _require_annotations(
    tree: Tree, split: str, stems: list[str], xmls: dict[str, str], problems: RaiseErrors
) -> list[str]:
    missing = [stem for stem in stems if stem not in xmls]
    for stem in missing:
        problems.add(
            "split-unusable",
            tree.root,
            f"split {printable(split)!r} names {printable(stem)!r} but there is no "
            f"{_LABELS}/{printable(stem)}.xml ({len(missing)} of {len(stems)} missing); "
            "add the files or take the names out of the list",
        )
    return [stem for stem in stems if stem in xmls]


# ---------------------------------------------------------------------------------------------- annotations


@functools.cache
def _xml_parser() -> Callable[[bytes], Any]:
    with needs("train", "reading VOC annotations"):
        from defusedxml.ElementTree import fromstring
    parse: Callable[[bytes], Any] = fromstring
    return parse


# UTF-8 by its own words or by silence, so that a "<!" in the bytes is one in the text and the reverse.
_PLAIN_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<(?!\?xml)|(?:\xef\xbb\xbf)?<\?xml(?: version=[\"'][0-9.]+[\"'])?"
    rb"(?: encoding=[\"'][uU][tT][fF]-8[\"'])?\s*\?>"
)


def _parse_xml(data: bytes) -> Any:
    """The root element. defusedxml's parser, in Python, takes eight times as long as the one in C, and differs only
    where there is a document type or an entity declaration, which all start with "<!"."""
    if b"<!" in data or b"\0" in data or not _PLAIN_START.match(data):
        return _xml_parser()(data)
    return ElementTree.fromstring(data)


def _read_annotations(
    tree: Tree, stems: Iterable[str], xmls: dict[str, str], problems: RaiseErrors
) -> dict[str, VocAnnotation]:
    found = {}
    for stem in stems:
        path = tree.path(xmls[stem])
        try:
            data = tree.read(xmls[stem], MAX_XML_BYTES, "annotation")
        except DataError as error:
            problems.add_unreadable(path, error)
            continue
        annotation = parse_annotation(data, path, problems)
        if annotation is not None:
            found[stem] = annotation
    return found


def parse_annotation(data: bytes, path: str, problems: RaiseErrors = RAISE_ERRORS) -> VocAnnotation | None:
    """The contents of one VOC XML file; `path` is for messages. None after a problem with the whole file."""

    def broken(message: str) -> None:
        problems.add("annotation-unreadable", path, message)

    try:
        root = _parse_xml(data)
    except ParseError as error:
        broken(f"is not XML ({error}); write the annotation again")
        return None
    except (ValueError, LookupError, RecursionError) as error:
        # defusedxml's refusals of entities, and expat's of encodings.
        broken(f"is not plain XML ({printable(error, 80)}); want UTF-8 without entities")
        return None
    if root.tag != "annotation":
        broken(f"starts with <{printable(root.tag, 40)}>; want a VOC <annotation>")
        return None
    width, height = (_side(root, key, path, problems) for key in ("width", "height"))
    objects = [_object(element, path, k, problems) for k, element in enumerate(root.findall("object"))]
    filename = (root.findtext("filename") or "").strip()
    return VocAnnotation(width, height, filename, [obj for obj in objects if obj is not None])


def _side(root: Any, key: str, path: str, problems: RaiseErrors) -> int:
    text = (root.findtext(f"size/{key}") or "").strip()
    side = whole_side(parse_number(text or "0"))
    if side is None:
        message = f"size {key} {printable(text, 40)!r}; want the image's {key} in whole pixels"
        problems.add("annotation-malformed", path, message)
    return side or 0


def _object(element: Any, path: str, k: int, problems: RaiseErrors) -> RawObject | None:
    name = (element.findtext("name") or "").strip()
    item = f"object {k} ({printable(name, 80)})" if name else f"object {k}"

    def broken(message: str) -> None:
        problems.add("annotation-malformed", path, message, item, number=k)

    if not name:
        broken("has no <name>; say what it is")
        return None
    box = element.find("bndbox")
    if box is None:
        broken("has no <bndbox>; add xmin, ymin, xmax and ymax")
        return None
    numbers = []
    for side in _SIDES:
        text = box.findtext(side)
        if text is None:
            broken(f"its <bndbox> has no <{side}>; add it")
            return None
        try:
            numbers.append(_zero_based(text) if side in ("xmin", "ymin") else float(text))
        except ValueError:
            broken(f"{side} {printable(text, 40)!r} is not a number; want pixels")
            return None
    flags = []
    for key in ("difficult", "crowd"):  # crowd: this project's own, for what comes from COCO
        flag = (element.findtext(key) or "").strip()
        if flag.lower() not in _FLAG:
            broken(f"{key} {printable(flag, 40)!r}; want 0 or 1")
            return None
        flags.append(_FLAG[flag.lower()])
    x0, y0, x1, y1 = numbers
    # One pixel is given to what starts and ends on the same; an end one pixel or more before its start has no area.
    return RawObject(name, (x0, y0, x1, y1), flags[0], flags[1], number=k)


def _zero_based(text: str) -> float:
    """The number less 1; fractions in decimals, so that 1.1 is 0.1 and not 0.10000000000000009."""
    value = float(text)
    if value.is_integer() or not abs(value) < MAX_SIDE or len(text) > 99:
        return value - 1.0
    return float(Decimal(text.strip()) - 1)


# ---------------------------------------------------------------------------------------------- images


def _find_images(
    tree: Tree,
    stems_of: dict[str, list[str]],
    annotations: dict[str, VocAnnotation],
    xmls: dict[str, str],
    problems: RaiseErrors,
) -> list[RawImage]:
    by_stem = images_by_stem(tree, _IMAGES)
    images, missing = [], set()
    for stem, annotation in annotations.items():
        same, name = by_stem.get(stem, []), annotation.filename
        if same and name not in same:  # two images of one stem: the annotation may say which
            name = min(same)
        elif not same and name.rpartition(".")[0] in xmls:  # another annotation's image
            name = ""
        file = tree.path(xmls[stem])
        try:
            found = tree.find(_IMAGES, name) if name else None
        except DataError as error:
            problems.add("image-missing", file, f"image {error}")
            continue
        if found is None or not is_image(found):
            missing.add(stem)
            continue
        images.append(RawImage(tree.path(found), stem, annotation.width, annotation.height, annotation.objects, file))
    for split, stems in stems_of.items():
        gone = [stem for stem in stems if stem in missing]
        missing -= set(gone)
        for stem in gone:
            problems.add(
                "image-missing",
                tree.root,
                f"split {printable(split)!r} names {printable(stem)!r} but {_IMAGES} has no such image "
                f"({len(gone)} of {len(stems)} missing); add the files or take the names out of the list",
            )
    return images
