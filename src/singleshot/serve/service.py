"""A service's parts, and the one way from a request to its answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.requests import Request

from singleshot.errors import did_you_mean, printable
from singleshot.serve.batching import Answer, Job, JobQueue, Question, QueueFullError
from singleshot.serve.bodies import HELD_BYTES, HeldBytes, RequestError, read_body, uploads_of
from singleshot.serve.metrics import Metrics
from singleshot.serve.options import MB, ServeOptions
from singleshot.serve.pool import Pool
from singleshot.serve.worker_process import ModelFiles

_DRAINED = MB  # of a body that is not wanted: so much is read all the same, which keeps the connection


class Service:
    """What the routes work on.

    Args:
        options: How it is run.
        files: The model files, by name; the first is the default one.
    """

    def __init__(self, options: ServeOptions, files: ModelFiles) -> None:
        self.options = options
        self.metrics = Metrics()
        self.queue = JobQueue(options)
        self.pool = Pool(options, self.queue, self.metrics, files)
        self.held = HeldBytes(max(HELD_BYTES, 2 * options.max_mb * MB))
        self.default = next(iter(files))

    def models(self) -> list[dict[str, Any]]:
        """What `GET /v1/models` shows."""
        return [{"name": name, **what, "default": name == self.default} for name, what in self.pool.models.items()]

    async def answer(self, request: Request, question: Question) -> bytes:
        """The answer's JSON, of detection or explanation. Raises RequestError, QueueFullError, ImageRefusedError."""
        started = time.perf_counter()
        self._check(question)
        try:
            self.queue.check()
        except QueueFullError as error:
            error.close = not 0 <= _length_of(request) <= _DRAINED
            raise
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            self.held.add(count)
            held += count

        try:
            self.queue.arriving += 1
            try:
                body = await read_body(request, self.options, hold)
                kind = request.headers.get("content-type", "")
                uploads = await uploads_of(kind, body, self.options.max_images)
            finally:
                self.queue.arriving -= 1
            questions = [question._replace(name=one.name, base64=one.base64) for one in uploads]
            jobs = self.queue.put(questions, [one.data for one in uploads])
            del body, uploads
            answers = await self._answers(jobs)
        finally:
            self.held.release(held)
        self.metrics.images.labels(question.model).inc(len(answers))
        request.state.images = len(answers)
        return _composed(question, answers, 1000 * (time.perf_counter() - started))

    def _check(self, question: Question) -> None:
        """Raise RequestError for a model that is not there, or an option that it cannot honour."""
        models = self.pool.models
        if not models:
            raise RequestError(503, "starting", "the models are being loaded", headers={"Retry-After": "1"})
        if question.model not in models:
            hint = did_you_mean(question.model, models) or f"; there are {printable(', '.join(models), 200)}"
            raise RequestError(
                404, "no_such_model", f"model {printable(question.model, 60)!r} is not served here{hint}"
            )
        reason = models[question.model]["explain"]["reason"]
        if question.explain and reason is not None:
            raise RequestError(422, "not_explained", f"model {printable(question.model, 60)!r}: {reason}")
        own = models[question.model]["thresholds"]["nms_iou"]
        if question.nms_iou is not None and question.nms_iou > own:
            raise RequestError(
                422, "bad_option", f"nms_iou {question.nms_iou:g}: the model itself drops what overlaps more than"
                f" {own:g}; give that or less",
            )  # fmt: skip

    async def _answers(self, jobs: list[Job]) -> list[Answer]:
        try:
            async with asyncio.timeout(self.options.request_seconds):
                return await asyncio.gather(*(job.answer for job in jobs))
        except TimeoutError as error:
            message = f"not done within {self.options.request_seconds:g} s"
            raise RequestError(503, "timeout", message, headers={"Retry-After": "1"}) from error
        finally:
            for job in jobs:  # what nobody waits for is not worked on
                job.answer.cancel()


def _length_of(request: Request) -> int:
    """Bytes of the body that the request announces, -1 where it does not say."""
    given = request.headers.get("content-length", "")
    return int(given) if given.isdigit() else -1


def _composed(question: Question, answers: list[Answer], total: float) -> bytes:
    times = {
        "queue": round(max(one.queue_ms for one in answers), 2),
        "explain" if question.explain else "detect": round(max(one.work_ms for one in answers), 2),
        "total": round(total, 2),
    }
    images = b", ".join(one.json for one in answers)
    return b'{"model": %b, "images": [%b], "orientations": %b, "times_ms": %b}' % (
        json.dumps(question.model).encode(),
        images,
        json.dumps([one.orientation for one in answers]).encode(),
        json.dumps(times).encode(),
    )
