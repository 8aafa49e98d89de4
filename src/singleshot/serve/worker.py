"""A worker process: it opens the models, then answers batches of encoded images with detections as JSON.

It is started by pool.py with pipes as its standard input and output, and ends when the input ends.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.devices import cores
from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.serve.explaining import ModelExplainer
from singleshot.serve.wire import PIPELINED, ImageRefusedError, Message, packed, read_message

if TYPE_CHECKING:
    from singleshot.runtime.detections import Detections
    from singleshot.runtime.detector import Detector
    from singleshot.tiling import Tiling


class Limits(NamedTuple):
    """Of an image: pixels, bytes once base64 is decoded, tiles."""

    pixels: int
    bytes: int
    tiles: int


class _Found(NamedTuple):
    """JSON of what an image has, and how its file says that its pixels are turned, as EXIF has it."""

    json: bytes
    orientation: int


class Models:
    """The models of a worker.

    Args:
        detectors: By name.
        limits: Of every image.
    """

    def __init__(self, detectors: dict[str, Detector], limits: Limits) -> None:
        self._detectors, self.limits = detectors, limits
        self._explainers = {name: ModelExplainer(name, detector) for name, detector in detectors.items()}
        self.decoders = ThreadPoolExecutor(cores(), "decode")

    @classmethod
    def open(cls, config: dict[str, Any]) -> Models:
        """As the service says; see worker_process.config_of. Raises CheckpointError, ConfigError, MissingExtraError."""
        import numpy as np

        from singleshot.runtime.engines.table import EngineOptions
        from singleshot.runtime.load import open_detector
        from singleshot.tiling import choose_tiling

        options = EngineOptions(**config["options"])
        detectors = {name: open_detector(path, config["engine"], options) for name, path in config["models"].items()}
        for detector in detectors.values():
            if config["score_min"] is not None:
                detector.score_min = config["score_min"]
            detector.tiling = choose_tiling(detector.tiling, config["tile"])
            detector.detect(np.zeros((*detector.input_spec.sides, 3), np.uint8), tile=False)  # the first run is slower
        return cls(detectors, Limits(**config["limits"]))

    def prepare_batches(self) -> None:
        """Have the networks compiled for batches too, while single images are detected in already."""
        from singleshot.runtime.engines.table import CompilingEngine

        for detector in self._detectors.values():
            engine = detector.engine
            if isinstance(engine, CompilingEngine):
                engine.compile_ahead(many=True)

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/models` says of each."""
        return {
            name: {**_description(detector), "explain": self._explainers[name].describe()}
            for name, detector in self._detectors.items()
        }

    def run(self, jobs: list[dict[str, Any]], blobs: list[bytes]) -> list[tuple[dict[str, Any], bytes]]:
        """For each job a head and the JSON of what was found; those that can run together do."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, job in enumerate(jobs):
            tiling = _tiling(self._detectors[job["model"]], job)
            alone = index if tiling is not None or job["explain"] else None  # it holds all its pixels
            groups.setdefault((job["model"], job["score_min"], job["tile"], alone), []).append(index)
        answers: dict[int, tuple[dict[str, Any], bytes]] = {}
        for (model, score_min, tile, _), members in groups.items():
            started = time.perf_counter()
            found: Sequence[_Found | ImageRefusedError]
            try:
                if jobs[members[0]]["explain"]:
                    found = [self._explained(jobs[members[0]], blobs[members[0]])]
                else:
                    found = self._detect(model, score_min, tile, [(jobs[i], blobs[i]) for i in members])
            except ConfigError as error:
                found = [ImageRefusedError(422, "bad_option", str(error))] * len(members)
            ms = round(1000 * (time.perf_counter() - started), 2)
            for index, one in zip(members, found, strict=True):
                if isinstance(one, ImageRefusedError):
                    answers[index] = {"error": one.to_dict()}, b""
                else:
                    head = {"ms": ms, "orientation": one.orientation}
                    answers[index] = head, one.json
        return [answers[index] for index in range(len(jobs))]

    def _detect(
        self, model: str, score_min: float | None, tile: str | None, jobs: list[tuple[dict[str, Any], bytes]]
    ) -> list[_Found | ImageRefusedError]:
        from singleshot.images.orientation import orientation

        detector = self._detectors[model]
        results: list[_Found | ImageRefusedError | None] = [None] * len(jobs)
        images: list[bytes] = []
        for index, (job, blob) in enumerate(jobs):
            try:
                images.append(self._checked(detector, job, blob))
            except ImageRefusedError as error:
                results[index] = error
        mapper = self.decoders.map if len(images) > 1 else map
        each = detector.detect_each(images, score_min, tile=tile, mapper=mapper)
        found = iter(zip(each, map(orientation, images), strict=True))
        return [self._of(*next(found), jobs[i][0]) if one is None else one for i, one in enumerate(results)]

    def _checked(self, detector: Detector, job: dict[str, Any], data: bytes) -> bytes:
        """The bytes of an image file that may be decoded. Raises ImageRefusedError."""
        from singleshot.images.decode import TooLargeError, upright_size

        if job["base64"]:
            try:
                data = base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ImageRefusedError(
                    400, "not_base64", f"{job['name']}: not base64 ({printable(error, 80)})"
                ) from error
        if len(data) > self.limits.bytes:
            raise ImageRefusedError(
                413, "too_many_bytes", f"{job['name']}: {len(data)} bytes (at most {self.limits.bytes})"
            )
        try:
            width, height = upright_size(data, job["name"])
            if width * height > self.limits.pixels:
                raise TooLargeError(
                    f"{job['name']}: {width} x {height} pixels (at most {self.limits.pixels} are read here)"
                )
            tiling = _tiling(detector, job)
            if tiling is not None:
                count = len(tiling.windows(width, height, job["name"], detector.input_spec.sides))
                if count > self.limits.tiles:
                    limit = f"{count} tiles (at most {self.limits.tiles}); give larger ones"
                    raise ImageRefusedError(422, "too_many_tiles", f"{job['name']}: {limit}")
        except DataError as error:
            raise _refused(error) from error
        return data

    def _of(self, found: Detections | DataError, orientation: int, job: dict[str, Any]) -> _Found | ImageRefusedError:
        if isinstance(found, DataError):
            return _refused(found, job["name"])
        found = replace(found, image=job["name"])
        found = found if job["nms_iou"] is None else _thinned(found, job["nms_iou"])
        return _Found(json.dumps(found.to_dict()).encode(), orientation)

    def _explained(self, job: dict[str, Any], blob: bytes) -> _Found | ImageRefusedError:
        """What one image has, and where it comes from."""
        from singleshot.images.orientation import orientation

        try:
            data = self._checked(self._detectors[job["model"]], {**job, "tile": "none"}, blob)
            text = self._explainers[job["model"]].explain(data, job["name"], job["score_min"])
        except ImageRefusedError as error:
            return error
        except DataError as error:
            return _refused(error, job["name"])
        return _Found(text, orientation(data))


def _thinned(found: Detections, nms_iou: float) -> Detections:
    """Without the weaker of two boxes of a class that overlap more than `nms_iou`."""
    from singleshot.runtime.postprocess_numpy import suppress
    from singleshot.thresholds import NO_CAP, Thresholds

    return found[suppress(found.boxes, found.labels, Thresholds(nms_iou=nms_iou, keep=NO_CAP))]


def _refused(error: DataError, name: str | None = None) -> ImageRefusedError:
    from singleshot.images.decode import TooLargeError

    message = str(error)
    if name is not None:  # messages of `detect_each` speak of "image 3"
        message = f"{name}: {message.partition(': ')[2] or message}"
    message = message.replace("; fetch it again or remove it from the data set", "")
    if isinstance(error, TooLargeError):
        return ImageRefusedError(413, "too_many_pixels", message)
    return ImageRefusedError(422, "unreadable_image", message)


def _tiling(detector: Detector, job: dict[str, Any]) -> Tiling | None:
    """The tiles that are looked at for a job; what cannot be is refused by the detector."""
    from singleshot.tiling import choose_tiling

    try:
        return choose_tiling(detector.tiling, job["tile"])
    except ConfigError:
        return None


def _description(detector: Detector) -> dict[str, Any]:
    from singleshot.runtime.drawing import class_colours

    spec = detector.input_spec
    height, width = spec.sides
    return {
        "classes": list(detector.class_names),
        "colours": {
            name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in class_colours(detector.class_names).items()
        },
        "input": {"width": width, "height": height, "channels": spec.channels, "resize": spec.resize},
        "thresholds": {"score_min": detector.score_min, "nms_iou": detector.nms_iou},
        "tile": None if detector.tiling is None else detector.tiling.to_dict(),
        "engine": getattr(detector.engine, "name", None),
    }


class Connection:
    """The worker's end of the pipes; libraries that print print on standard error instead."""

    def __init__(self) -> None:
        self._input = os.fdopen(os.dup(0), "rb", 1 << 20)
        self._output = os.fdopen(os.dup(1), "wb", 1 << 20)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def receive(self) -> Message | None:
        """The next message; None where the service has closed its end."""
        return read_message(self._input)

    def send(self, header: dict[str, Any], blobs: Iterable[bytes] = ()) -> None:
        """Write one message; several threads may."""
        with self._lock:
            self._output.writelines(packed(header, list(blobs)))
            self._output.flush()


