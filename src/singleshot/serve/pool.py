"""Worker processes: batches go to them, one that dies is replaced, and new ones take over when a model file changes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Any

from singleshot.errors import CheckpointError
from singleshot.serve.batching import Answer, Job, JobQueue
from singleshot.serve.metrics import Metrics
from singleshot.serve.options import MB, ServeOptions
from singleshot.serve.wire import ImageRefusedError, packed, receive_message

log = logging.getLogger(__name__)

PIPELINED = 2  # batches that a worker has at once: one is decoded while the network runs the other
MOST_ATTEMPTS = 3
_STOP_SECONDS = 5.0
_LONGEST_PAUSE = 5.0  # between two starts of a worker that dies at its start
_PIPE_BYTES = 1 << 20

ModelFiles = dict[str, str]  # name -> path


class WorkerDiedError(Exception):
    """The process ended, or did not answer, while it had a batch."""


def config_of(options: ServeOptions, files: ModelFiles) -> dict[str, Any]:
    """A worker's first message."""
    return {
        "models": files,
        "engine": options.engine,
        "options": {
            "device": options.device,
            "threads": options.threads,
            "precision": options.precision,
            "cache": options.cache,
        },
        "limits": {"pixels": options.max_pixels, "bytes": options.max_mb * MB, "tiles": options.max_tiles},
        "score_min": options.score_min,
        "batch": options.batch,
    }


class Worker:
    """A process and the batches that it has."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[tuple[list[Any], list[bytes]]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.models: dict[str, Any] = {}

    @classmethod
    async def start(cls, options: ServeOptions, files: ModelFiles) -> Worker:
        """A process that has its models ready. Raises CheckpointError, WorkerDiedError."""
        command = (sys.executable, "-P", "-m", "singleshot.serve.worker")
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_PIPE_BYTES)
        worker = cls(process)
        try:
            await worker._send(config_of(options, files), ())
            assert process.stdout is not None
            header = (await receive_message(process.stdout)).header
        except (asyncio.IncompleteReadError, ValueError, OSError) as error:
            await worker.stop()
            raise WorkerDiedError(f"a worker ended at its start (exit code {process.returncode})") from error
        except asyncio.CancelledError:
            process.kill()
            raise
        if "failed" in header:
            await worker.stop()
            raise CheckpointError(header["failed"])
        worker.models = header["ready"]
        worker._reader = asyncio.create_task(worker._read())
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self, jobs: Sequence[Job], seconds: float) -> tuple[list[Any], list[bytes]]:
        """Heads and JSON for a batch. Raises WorkerDiedError."""
        number = next(self._numbers)
        future: asyncio.Future[tuple[list[Any], list[bytes]]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self.idle.clear()
        try:
            if self.ended.is_set():
                raise WorkerDiedError("it has ended")
            await self._send({"id": number, "jobs": [job.header() for job in jobs]}, [job.data for job in jobs])
            return await asyncio.wait_for(future, seconds)
        except OSError as error:
            raise WorkerDiedError(str(error)) from error
        except TimeoutError as error:
            self._process.kill()
            raise WorkerDiedError(f"no answer within {seconds:g} s") from error
        finally:
            del self._answers[number]
            if not self._answers:
                self.idle.set()

    async def _send(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.writelines(packed(header, blobs))
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                header, blobs = await receive_message(self._process.stdout)
                future = self._answers.get(header["id"])
                if future is not None and not future.done():
                    future.set_result((header["heads"], blobs))
        except (asyncio.IncompleteReadError, ValueError, KeyError, OSError):
            self.ended.set()
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(WorkerDiedError("it ended with a batch"))

    async def stop(self) -> None:
        """End the process: when it has answered what it has, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), _STOP_SECONDS)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader


class Slot:
    """The place of one worker, whoever is in it."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.filled = asyncio.Event()
        self.gate = asyncio.Lock()  # held by who takes the next batch for it

    def put(self, worker: Worker | None) -> None:
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
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> int:
        """Workers that are there."""
        return sum(slot.filled.is_set() for slot in self._slots)

    @property
    def models(self) -> dict[str, Any]:
        """What the workers know of the models, by name; nothing before the first is ready."""
        return next((slot.worker.models for slot in self._slots if slot.worker is not None), {})

    @property
    def pids(self) -> list[int]:
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    async def start(self) -> None:
        """All workers. Raises CheckpointError, WorkerDiedError."""
        started = await asyncio.gather(
            *(Worker.start(self._options, self.files) for _ in self._slots), return_exceptions=True
        )
        for slot, worker in zip(self._slots, started, strict=True):
            if isinstance(worker, Worker):
                slot.put(worker)
        for worker in started:
            if isinstance(worker, BaseException):
                await self.stop()
                raise worker
        for slot in self._slots:
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
            self.files = files
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
        started = time.monotonic()
        try:
            heads, blobs = await worker.run(jobs, 2 * self._options.request_seconds)
        except WorkerDiedError:
            self._give_back(jobs)
            return
        now = time.monotonic()
        self._queue.note_done(len(jobs) * len(self._slots) * PIPELINED, now - started)
        self._metrics.batch_size.observe(len(jobs))
        for job, head, blob in zip(jobs, heads, blobs, strict=True):
            if job.answer.done():
                continue
            if "error" in head:
                job.answer.set_exception(ImageRefusedError(**head["error"]))
            else:
                job.answer.set_result(Answer(blob, 1000 * (started - job.since), head["ms"]))

    def _give_back(self, jobs: list[Job]) -> None:
        """After the death of a worker: each is tried again by itself, but not for ever."""
        for job in jobs:
            if job.attempts >= MOST_ATTEMPTS and not job.answer.done():
                message = f"{job.question.name}: ended {job.attempts} workers; it is not tried again"
                job.answer.set_exception(ImageRefusedError(422, "ends_workers", message))
        self._queue.put_back(jobs)
        self._metrics.retries.inc(len(jobs))
