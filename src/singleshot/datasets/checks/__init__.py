"""`singleshot data check`: what would break or spoil a training, found before it starts. Imports no torch."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

import numpy as np

from singleshot.datasets.archives import is_archive
from singleshot.datasets.checks.duplicates import check_duplicates, exact_groups, near_pairs
from singleshot.datasets.checks.images import Pictures, check_greys, look_at, report_problems
from singleshot.datasets.checks.labels import (
    base_splits,
    check_boxes,
    check_class_splits,
    check_classes,
    check_empty,
    check_names,
    check_sizes,
    check_train,
    misspelt_classes,
    tabulate,
)
from singleshot.datasets.checks.left_out import check_left_out
from singleshot.datasets.checks.prefetch import LEAST, looking_ahead
from singleshot.datasets.checks.unlabelled import check_strays
from singleshot.datasets.findings import ERROR, KINDS, NOTE, WARNING, CollectErrors, Finding, RaiseErrors
from singleshot.datasets.formats import Format, no_line
from singleshot.datasets.plausible import implausible
from singleshot.datasets.raw import RawSet
from singleshot.datasets.sources import Source
from singleshot.datasets.tree import join
from singleshot.errors import DataError
from singleshot.storage import is_remote, read_limited

__all__ = ["CheckResult", "check_source"]

SEVERITIES = (ERROR, WARNING, NOTE)
# Label files are read again to find lines: so many bytes at most, in all.
_LINE_BYTES = 256 * 2**20
_FOLDERS = 1000
_REMOTE_FILES = 100  # each costs a round trip

Progress = Callable[[int, str], AbstractContextManager[Callable[[], None]]]


class CheckResult(NamedTuple):
    """findings: by severity, then file, the first 10,000 of each kind; counts: how many there are of each kind;
    splits: name -> images; classes: name -> objects; seconds: what it took.

    For repairs: raw as read; pictures: its n files; file_of: int64 [images], each image's place among them; exact:
    groups of files that are the same; near: pairs of files that are nearly the same; misspelt: class -> the one that is
    meant; wanted: the classes asked for."""

    findings: list[Finding]
    counts: dict[str, int]
    images: int
    objects: int
    splits: dict[str, int]
    classes: dict[str, int]
    seconds: float
    raw: RawSet
    pictures: Pictures
    file_of: np.ndarray
    exact: list[list[int]]
    near: list[tuple[int, int]]
    misspelt: dict[str, str]
    wanted: tuple[str, ...] | None

    def severity(self, name: str) -> int:
        """How many findings are errors, warnings or notes."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].severity == name)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "form": self.raw.form,
            "source": self.raw.source,
            "images": self.images,
            "objects": self.objects,
            "classes": self.classes,
            "splits": self.splits,
            "splits_made": self.raw.made,
            "seconds": round(self.seconds, 2),
            **{f"{name}s": self.severity(name) for name in SEVERITIES},
            "counts": self.counts,
            "findings": [found.to_dict() for found in self.findings],
        }


def check_source(
    source: Source,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    prefetch_least: int = LEAST,
    new_names: Collection[str] = (),
) -> CheckResult:
    """Read all labels and decode every image of a data set, or of one split, and say what is wrong.

    class_names: the classes that a model has, where objects of others are errors. workers: processes that decode,
    None for one per core. progress(total, what): a context that gives the function to call after each image.
    prefetch_least: fewer images than this are not decoded while the labels are still being read. new_names: right
    beside class_names where they are there. Raises DataError where the data cannot be read at all.
    """
    started = time.perf_counter()
    problems = CollectErrors()
    # Of one split it is not known beforehand which images it has.
    whole = split is None
    with looking_ahead(source, workers, whole, prefetch_least) as ahead:
        raw = source.read_as_written(split, problems)
        if source.unread:
            problems.add("labels-unread", raw.source, f"{source.unread}; give them a folder of their own")
        if beside := source.unread_beside(raw) if whole else "":
            problems.add("labels-unread", raw.source, f"{beside}; to read one of them, name its folder")
        elif unread := source.unread_labels(raw) if whole else "":
            problems.add("labels-unread", raw.source, unread)
        if second := source.second_labels(raw, beside) if whole else "":
            problems.add("labels-unread", raw.source, second)
        check_left_out(source, problems)
        _check_archives(source, problems)
        paths = list(dict.fromkeys(image.path for image in raw.images))
        place = {path: k for k, path in enumerate(paths)}
        file_of = np.array([place[image.path] for image in raw.images], np.int64)
        with progress(len(paths), "images") if progress else contextlib.nullcontext(None) as advance:
            pictures = look_at(paths, workers, advance, ahead.looks)
    if class_names is not None:
        class_names = tuple(dict.fromkeys((*class_names, *(name for name in new_names if name in raw.class_names))))
    read = list(problems.findings)
    raw = source.fit(raw, pictures.sizes[file_of], problems)
    if (odd := implausible(raw)) is not None:
        problems.add(odd[0], raw.source, odd[1])
    report_problems(pictures, raw.source, problems)
    check_greys(pictures, raw.source, problems)
    base = base_splits(raw.splits)
    misspelt = _check_labels(raw, pictures, file_of, base, class_names, whole, problems)
    if whole:
        check_strays(source, raw, read, problems)
        if not source.file:  # which is one split, whatever it is called
            check_train(raw, problems)
    exact = exact_groups(pictures, workers)
    files = {name: sorted({int(file_of[i]) for i in members}) for name, members in base.items()}
    near, left = near_pairs(pictures, exact, _main_split(files, len(paths)), workers)
    check_duplicates(pictures, files, exact, near, problems)
    if left:
        fault = f"{left} more pairs of images look alike from afar and were not compared closely; thin them out"
        problems.add("image-duplicated", raw.source, fault)
    findings = with_lines(source.format, _ordered(problems.findings))
    classes = Counter(obj.name for image in raw.images for obj in image.objects)
    return CheckResult(
        findings=findings,
        counts={kind: problems.counts[kind] for kind in KINDS if problems.counts[kind]},
        images=len(raw.images),
        objects=sum(classes.values()),
        splits={name: len(members) for name, members in raw.splits.items()},
        classes={name: classes[name] for name in dict.fromkeys((*raw.class_names, *classes))},
        seconds=time.perf_counter() - started,
        raw=raw,
        pictures=pictures,
        file_of=file_of,
        exact=exact,
        near=near,
        misspelt=misspelt,
        wanted=None if class_names is None else tuple(class_names),
    )


