"""What is wrong with detections: each false positive and each miss by its kind, and what AP each kind costs.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (ECCV 2020), sections 3.1 and 3.2,
and its code, tidecv 1.0.1 (quantify.py, errors/main_errors.py, ap.py), whose figures these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import ConfigError
from singleshot.metrics.boxes_numpy import pairwise_iou
from singleshot.metrics.flat import FlatDetections, FlatTruth, check_labels, flatten
from singleshot.records import ImageDetections, ImageTruth

KINDS = {
    "class": "on an object of another class",
    "location": "on an object of its class, but not well enough",
    "both": "near an object of another class",
    "duplicate": "on an object that a better detection has",
    "background": "on nothing",
    "missed": "an object that no detection above could be corrected to",
}
_CLASS, _LOCATION, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(len(KINDS))
RIGHT = -1  # the kind of a detection that has an object

# COCO's areas (cocoeval.py, areaRng), as sides in pixels; parts of a picture as sides, too.
PIXEL_SIZES = {"under 32 px": 32.0, "32 to 96 px": 96.0, "over 96 px": np.inf}
PART_SIZES = {"under 10 %": 0.1, "10 to 30 %": 0.3, "over 30 %": np.inf}

# TIDE's: the best 100 detections of an image take part, AP is a mean over 101 recalls (as COCO's).
_MAX_PER_IMAGE = 100
_RECALLS = np.arange(101) / 100


@dataclass(frozen=True)
class SizeErrors:
    """Objects of one range of sizes, and how many of them were found; name: the range; errors: kind -> how many."""

    name: str
    objects: int
    found: int
    errors: Mapping[str, int]


class Judged(NamedTuple):
    """Every detection that took part and every object.

    row int64 [D]: its place among the flat detections; kind int64 [D]: the place in KINDS, or RIGHT; truth int64 [D]:
    the object it is on, -1 where it is on none; fixed int64 [D]: the label it would be right with if its error was
    corrected, -1 where a correction would remove it; ignored bool [D]: lies on an ignored object, so that it is no
    error; found, missed bool [M]: of each object, whether a detection has it, and whether none has it nor could be
    corrected to have it.
    """

    row: np.ndarray
    kind: np.ndarray
    truth: np.ndarray
    fixed: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True)
class ErrorAnalysis:
    """What kinds of errors there are and what they cost.

    iou_min: from which IoU a detection has an object; background_iou: below it a detection is on nothing; ap: mean over
    the classes that have objects, 101 recalls, at iou_min. gains: kind -> how much ap grows when all errors of the kind
    are corrected, and for "false positives" and "false negatives" when there are none of those; counts: kind -> how
    many, without detections on ignored objects (difficult, crowd); None where no class has an object. by_class: class
    -> counts, where a detection counts for the class it was given, a miss for the object's. by_size: by COCO's areas,
    then by parts of the picture where the pictures' sizes are known; a detection has the size of the object it is on,
    else its own.
    """

    iou_min: float
    background_iou: float
    ap: float | None
    gains: Mapping[str, float | None]
    counts: Mapping[str, int]
    by_class: Mapping[str, Mapping[str, int]]
    by_size: tuple[SizeErrors, ...]
    found: FlatDetections = field(repr=False)
    truth: FlatTruth = field(repr=False)
    judged: Judged = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without the single detections."""
        return {
            "iou_min": self.iou_min,
            "background_iou": self.background_iou,
            "ap": self.ap,
            "gains": dict(self.gains),
            "counts": dict(self.counts),
            "by_class": {name: dict(counts) for name, counts in self.by_class.items()},
            "by_size": [{**vars(one), "errors": dict(one.errors)} for one in self.by_size],
        }


