"""The splits of a Pascal VOC folder: its lists, its folders, or those that are made of its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.readers.voc_layout import LABELS, LISTS, Layout
from singleshot.datasets.splits import make_splits, usual_split
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.images.suffixes import is_image
from singleshot.text import decode_text

MAX_LIST_BYTES = 256 * 2**20

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
    listed = {name[:-4]: name for name in tree.files(LISTS) if name.endswith(".txt")}
    stems_of: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    if layout.splits:
        return VocSplits({split: sorted(stems) for split, stems in layout.splits.items()}, made=False)
    if listed:
        # The devkit has one list per class and split besides: "aeroplane_train.txt" beside "train.txt".
        own = sorted(s for s in listed if "_" not in s or s.partition("_")[0] not in DEVKIT_CLASSES)
        stems_of = {s: _read_list(tree, listed[s], layout, problems) for s in own}
        left_out = _useless(stems_of, layout.xmls)
        for split, message in left_out.items():
            fault = f"split {printable(split)!r} {message}; training does without it"
            problems.add("split-left-out", tree.path(f"{LISTS}/{listed[split]}"), fault)
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


def _read_list(tree: Tree, name: str, layout: Layout, problems: RaiseErrors) -> list[str]:
    path = join(LISTS, name)
    text = decode_text(tree.read(path, MAX_LIST_BYTES, "split list"), tree.path(path), paths=True)
    stems: dict[str, None] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stem = line.strip()
        if not stem:
            continue
        if stem not in layout.xmls:
            stem = _listed_stem(stem, layout.xmls)
        if stem in stems:
            message = f"line {number} lists {printable(stem)!r} again; remove one of them"
            problems.add("split-unusable", tree.path(path), message, line=None)
            continue
        stems[stem] = None
    return list(stems)


def _listed_stem(line: str, xmls: Mapping[str, str]) -> str:
    """The annotation that a line of a list means which is not simply its name."""
    parts = line.rsplit(None, 1)
    if parts[-1] in ("1", "-1", "0"):  # the per-class lists' flag; a name may hold spaces itself
        line = parts[0]
    if line in xmls or not is_image(line):
        return line
    stem = line.rpartition(".")[0]  # tools that list image files, with their folders or without
    return next((name for name in (stem, stem.rpartition("/")[2]) if name in xmls), line)


def require_annotations(
    tree: Tree, split: str, stems: list[str], xmls: Mapping[str, str], problems: RaiseErrors
) -> list[str]:
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
