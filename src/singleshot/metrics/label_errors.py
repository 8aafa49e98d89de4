"""Labels that a trained model contradicts: what may be wrong with the ground truth, most suspect first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from singleshot.metrics.boxes_numpy import pairwise_iou
from singleshot.metrics.confusion import match_one_to_one
from singleshot.metrics.flat import FlatDetections, FlatTruth, count_classes
from singleshot.metrics.voc import voc_curves

LABEL_KINDS = {
    "doubled": "two labels of one class on one object",
    "class": "a confident detection of another class on the label",
    "moved": "a confident detection of the label's class lies next to it",
    "missing": "a confident detection where there is no label",
    "spurious": "a label that no detection supports",
}
# From which suspicion a label is reported: of those some half are errors (benchmarks/label_errors.py).
REPORTED = 0.55

_DOUBLED_IOU = 0.6  # from which two labels of a class are suspected to be one object's
_ON, _NEAR = 0.5, 0.1  # IoU from which a detection is on a label, and from which it is near it
_FREE = 0.35  # IoU with every label below which a detection is on nothing
_SCORE_MIN = 0.05  # detections below it say nothing
_ALONE = 4  # the power of a suspicion that has one sign alone
_CLAIM = 0.3  # from this score on a detection explains the label of its class that it lies on


class LabelSuspect(NamedTuple):
    """kind: of LABEL_KINDS; image: its place; suspicion: 0 to 1; label: the row of the object, -1 where there is none;
    box: float64 [4] px, where to look; found: the row of the detection that contradicts it, -1 for none."""

    kind: str
    image: int
    suspicion: float
    label: int
    box: np.ndarray
    found: int


def find_label_errors(found: FlatDetections, truth: FlatTruth, reported: float = REPORTED) -> list[LabelSuspect]:
    """Suspects whose suspicion is at least `reported`, most suspect first, at most one for a label or a detection.

    How far a detection is trusted: its score times the share of those of its class with that score or more that lie on
    a label of theirs. Two signs at one place count as their geometric mean: that the detection is right, and that no
    detection supports the label. A single sign counts as its fourth power, since what is often not labelled, or
    often not found, is a habit rather than an error. Difficult and crowd objects are no suspects, nor what lies on
    them.
    """
    chosen = np.flatnonzero(found.scores >= _SCORE_MIN)
    suspects: list[LabelSuspect] = []
    habits = _Habits(found, truth)
    for image in np.union1d(found.image[chosen], truth.image).tolist():
        mine = chosen[slice(*np.searchsorted(found.image[chosen], [image, image + 1]))]
        theirs = np.arange(*np.searchsorted(truth.image, [image, image + 1]))
        suspects += _Image(found, truth, image, mine, theirs).suspects(habits)
    kept = [one for one in suspects if one.suspicion >= reported]
    return sorted(kept, key=lambda one: -one.suspicion)


class _Habits:
    """How often what a model finds is labelled, and what is labelled is found, by class."""

    def __init__(self, found: FlatDetections, truth: FlatTruth) -> None:
        self._found, self._truth = found, truth
        classes = count_classes(found, truth)
        self._curves = voc_curves(found, truth, classes)

    def labelled(self, row: int) -> float:
        """Of a detection's class the share of those with its score or more that lie on a label of theirs."""
        curve = self._curves[self._found.labels[row]]
        if curve.truths == 0 or len(curve.scores) == 0:
            return 0.0
        at = np.searchsorted(-curve.scores, -self._found.scores[row], side="right") - 1
        return float(curve.precision[max(at, 0)])

    def detected(self, row: int) -> float:
        """Of a label's class the share that is found with a score of 0.5 or more."""
        curve = self._curves[self._truth.labels[row]]
        at = int(np.searchsorted(-curve.scores, -0.5, side="right"))
        return float(curve.recall[at - 1]) if at else 0.0


