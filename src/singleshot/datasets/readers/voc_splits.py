"""The splits of a Pascal VOC folder: its lists, its folders, or those that are made of its annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple
from xml.sax.saxutils import escape

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.readers.voc_layout import LABELS, LISTS, Layout, bare_number
from singleshot.datasets.splits import make_splits, usual_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.text import decode_text

MAX_LIST_BYTES = 256 * 2**20
_PEEK_BYTES, _FEW = 1 << 14, 100
_FLAGS = ("1", "-1", "0")  # whether an image has an object of the class; 0: difficult ones only
# Where lists lie besides, last the folder itself.
_FURTHER_LISTS = ("ImageSets", "ImageSet/Main", "ImageSet", "Main", "main", "image_sets", "imagesets", "splits", "")

# What tools call their list when there are no splits.
NO_SPLIT = "default"
DEVKIT_CLASSES = frozenset(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "  # noqa: SIM905
    "pottedplant sheep sofa train tvmonitor".split()
)


class VocSplits(NamedTuple):
    """stems: split -> names of its annotations; made: there are no lists and no folders, the splits were made here;
    left_out: list that is no use -> why."""

    stems: dict[str, list[str]]
    made: bool
    left_out: Mapping[str, str] = MappingProxyType({})


def read_splits(tree: Tree, layout: Layout, problems: RaiseErrors) -> VocSplits:
    """The splits by lists of stems or by folders, or made where there are none."""
    folder, listed = _lists(tree, layout)
    stems_of: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    if layout.splits and not _divide_further(listed, layout):
        return VocSplits({split: sorted(stems) for split, stems in layout.splits.items()}, made=False)
    if listed:
        own = sorted(split for split in listed if not _is_of_class(tree, folder, split, listed))
        stems_of = {split: _read_list(tree, join(folder, listed[split]), layout, problems) for split in own}
        left_out = {**_useless(stems_of, layout.xmls), **_called_after_class(tree, stems_of, layout)}
        for split, message in left_out.items():
            fault = f"split {printable(split)!r} {message}; training does without it"
            problems.add("split-left-out", tree.path(join(folder, listed[split])), fault)
        stems_of = {split: stems for split, stems in stems_of.items() if split not in left_out}
        if stems_of and list(stems_of) != [NO_SPLIT]:
            return VocSplits(stems_of, False, left_out)
    if list(stems_of) == [NO_SPLIT]:
        stems = sorted(require_annotations(tree, NO_SPLIT, stems_of[NO_SPLIT], layout.xmls, problems))
    else:
        stems = sorted(layout.xmls)
    if not stems:
        where = printable(tree.path(layout.base or LABELS))
        raise DataError(f"{where}: no .xml file; want one annotation for each image")
    return VocSplits({s: [stems[i] for i in at] for s, at in make_splits(stems).items()}, True, left_out)


def _lists(tree: Tree, layout: Layout) -> tuple[str, dict[str, str]]:
    """The folder of the lists, and split -> file in it: all of ImageSets/Main, elsewhere those that are called after a
    usual split and name annotations, most of them."""
    if listed := {name[:-4]: name for name in tree.files(LISTS) if name.endswith(".txt")}:
        return LISTS, listed
    for folder in _FURTHER_LISTS if layout.base else ():
        listed = {name[:-4]: name for name in tree.files(folder, (".txt",)) if usual_split(name[:-4])}
        if listed and all(_names_most(tree, join(folder, name), layout.xmls) for name in listed.values()):
            return folder, listed
    return "", {}


def _divide_further(listed: Mapping[str, str], layout: Layout) -> bool:
    """Whether lists have all the splits that folders are, and more: train and test with val."""
    lists, folders = ({usual_split(split) for split in splits} - {""} for splits in (listed, layout.splits))
    return {"train"} <= folders < lists - {"trainval"}


def _names_most(tree: Tree, path: str, xmls: Mapping[str, str]) -> bool:
    lines, lasts = _first_lines(tree, path), _last_parts(xmls)
    return 2 * sum(_listed_stem(line, xmls, lasts) in xmls for line in lines) > len(lines)


def _last_parts(xmls: Iterable[str]) -> dict[str, str]:
    """The name of an annotation without its folders -> the whole name, of those that only one has; for numbers also
    without the zeros before them."""
    found: dict[str, str] = {}
    for name in xmls:
        last = name.rpartition("/")[2]
        for key in dict.fromkeys((last, bare_number(last))):
            found[key] = "" if key in found else name
    return found


def _is_of_class(tree: Tree, folder: str, name: str, listed: Mapping[str, str]) -> bool:
    """Whether a list is of one class, as the devkit has them besides: "aeroplane_train.txt" next to "train.txt", each
    line with a 1, 0 or -1 at its end."""
    before, _, split = name.rpartition("_")
    if name.partition("_")[0] in DEVKIT_CLASSES and before:
        return True
    lines = _first_lines(tree, join(folder, listed[name])) if before and split in listed else []
    return bool(lines) and all(line.rsplit(None, 1)[-1] in _FLAGS and " " in line for line in lines)


def _called_after_class(tree: Tree, stems_of: Mapping[str, list[str]], layout: Layout) -> dict[str, str]:
    """Of lists next to usual splits those that name just images with the class that they are called after, and what to
    say of each."""
    if not any(map(usual_split, stems_of)):
        return {}
    found = {}
    for split, stems in stems_of.items():
        before, _, last = split.rpartition("_")
        xmls = [layout.xmls[stem] for stem in stems if stem in layout.xmls] if not usual_split(split) else []
        for name in (split, before) if last in stems_of else (split,):
            if xmls and all(_has_class(tree, xml, name) for xml in xmls):
                found[split] = f"lists images of the class {printable(name)!r} and is no split; rename it if it is one"
    return found


def _has_class(tree: Tree, xml: str, name: str) -> bool:
    """Whether an annotation has an object of a class, by its text."""
    try:
        head = tree.read(xml, MAX_LIST_BYTES, "annotation", most=_PEEK_BYTES)
    except DataError:  # which reading it says
        return False
    written = escape(name).encode("utf-8", "surrogateescape")
    return re.search(rb"<name>\s*" + re.escape(written) + rb"\s*</name>", head) is not None


def _first_lines(tree: Tree, path: str) -> list[str]:
    try:
        head = tree.read(path, MAX_LIST_BYTES, "split list", most=_PEEK_BYTES)
        text = decode_text(head, tree.path(path), paths=True)
    except DataError:  # which reading it says
        return []
    return [line.strip() for line in text.split("\n")[:_FEW] if line.strip()]


def _useless(stems_of: Mapping[str, list[str]], xmls: Mapping[str, str]) -> dict[str, str]:
    """Empty lists, and of those to evaluate on the ones whose images have no annotations, as VOC2012's test: training
    does without them. Each with what to say."""
    found = {}
    for split, stems in stems_of.items():
        if not stems:
            found[split] = "has no images; add some to its list"
        elif usual_split(split) != "train" and len(stems_of) > 1 and not any(stem in xmls for stem in stems):
            found[split] = f"has no annotation of any of its {len(stems)} images; add some"
    return found


def _read_list(tree: Tree, path: str, layout: Layout, problems: RaiseErrors) -> list[str]:
    text = decode_text(tree.read(path, MAX_LIST_BYTES, "split list"), tree.path(path), paths=True)
    stems: dict[str, None] = {}
    lasts = _last_parts(layout.xmls)
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stem = line.strip()
        if not stem:
            continue
        if stem not in layout.xmls:
            stem = _listed_stem(stem, layout.xmls, lasts)
        if stem in stems:
            message = f"line {number} lists {printable(stem)!r} again: it counts once; remove one of them"
            problems.add("list-repeats", tree.path(path), message, line=None)
            continue
        stems[stem] = None
    return list(stems)


def _listed_stem(line: str, xmls: Mapping[str, str], lasts: Mapping[str, str]) -> str:
    """The annotation that a line of a list means which is not simply its name; lasts: see `_last_parts`. Lists of a set
    whose annotations lie in sub-folders name them without."""
    parts = line.rsplit(None, 1)
    if parts[-1] in _FLAGS:  # the per-class lists' flag; a name may hold spaces itself
        line = parts[0]
    if line in xmls or (".." in line and not is_image(line)):
        return line
    # Tools list files, with their folders or without.
    stem = line.replace("\\", "/")
    stem = stem.rpartition(".")[0] if is_image(stem) or stem.lower().endswith(".xml") else stem
    name = next((name for name in (stem, stem.rpartition("/")[2]) if name in xmls), "")
    last = stem.rpartition("/")[2]
    return name or lasts.get(last) or lasts.get(bare_number(last)) or line


def require_annotations(
    tree: Tree, split: str, stems: list[str], xmls: Mapping[str, str], problems: RaiseErrors
) -> list[str]:
    """The stems of a split that have an annotation; what is missing is reported."""
    missing = [stem for stem in stems if stem not in xmls]
    for stem in missing:
        problems.add(
            "split-unusable",
            tree.root,
            f"split {printable(split)!r} names {printable(stem)!r} but there is no "
            f"{LABELS}/{printable(stem)}.xml ({len(missing)} of {len(stems)} missing); "
            "add the files or take the names out of the list",
        )
    return [stem for stem in stems if stem in xmls]
