"""What is wrong with a data set: one reader serves training, which stops at the first mistake, and `data check`,
which lists them all."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import NamedTuple

from singleshot.errors import DataError, printable

logger = logging.getLogger(__name__)

# What a finding means for a training. An error stops it; a warning spoils it; a note is good to know.
ERROR, WARNING, NOTE = "error", "warning", "note"


class Kind(NamedTuple):
    """A kind of finding; fixable: `data check --fix` does something about it."""

    severity: str
    about: str
    fixable: bool = False


KINDS = {
    "annotation-unreadable": Kind(ERROR, "a label file that cannot be read", fixable=True),
    "annotation-malformed": Kind(ERROR, "an entry of a label file that cannot be used", fixable=True),
    "image-missing": Kind(ERROR, "a labelled image that is not there", fixable=True),
    "image-corrupt": Kind(ERROR, "an image that does not decode", fixable=True),
    "image-pointer": Kind(ERROR, "Git LFS pointers in place of images"),
    "archive-packed": Kind(NOTE, "an archive beside labels whose images are missing"),
    "image-unread": Kind(ERROR, "a whole image, whose samples are of a kind that is not read"),
    "image-few-greys": Kind(WARNING, "16-bit images of which 8 bits keep few grey values"),
    "image-damaged": Kind(WARNING, "an image that decodes with errors"),
    "size-mismatch": Kind(ERROR, "the label says another image size than the file has", fixable=True),
    "boxes-scaled": Kind(WARNING, "images of another size than labelled, to which their boxes are scaled"),
    "boxes-turned": Kind(WARNING, "images whose labels were made before EXIF's turn, with which boxes are turned"),
    "size-wrong": Kind(WARNING, "labels that say another image size, where their boxes fit the images"),
    "exif-rotation": Kind(NOTE, "the file says to turn the image"),
    "box-not-finite": Kind(ERROR, "a coordinate that is no place", fixable=True),
    "box-without-area": Kind(ERROR, "a box without width or height", fixable=True),
    "box-outside": Kind(ERROR, "a box that reaches out of its image", fixable=True),
    "box-duplicated": Kind(WARNING, "the same box twice in an image", fixable=True),
    "box-tiny": Kind(WARNING, "a box smaller than the network can see"),
    "box-huge": Kind(NOTE, "a box nearly as large as its image"),
    "boxes-in-parts": Kind(ERROR, "boxes in parts of the image where pixels belong", fixable=True),
    "boxes-suspicious": Kind(WARNING, "boxes that look like percent, or like corners where width and height belong"),
    "class-unknown": Kind(ERROR, "a class that the list of classes does not have", fixable=True),
    "classes-from-1": Kind(WARNING, "class numbers that count from 1, where names do not say so"),
    "class-misspelt": Kind(WARNING, "a rare class with nearly the name of a common one", fixable=True),
    "class-doubled": Kind(WARNING, "a name of a class that several ids have"),
    "class-absent": Kind(WARNING, "a class without objects in a split"),
    "nothing-labelled": Kind(ERROR, "no image has an object"),
    "split-unusable": Kind(ERROR, "a split that cannot be used", fixable=True),
    "split-left-out": Kind(WARNING, "a list that is no split: without images, without labels, or of a class"),
    "split-train-missing": Kind(WARNING, "no split to train on"),
    "image-in-two-splits": Kind(WARNING, "the same image in two splits", fixable=True),
    "shapes-passed-over": Kind(NOTE, "shapes that are no objects: points, lines, what is to be ignored"),
    "regions-ignored": Kind(NOTE, "regions in which nobody labelled the objects, ignored in training and evaluation"),
    "shapes-joined": Kind(NOTE, "shapes that are parts of one object"),
    "shapes-cut": Kind(NOTE, "polygons and turned boxes that reach out of their images"),
    "labels-contradict": Kind(ERROR, "label files of one split that say different things of an image"),
    "labels-repeated": Kind(NOTE, "label files of one split that say the same of an image"),
    "image-listed-twice": Kind(WARNING, "an image file that is listed under two ids"),
    "list-repeats": Kind(WARNING, "a list that names an image twice, which counts once"),
    "image-duplicated": Kind(NOTE, "the same image twice in a split"),
    "image-unlabelled": Kind(WARNING, "an image that no label file mentions"),
    "folder-unlabelled": Kind(WARNING, "the folder of a split, without labels"),
    "label-without-image": Kind(WARNING, "label files of images that are not there"),
    "image-without-label": Kind(WARNING, "many images without a label file, which train as background"),
    "classes-unnamed": Kind(NOTE, "numbers of classes without names"),
    "names-elsewhere": Kind(NOTE, "names of classes that lie in another folder"),
    "image-unused": Kind(NOTE, "a labelled image that no split lists"),
    "labels-left-out": Kind(WARNING, "what a repaired copy lacks"),
    "columns-assumed": Kind(NOTE, "a CSV whose columns, or names of classes, had to be assumed"),
    "rows-decided": Kind(NOTE, "rows of numbers whose meaning the images tell"),
    "splits-elsewhere": Kind(NOTE, "splits of a copy in another folder"),
    "ending-differs": Kind(NOTE, "images with another ending than labelled"),
    "path-moved": Kind(NOTE, "a path that is not there, and what is read in its place"),
    "yaml-amended": Kind(WARNING, "a data.yaml with a mistake, and how it is read"),
    "yaml-chosen": Kind(NOTE, "one of several yaml files that is read"),
    "sets-joined": Kind(NOTE, "sets of several folders or label files that are parts of one"),
    "folders-joined": Kind(NOTE, "images of several folders, read as one set"),
    "labels-unread": Kind(NOTE, "labels of another form, or another set, in the same folder"),
    "image-without-objects": Kind(NOTE, "an image labelled as background"),
}


class Finding(NamedTuple):
    """One problem of a data set. file: the label or image file; number: the object's place in it, from 0;
    item: what to call the object; line: where it stands in the file, from 1."""

    kind: str
    file: str
    message: str
    item: str = ""
    line: int | None = None
    number: int | None = None

    @property
    def severity(self) -> str:
        """ERROR, WARNING or NOTE."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        fields = self._asdict()
        item = fields.pop("item")
        return {**fields, "severity": self.severity, "object": item or None}

    def __str__(self) -> str:
        line = f":{self.line}" if self.line is not None else ""
        item = f"{printable(self.item, 160)}: " if self.item else ""
        return f"{printable(self.file)}{line}: {item}{self.message}"


