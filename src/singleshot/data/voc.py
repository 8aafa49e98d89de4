"""Pascal VOC folders: Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt.

VOC's pixels are 1-based and inclusive. Here, and nowhere else, they become continuous coordinates: 1 is
subtracted from xmin and ymin only, so that a box of xmin == xmax is one pixel wide.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import ParseError

import numpy as np

from singleshot.data.boxcheck import settle_boxes
from singleshot.data.dataset import Dataset, unknown_class
from singleshot.data.folders import IMAGE_SUFFIXES, Folder, resolve_split
from singleshot.data.images import read_limited
from singleshot.data.strings import StringTable, offsets_of
from singleshot.errors import DataError, MissingExtraError, printable

logger = logging.getLogger(__name__)

MAX_XML_BYTES = 16 * 2**20
MAX_LIST_BYTES = 256 * 2**20
MAX_SIDE = 1_000_000

_DEVKIT_CLASSES = frozenset(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "  # noqa: SIM905
    "pottedplant sheep sofa train tvmonitor".split()
)
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"": False, "0": False, "1": True, "false": False, "true": True, "unspecified": False}


class VocObject(NamedTuple):
    """One object as written: box is xmin ymin xmax ymax, 1-based and inclusive."""

    name: str
    difficult: bool
    box: tuple[float, ...]


class VocAnnotation(NamedTuple):
    """One XML file; width and height are 0 where it does not say them."""

    width: int
    height: int
    filename: str
    objects: list[VocObject]


class _Splits(NamedTuple):
    """stems: split -> annotation stems; made: there are no lists, the splits were made here."""

    stems: dict[str, list[str]]
    made: bool


def voc_root(path: Path) -> Path | None:
    """The folder that holds Annotations/: `path`, or the only one of path/* and path/VOCdevkit/*; else None.

    Raises DataError when several folders below `path` are VOC folders.
    """
    folder = Folder(path)
    if "Annotations" in folder.names(path):
        return path
    found = []
    for parent in (path, path / "VOCdevkit"):
        for name in sorted(folder.names(parent)):
            below = parent / name
            if below.is_dir() and "Annotations" in folder.names(below):
                found.append(below)
    if len(found) > 1:
        there = ", ".join(printable(f.relative_to(path)) for f in found[:8])
        raise DataError(f"{printable(path)}: several VOC folders ({there}); name the one that you mean")
    return found[0] if found else None


def voc_splits(root: Path) -> tuple[str, ...]:
    """Names of the splits of a VOC folder; DataError when it holds no annotation."""
    return tuple(_read_splits(Folder(root), root).stems)


def read_voc(
    root: Path,
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
) -> Dataset:
    """Read one split of a VOC folder.

    class_names None takes the sorted names over all splits, so that train and val agree; given, names are
    looked up in it. With clip_boxes, boxes are cut to the image and dropped where nothing is left, and
    counted in a warning. Raises DataError for whatever cannot be used, naming the file and the object.
    """
    folder = Folder(root)
    splits = _read_splits(folder, root)
    split = resolve_split(split, splits.stems, str(root))
    stems = splits.stems[split]
    if splits.made:
        counts = ", ".join(f"{name} {len(members)}" for name, members in splits.stems.items())
        logger.info("%s: no ImageSets/Main/*.txt, split by hash of the names: %s", printable(root), counts)
    if not stems:
        raise DataError(f"{printable(root)}: split {printable(split)!r} has no images; add some to its list")
    parse = _xml_parser()
    _require_annotations(folder, root, split, stems)
    annotations = [_read_annotation(folder, root, stem, parse) for stem in stems]
    if class_names is None:
        class_names = _all_classes(folder, root, splits, parse, split, annotations)
    names = _find_images(folder, root, split, stems, annotations)
    return _assemble(root, split, stems, annotations, names, tuple(class_names), clip_boxes)


# ---------------------------------------------------------------------------------------------- splits


def _read_splits(folder: Folder, root: Path) -> _Splits:
    main = root / "ImageSets" / "Main"
    listed = {name[:-4]: name for name in folder.names(main) if name.endswith(".txt")}
    if listed:
        # The devkit has one list per class and split besides: "aeroplane_train.txt" beside "train.txt".
        own = sorted(s for s in listed if "_" not in s or s.partition("_")[0] not in _DEVKIT_CLASSES)
        return _Splits({s: _read_list(folder, root, main, listed[s]) for s in own}, made=False)
    stems = sorted(_annotation_stems(folder, root))
    if not stems:
        raise DataError(f"{printable(root / 'Annotations')}: no .xml file; want one annotation for each image")
    return _Splits(_make_splits(stems), made=True)


def _annotation_stems(folder: Folder, root: Path) -> list[str]:
    return [name[:-4] for name in folder.names(root / "Annotations") if name.lower().endswith(".xml")]


def _make_splits(stems: list[str]) -> dict[str, list[str]]:
    """80/10/10 by the rank of each stem's hash: the same on every machine, whatever else the names say."""
    ranked = sorted(stems, key=lambda s: hashlib.sha256(s.encode("utf-8", "surrogateescape")).digest())
    part = max(1, round(len(ranked) / 10)) if len(ranked) >= 3 else 0
    val, test, train = ranked[:part], ranked[part : 2 * part], ranked[2 * part :]
    return {
        "train": sorted(train),
        "val": sorted(val),
        "test": sorted(test),
        "trainval": sorted(train + val),
    }


def _read_list(folder: Folder, root: Path, main: Path, name: str) -> list[str]:
    path = folder.find(main, name)
    assert path is not None
    text = read_limited(path, MAX_LIST_BYTES, "split list").decode("utf-8-sig", "surrogateescape")
    xmls = folder.names(root / "Annotations")
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
            raise DataError(f"{printable(path)}: line {number} lists {printable(stem)!r} again; remove one of them")
        stems[stem] = None
    return list(stems)


def _require_annotations(folder: Folder, root: Path, split: str, stems: list[str]) -> None:
    there = set(_annotation_stems(folder, root))
    missing = [stem for stem in stems if stem not in there]
    if missing:
        raise DataError(
            f"{printable(root)}: split {printable(split)!r} names {printable(missing[0])!r} but there is no "
            f"Annotations/{printable(missing[0])}.xml ({len(missing)} of {len(stems)} missing); "
            "add the files or take the names out of the list"
        )


# ---------------------------------------------------------------------------------------------- annotations


def _xml_parser() -> Callable[[bytes], Any]:
    try:
        from defusedxml.ElementTree import fromstring
    except ImportError as error:
        raise MissingExtraError("reading VOC annotations needs defusedxml: pip install 'singleshot[train]'") from error
    return fromstring


def _read_annotation(folder: Folder, root: Path, stem: str, parse: Callable[[bytes], Any]) -> VocAnnotation:
    names = folder.names(root / "Annotations")
    name = next((n for n in (f"{stem}.xml", f"{stem}.XML") if n in names), None)
    name = name or next(n for n in names if n[:-4] == stem and n.lower().endswith(".xml"))
    path = folder.find(root / "Annotations", name)
    return parse_annotation(read_limited(path or name, MAX_XML_BYTES, "annotation"), str(path), parse)


def parse_annotation(data: bytes, path: str, parse: Callable[[bytes], Any] | None = None) -> VocAnnotation:
    """The contents of one VOC XML file; `path` is for messages. Raises DataError when it is not one."""
    where = printable(path)
    try:
        root = (parse or _xml_parser())(data)
    except ParseError as error:
        raise DataError(f"{where}: is not XML ({error}); write the annotation again") from error
    except (ValueError, LookupError) as error:
        # defusedxml's refusals of entities, and expat's of encodings.
        raise DataError(f"{where}: is not plain XML ({printable(error, 80)}); want UTF-8 without entities") from error
    if root.tag != "annotation":
        raise DataError(f"{where}: starts with <{printable(root.tag, 40)}>; want a VOC <annotation>")
    width, height = (_side(root, key, where) for key in ("width", "height"))
    objects = [_object(element, where, k) for k, element in enumerate(root.findall("object"))]
    return VocAnnotation(width, height, (root.findtext("filename") or "").strip(), objects)


def _side(root: Any, key: str, where: str) -> int:
    text = (root.findtext(f"size/{key}") or "0").strip()
    try:
        value = float(text or "0")
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_SIDE or value != int(value):
        raise DataError(f"{where}: size {key} {printable(text, 40)!r}; want the image's {key} in whole pixels")
    return int(value)


def _object(element: Any, where: str, k: int) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}: object {k}: has no <name>; say what it is")
    where = f"{where}: object {k} ({printable(name, 80)})"
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"{where}: has no <bndbox>; add xmin, ymin, xmax and ymax")
    numbers = []
    for side in _SIDES:
        text = box.findtext(side)
        if text is None:
            raise DataError(f"{where}: its <bndbox> has no <{side}>; add it")
        try:
            numbers.append(float(text))
        except ValueError as error:
            raise DataError(f"{where}: {side} {printable(text, 40)!r} is not a number; want pixels") from error
    flag = (element.findtext("difficult") or "").strip()
    difficult = _DIFFICULT.get(flag.lower())
    if difficult is None:
        raise DataError(f"{where}: difficult {printable(flag, 40)!r}; want 0 or 1")
    return VocObject(name, difficult, tuple(numbers))


def _all_classes(
    folder: Folder,
    root: Path,
    splits: _Splits,
    parse: Callable[[bytes], Any],
    split: str,
    annotations: list[VocAnnotation],
) -> tuple[str, ...]:
    """Sorted class names over every split's annotations; `annotations` are those of `split`, read already."""
    found = {thing.name for annotation in annotations for thing in annotation.objects}
    others = {s for members in splits.stems.values() for s in members} - set(splits.stems[split])
    for stem in sorted(others & set(_annotation_stems(folder, root))):
        found.update(thing.name for thing in _read_annotation(folder, root, stem, parse).objects)
    if not found:
        raise DataError(f"{printable(root)}: no annotation has an object; label some before training")
    return tuple(sorted(found))


# ---------------------------------------------------------------------------------------------- images


def _find_images(
    folder: Folder, root: Path, split: str, stems: list[str], annotations: list[VocAnnotation]
) -> list[str]:
    images = root / "JPEGImages"
    by_stem: dict[str, list[str]] = {}
    for name in folder.names(images):
        stem, dot, suffix = name.rpartition(".")
        if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES:
            by_stem.setdefault(stem, []).append(name)
    annotated = set(_annotation_stems(folder, root))
    found: list[Path | None] = []
    for stem, annotation in zip(stems, annotations, strict=True):
        same = by_stem.get(stem, [])
        name = annotation.filename
        if same and name not in same:  # two images of one stem: the annotation may say which
            name = min(same)
        elif not same and name.rpartition(".")[0] in annotated:  # another annotation's image
            name = ""
        try:
            found.append(folder.find(images, name) if name else None)
        except DataError as error:
            raise DataError(f"{printable(root / 'Annotations' / stem)}.xml: image {error}") from error
    missing = [stem for stem, path in zip(stems, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{printable(root)}: split {printable(split)!r} names {printable(missing[0])!r} but JPEGImages has no "
            f"such image ({len(missing)} of {len(stems)} missing); add the files or take the names out of the list"
        )
    return [str(path) for path in found]


# ---------------------------------------------------------------------------------------------- arrays


def _assemble(
    root: Path,
    split: str,
    stems: list[str],
    annotations: list[VocAnnotation],
    names: list[str],
    class_names: tuple[str, ...],
    clip_boxes: bool,
) -> Dataset:
    owners = [(i, k) for i, a in enumerate(annotations) for k in range(len(a.objects))]
    things = [thing for a in annotations for thing in a.objects]

    def describe(j: int) -> str:
        i, k = owners[j]
        path = printable(root / "Annotations" / f"{stems[i]}.xml")
        box = " ".join(f"{side} {v:.7g}" for side, v in zip(_SIDES, things[j].box, strict=True))
        return f"{path}: object {k} ({printable(things[j].name, 80)}): box {box}"

    known = {name: label for label, name in enumerate(class_names)}
    for j, thing in enumerate(things):
        if thing.name not in known:
            i, k = owners[j]
            path = printable(root / "Annotations" / f"{stems[i]}.xml")
            raise DataError(f"{path}: object {k}: {unknown_class(thing.name, class_names)}")
    image_of = np.array([i for i, _ in owners], np.int64)
    sizes = np.array([(a.width, a.height) for a in annotations], np.int32).reshape(-1, 2)
    sizes[(sizes == 0).any(axis=1)] = 0
    written = np.array([thing.box for thing in things], np.float64).reshape(-1, 4)
    flat = np.any(written[:, 2:] < written[:, :2], axis=1)
    settled = settle_boxes(written - (1.0, 1.0, 0.0, 0.0), flat, sizes[image_of], clip_boxes, describe)
    settled.warn(f"{printable(root)} ({printable(split)})")
    keep, boxes_px = settled.keep, settled.boxes[settled.keep]
    return Dataset(
        source=f"{root} ({split})",
        class_names=class_names,
        names=StringTable.from_iterable(names),
        image_ids=StringTable.from_iterable(stems),
        sizes=sizes,
        ptr=offsets_of(np.bincount(image_of[keep], minlength=len(stems))),
        boxes_px=boxes_px,
        labels=np.array([known[thing.name] for thing in things], np.int64)[keep],
        difficult=np.array([thing.difficult for thing in things], bool)[keep],
        crowd=np.zeros(len(boxes_px), bool),
        area=(boxes_px[:, 2:] - boxes_px[:, :2]).prod(axis=1),
        clip_boxes=clip_boxes,
    )