def _check_archives(source: Source, problems: CollectErrors) -> None:
    """Name an archive that may hold the images that are missing."""
    folders = ("", *islice(source.tree.open_folders(), _FOLDERS)) if problems.counts["image-missing"] else ()
    for folder in folders:
        for name in filter(is_archive, source.tree.files(folder)[:_FOLDERS]):
            message = "lies beside labels whose images are missing; if it holds them, unpack it there"
            problems.add("archive-packed", source.tree.path(join(folder, name)), message)


def _check_labels(
    raw: RawSet,
    pictures: Pictures,
    file_of: np.ndarray,
    base: dict[str, list[int]],
    class_names: Sequence[str] | None,
    whole: bool,
    problems: RaiseErrors,
) -> dict[str, str]:
    """All checks of what labels say; returns the misspelt classes."""
    sizes = pictures.sizes[file_of]
    table = tabulate(raw, sizes)
    counts = dict(Counter(obj.name for obj in table.objects))
    misspelt = misspelt_classes(counts, class_names or ())
    check_names(raw, problems)
    check_sizes(raw, sizes, pictures.orientations[file_of], problems)
    check_boxes(table, problems)
    check_classes(table, class_names, misspelt, problems)
    if whole:
        check_class_splits(table, base, misspelt, problems)
    check_empty(table, raw, class_names, problems)
    return misspelt


def _main_split(files: dict[str, list[int]], n: int) -> np.ndarray:
    """int64 [n]: the number of the split that a file is in, -1 for none."""
    found = np.full(n, -1, np.int64)
    for number, members in enumerate(files.values()):
        found[members] = number
    return found


def _ordered(findings: list[Finding]) -> list[Finding]:
    kinds = list(KINDS)

    def key(finding: Finding) -> tuple[int, str, int, int]:
        place = finding.number if finding.number is not None else -1
        return SEVERITIES.index(finding.severity), finding.file, place, kinds.index(finding.kind)

    return sorted(findings, key=key)


def with_lines(form: Format, findings: list[Finding], most_bytes: int = _LINE_BYTES) -> list[Finding]:
    """Fill in the lines of objects that have a number. Every label file is read once, and so are `most_bytes`, with
    each search through a file counted: the first findings of each kind come first."""
    if form.line is no_line:  # nothing is read for nothing: a TFRecord holds its images too
        return findings
    rank: Counter[str] = Counter()
    order = []
    for at, finding in enumerate(findings):
        if finding.number is not None and finding.line is None:
            order.append((rank[finding.kind], at))
            rank[finding.kind] += 1
    found, left = list(findings), most_bytes
    # A file at a time, the files in the order in which they are needed.
    by_file: dict[str, list[int]] = {}
    for _, at in sorted(order):
        by_file.setdefault(findings[at].file, []).append(at)
    remote = 0
    for file, places in by_file.items():
        remote += is_remote(file)
        if remote > _REMOTE_FILES:
            continue
        try:
            data = read_limited(file, max(left, 0), "annotation")
        except DataError:
            continue
        for at in places:
            left -= len(data)
            if left < 0:
                break
            found[at] = findings[at]._replace(line=form.line(data, findings[at].number or 0))
    return found
