"""What a model finds in the images that are labelled: proposals, what it is unsure of, suspected label errors."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from singleshot.api.label_store import LabelStore, Shown
from singleshot.datasets.editing.edits import LabelObject
from singleshot.errors import DataError, printable
from singleshot.metrics.flat import flatten
from singleshot.metrics.label_errors import LABEL_KINDS, find_label_errors
from singleshot.records import ImageDetections, ImageTruth

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector

log = logging.getLogger(__name__)

SCORE_MIN = 0.05  # of detections that are kept, as label errors take them
ORDERS = ("name", "unsure", "suspect")


class Proposal(NamedTuple):
    """A detection of a class that the set has; box: pixels."""

    name: str
    box: tuple[float, float, float, float]
    score: float


class Suspect(NamedTuple):
    """A suspected label error. kind: of LABEL_KINDS; about: it in words; number: the object's, None where there is
    none; name: the class that the model sees, "" where it sees none."""

    kind: str
    about: str
    suspicion: float
    box: tuple[float, float, float, float]
    number: int | None
    name: str


class _Judged(NamedTuple):
    """Suspects by image, and the state of labels and detections that they are of."""

    state: tuple[int, int]
    by_image: dict[int, list[Suspect]]
    revisions: dict[int, str]


class ModelViews:
    """A detector's views of the images of a store; each image is detected once, all of them by `run`."""

    def __init__(self, store: LabelStore, detector: Detector) -> None:
        self._store, self._detector = store, detector
        self._found: dict[int, list[Proposal]] = {}
        self._lock = threading.Lock()  # of the detector
        self._judging = threading.Lock()
        self._stopped = threading.Event()
        self._judged = _Judged((-1, -1), {}, {})

    @property
    def left_out(self) -> list[str]:
        """The model's classes that the set has not: they are not proposed."""
        return [name for name in self._detector.class_names if name not in self._store.classes]

    @property
    def score_min(self) -> float:
        """The model's own threshold."""
        return self._detector.score_min

    @property
    def done(self) -> int:
        """How many images were detected."""
        return len(self._found)

    def proposals(self, i: int) -> list[Proposal]:
        """What is found in image i, the best first. Raises DataError for an image that cannot be used."""
        with self._lock:
            if i not in self._found:
                found = self._detector.detect(self._store.images[i].path, score_min=SCORE_MIN)
                rows = zip(found.names, found.boxes.tolist(), found.scores.tolist(), strict=True)
                kept = [Proposal(name, tuple(box), score) for name, box, score in rows]
                self._found[i] = sorted(kept, key=lambda one: -one.score)
            return self._of_the_set(self._found[i])

    def _of_the_set(self, found: list[Proposal]) -> list[Proposal]:
        """Those of classes that the set has by now."""
        known = set(self._store.classes)
        return [one for one in found if one.name in known]

    def run(self) -> None:
        """Detect all images, until `stop`; for a thread of its own."""
        for i in range(len(self._store.images)):
            if self._stopped.is_set():
                return
            try:
                self.proposals(i)
            except DataError as error:
                self._found[i] = []
                log.warning("%s", printable(error))

    def stop(self) -> None:
        """End `run` after the image that it is at."""
        self._stopped.set()

    def order(self, order: str) -> list[tuple[int, float | None]]:
        """Images with how unsure or suspect they are, most first; those that are not known yet, or not suspect, come
        after them by name, with None."""
        values = {i: unsureness(self._of_the_set(found)) for i, found in dict(self._found).items()}
        if order == "suspect":
            values = {i: max(one.suspicion for one in found) for i, found in self._judge().by_image.items()}
        first = sorted(values, key=lambda i: (-values[i], i))
        return [(i, values.get(i)) for i in [*first, *(i for i in range(len(self._store.images)) if i not in values)]]

    def suspects(self, i: int, shown: Shown) -> list[Suspect]:
        """Those of image i that were found last, as long as its labels are those that they are of."""
        judged = self._judged
        return judged.by_image.get(i, []) if judged.revisions.get(i) == shown.version else []

    def _judge(self) -> _Judged:
        with self._judging:
            found = {i: self._of_the_set(one) for i, one in dict(self._found).items()}
            state = (self._store.revision, len(found))
            if self._judged.state != state:
                self._judged = self._judge_now(state, found)
            return self._judged

    def _judge_now(self, state: tuple[int, int], found: dict[int, list[Proposal]]) -> _Judged:
        classes = {name: label for label, name in enumerate(self._store.classes)}
        # What the model has no class for cannot be held against it: such objects neither count nor hurt.
        known = set(self._detector.class_names)
        chosen, truths, shown = [], [], []
        for i in sorted(found):
            try:
                one = self._store.show(i)
            except DataError:  # said where the image is shown
                continue
            if one.labelled:
                chosen.append(i)
                shown.append(one)
                truths.append(_truth(one, classes, known))
        flat = flatten([_detections(found[i], classes) for i in chosen], truths)
        by_image: dict[int, list[Suspect]] = {}
        starts = np.searchsorted(flat[1].image, np.arange(len(chosen)))
        for suspect in find_label_errors(*flat) if chosen else ():
            at, number = suspect.image, None
            if suspect.label >= 0:
                number = _known(shown[at], classes)[suspect.label - int(starts[at])].number
            name = "" if suspect.found < 0 else self._store.classes[int(flat[0].labels[suspect.found])]
            box = flat[0].boxes[suspect.found] if suspect.kind in ("moved", "missing") else suspect.box
            about = Suspect(
                suspect.kind, LABEL_KINDS[suspect.kind], suspect.suspicion, tuple(box.tolist()), number, name
            )
            by_image.setdefault(chosen[at], []).append(about)
        return _Judged(state, by_image, {i: one.version for i, one in zip(chosen, shown, strict=True)})


def unsureness(found: list[Proposal]) -> float:
    """How much is to be learnt of an image: over its detections the sum of (1 - |p - (1 - p)|)².

    Source: Brust, Käding, Denzler, "Active Learning for Deep Object Detection" (arXiv 1809.09875), margin of the best
    two classes, summed over the detections; here the second is "no object", with what the first leaves.
    """
    return sum((1 - abs(2 * one.score - 1)) ** 2 for one in found)


def _known(shown: Shown, classes: dict[str, int]) -> list[LabelObject]:
    return [obj for obj in shown.objects if obj.name in classes]


def _truth(shown: Shown, classes: dict[str, int], known: set[str]) -> ImageTruth:
    objects = _known(shown, classes)
    boxes = np.array([obj.box for obj in objects], np.float32).reshape(-1, 4)
    return ImageTruth(
        boxes,
        np.array([classes[obj.name] for obj in objects], np.int64),
        np.array([obj.difficult or obj.name not in known for obj in objects], bool),
        np.array([obj.crowd for obj in objects], bool),
        (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def _detections(found: list[Proposal], classes: dict[str, int]) -> ImageDetections:
    return ImageDetections(
        np.array([one.box for one in found], np.float32).reshape(-1, 4),
        np.array([one.score for one in found], np.float32),
        np.array([classes[one.name] for one in found], np.int64),
    )
