"""Which objects of a video's frames are the same one: a number for each that stays while it is in sight."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.extras import needs
from singleshot.runtime.detections import Detections
from singleshot.runtime.sources import Frame

if TYPE_CHECKING:
    from singleshot.runtime.detector import Found

LIFE = 1.0  # seconds for which an object may be out of sight, and keep its number
_USUAL_RATE = 25.0  # frames per second where a source does not say
# The largest distance (see `distances`) of a box from where its object should be. Two equal squares are that far apart
# where they just touch: an object moves by one side at most before its speed is known.
_GATE = 1.2


class ObjectTracker:
    """Numbers the objects of videos frame by frame; counts from 1 in each video.

    The rule is SORT's (Bewley et al. 2016, arXiv:1602.00763) as norfair has it: a Kalman filter of constant speed
    says where each object should be, and boxes of its class go to the nearest object. The filter steps by the frames'
    times: those that a live source dropped, or that a file shows for longer, count as the time that they took.

    Raises MissingExtraError where norfair is not installed.
    """

    def __init__(self) -> None:
        with needs("track", "tracking"):
            import norfair  # noqa: F401 - at once, not at the first frame
        self._source: str | None = None
        self._time: float | None = None
        self._rate = _USUAL_RATE
        self._tracker: Any = None

    def follow(self, stream: Generator[Found]) -> Iterator[Found]:
        """What a detector found, with numbers; closes the stream with itself. Raises ConfigError for a still image."""
        with contextlib.closing(stream):
            for found in map(self._numbered, stream):
                yield found
                del found  # or its image would be held while the next one is made

    def _numbered(self, found: Found) -> Found:
        if found.detections is None:
            return found
        return found._replace(detections=self.update(found.frame, found.detections))

    def update(self, frame: Frame, detections: Detections) -> Detections:
        """The detections of the next frame, with `track_ids`.

        Images without a file (arrays, bytes, pictures of Pillow) are taken for the frames of one video, in order.

        Raises:
            ConfigError: The frame is the image of a file.
        """
        if frame.frame is None and frame.source:
            raise ConfigError(f"{printable(frame.name)}: a still image; objects are tracked in videos and live sources")
        if self._tracker is None or frame.source != self._source or frame.frame == 0:
            self._begin(frame)
        steps = self._steps_to(frame)
        for _ in range(steps - 1):
            self._tracker.update(period=steps)
        return replace(detections, track_ids=self._numbers(detections, steps))

    def _begin(self, frame: Frame) -> None:
        from norfair import Tracker
        from norfair.distances import VectorizedDistance

        self._source, self._time = frame.source, None
        self._rate = frame.fps or _USUAL_RATE
        # Two frames make an object certain, one that is seen once is let go of sooner.
        life = max(2, round(LIFE * self._rate))
        self._tracker = Tracker("iou", _GATE, hit_counter_max=life, initialization_delay=1, past_detections_length=0)
        self._tracker.distance_function = VectorizedDistance(distances)

    def _steps_to(self, frame: Frame) -> int:
        """How many frames of the video's rate it is since the last one, 1 at least; no more than an object lives."""
        before, self._time = self._time, frame.time
        if before is None or frame.time is None:
            return 1
        return max(1, round(min((frame.time - before) * self._rate, 2 + LIFE * self._rate)))

    def _numbers(self, detections: Detections, steps: int) -> np.ndarray:
        from norfair import Detection

        rows = list(enumerate(zip(detections.boxes, detections.names, strict=True)))
        mine = object()  # of this frame: an object that is not seen in it keeps its last detection
        self._tracker.update(
            [Detection(box.reshape(2, 2).astype(float), data=(mine, row), label=name) for row, (box, name) in rows],
            period=steps,
        )
        # All are asked, those too that are not certain yet: every detection has a number from its first frame on.
        number_of = {one.last_detection.data: one.initializing_id for one in self._tracker.tracked_objects}
        return np.array([number_of[mine, row] for row, _ in rows], np.int64)


def distances(boxes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """1 - DIoU of all pairs: IoU, less the square of the centres' distance as a share of the square of the diagonal
    around both. 0 for the same box, 1 or more without overlap, 2 at most.

    Args:
        boxes: Float [N, 4], corner form, in pixels.
        expected: Float [M, 4], likewise; corners of a prediction may have changed sides.

    Returns:
        Float [N, M].

    Source: Zheng et al., "Distance-IoU Loss" (AAAI 2020), equation 7.
    """
    ends = expected.reshape(-1, 2, 2)
    expected = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
    first, other = boxes[:, None], expected[None]
    inner = np.minimum(first[..., 2:], other[..., 2:]) - np.maximum(first[..., :2], other[..., :2])
    outer = np.maximum(first[..., 2:], other[..., 2:]) - np.minimum(first[..., :2], other[..., :2])
    shared = inner.clip(min=0).prod(axis=2)
    areas = [(one[..., 2:] - one[..., :2]).prod(axis=2) for one in (first, other)]
    apart = (first[..., :2] + first[..., 2:] - other[..., :2] - other[..., 2:]) / 2
    union, diagonal = areas[0] + areas[1] - shared, (outer**2).sum(axis=2)
    found: np.ndarray = 1 - shared / np.maximum(union, 1e-9) + (apart**2).sum(axis=2) / np.maximum(diagonal, 1e-9)
    return found