def analyse_errors(
    detections: Sequence[ImageDetections],
    ground_truth: Sequence[ImageTruth],
    class_names: Sequence[str],
    iou_min: float = 0.5,
    background_iou: float = 0.1,
    image_sizes: np.ndarray | None = None,
) -> ErrorAnalysis:
    """Sort every false positive and every missed object into KINDS, and say what each kind costs.

    Args:
        detections: One record an image, boxes in pixels of the original; of each image the best 100 take part.
        ground_truth: One record an image. Difficult and crowd objects neither count nor hurt, and may be found often.
        class_names: By label.
        iou_min: From which IoU on a detection has an object.
        background_iou: At or below this IoU with every object a detection is on nothing.
        image_sizes: Width and height [n, 2] in pixels, for sizes in parts of the picture; None or 0 where unknown.

    Raises:
        ConfigError: A threshold is impossible.
        DataError: The arrays do not fit together.
    """
    if not 0.0 < background_iou < iou_min <= 1.0:
        raise ConfigError(
            f"IoU {background_iou} for background, {iou_min} for a match: want 0 < background < match <= 1"
        )
    found, truth = flatten(detections, ground_truth)
    check_labels(found, truth, len(class_names))
    judged = _judge(found, truth, len(ground_truth), iou_min, background_iou)
    scorer = _Scorer(found, truth, judged, len(class_names))
    ap = scorer.mean_ap()
    gains = scorer.gains(ap)
    counts, by_class = _count(found, truth, judged, class_names)
    by_size = _by_size(found, truth, judged, np.zeros((len(ground_truth), 2)) if image_sizes is None else image_sizes)
    return ErrorAnalysis(iou_min, background_iou, ap, gains, counts, by_class, by_size, found, truth, judged)


def _judge(found: FlatDetections, truth: FlatTruth, images: int, iou_min: float, background_iou: float) -> Judged:
    """Image by image, as TIDE's quantify.py does."""
    order = np.lexsort((-found.scores, found.image))
    starts = np.searchsorted(found.image[order], np.arange(images + 1))
    rows = [order[a : min(b, a + _MAX_PER_IMAGE)] for a, b in pairwise(starts)]
    ends = np.searchsorted(truth.image, np.arange(images + 1))
    objects = [np.arange(a, b) for a, b in pairwise(ends)]
    has, usable = np.zeros((2, len(truth.labels)), np.bool_)
    parts = [np.zeros((4, 0), np.int64)]
    for mine, theirs in zip(rows, objects, strict=True):
        if len(mine):
            parts.append(_judge_image(found, truth, mine, theirs, (iou_min, background_iou), has, usable))
    kind, on, fixed, ignored = np.concatenate(parts, axis=1)
    missed = ~truth.ignored & ~has & ~usable
    row = np.concatenate([np.zeros(0, np.int64), *rows])
    return Judged(row, kind, on, fixed, ignored.astype(np.bool_), has, missed)


def _judge_image(
    found: FlatDetections,
    truth: FlatTruth,
    mine: np.ndarray,
    theirs: np.ndarray,
    ious: tuple[float, float],
    has: np.ndarray,
    usable: np.ndarray,
) -> np.ndarray:
    """kind, truth, fixed and ignored [4, d] of the detections `mine`, best first; marks objects as had or usable."""
    counts = theirs[~truth.ignored[theirs]]
    overlap = pairwise_iou(found.boxes[mine], truth.boxes[counts])
    same = found.labels[mine, None] == truth.labels[None, counts]
    right = _claim(overlap * same, ious[0])
    has[counts[right[right >= 0]]] = True
    kind, on, fixed = np.full((3, len(mine)), -1)
    on[right >= 0] = counts[right[right >= 0]]
    claimed: set[int] = set()
    for i in np.flatnonzero(right < 0):
        kind[i], j = _kind(overlap[i], same[i], has[counts], ious)
        if j < 0:
            continue
        on[i] = counts[j]
        if kind[i] in (_CLASS, _LOCATION) and not has[counts[j]]:
            usable[counts[j]] = True
            # One error is corrected per object: that of the best detection.
            if j not in claimed:
                fixed[i] = truth.labels[counts[j]]
                claimed.add(j)
    ignored = (right < 0) & _on_ignored(found, truth, mine, theirs, ious[0])
    return np.stack((kind, on, fixed, ignored))


