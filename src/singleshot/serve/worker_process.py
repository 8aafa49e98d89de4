"""The service's end of a worker process: starting it, batches to it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Any

from singleshot.errors import CheckpointError
from singleshot.serve.batching import Job
from singleshot.serve.options import MB, ServeOptions
from singleshot.serve.wire import packed, receive_message

_START_SECONDS, _STOP_SECONDS = 300.0, 5.0
_PIPE_BYTES = 1 << 20

ModelFiles = dict[str, str]  # name -> path


class WorkerDiedError(Exception):
    """The process ended, or did not answer, while it had a batch."""


def config_of(options: ServeOptions, files: ModelFiles) -> dict[str, Any]:
    """What a worker is started with."""
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
        "tile": options.tile,
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
        config = json.dumps(config_of(options, files))
        command = (sys.executable, "-P", "-m", "singleshot.serve.worker", config)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_PIPE_BYTES)
        worker = cls(process)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(_START_SECONDS):
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
        """Its process id."""
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
            async with asyncio.timeout(seconds):
                await self._send({"id": number, "jobs": [job.header() for job in jobs]}, [job.data for job in jobs])
                return await future
        except TimeoutError as error:  # which is an OSError
            self._process.kill()
            raise WorkerDiedError(f"no answer within {seconds:g} s") from error
        except OSError as error:
            raise WorkerDiedError(str(error)) from error
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # seen, whoever raised first
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
