"""Pascal VOC folders: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt, and what tools make of them.

VOC's pixels are 1-based and inclusive. Here, and nowhere else, they become continuous coordinates: 1 is
subtracted from xmin and ymin only, so that a box of xmin == xmax is one pixel wide.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import ParseError

from singleshot.datasets.findings import RAISE_ERRORS, CollectErrors, RaiseErrors
from singleshot.datasets.raw import Box, Notation, RawImage, RawObject, RawSet, show_item
from singleshot.datasets.readers.common import (
    MAX_SIDE,
    UniqueImages,
    parse_number,
    score_of,
    shorten_idents,
    surround,
    whole_side,
)
from singleshot.datasets.readers.image_finder import ImageFinder
from singleshot.datasets.readers.own_lists import read_class_list
from singleshot.datasets.readers.shapes import surround_rotated_box
from singleshot.datasets.readers.voc_layout import (
    IMAGES,
    LISTS,
    ImagePlaces,
    find_layout,
    is_annotation,
    is_deep,
    sniff,
)
from singleshot.datasets.readers.voc_splits import DEVKIT_CLASSES, NO_SPLIT, read_splits, require_annotations
from singleshot.datasets.splits import find_split, resolve_split
from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.extras import needs
from singleshot.images.suffixes import is_image

logger = logging.getLogger(__name__)
__all__ = ["DEVKIT_CLASSES", "is_annotation", "is_deep", "line_of", "parse_annotation", "read", "sniff", "splits"]

MAX_XML_BYTES = 16 * 2**20
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")  # pixels and radians
_FLAG = {"": False, "0": False, "1": True, "false": False, "true": True, "unspecified": False}


class VocAnnotation(NamedTuple):
    """One XML file; width and height are 0 where it does not say them."""

    width: int
    height: int
    filename: str
    objects: list[RawObject]


def splits(tree: Tree, file: str = "") -> tuple[str, ...]:
    """Names of the splits of a VOC folder; DataError when it holds no annotation."""
    return tuple(read_splits(tree, find_layout(tree), CollectErrors(0)).stems)  # the reading that follows reports


def read(tree: Tree, file: str, wanted: str | None, problems: RaiseErrors) -> RawSet:
    """Read a VOC folder: the split `wanted`, or all of them. Its class names are the sorted names over all splits, so
    that train and val agree."""
    layout = find_layout(tree)
    there = read_splits(tree, layout, problems)
    stems_of = there.stems
    if layout.copies:
        message = (
            f"{len(layout.copies)} annotations are not in the folders of splits, or are there a second time: they are "
            "not read"
        )
        problems.add("labels-unread", tree.path(layout.copies[0]), message)
    if wanted is not None:
        name = None if find_split(wanted, stems_of) else find_split(wanted, there.left_out)
        if name is not None:
            raise DataError(f"{printable(tree.root)}: split {printable(name)!r} {there.left_out[name]}")
        split = resolve_split(wanted, stems_of, tree.root)
        stems_of = {split: stems_of[split]}
    if there.made:
        counts = ", ".join(f"{name} {len(members)}" for name, members in there.stems.items())
        lists = f"{LISTS}/{NO_SPLIT}.txt is no split" if tree.files(LISTS) else f"no {LISTS}/*.txt"
        logger.info("%s: %s, split by hash of the names: %s", printable(tree.root), lists, counts)
    xmls = layout.xmls
    stems_of = {split: require_annotations(tree, split, stems, xmls, problems) for split, stems in stems_of.items()}
    stems = list(dict.fromkeys(stem for members in stems_of.values() for stem in members))
    annotations = _read_annotations(tree, stems, xmls, problems)
    names = {obj.name for annotation in annotations.values() for obj in annotation.objects}
    others = {stem for members in there.stems.values() for stem in members} - set(stems)
    if others:
        more = _read_annotations(tree, sorted(others & set(xmls)), xmls, problems)
        names |= {obj.name for annotation in more.values() for obj in annotation.objects}
    images = _find_images(tree, {} if there.made else stems_of, annotations, xmls, problems)
    unique = UniqueImages()  # copies of annotations in folders below are of the same images
    positions = {
        s: unique.place(s, (images[stem] for stem in members if stem in images)) for s, members in stems_of.items()
    }
    unique.report(problems)
    declared = read_class_list(tree, problems)
    order = (*declared, *sorted(names - set(declared)))
    notation = Notation(show_item, _show_box)
    return RawSet("voc", tree.root, order, unique.images, positions, there.made, bool(declared), notation)


def _show_box(box: Box) -> str:
    values = (box[0] + 1, box[1] + 1, box[2], box[3])
    return "box " + " ".join(f"{side} {value:.7g}" for side, value in zip(_SIDES, values, strict=True))


def line_of(data: bytes, number: int) -> int | None:
    """The line on which object `number` of an annotation starts."""
    starts = [match.start() for match in re.finditer(rb"<object[\s>]", data)]
    return data.count(b"\n", 0, starts[number]) + 1 if number < len(starts) else None


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
    tree: Tree, stems: Iterable[str], xmls: Mapping[str, str], problems: RaiseErrors
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
    sides = {tag: part for size in reversed(root.findall("size")) for tag, part in _parts(size).items()}
    width, height = (_side(sides, key, path, problems) for key in ("width", "height"))
    objects = [_object(_parts(element), path, k, problems) for k, element in enumerate(root.findall("object"))]
    filename = (root.findtext("filename") or "").strip()
    return VocAnnotation(width, height, filename, [obj for obj in objects if obj is not None])


def _side(sides: Mapping[str, Any], key: str, path: str, problems: RaiseErrors) -> int:
    text = _text(sides, key)
    side = whole_side(parse_number(text or "0"))
    if side is None:
        message = f"size {key} {printable(text, 40)!r}; want the image's {key} in whole pixels"
        problems.add("annotation-malformed", path, message)
    return side or 0


def _object(parts: Mapping[str, Any], path: str, k: int, problems: RaiseErrors) -> RawObject | None:
    if _text(parts, "deleted") == "1":  # LabelMe's old web tool keeps them
        return None
    name = _text(parts, "name")

    def broken(message: str) -> None:
        item = f"object {k} ({printable(name, 80)})" if name else f"object {k}"
        problems.add("annotation-malformed", path, message, item, number=k)

    if not name:
        broken("has no <name>; say what it is")
        return None
    found = _box(parts)
    if isinstance(found, str):
        broken(found)
        return None
    flags = [False, False]
    for i, key in enumerate(("difficult", "crowd")):  # crowd: this project's own, for what comes from COCO
        if key in parts:
            flag = _text(parts, key)
            if flag.lower() not in _FLAG:
                broken(f"{key} {printable(flag, 40)!r}; want 0 or 1")
                return None
            flags[i] = _FLAG[flag.lower()]
    score = score_of(_text(parts, "score")) if "score" in parts else math.nan
    # One pixel is given to what starts and ends on the same; an end one pixel or more before its start has no area.
    return RawObject(name, found, flags[0], flags[1], number=k, score=score)


def _parts(element: Any) -> dict[str, Any]:
    """Tag -> the first element of it in there. One pass costs less than a search for each tag."""
    return {part.tag: part for part in reversed(element)}


def _text(parts: Mapping[str, Any], tag: str) -> str:
    part = parts.get(tag)
    return "" if part is None else (part.text or "").strip()


def _box(parts: Mapping[str, Any]) -> Box | str:
    """The box of an <object>, given by its parts, or what is wrong with it."""
    if "bndbox" in parts:
        return _corners(parts["bndbox"])
    if "robndbox" in parts:
        return _surround_turned(parts["robndbox"])
    if "polygon" in parts:
        return _surround_points(parts["polygon"])
    return "has no <bndbox>; add xmin, ymin, xmax and ymax"


def _surround_points(polygon: Any) -> Box | str:
    """What surrounds the points of LabelMe's old web tool, in continuous pixels, or what is wrong with them."""
    xs, ys = (
        [
            math.nan if (number := parse_number(point.findtext(key) or "")) is None else number
            for point in polygon.iter("pt")
        ]
        for key in ("x", "y")
    )
    if len(xs) < 2 or not all(map(math.isfinite, (*xs, *ys))):
        return "its <polygon> has no two points <pt> with numbers x and y; add them"
    return surround(xs, ys)