class _Image:
    """The detections and labels of one image, and how they overlap."""

    def __init__(
        self, found: FlatDetections, truth: FlatTruth, image: int, mine: np.ndarray, theirs: np.ndarray
    ) -> None:
        self._image, self._mine, self._theirs = image, mine, theirs
        self._boxes, self._labels = found.boxes[mine], truth.boxes[theirs]
        self._scores = found.scores[mine].astype(np.float64)
        self._ignored = truth.ignored[theirs]
        self._overlap = pairwise_iou(self._boxes, self._labels)
        self._same = found.labels[mine, None] == truth.labels[None, theirs]
        # A crowd may be much larger than what is in it.
        part = pairwise_iou(self._boxes, self._labels, of_box=True)
        self._in_crowd = ((part >= _ON) & self._same & truth.crowd[None, theirs]).any(axis=1)
        self._truth_same = truth.labels[theirs, None] == truth.labels[None, theirs]

    def suspects(self, habits: _Habits) -> list[LabelSuspect]:
        """All of the image, however slight the suspicion."""
        on, same, overlap = self._overlap >= _ON, self._same, self._overlap
        doubled = self._doubled()
        alone = np.ones(len(self._theirs), bool)
        alone[[j for j, _ in doubled]] = False
        # Which labels are explained by which detection: a better score first, so that neighbours do not take it.
        value = self._scores[:, None] * overlap
        rows, columns = match_one_to_one(value, on & same & (self._scores[:, None] >= _CLAIM) & alone[None])
        free_found, free_label = np.ones(len(self._mine), bool), alone & ~self._ignored
        free_found[rows] = free_label[columns] = False
        # A detection that another label explains supports no second one.
        supporting = same & free_found[:, None]
        support = self._best(on & supporting)
        free_found &= ~self._in_crowd
        result = [self._one("doubled", suspicion, label=j) for j, suspicion in doubled]
        right = self._scores * np.array([habits.labelled(row) for row in self._mine.tolist()])
        result += self._pairs("class", on & ~same, (free_found, free_label), right, support)
        of_others = np.where(free_label[None], 0.0, overlap).max(axis=1, initial=0.0) >= _ON
        near = (overlap >= _NEAR) & ~on & same & ~of_others[:, None]
        result += self._pairs("moved", near, (free_found, free_label), right, support)
        apart = overlap.max(axis=1, initial=0.0) < _FREE
        for i in np.flatnonzero(free_found & apart).tolist():
            if not self._shadowed(i):
                result.append(self._one("missing", float(right[i]) ** _ALONE, found=i))
        nearby = self._best(overlap >= 0.3)
        for j in np.flatnonzero(free_label).tolist():
            suspicion = (1.0 - float(max(support[j], nearby[j]))) * habits.detected(int(self._theirs[j]))
            result.append(self._one("spurious", suspicion**_ALONE, label=j))
        return result

    def _shadowed(self, i: int) -> bool:
        """Whether a better detection lies on the same place."""
        better = self._scores > self._scores[i]
        return bool((pairwise_iou(self._boxes[[i]], self._boxes[better])[0] >= 0.4).any())

    def _best(self, chosen: np.ndarray) -> np.ndarray:
        """The best score [m] of the detections chosen [d, m]; 0 where there is none."""
        scores: np.ndarray = np.where(chosen, self._scores[:, None], 0.0).max(axis=0, initial=0.0)
        return scores

    def _doubled(self) -> list[tuple[int, float]]:
        """Of each pair of labels that are one object's the one that detections fit worse, and how suspect it is."""
        overlap = np.triu(pairwise_iou(self._labels, self._labels), 1) * self._truth_same
        overlap[self._ignored] = overlap[:, self._ignored] = 0.0
        fit = (self._overlap * self._scores[:, None] * self._same).max(axis=0, initial=0.0)
        pairs = []
        for a, b in zip(*match_one_to_one(overlap, overlap >= _DOUBLED_IOU), strict=True):
            pairs.append((int(a if fit[a] < fit[b] else b), float(0.5 + overlap[a, b] / 2)))
        return pairs

    def _pairs(
        self,
        kind: str,
        allowed: np.ndarray,
        free: tuple[np.ndarray, np.ndarray],
        right: np.ndarray,
        support: np.ndarray,
    ) -> list[LabelSuspect]:
        """Detections and labels that are still free, paired where allowed [d, m]; free no longer where suspect."""
        free_found, free_label = free
        suspicion = np.sqrt(right[:, None] * (1.0 - support[None]))
        allowed = allowed & free_found[:, None] & free_label[None] & (suspicion >= 0.45)
        result = []
        for i, j in zip(*match_one_to_one(suspicion, allowed), strict=True):
            free_found[i] = free_label[j] = False
            result.append(self._one(kind, float(suspicion[i, j]), int(j), int(i)))
        return result

    def _one(self, kind: str, suspicion: float, label: int = -1, found: int = -1) -> LabelSuspect:
        box = self._labels[label] if label >= 0 else self._boxes[found]
        rows = (-1 if label < 0 else int(self._theirs[label])), (-1 if found < 0 else int(self._mine[found]))
        return LabelSuspect(kind, self._image, suspicion, rows[0], box, rows[1])


def suspect_rows(suspects: list[LabelSuspect]) -> list[dict[str, Any]]:
    """Plain values for JSON."""
    return [{**one._asdict(), "box": [round(float(v), 2) for v in one.box]} for one in suspects]