def _on_ignored(
    found: FlatDetections, truth: FlatTruth, mine: np.ndarray, theirs: np.ndarray, iou_min: float
) -> np.ndarray:
    """bool [d]: more than `iou_min` of the detection lies on an ignored object of its class."""
    crowds = theirs[truth.ignored[theirs]]
    overlap = pairwise_iou(found.boxes[mine], truth.boxes[crowds], of_box=True)
    same = found.labels[mine, None] == truth.labels[None, crowds]
    inside: np.ndarray = ((overlap > iou_min) & same).any(axis=1)
    return inside


def _claim(own: np.ndarray, iou_min: float) -> np.ndarray:
    """Which object each detection has, best first, -1 for none: the one with the greatest IoU that is still free."""
    right = np.full(len(own), -1)
    free = own.copy()
    for i in np.flatnonzero((own >= iou_min).any(axis=1)):
        j = int(free[i].argmax())
        if free[i, j] >= iou_min:
            right[i] = j
            free[:, j] = 0
    return right


def _kind(overlap: np.ndarray, same: np.ndarray, had: np.ndarray, ious: tuple[float, float]) -> tuple[int, int]:
    """The kind of a false positive, in TIDE's order, and the object concerned (-1 for none)."""
    iou_min, background_iou = ious
    if len(overlap) == 0:
        return _BACKGROUND, -1
    own = overlap * same
    if background_iou <= own.max() <= iou_min:
        return _LOCATION, int(own.argmax())
    other = overlap * ~same
    if other.max() >= iou_min:
        return _CLASS, int(other.argmax())
    taken = own * had
    if taken.max() >= iou_min:
        return _DUPLICATE, int(taken.argmax())
    return (_BACKGROUND, -1) if overlap.max() <= background_iou else (_BOTH, int(overlap.argmax()))


class _Scorer:
    """AP of the detections as they are, and with some errors corrected."""

    def __init__(self, found: FlatDetections, truth: FlatTruth, judged: Judged, classes: int) -> None:
        self._judged, self._classes = judged, classes
        self._scores, self._labels = found.scores[judged.row], found.labels[judged.row]
        self._of_missed = truth.labels[judged.missed]
        counted = ~truth.ignored
        self._positives = np.bincount(truth.labels[counted], minlength=classes)
        self._unfound = np.bincount(truth.labels[counted & ~judged.found], minlength=classes)
        self._measured = self._positives > 0

    def mean_ap(self) -> float | None:
        """None where no class has an object."""
        right = self._judged.kind == RIGHT
        kept = right | ~self._judged.ignored
        return self._mean(self._scores[kept], self._labels[kept], right[kept], self._positives)

    def gains(self, ap: float | None) -> dict[str, float | None]:
        """What each correction adds to `ap`."""
        judged, names = self._judged, (*KINDS, "false positives", "false negatives")
        if ap is None:
            return dict.fromkeys(names)
        errors = [self._corrected(kind) for kind in range(_MISSED)]
        errors.append(self._corrected(_MISSED, self._positives - np.bincount(self._of_missed, minlength=self._classes)))
        right = judged.kind == RIGHT
        kept = right | ~judged.ignored
        errors.append(self._mean(right[kept].astype(float), self._labels[kept], right[kept], self._positives))
        errors.append(self._corrected(_MISSED, self._positives - self._unfound))
        # Less than nothing comes from the 101 steps of recall alone (TIDE, fix_main_errors).
        return {name: max((after or 0.0) - ap, 0.0) for name, after in zip(names, errors, strict=True)}

    def _corrected(self, kind: int, positives: np.ndarray | None = None) -> float | None:
        judged = self._judged
        right, of_kind = judged.kind == RIGHT, judged.kind == kind
        fixed = of_kind & (judged.fixed >= 0)
        kept = fixed | (~of_kind & ~judged.ignored & ~right)
        # Errors first, as in TIDE: it decides the order of equal scores.
        order = np.concatenate((np.flatnonzero(kept), np.flatnonzero(right)))
        labels = np.where(fixed, judged.fixed, self._labels)[order]
        counts = self._positives if positives is None else positives
        return self._mean(self._scores[order], labels, (fixed | right)[order], counts)

    def _mean(self, scores: np.ndarray, labels: np.ndarray, right: np.ndarray, positives: np.ndarray) -> float | None:
        order = np.lexsort((-scores, labels))
        ends = np.searchsorted(labels[order], np.arange(self._classes + 1))
        values = []
        for label in np.flatnonzero(self._measured):
            hits = right[order[ends[label] : ends[label + 1]]]
            # A class of which neither objects nor detections are left after a correction has nothing to average.
            if positives[label] or len(hits):
                values.append(_average_precision(hits, int(positives[label])))
        return float(np.mean(values)) if values else None


