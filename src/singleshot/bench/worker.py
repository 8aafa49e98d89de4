"""A candidate's process: `python -m singleshot.bench.worker`, started and asked by singleshot.bench.race.

Commands and answers are JSON, a line each. The first command is the job (bench.Candidate and the pictures), the others
are turns. Nothing heavy is imported before the job says which engine it is: start-up is one of the things measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol, TextIO

_IN_MEMORY = 128 << 20  # bytes of pictures that are held decoded
_MAX_CALLS = 2000  # in a turn
_PROBE_IMAGES, _PROBE_S = 16, 5.0  # detected in one by one before the peak of memory is read; the most for it
_SLOW_S = 1.0  # a call that takes longer needs no second one to prepare


class Runner(Protocol):
    """What an engine can be asked to do; the network's answer is waited for, not kept."""

    def squares(self, images: Sequence[Any]) -> Any: ...

    def network(self, squares: Any) -> None: ...

    def detect(self, squares: Any) -> None: ...

    def memory(self, images: Sequence[Any]) -> None: ...

    def files(self, paths: Sequence[str], batch: int) -> None: ...


class DetectorRunner:
    """Around a Detector; network: runs the network alone on uint8 [B, S, S, 3]."""

    def __init__(self, detector: Any, network: Callable[[Any], object] | None) -> None:
        self._detector, self._network = detector, network

    def squares(self, images: Sequence[Any]) -> Any:
        import numpy as np

        from singleshot.inputs import to_square

        return np.stack([to_square(image, self._detector.input_spec)[0] for image in images])

    def network(self, squares: Any) -> None:
        if self._network is None:
            raise RuntimeError("no raw network at hand")
        self._network(squares)

    def detect(self, squares: Any) -> None:
        self._detector.engine(squares)

    def memory(self, images: Sequence[Any]) -> None:
        if len(images) == 1:
            self._detector.detect(images[0])
        else:
            self._detector.detect(list(images), batch_size=len(images))

    def files(self, paths: Sequence[str], batch: int) -> None:
        if len(paths) == 1:
            self._detector.detect(paths[0])
        else:
            self._detector.detect(list(paths), batch_size=batch)


def file_runner(job: dict[str, Any], batch: int) -> Runner:
    """An exported file by OpenVINO or ONNX Runtime; the raw network is opened when it is first asked for."""
    from singleshot.runtime.engines.table import EngineOptions, open_engine
    from singleshot.runtime.load import open_detector

    precision = {"int8": None, "int8-bfloat16": "bfloat16", "float32": None}.get(job["precision"], job["precision"])
    device = None if job["device"] == "cpu" and job["engine"] == "openvino" else job["device"]
    options = EngineOptions(device, job["threads"], precision, batch)
    detector = open_detector(job["file"], job["engine"], options)
    made: list[Any] = []

    def network(squares: Any) -> object:
        if not made:
            same = job["network"] == job["file"]
            made.append(detector.engine if same else open_engine(job["engine"], job["network"], options))
        return made[0].outputs(squares)

    return DetectorRunner(detector, network if job["network"] else None)


class _Runners:
    """The job's engine; of a file one for single images and one for batches, as they are opened by who wants either."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._made: dict[bool, Runner] = {}

    def get(self, batch: int) -> Runner:
        from_file = self._job["engine"] in ("openvino", "onnxruntime")
        many = batch > 1 and from_file
        if many not in self._made:
            self._made[many] = file_runner(self._job, batch) if from_file else _by_torch(self._job)
        return self._made[many]


def _by_torch(job: dict[str, Any]) -> Runner:
    from singleshot.bench.torch_candidates import torch_runner, torchvision_runner

    return torchvision_runner(job) if job["engine"] == "torchvision" else torch_runner(job)


class _Bench:
    """The turns: what is called in each, on pictures that go round."""

    def __init__(self, runners: _Runners, paths: list[str]) -> None:
        self._runners, self._paths = runners, paths
        self._images: list[Any] = []
        self._calls: dict[tuple[str, int], tuple[Callable[[], None], int]] = {}

    def images(self) -> list[Any]:
        """The first pictures, decoded, as many as memory may hold."""
        if not self._images:
            from singleshot.images.decode import read_image

            held = 0
            for path in self._paths:
                image = read_image(path)
                held += image.nbytes
                if self._images and held > _IN_MEMORY:
                    break
                self._images.append(image)
        return self._images

    def call(self, task: str, batch: int) -> tuple[Callable[[], None], int]:
        """What to call, and how many images that is."""
        if (task, batch) not in self._calls:
            self._calls[task, batch] = self._make(task, batch)
        return self._calls[task, batch]

    def _make(self, task: str, batch: int) -> tuple[Callable[[], None], int]:
        runner = self._runners.get(batch)
        if task == "files":
            # With batches, two of them: reading the second overlaps the first, as it does in a folder of images.
            count = batch if batch == 1 else 2 * batch
            paths = cycle(self._paths)
            return lambda: runner.files(list(islice(paths, count)), batch), count
        images = cycle(self.images())
        if task == "memory":
            return lambda: runner.memory(list(islice(images, batch))), batch
        groups = cycle([runner.squares(list(islice(images, batch))) for _ in range(4)])
        run = runner.network if task == "network" else runner.detect
        return lambda: run(next(groups)), batch

    def turn(self, task: str, batch: int, seconds: float, calls: int) -> dict[str, Any]:
        """Call for that many seconds; without seconds, `calls` times."""
        run, images = self.call(task, batch)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < _MAX_CALLS:
            started = time.perf_counter()
            run()
            now = time.perf_counter()
            taken.append(now - started)
            if now >= end if seconds else len(taken) >= calls or now - started > _SLOW_S:
                break
        return {"seconds": taken, "images": images}

    def peak(self) -> dict[str, Any]:
        end = time.perf_counter() + _PROBE_S
        for path in islice(cycle(self._paths), _PROBE_IMAGES):
            self._runners.get(1).files([path], 1)
            if time.perf_counter() > end:
                break
        return {"peak_mb": peak_mb()}


def peak_mb() -> float | None:
    """The most resident memory that this process ever had; None where the system does not say.

    getrusage would count what the process that started this one had before it became ours.
    """
    try:
        with Path("/proc/self/status").open() as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 1024


def _answer(channel: TextIO, work: Callable[[], dict[str, Any]]) -> bool:
    """Do it and say what came of it; whether it went well."""
    try:
        said = work()
    except Exception as error:  # whatever it is belongs into the report, and the other tasks go on
        said = {"failed": f"{type(error).__name__}: {error}"}
    channel.write(json.dumps(said) + "\n")
    channel.flush()
    return "failed" not in said


def main() -> None:
    """Answer until standard input ends."""
    # What libraries print must not get between the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline() or "{}")
    if not job:
        return
    made: list[_Bench] = []

    def begin() -> dict[str, Any]:
        runners = _Runners(job)
        if job["only_first"] or any(batch == 1 for _, batch in job["cells"]):
            single = runners.get(1)
            if job["only_first"]:
                single.files(job["pictures"][:1], 1)
        made.append(_Bench(runners, job["pictures"]))
        return {"ready": True}

    if not _answer(channel, begin):
        return
    for line in sys.stdin:
        command = json.loads(line)
        if command.pop("peak", False):
            _answer(channel, made[0].peak)
        else:
            _answer(channel, lambda turn=command: made[0].turn(**turn))  # type: ignore[misc]


if __name__ == "__main__":
    main()
