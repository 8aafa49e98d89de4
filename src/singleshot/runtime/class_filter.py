"""The stage after the engine where only some classes are wanted, or under other names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from singleshot.records import ImageDetections
from singleshot.runtime.postprocess_numpy import suppress
from singleshot.thresholds import NO_CAP, Thresholds


class ClassFilter:
    """Callable: detections of one image, best first -> those of the wanted classes under their new labels.

    Boxes of classes that become one suppress each other, as those of one class do.

    Args:
        labels: The new label of each old one, -1 for those that are not wanted.
        nms_iou: IoU over which a weaker box of a joined class is dropped.
    """

    def __init__(self, labels: Sequence[int], nms_iou: float) -> None:
        self._labels = np.array(labels, np.int64)
        self._rules = Thresholds(nms_iou=nms_iou, keep=NO_CAP)
        counts = Counter(label for label in labels if label >= 0)
        self._joined = np.array([label for label, count in counts.items() if count > 1], np.int64)

    def __call__(self, found: ImageDetections) -> ImageDetections:
        labels = self._labels[np.asarray(found.labels, np.int64)]
        stays = labels >= 0
        joined = np.flatnonzero(np.isin(labels, self._joined))
        if len(joined):
            stays[joined] = False
            boxes = np.asarray(found.boxes, np.float32)[joined]
            stays[joined[suppress(boxes, labels[joined], self._rules)]] = True
        return ImageDetections(np.asarray(found.boxes)[stays], np.asarray(found.scores)[stays], labels[stays])