def _average_precision(hits: np.ndarray, positives: int) -> float:
    """AP over 101 recalls of one class; hits: bool, best score first. 0 without positives (tidecv, ap.py)."""
    if positives == 0 or len(hits) == 0:
        return 0.0
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(true / positives, _RECALLS)].mean())


def _count(
    found: FlatDetections, truth: FlatTruth, judged: Judged, class_names: Sequence[str]
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Errors by kind, over all and for each class."""
    wrong = (judged.kind != RIGHT) & ~judged.ignored
    kinds = np.concatenate((judged.kind[wrong], np.full(int(judged.missed.sum()), _MISSED)))
    labels = np.concatenate((found.labels[judged.row[wrong]], truth.labels[judged.missed]))
    table = np.zeros((len(class_names), len(KINDS)), np.int64)
    np.add.at(table, (labels, kinds), 1)
    by_class = {name: dict(zip(KINDS, row.tolist(), strict=True)) for name, row in zip(class_names, table, strict=True)}
    return dict(zip(KINDS, table.sum(axis=0).tolist(), strict=True)), by_class


def _by_size(
    found: FlatDetections, truth: FlatTruth, judged: Judged, image_sizes: np.ndarray
) -> tuple[SizeErrors, ...]:
    """Objects and errors by COCO's areas, then by parts of the picture."""
    on_object = judged.truth >= 0
    boxes = (
        np.where(on_object[:, None], truth.boxes[judged.truth], found.boxes[judged.row])
        if len(truth.boxes)
        else (found.boxes[judged.row])
    )
    side, of_found = np.sqrt(truth.area), _sides(boxes)
    if len(truth.area):
        of_found = np.where(on_object, side[judged.truth], of_found)
    rows = _bins(PIXEL_SIZES, side, of_found, truth, judged)
    whole = np.sqrt(np.asarray(image_sizes, np.float64).prod(axis=1))
    if len(whole) == 0 or not (whole > 0).all():
        return rows
    parts, found_parts = _sides(truth.boxes) / whole[truth.image], _sides(boxes) / whole[found.image[judged.row]]
    return rows + _bins(PART_SIZES, parts, found_parts, truth, judged)


def _bins(
    limits: Mapping[str, float], sides: np.ndarray, found_sides: np.ndarray, truth: FlatTruth, judged: Judged
) -> tuple[SizeErrors, ...]:
    edges = np.array(list(limits.values())[:-1])
    of_truth, of_found = np.digitize(sides, edges), np.digitize(found_sides, edges)
    wrong = (judged.kind != RIGHT) & ~judged.ignored
    rows = []
    for i, name in enumerate(limits):
        objects = (of_truth == i) & ~truth.ignored
        counts = np.bincount(judged.kind[wrong & (of_found == i)], minlength=len(KINDS))
        counts[_MISSED] = np.count_nonzero(objects & judged.missed)
        errors = dict(zip(KINDS, counts.tolist(), strict=True))
        rows.append(SizeErrors(name, int(objects.sum()), int((objects & judged.found).sum()), errors))
    return tuple(rows)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Side of the square as large as each box."""
    sides: np.ndarray = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1))
    return sides
