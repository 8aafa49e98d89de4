"""Sets in several folders that are parts of one: exported piece by piece into melon1/, melon2/, and so on.

Joining sets that are none would teach wrong labels: of two versions of one set both, of two tasks the objects of one
as background of the other. So everything has to speak for it: one form, folders that differ in a number or a last
letter which is no version, classes with names that agree, images that do not repeat, and splits of the same names, or
none.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from singleshot.datasets.compared_sets import Found, is_unnamed, name_of, quiet, same_bytes, same_labels
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.formats import Format
from singleshot.datasets.raw import RawImage, RawSet
from singleshot.datasets.readers.common import ONLY_CLASS
from singleshot.datasets.splits import plain_stem, shared_pattern
from singleshot.datasets.tree import EnoughError, Tree
from singleshot.errors import DataError
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.storage import is_remote

_FILES, _BYTES = 50_000, 512 * 2**20
# Share of images that may be in two of the folders, with the same labels: `data check` lists them.
_REPEATED = 0.01
_HEAD_BYTES = 4096
_ROBOFLOW = ".rf."  # versions of a project have the same images under other hashes


def join_parts(tree: Tree, formats: Mapping[str, Format], sets: Sequence[Found]) -> Found | str:
    """The one set that several are parts of; or why they are not read as one, "" where little speaks for it."""
    folders = [one.folder for one in sets]
    if is_remote(tree.root) or len({one.form for one in sets}) > 1 or not shared_pattern(folders):
        return ""
    form = formats[sets[0].form]
    try:
        with quiet():
            parts = [form.read(tree.below(at).limited(_FILES, _BYTES), "", None, CollectErrors(0)) for at in folders]
    except EnoughError:
        return "they are too large to be compared"
    except DataError:
        return "one of them cannot be read"
    why = _differ(parts) or _repeat(tree, parts)
    if why:
        return why
    order = sorted(folders, key=lambda folder: ([int(part) for part in re.findall(r"\d+", folder)], folder.lower()))
    labelled = sum(bool(image.objects) for part in parts for image in part.images)
    return Found(sets[0].form, "", labelled, folders=tuple(order))


def _differ(parts: Sequence[RawSet]) -> str:
    """Why the classes and splits of parts do not agree; "" where they do."""
    if any(is_unnamed(part.class_names) or part.class_names == (ONLY_CLASS,) for part in parts):
        return "their classes are numbers without names"
    most = max(parts, key=lambda part: len(part.class_names))
    for part in parts:
        # A list of one part may go on in another, as labelImg's; without lists a part may lack a class.
        names = most.class_names[: len(part.class_names)] if part.declared else most.class_names
        agrees = set(part.class_names) == set(names) if part.declared else set(part.class_names) <= set(names)
        if not agrees or part.declared is not most.declared:
            return "their classes differ"
    if len({frozenset() if part.made else frozenset(part.splits) for part in parts}) > 1:
        return "their splits differ"
    return ""


def _repeat(tree: Tree, parts: Sequence[RawSet]) -> str:
    """Why the images of parts are not apart; "" where they are."""
    images = [(k, image) for k, part in enumerate(parts) for image in part.images]
    total = len({image.path for _, image in images})
    same = 0
    for one, other in _pairs(tree, images):
        shared = _ROBOFLOW in name_of(one) + name_of(other) and plain_stem(one.path) == plain_stem(other.path)
        if shared or same_bytes(tree, one.path, other.path):
            if shared or not same_labels(one, other, True, True):
                return f"they have the same images with other labels ({name_of(one)[:80]} is one)"
            same += 1
        elif plain_stem(one.path) == plain_stem(other.path) and one.objects and same_labels(one, other, True, True):
            same += 1  # of another size or quality
    return f"{same} of their images are the same" if same > _REPEATED * total else ""


def _pairs(tree: Tree, images: Sequence[tuple[int, RawImage]]) -> list[tuple[RawImage, RawImage]]:
    """Images of two parts that may be the same: of one name, or of one size and start of the file; each once, with the
    first of its kind."""
    alike: dict[object, list[tuple[int, RawImage]]] = defaultdict(list)
    for k, image in images:
        alike[plain_stem(image.path)].append((k, image))
        with contextlib.suppress(OSError):
            alike[Path(image.path).stat().st_size].append((k, image))
    found = {}
    for key, group in alike.items():
        if len({k for k, _ in group}) < 2:
            continue
        heads: dict[object, tuple[int, RawImage]] = {}
        for k, image in group:
            head = key if isinstance(key, str) else _head(tree, image)
            first, one = heads.setdefault(head, (k, image))
            if first != k:
                found[one.path, image.path] = one, image
    return list(found.values())


def _head(tree: Tree, image: RawImage) -> bytes:
    name = image.path[len(tree.path("x")) - 1 :]
    try:
        return tree.read(name, MAX_FILE_BYTES, "image", most=_HEAD_BYTES)
    except DataError:
        return b""