class RaiseErrors:
    """Where readers put what is wrong; this one raises DataError at the first error, and logs warnings and notes."""

    def add(
        self, kind: str, file: str, message: str, item: str = "", line: int | None = None, number: int | None = None
    ) -> None:
        """Report it; where this returns, the reader leaves the entry out and goes on."""
        assert kind in KINDS, kind
        self._take(Finding(kind, file, message, item, line, number))

    def add_unreadable(self, file: str, error: DataError) -> None:
        """Report a label file that cannot be read; the finding has its path and line, which are not said twice."""
        text = str(error)
        start = re.match(re.escape(printable(file)) + r"(?::(\d{1,9}))?: ", text)
        line = int(start[1]) if start and start[1] else None
        self.add("annotation-unreadable", file, text[start.end() :] if start else text, line=line)

    def _take(self, finding: Finding) -> None:
        if finding.severity == ERROR:
            raise DataError(str(finding))
        logger.log(logging.WARNING if finding.severity == WARNING else logging.INFO, "%s", finding)


RAISE_ERRORS = RaiseErrors()


class CollectErrors(RaiseErrors):
    """Keeps them, the first `most` of each kind; `counts` knows how many there were."""

    def __init__(self, most: int = 10_000) -> None:
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self._most = most

    def _take(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= self._most:
            self.findings.append(finding)
