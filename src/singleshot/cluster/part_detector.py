"""What an actor does: it holds the model, and detects in one part after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from singleshot.api.detect import DetectOptions
from singleshot.api.tile_option import chosen_tiling
from singleshot.cluster.addresses import Input
from singleshot.cluster.job import Folder, Job, PartCounts
from singleshot.errors import printable
from singleshot.runtime.sources import Frame

if TYPE_CHECKING:
    import numpy as np

    from singleshot.runtime.detector import Detector


# After so many tries of a part its images are read one by one; one at which so many processes ended is left out.
_CAREFUL, _MOST_BLAMED = 2, 2


class PartDetector:
    """Called with numbers of parts, it detects in them and writes their results."""

    def __init__(self, options: Mapping[str, Any], place: str, detector: Detector | None = None) -> None:
        """options: those of `DetectOptions`; place: the job's folder; detector: in place of the model's."""
        from singleshot.api.load import load

        self._options = DetectOptions.from_dict(options)
        folder = Folder(place)
        self._job = Job(folder, folder.read("job.json"))
        one = self._options
        self._detector = detector or load(
            one.model, one.device, engine=one.engine, threads=one.threads, precision=one.precision, batch=one.batch,
            rule=one.rule, classes=one.classes,
        )  # fmt: skip
        self._tiling = chosen_tiling(self._detector, one.tile, one.tiles_only, one.model)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
        """A batch of Ray Data with a column `part`; gives the counts of each."""
        parts = [int(part) for part in batch["part"]]
        counts = [self.detect(part) for part in parts]
        return {"part": parts, **{name: [getattr(one, name) for one in counts] for name in PartCounts._fields}}

    def detect(self, part: int) -> PartCounts:
        """One part, unless it is finished: another actor may have done it before it was killed or lost."""
        if self._job.is_finished(part):
            return self._job.counts_of(part)
        inputs = self._job.inputs(part)
        tries = self._job.begin(part)
        rows: list[dict[str, Any]] = []
        failures = [{"image": one.name, "reason": "no address"} for one in inputs if not one.path]
        if tries.begun < _CAREFUL:
            self._read(inputs, rows, failures)
        else:  # something in it may end the process: one by one, so that the next try knows which
            for k, one in enumerate(inputs):
                if (times := tries.blamed.count(k)) >= _MOST_BLAMED:
                    failures.append({"image": one.name, "reason": f"ended the process that read it, {times} times"})
                    continue
                self._job.note(part, tries._replace(begun=tries.begun + 1, at=k))
                self._read([one], rows, failures)
        if len(rows) + len(failures) != len(inputs):  # our own mistake: nothing is written
            raise RuntimeError(f"part {part}: {len(rows)} results and {len(failures)} failures of {len(inputs)} images")
        return self._job.finish(part, rows, failures)

    def _read(self, inputs: list[Input], rows: list[dict[str, Any]], failures: list[dict[str, str]]) -> None:
        frames = (Frame(one.name, None, source=one.name, path=one.path) for one in inputs if one.path)
        options = self._options
        for frame, detections in self._detector.stream(
            frames, options.batch, options.score_min, tile=self._tiling or False, keep_images=False
        ):
            if detections is None:
                reason = str(frame.error or "no image").removeprefix(f"{printable(frame.name)}: ")
                failures.append({"image": frame.name, "reason": reason})
            else:
                rows.append(detections.to_dict())