def _corners(box: Any) -> Box | str:
    """The box of a <bndbox>, or what is wrong with it."""
    parts = _parts(box)
    whole = _whole_corners(parts)
    if whole is not None:
        return whole
    numbers = []
    for side in _SIDES:
        if side not in parts:
            return f"its <bndbox> has no <{side}>; add it"
        text = parts[side].text or ""
        try:
            numbers.append(_zero_based(text) if side in ("xmin", "ymin") else float(text))
        except ValueError:
            return f"{side} {printable(text, 40)!r} is not a number; want pixels"
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def _whole_corners(parts: Mapping[str, Any]) -> Box | None:
    """The box where its start is in whole numbers, as in nearly all files, in fewer steps; None for any other."""
    try:
        x0, y0 = float(parts["xmin"].text), float(parts["ymin"].text)
        x1, y1 = float(parts["xmax"].text), float(parts["ymax"].text)
    except (KeyError, TypeError, ValueError):
        return None
    return (x0 - 1.0, y0 - 1.0, x1, y1) if x0.is_integer() and y0.is_integer() else None


def _surround_turned(box: Any) -> Box | str:
    """What surrounds the <robndbox> of roLabelImg, or what is wrong with it."""
    texts = [box.findtext(key) or "" for key in _TURNED]
    numbers = [parse_number(text) for text in texts]
    x, y, width, height, angle = (math.nan if number is None else number for number in numbers)
    if not all(map(math.isfinite, (x, y, width, height, angle))):
        key, text = next((k, t) for k, t, n in zip(_TURNED, texts, numbers, strict=True) if n is None or n - n != 0)
        return f"its <robndbox> has {key} {printable(text, 40)!r}; want a number"
    half = (width / 2, height / 2)
    return surround_rotated_box((x - half[0], y - half[1], x + half[0], y + half[1]), math.degrees(angle))


