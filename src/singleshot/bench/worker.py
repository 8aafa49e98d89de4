"""A candidate's process: `python -m singleshot.bench.worker`, started and asked by singleshot.bench.race.

Commands and answers are JSON, a line each. The first command is the Job, the others are turns. Nothing heavy is
imported before the job names what to run: start-up is measured as well.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleshot.bench.records import Job, Task
from singleshot.timing import seconds_of

if TYPE_CHECKING:
    import numpy as np

    from singleshot.bench.runners import Runner

_IN_MEMORY = 128 << 20  # bytes of images that are kept decoded
_MAX_CALLS = 2000  # in a turn
_PROBE_IMAGES, _PROBE_S = 16, 5.0  # detected in one by one before the peak of memory is read; the most for it
_SLOW_S = 1.0  # a call that takes longer needs no second one to prepare


def _open(job: Job) -> Runner:
    place, _, name = job.candidate.runner.rpartition(":")
    found = runpy.run_path(place) if place.endswith(".py") else vars(importlib.import_module(place))
    runner: Runner = found[name](job)
    if job.only_first:
        runner.files(job.images[:1], 1)
    return runner


class _Turns:
    """What is called in each turn, on images that go round."""

    def __init__(self, job: Job) -> None:
        self._runner, self._paths = _open(job), job.images
        self._images: list[np.ndarray] = []
        self._calls: dict[Task, tuple[Callable[[], None], int]] = {}

    def _decoded(self) -> list[np.ndarray]:
        """The first images, as many as memory may keep."""
        if not self._images:
            from singleshot.images.decode import read_image

            kept_bytes = 0
            for path in self._paths:
                image = read_image(path)
                kept_bytes += image.nbytes
                if self._images and kept_bytes > _IN_MEMORY:
                    break
                self._images.append(image)
        return self._images

    def _call_of(self, task: Task) -> tuple[Callable[[], None], int]:
        """What to call, and how many images that is."""
        runner, batch = self._runner, task.batch
        if task.kind == "files":
            # With batches, two of them: reading the second overlaps the first, as it does in a folder of images.
            count = batch if batch == 1 else 2 * batch
            paths = cycle(self._paths)
            return lambda: runner.files(list(islice(paths, count)), batch), count
        images = cycle(self._decoded())
        if task.kind == "memory":
            return lambda: runner.memory(list(islice(images, batch))), batch
        groups = cycle([runner.squares(list(islice(images, batch))) for _ in range(4)])
        run = runner.network if task.kind == "network" else runner.detect
        return lambda: run(next(groups)), batch

    def turn(self, task: list[Any], seconds: float, calls: int) -> dict[str, Any]:
        """Call for that many seconds; without seconds, `calls` times."""
        wanted = Task(*task)
        if wanted not in self._calls:
            self._calls[wanted] = self._call_of(wanted)
        run, images = self._calls[wanted]
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < _MAX_CALLS:
            taken.append(seconds_of(run))
            if time.perf_counter() >= end if seconds else len(taken) >= calls or taken[-1] > _SLOW_S:
                break
        return {"seconds": taken, "images": images}

    def peak(self) -> dict[str, Any]:
        """The most memory so far, after some more images one at a time."""
        end = time.perf_counter() + _PROBE_S
        for path in islice(cycle(self._paths), _PROBE_IMAGES):
            self._runner.files([path], 1)
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


def main() -> None:
    """Answer until standard input ends, or the job cannot be begun."""
    # What libraries print must not get between the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    turns: _Turns | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if turns is None:
                turns = _Turns(Job.from_dict(command))
                answer: dict[str, Any] = {"ready": True}
            else:
                answer = turns.turn(**command) if command else turns.peak()
        except Exception as error:  # whatever it is belongs into the report, and the other tasks go on
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=channel, flush=True)
        if turns is None:
            return


if __name__ == "__main__":
    main()
