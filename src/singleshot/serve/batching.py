"""The bounded queue of images, and which of them go to a worker together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from singleshot.serve.options import ServeOptions

_ALWAYS = 2  # images for each worker that are taken however long they may take
_BATCHES = 4  # batches in the longest wait: larger ones would take too much of it
_SMOOTHING = 0.1  # weight of the last batch in the seconds that an image takes


class QueueFullError(Exception):
    """Too many images wait. seconds: when to try again; close: the connection goes too, since its body is long."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many images wait; try again in {seconds} s")
        self.seconds, self.close = seconds, False


class Question(NamedTuple):
    """What is wanted of an image; see `Detector.detect`. nms_iou: of two boxes of a class that overlap more, the weaker
    is dropped, apart from what the model itself drops; base64: how the image's bytes are written; explain: where each
    detection comes from too."""

    model: str
    name: str
    score_min: float | None = None
    nms_iou: float | None = None
    tile: str | None = None
    base64: bool = False
    explain: bool = False


@dataclass(frozen=True)
class Answer:
    """JSON of what was found in an image, the milliseconds that it waited and was worked on, and how its file says that
    its pixels are turned, 1 to 8 as EXIF has it."""

    json: bytes
    queue_ms: float
    work_ms: float
    orientation: int


@dataclass(eq=False)
class Job:
    """An image on its way. answer: set when it is done; attempts: workers that it was given to."""

    question: Question
    data: bytes
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)
    attempts: int = 0

    def header(self) -> dict[str, Any]:
        """The question as plain values for a worker."""
        return self.question._asdict()


class JobQueue:
    """Images that wait for a worker, of one event loop."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._jobs: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._seconds: float | None = None  # that an image takes, all workers together
        self.arriving = 0  # requests whose body is being read
        self.running = 0  # images that workers have

    def __len__(self) -> int:
        return len(self._jobs)

    def check(self, count: int = 1) -> None:
        """Raise QueueFullError where that many more images would wait too long."""
        waiting = len(self._jobs)
        ahead = waiting + self.running
        expected = 0.0 if self._seconds is None else (ahead + count) * self._seconds
        too_long = expected > self._options.max_wait and ahead >= _ALWAYS * self._options.workers
        if waiting + count > max(self._options.queue, count if not waiting else 0) or too_long:
            raise QueueFullError(max(1, math.ceil(expected)))

    def put(self, questions: Sequence[Question], images: Sequence[bytes]) -> list[Job]:
        """Queue the images of a request, all or none. Raises QueueFullError."""
        self.check(len(images))
        loop = asyncio.get_running_loop()
        jobs = [Job(one, data, loop.create_future()) for one, data in zip(questions, images, strict=True)]
        self._jobs.extend(jobs)
        self._arrived.set()
        return jobs

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Jobs of a worker that died, before all others."""
        self._jobs.extendleft(reversed([job for job in jobs if not job.answer.done()]))
        self._arrived.set()

    async def take(self) -> list[Job]:
        """The next batch: what waits, up to the largest, after a moment for those that are just arriving.

        A job whose worker died comes alone: it may be what killed it.
        """
        while not (batch := self._pop([])):
            self._arrived.clear()
            await self._arrived.wait()
        most = self._most()
        if self.arriving and self._options.batch_wait and not batch[0].attempts:
            until = time.monotonic() + self._options.batch_wait / 1000
            while len(batch) < most and self.arriving and (rest := until - time.monotonic()) > 0:
                self._arrived.clear()
                try:
                    await asyncio.wait_for(self._arrived.wait(), rest)
                except TimeoutError:
                    break
                finally:
                    self._pop(batch)
        return batch

    def _most(self) -> int:
        """Images of a batch that may run without taking too much of the longest wait."""
        if not self._seconds:
            return self._options.batch
        return max(1, min(self._options.batch, int(self._options.max_wait / _BATCHES / self._seconds)))

    def _pop(self, batch: list[Job]) -> list[Job]:
        most = self._most()
        while self._jobs and len(batch) < most:
            if self._jobs[0].attempts and batch and not self._jobs[0].answer.done():
                break
            job = self._jobs.popleft()
            if job.answer.done():  # whoever asked has gone
                continue
            batch.append(job)
            if job.attempts:
                break
        return batch

    def note_done(self, images: int, seconds: float) -> None:
        """A batch took that long, which is what the next ones are expected to take."""
        each = seconds / images
        self._seconds = each if self._seconds is None else self._seconds + _SMOOTHING * (each - self._seconds)