def main() -> None:
    """The process: a first message with the models, then batches until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the service ends its workers
    if hasattr(os, "nice"):
        os.nice(3)  # the service, which refuses what is too much, comes before the networks that keep all cores busy
    connection = Connection()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    config = json.loads(sys.argv[1])
    try:
        models = Models.open(config)
    except SingleshotError as error:
        connection.send({"failed": str(error)})
        return
    connection.send({"ready": models.describe()})
    if config["batch"] > 1:
        threading.Thread(target=models.prepare_batches, daemon=True).start()

    def answer(message: Message) -> None:
        try:
            answers = models.run(message.header["jobs"], message.blobs)
        except Exception as error:
            logging.exception("a batch failed")
            refused = ImageRefusedError(500, "failed", f"our own mistake ({type(error).__name__}); the log has more")
            answers = [({"error": refused.to_dict()}, b"")] * len(message.blobs)
        connection.send({"id": message.header["id"], "heads": [head for head, _ in answers]}, [b for _, b in answers])

    with ThreadPoolExecutor(PIPELINED, "batch") as batches:
        while (message := connection.receive()) is not None:
            batches.submit(answer, message)
    # Every answer is written. An orderly exit takes seconds where PyTorch is loaded, longer than the service waits, and
    # a network that is still being compiled then ends it by C++'s `terminate`.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