def _zero_based(text: str) -> float:
    """The number less 1; fractions in decimals, so that 1.1 is 0.1 and not 0.10000000000000009."""
    value = float(text)
    if value.is_integer() or not abs(value) < MAX_SIDE or len(text) > 99:  # NaN and infinity too
        return value - 1.0
    return float(Decimal(text.strip()) - 1)


# ---------------------------------------------------------------------------------------------- images


def _find_images(
    tree: Tree,
    stems_of: dict[str, list[str]],
    annotations: dict[str, VocAnnotation],
    xmls: Mapping[str, str],
    problems: RaiseErrors,
) -> dict[str, RawImage]:
    places, finder = ImagePlaces(tree), ImageFinder(tree)
    idents = dict(zip(xmls, shorten_idents(list(xmls)), strict=True))
    images: dict[str, RawImage] = {}
    missing = set()
    for stem, annotation in annotations.items():
        file = tree.path(xmls[stem])
        try:
            found = _image_of(tree, xmls[stem], annotation.filename, xmls, places, finder)
        except DataError as error:
            problems.add("image-missing", file, f"image {error}")
            continue
        if found is None or not is_image(found):
            missing.add(stem)
            continue
        images[stem] = RawImage(
            tree.path(found), idents[stem], annotation.width, annotation.height, annotation.objects, file
        )
    for stem in sorted(missing) if not images else ():  # numbers that lost or got zeros, in all names alike
        folder, _, last = xmls[stem][:-4].rpartition("/")
        place, same = places.of_number(folder, last)
        if same and (found := tree.find(place, min(same))) is not None:
            annotation = annotations[stem]
            sizes = annotation.width, annotation.height
            images[stem] = RawImage(tree.path(found), idents[stem], *sizes, annotation.objects, tree.path(xmls[stem]))
            missing.discard(stem)
    for stem in sorted(missing) if not stems_of else ():  # there is no list that names it
        message = (
            f"image {printable(stem)!r} is missing ({len(missing)} of {len(annotations)} are not below "
            f"{printable(tree.root)}); add the files, or remove their annotations"
        )
        problems.add("image-missing", tree.path(xmls[stem]), message)
    for split, stems in stems_of.items():
        gone = [stem for stem in stems if stem in missing]
        missing -= set(gone)
        for stem in gone:
            problems.add(
                "image-missing",
                tree.root,
                f"split {printable(split)!r} names {printable(stem)!r} but {_image_place(tree)} has no such image "
                f"({len(gone)} of {len(stems)} missing); add the files or take the names out of the list",
            )
    return images


def _image_place(tree: Tree) -> str:
    return IMAGES if IMAGES in tree.names() else "the folder"


def _image_of(
    tree: Tree, xml: str, filename: str, xmls: Mapping[str, str], places: ImagePlaces, finder: ImageFinder
) -> str | None:
    """The image of an annotation: of its name, in the places for its folder; else the one that it names, unless that is
    another annotation's; else the only one of its name anywhere. DataError where its name leads out of the folder."""
    folder, _, last = xml[:-4].rpartition("/")
    place, same = places.of_stem(folder, last)
    if same:  # of two images of one stem the annotation may say which
        return tree.find(place, filename if filename in same else min(same))
    named = filename.rpartition(".")[0]
    if filename and (named == last or named not in xmls):
        found = finder.find(filename, places.of(folder))
        if found is not None:
            return found
    return finder.of_stem(last, places.of(folder))
