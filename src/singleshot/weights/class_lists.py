"""Class names in the text files that lie next to checkpoints: one a line, numbered, or a label map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from singleshot.errors import CheckpointError, DataError, SingleshotError, printable
from singleshot.text import decode_text
from singleshot.weights.class_names import BACKGROUND, usual_names
from singleshot.weights.imported_model import ImportedModel
from singleshot.weights.readers.reading import read_bytes
from singleshot.weights.readers.tf_companions import is_label_map, parse_labels

_MAX_BYTES = 2**20
_MAX_FILES = 64  # looked into
_MAX_NAMES = 10_000
# Words of a file's name: labels.txt, coco_labels.txt, label_map.pbtxt, object_detection_classes_coco.txt.
_WORDS = {"label", "labels", "labelmap", "classes", "names", "categories"}
_SUFFIXES = (".txt", ".names", ".labels", ".pbtxt", ".prototxt")
_GAPS = frozenset({"", "???", "n/a", "-"})
_NUMBERED = re.compile(r"(\d{1,5})\s*[:,;=]?\s*(\S.*)")
_CVAT = "# label:color_rgb"  # the head of CVAT's and VOC's labelmap.txt for masks: name:r,g,b:parts:actions


class ClassList(NamedTuple):
    """A file with class names. names: by label; shortened: whether its background was left out."""

    path: Path
    names: tuple[str, ...]
    shortened: bool


def with_found_names(foreign: ImportedModel, path: Path) -> ImportedModel:
    """The model with the class names of the file next to its checkpoint, where the checkpoint has none of its own.

    Two files that fit and differ are named in `names_note`, and neither is taken.
    """
    count = foreign.model.num_classes
    if foreign.class_names not in (None, usual_names(count)):
        return foreign
    found, others = find_class_lists(path, count)
    if not found:
        note = f"{'; '.join(others[:2])} for {count} classes: not taken" if others else ""
        return foreign._replace(names_note=note)
    if len({one.names for one in found}) > 1:
        files = " and ".join(printable(one.path.name, 60) for one in found[:3])
        return foreign._replace(class_names=None, names_note=f"{files} next to it fit and differ: none is taken")
    note = f"class names from {printable(found[0].path.name, 80)} next to it"
    note += ", its background left out" if found[0].shortened else ""
    return foreign._replace(class_names=found[0].names, names_note=note)


def find_class_lists(path: Path, count: int) -> tuple[list[ClassList], list[str]]:
    """Lists of that many names next to a checkpoint, those that are called like it alone if there are any; and what
    the others hold, in words."""
    found, others = [], []
    try:
        own = f"{path.stem}.txt".lower()  # detect.txt of detect.tflite
        files = sorted(f for f in path.parent.iterdir() if f.name.lower() == own or _is_list(f.name))[:_MAX_FILES]
    except OSError:
        return [], []  # a folder that cannot be listed: as if there were none
    for file in files:
        if file == path or not file.is_file() or file.resolve().parent != path.parent.resolve():
            continue
        try:
            rows = read_rows(file)
        except SingleshotError:
            continue  # another text under such a name: it was not asked for
        names, shortened = fit_names(rows, count)
        if names is not None:
            found.append(ClassList(file, names, shortened))
        elif rows:
            others.append(f"{printable(file.name, 80)} next to it has {len(rows)} names")
    alike = [one for one in found if one.path.name.lower() == own]
    alike = alike or [one for one in found if one.path.name.startswith(path.stem)]
    return alike or found, others


def _is_list(name: str) -> bool:
    stem, dot, suffix = name.lower().rpartition(".")
    words = set(re.split(r"[-_. ]", stem))
    return f"{dot}{suffix}" in _SUFFIXES and bool(suffix in ("names", "labels", "pbtxt") or words & _WORDS)


def read_class_list(path: str | Path, count: int, option: str) -> tuple[str, ...]:
    """The names in a file that the user gives. Raises DataError: not readable, or another number of names.

    option: the one that names the file.
    """
    try:
        rows = read_rows(Path(path))
    except CheckpointError as error:
        raise DataError(f"{option} {error}") from error
    names, _ = fit_names(rows, count)
    if names is None:
        plain = [row for row in rows if not _is_gap(row)]
        twice = next((name for name in plain if plain.count(name) > 1), None)
        if twice is not None and len(rows) in (count, count + 1):
            raise DataError(f"{option} {printable(path, 80)}: names {printable(twice, 60)} twice")
        raise DataError(f"{option} {printable(path, 80)}: {len(rows)} names, but the model has {count} classes")
    return names


def read_rows(path: Path) -> list[str]:
    """The entries of a class list, blank for a number without a name. Raises CheckpointError or DataError."""
    where = printable(path)
    text = decode_text(read_bytes(path, where, _MAX_BYTES), where)
    if is_label_map(text):
        # Caffe's label maps number by `label` what TensorFlow's number by `id`.
        labels = parse_labels(path, re.sub(r"\blabel(\s*:\s*\d)", r"id\1", text))
        first, last = min(labels, default=1), max(labels, default=0)
        if not 0 <= first <= last < _MAX_NAMES:
            raise DataError(f"{where}: numbers {first} to {last}, want 1 to {_MAX_NAMES}")
        return [labels.get(number, "") for number in range(min(first, 1), last + 1)]
    if path.suffix.lower() in (".pbtxt", ".prototxt"):
        raise DataError(f"{where}: is no label map (item {{ id: 1 name: ... }})")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if len(lines) > _MAX_NAMES:
        raise DataError(f"{where}: {len(lines)} lines, want at most {_MAX_NAMES} names")
    if lines and lines[0].startswith(_CVAT):
        return [line.partition(":")[0] for line in lines[1:] if line]
    if len(lines) == 1 and "," in lines[0]:
        return [name.strip() for name in lines[0].split(",") if name.strip()]
    return lines


def fit_names(rows: Sequence[str], count: int) -> tuple[tuple[str, ...] | None, bool]:
    """Names of that many classes from the entries of a list, and whether a background was left out; None where they
    do not fit.

    Tried in this order: "0 person", "1: bicycle" by their numbers; the entries as they are; those that are not blank.
    A gap ("???", "n/a" or a blank line among the names) is called "unused" with its number.
    """
    for every in (_by_number(rows), list(rows), [row for row in rows if row]):
        shortened = len(every) == count + 1 and _is_background(every[0])
        entries = every[1:] if shortened else every
        names = tuple(f"unused {i}" if _is_gap(name) else name for i, name in enumerate(entries, 1))
        if len(names) == count == len(set(names)) and not all(_is_gap(name) for name in entries):
            return names, shortened
    return None, False


def _is_gap(name: str) -> bool:
    return name.lower() in _GAPS


def _is_background(name: str) -> bool:
    return name.lower() in BACKGROUND or _is_gap(name)


def _by_number(rows: Sequence[str]) -> list[str]:
    """Entries by the numbers that they begin with, which rise from 0 or 1; none where they do not."""
    pairs = [_NUMBERED.fullmatch(row) for row in rows if row]
    numbers = [int(pair[1]) for pair in pairs if pair is not None]
    rising = all(a < b for a, b in pairwise(numbers))
    if len(numbers) < len(pairs) or not numbers or numbers[0] > 1 or not rising or numbers[-1] >= _MAX_NAMES:
        return []
    names = {int(pair[1]): pair[2].strip() for pair in pairs if pair is not None}
    return [names.get(number, "") for number in range(numbers[0], numbers[-1] + 1)]
