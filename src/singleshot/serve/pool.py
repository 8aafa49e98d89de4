"""Worker processes: batches go to them, one that dies is replaced, and new ones take over when a model file changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from singleshot.errors import CheckpointError
from singleshot.serve.batching import Answer, Job, JobQueue
from singleshot.serve.options import ServeOptions
from singleshot.serve.wire import PIPELINED, ImageRefusedError
from singleshot.serve.worker_process import ModelFiles, Worker, WorkerDiedError

if TYPE_CHECKING:
    from singleshot.serve.metrics import Metrics

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
_LONGEST_PAUSE = 5.0  # between two starts of a worker that dies at its start


class Slot:
    """The place of one worker, whoever is in it."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.filled = asyncio.Event()
        self.gate = asyncio.Lock()  # held by who takes the next batch for it

    def put(self, worker: Worker | None) -> None:
        """Fill the place, or empty it with None."""
        self.worker = worker
        if worker is None:
            self.filled.clear()
        else:
            self.filled.set()


class Pool:
    """The workers of a service, which take from its queue.

    Args:
        options: How many, and what each is started with.
        queue: Where they take from.
        files: The model files, by name, that a worker opens when it starts.
    """

    def __init__(self, options: ServeOptions, queue: JobQueue, metrics: Metrics, files: ModelFiles) -> None:
        self._options, self._queue, self._metrics, self.files = options, queue, metrics, files
        self._slots = [Slot() for _ in range(options.workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._running = 0  # batches
        self._ends: set[asyncio.Task[None]] = set()
        self.models: dict[str, Any] = {}  # what the workers know of them, by name; nothing before the first is ready

    @property
    def ready(self) -> int:
        """Workers that are there."""
        return sum(slot.filled.is_set() for slot in self._slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    def fill(self, workers: Sequence[Worker]) -> None:
        """Begin, with a worker for each place."""
        self.models = workers[0].models
        for slot, worker in zip(self._slots, workers, strict=True):
            slot.put(worker)
            self._tasks.append(asyncio.create_task(self._keep_filled(slot)))
            self._tasks += [asyncio.create_task(self._feed(slot)) for _ in range(PIPELINED)]

    async def stop(self) -> None:
        """End the workers; what they have is answered first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(slot.worker.stop() for slot in self._slots if slot.worker is not None), *self._ends)

    async def replace_all(self, files: ModelFiles) -> None:
        """New workers with other files, one after the other; each takes over once it is ready.

        Raises CheckpointError or WorkerDiedError where one cannot open them; the first that can makes them the files of
        all workers that start from then on.
        """
        for slot in self._slots:
            new = await Worker.start(self._options, files)
            self.files, self.models = files, new.models
            old = slot.worker
            slot.put(new)
            if old is not None:
                end = asyncio.create_task(old.stop())
                self._ends.add(end)
                end.add_done_callback(self._ends.discard)

    async def _keep_filled(self, slot: Slot) -> None:
        pause = 0.0
        while True:
            await slot.filled.wait()
            worker = slot.worker
            assert worker is not None
            await worker.ended.wait()
            if slot.worker is not worker:  # it was replaced
                continue
            slot.put(None)
            self._metrics.worker_deaths.inc()
            log.error("worker died", extra={"fields": {"pid": worker.pid}})
            while slot.worker is None:
                await asyncio.sleep(pause)
                try:
                    slot.put(await Worker.start(self._options, self.files))
                    pause = 0.0
                except (CheckpointError, WorkerDiedError) as error:
                    pause = min(max(0.1, 2 * pause), _LONGEST_PAUSE)
                    log.error("worker does not start", extra={"fields": {"reason": str(error)}})

    async def _feed(self, slot: Slot) -> None:
        """Batches from the queue to the slot's worker."""
        while True:
            async with slot.gate:
                await slot.filled.wait()
                worker = slot.worker
                jobs = await self._queue.take()
                if slot.worker is not worker or worker is None:  # it was replaced or died meanwhile
                    self._queue.put_back(jobs)
                    continue
                for job in jobs:
                    job.attempts += 1
                if jobs[0].attempts > 1:  # alone, so that no other dies with it
                    await worker.idle.wait()
                    await self._run(worker, jobs)
                    continue
                running = asyncio.ensure_future(self._run(worker, jobs))
                await asyncio.sleep(0)
            await running

    async def _run(self, worker: Worker, jobs: list[Job]) -> None:
        started, at_once = time.monotonic(), self._running + 1
        self._running += 1
        self._queue.running += len(jobs)
        try:
            heads, blobs = await worker.run(jobs, 2 * self._options.request_seconds)
        except WorkerDiedError:
            self._give_back(jobs)
            return
        except Exception:
            log.exception("a batch failed")
            heads = [{"error": {"status": 500, "code": "failed", "message": "our own mistake; the log has more"}}]
            heads, blobs = heads * len(jobs), [b""] * len(jobs)
        finally:
            at_once = max(at_once, self._running)
            self._running -= 1
            self._queue.running -= len(jobs)
        self._queue.note_done(len(jobs) * at_once, time.monotonic() - started)
        self._metrics.batch_size.observe(len(jobs))
        for job, head, blob in zip(jobs, heads, blobs, strict=True):
            if job.answer.done():
                continue
            if "error" in head:
                job.answer.set_exception(ImageRefusedError(**head["error"]))
            else:
                job.answer.set_result(Answer(blob, 1000 * (started - job.since), head["ms"], head["orientation"]))

    def _give_back(self, jobs: list[Job]) -> None:
        """After the death of a worker: each is tried again by itself, but not for ever."""
        for job in jobs:
            if job.attempts >= MOST_ATTEMPTS and not job.answer.done():
                message = f"{job.question.name}: ended {job.attempts} workers; it is not tried again"
                job.answer.set_exception(ImageRefusedError(422, "ends_workers", message))
        self._queue.put_back(jobs)
        self._metrics.retries.inc(len(jobs))
