"""What a detector found in one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from singleshot.errors import MissingExtraError
from singleshot.extras import needs
from singleshot.records import ImageDetections

if TYPE_CHECKING:
    import pandas
    import supervision

    from singleshot.runtime.python_sources import Image


def coco_image_id(name: str) -> int | str:
    """COCO's image id from a name: the stem as a number when it is one ("val/000139.jpg" -> 139), else the name."""
    stem = PurePath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else name


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first.

    boxes: float32 [N, 4], corner form x0 y0 x1 y1 in continuous pixels of the original image (0 is the left
    or top edge, width or height the right or bottom one); scores: float32 [N] in 0..1; labels: int64 [N],
    0-based; names: the class name of each; image: what the image is called; width, height: its pixels; time: of a
    video's frame, in seconds; every_class: names of all classes of the model, those that were not
    asked for too, of which colours are made; track_ids: int64 [N], which object of the video each is, counted from 1;
    None where nothing was tracked.
    Indexing by a number, a slice, an index array or a mask gives Detections again.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    image: str
    width: int
    height: int
    time: float | None = None
    every_class: tuple[str, ...] = ()
    track_ids: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        found: ImageDetections,
        class_names: Sequence[str],
        image: str,
        width: int,
        height: int,
        time: float | None = None,
        every_class: tuple[str, ...] = (),
    ) -> Detections:
        """From boxes in pixels, scores and labels; class_names: by label; every_class: see the class."""
        names = tuple(class_names[label] for label in found.labels)
        return cls(found.boxes, found.scores, found.labels, names, image, width, height, time, every_class)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int | slice | np.ndarray | list[int] | list[bool]) -> Detections:
        rows = np.arange(len(self))[index].reshape(-1)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            names=tuple(self.names[row] for row in rows),
            track_ids=None if self.track_ids is None else self.track_ids[rows],
        )

    def __iter__(self) -> Iterator[Detections]:
        return (self[row] for row in range(len(self)))

    def above(self, score_min: float) -> Detections:
        """Those that score at least `score_min`."""
        return self[self.scores >= score_min]

    def draw(
        self, image: Image, *, line_width: int | None = None, labels: bool = True, scores: bool = True
    ) -> np.ndarray:
        """A copy of the image (uint8 RGB [H, W, 3]) with the boxes and their class names on it.

        image: the one they were found in, as `Detector.detect` takes it: a path, an array, bytes, a Pillow image;
        line_width: pixels, None for what suits the picture; labels: without them no text at all; scores: in the labels.
        Raises DataError for what is no image.
        """
        from singleshot.runtime.drawing import DrawOptions, draw_detections
        from singleshot.runtime.python_sources import pixels_of

        return draw_detections(pixels_of(image), self, DrawOptions(line_width, labels, scores))

    def to_coco(
        self, image_id: int | str | None = None, categories: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results form: bbox is x y width height in pixels; category_id is that of the class's name in
        `categories`, else label + 1. Tracked objects have a track_id.

        Without `image_id` it is the number in the image's name, or the name where that is not a number.
        """
        if image_id is None:
            image_id = coco_image_id(self.image)
        sizes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": int(label) + 1 if categories is None else categories[name],
                "bbox": [round(float(v), 3) for v in box],
                "score": round(float(score), 6),
                **track,
            }
            for box, score, label, name, track in zip(
                sizes, self.scores, self.labels, self.names, self._tracks(), strict=True
            )
        ]

    def _tracks(self) -> list[dict[str, int]]:
        """What the rows of results have of it; nothing where nothing was tracked."""
        if self.track_ids is None:
            return [{} for _ in self.names]
        return [{"track_id": int(track)} for track in self.track_ids]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the image, its size, in a video the time in seconds, and of each object its box (x0 y0
        x1 y1 in pixels), score, label and name, of a tracked one its track_id."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            **({} if self.time is None else {"time": round(self.time, 3)}),
            "detections": [
                {
                    "box": [round(float(v), 3) for v in box],
                    "score": round(float(score), 6),
                    "label": int(label),
                    "name": name,
                    **track,
                }
                for box, score, label, name, track in zip(
                    self.boxes, self.scores, self.labels, self.names, self._tracks(), strict=True
                )
            ],
        }

    def to_supervision(self) -> supervision.Detections:
        """As Roboflow's supervision holds them: xyxy in pixels, confidence, class_id (0-based), class_name in `data`,
        tracker_id of tracked ones.

        Raises MissingExtraError where supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:  # no extra brings it: its wheels of PyAV have x264 and x265 (GPL) in them
            raise MissingExtraError("Detections.to_supervision needs supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32).reshape(-1, 4),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row of each object: image, name, label (0-based), score, x0, y0, x1, y1 in pixels; in a video also time, in
        seconds, and of tracked ones track_id. Rows of several images go together by pandas.concat.

        Raises MissingExtraError where pandas is not installed.
        """
        with needs("pandas", "Detections.to_pandas"):
            import pandas
        columns: dict[str, Any] = {
            "image": [self.image] * len(self),
            "name": list(self.names),
            "label": self.labels,
            "score": self.scores,
        }
        columns |= {name: self.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
        if self.time is not None:
            columns["time"] = self.time
        if self.track_ids is not None:
            columns["track_id"] = self.track_ids
        return pandas.DataFrame(columns)

    def summary(self) -> str:
        """The classes found, most frequent first: "2 person, 1 dog"; "nothing" when there is none."""
        counts: dict[str, int] = {}
        for name in self.names:
            counts[name] = counts.get(name, 0) + 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {name}" for name, count in ordered) or "nothing"
