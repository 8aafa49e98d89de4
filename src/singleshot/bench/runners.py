"""What a candidate's process runs: the calls that are timed, and those of an exported file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from singleshot.bench.records import Job
from singleshot.inputs import to_square
from singleshot.runtime.detector import Detector
from singleshot.runtime.engines.table import EngineOptions, FileEngine, open_engine
from singleshot.runtime.load import open_detector

# Of exported files: the file's own, and what the rest of an int8 file is computed in.
_COMPUTED_IN = {"float32": None, "int8": None, "int8-bfloat16": "bfloat16"}


class Runner(Protocol):
    """What an engine can be asked to do; its answer is waited for, not kept."""

    def squares(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB images of any size as the network takes them."""

    def network(self, squares: np.ndarray) -> None:
        """Raw outputs."""

    def detect(self, squares: np.ndarray) -> None:
        """The same with decoding and NMS."""

    def memory(self, images: Sequence[np.ndarray]) -> None:
        """From images in memory to boxes in their pixels."""

    def files(self, paths: Sequence[str], batch: int) -> None:
        """The same from image files, in batches."""


class DetectorRunner:
    """A Runner around Detectors.

    Args:
        detector: Gives the one for single images (False) or for batches (True).
        network: Gives what runs the network alone on uint8 [B, H, W, C], for either; None: nobody can.
    """

    def __init__(
        self, detector: Callable[[bool], Detector], network: Callable[[bool], Callable[[np.ndarray], object]] | None
    ) -> None:
        self._detector, self._network = detector, network

    def squares(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See Runner, as for the others."""
        spec = self._detector(len(images) > 1).input_spec
        return np.stack([to_square(image, spec)[0] for image in images])

    def network(self, squares: np.ndarray) -> None:
        """Raises RuntimeError where there is no network without decoding."""
        if self._network is None:
            raise RuntimeError("no raw network at hand")
        self._network(len(squares) > 1)(squares)

    def detect(self, squares: np.ndarray) -> None:
        """By the engine alone."""
        self._detector(len(squares) > 1).engine(squares)

    def memory(self, images: Sequence[np.ndarray]) -> None:
        """By Detector.detect."""
        self._detect(list(images), len(images))

    def files(self, paths: Sequence[str], batch: int) -> None:
        """By Detector.detect."""
        self._detect(list(paths), batch)

    def _detect(self, sources: list[np.ndarray] | list[str], batch: int) -> None:
        detector = self._detector(batch > 1)
        if len(sources) == 1:
            detector.detect(sources[0])
        else:
            detector.detect(sources, batch_size=batch)


def file_runner(job: Job) -> Runner:
    """An exported file by one of its engines, opened for single images, for batches, or for both when both are asked
    for, as it is by who wants either; the raw network is opened when it is first asked for."""
    one = job.candidate
    precision = _COMPUTED_IN.get(one.precision, one.precision)

    device = None if one.device == "cpu" and one.engine == "openvino" else one.device

    def options(many: bool) -> EngineOptions:
        return EngineOptions(device, one.threads, precision, 2 if many else 1)

    @cache
    def detector(many: bool) -> Detector:
        return open_detector(one.file, one.engine, options(many))

    @cache
    def network(many: bool) -> Callable[[np.ndarray], object]:
        engine = cast(FileEngine, open_engine(one.engine, Path(str(one.network)), options(many)))
        return engine.outputs

    detector(not job.only_first and all(task.batch > 1 for task in one.tasks))
    return DetectorRunner(detector, network if one.network else None)
