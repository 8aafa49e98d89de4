"""Worker processes that prepare batches: one pool for every loader."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import cv2
import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from singleshot.devices import cores
from singleshot.errors import ConfigError, SingleshotError, printable
from singleshot.inputs import Size, sides_of
from singleshot.memory import keep_freed_memory

PREFETCH = 2  # batches in the making per worker, torch's default
MAX_AUTO_WORKERS = 8
MAX_WORKERS = 256
HANG_SECONDS = 600.0  # without a result, after which a worker hangs; twice as long each time that it does so again
_LOOK_SECONDS = 5.0
_MOST_REPLACED = 3  # in a row, without a result in between
_SHARED_MEMORY = Path("/dev/shm")

log = logging.getLogger(__name__)

Job = TypeVar("Job")
T = TypeVar("T")


def pick_workers(workers: int | None, batch_size: int, size: Size) -> int:
    """How many worker processes for inputs of `size` pixels; None asks for what suits this machine.

    That is one where there are two cores or fewer (the model computes on them too), else the cores less one, at
    most 8, and no more than shared memory has room for: containers often give 64 MB, and a worker that finds it
    full dies of a bus error.
    """
    if workers is not None:
        if not 0 <= workers <= MAX_WORKERS:
            raise ConfigError(f"workers {workers}: want 0 to {MAX_WORKERS}")
        return workers
    wanted = 1 if cores() <= 2 else min(MAX_AUTO_WORKERS, cores() - 1)
    if _SHARED_MEMORY.is_dir():
        room = shutil.disk_usage(_SHARED_MEMORY).free // (batch_size * math.prod(sides_of(size)) * 3)
        # Besides those in the making, the batch in use and the next one are held.
        wanted = min(wanted, max(0, (room - 2) // PREFETCH))
    return wanted


class WorkerPool(Generic[Job, T]):
    """Runs jobs in order, in worker processes that stay from one run to the next.

    On torch's DataLoader, for its workers: results cross in shared memory, a dead worker is noticed, and jobs are
    dealt to the workers in turn, on which streams rely. Its data set is the jobs themselves, and what it would
    collate a batch with makes the result of one.
    """

    def __init__(self, prepare: Callable[[Job], T], workers: int, pin_memory: bool, result_bytes: int = 0) -> None:
        """Start no process yet.

        Args:
            prepare: Makes the result of a job, in a worker or here.
            workers: Processes; 0 for none.
            pin_memory: Whether results are put where an accelerator can fetch them without waiting.
            result_bytes: About how many a result takes, to know when shared memory is full.
        """
        self._prepare, self._result_bytes = prepare, result_bytes
        self._jobs = _Jobs()
        several = workers > 0
        self._loader: DataLoader[Any] = DataLoader(
            cast("Any", _Itself()),
            sampler=cast("Any", self._jobs),
            batch_size=None,
            num_workers=workers,
            collate_fn=functools.partial(_result_or_error, prepare),
            worker_init_fn=_start_worker,
            persistent_workers=several,
            prefetch_factor=PREFETCH if several else None,
            pin_memory=pin_memory,
            # Forked workers share the annotations; elsewhere than on Linux fork is absent or unsafe.
            multiprocessing_context="fork" if several and sys.platform == "linux" else None,
            # How often a wait looks at the workers; without it a worker that hangs is waited for without end.
            timeout=_LOOK_SECONDS if several else 0,
            # torch draws a seed per run, by default from the generator that initialises models.
            generator=torch.Generator(),
        )

    def run(self, jobs: Sequence[Job | None]) -> Iterator[T]:
        """Results in order, made ahead by the workers in turn; a SingleshotError of one is raised here.

        A job of None has no result: it lets a worker's turn pass. Workers that die or hang are replaced, and what they
        had in the making is made again; where shared memory is full, it is made here.
        Raises RuntimeError where that does not help either.
        """
        taken = failures = 0
        while taken < len(jobs):
            results = self._start(jobs[taken:])  # dealt in turn, so what one worker had stays with one
            try:
                with self._watched(results, HANG_SECONDS * 2**failures) as watched:
                    for result in watched:
                        taken, failures = taken + 1, 0
                        if result is not None:
                            yield _raised(result)
            except _WorkerLostError as error:
                self._kill()
                failures += 1
                if error.full:
                    log.warning("shared memory (/dev/shm) is full: images are loaded in this process, slower")
                    break
                if failures > _MOST_REPLACED:
                    raise RuntimeError(str(error)) from error
                log.warning("%s; it is replaced, and nothing is lost", printable(error, 120))
        for job in jobs[taken:]:
            result = _result_or_error(self._prepare, job)
            if result is not None:
                yield _raised(result)

    def _start(self, jobs: Sequence[Job | None]) -> Iterator[Any]:
        self._jobs.jobs = jobs
        threads = cv2.getNumThreads()
        if self._loader.num_workers:
            # A forked child cannot use or end the parent's threads, so there should be none when it is made.
            cv2.setNumThreads(0)
        try:
            return iter(self._loader)
        finally:
            cv2.setNumThreads(threads)

    def _is_full(self) -> bool:
        """Whether shared memory has no room for one more result."""
        return _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < self._result_bytes

    def close(self) -> None:
        """End the worker processes; a later run starts new ones."""
        pool, self._loader._iterator = self._loader._iterator, None
        if isinstance(pool, _MultiProcessingDataLoaderIter):
            # By itself it goes when nothing refers to it any more; after an error a traceback may, for long.
            pool._shutdown_workers()

    @contextlib.contextmanager
    def _watched(self, results: Iterator[Any], patience: float) -> Iterator[Iterator[Any]]:
        """The results, which raise _WorkerLostError where a worker died, or gave none for `patience` seconds.

        A thread kills workers that hang: whoever waits for one may do so in the middle of its result.
        """
        wait, ended, pool = _Wait(), threading.Event(), self._loader._iterator

        def watch() -> None:
            while not ended.wait(_LOOK_SECONDS):
                since = wait.since
                if since is not None and time.monotonic() - since > patience:
                    wait.hung = f"DataLoader worker gave nothing for {patience:.0f} s"
                    for worker in getattr(pool, "_workers", ()):
                        worker.kill()
                    return

        if isinstance(pool, _MultiProcessingDataLoaderIter):
            threading.Thread(target=watch, name="singleshot-workers", daemon=True).start()
        try:
            yield _results(results, wait, self._is_full)
        finally:
            ended.set()

    def _kill(self) -> None:
        """As `close`, where a worker may not listen."""
        pool = self._loader._iterator
        if isinstance(pool, _MultiProcessingDataLoaderIter):
            if pool._worker_pids_set:  # or torch takes the end of these workers for a fault
                _remove_worker_pids(id(pool))
                pool._worker_pids_set = False
            for worker in pool._workers:
                worker.kill()
        self.close()


class _WorkerLostError(Exception):
    """A worker died or hangs; full: because shared memory is."""

    def __init__(self, message: str, full: bool) -> None:
        super().__init__(message)
        self.full = full


@dataclass
class _Wait:
    """since: when the present wait for a result began, None between two; hung: what to say of workers that did."""

    since: float | None = None
    hung: str = ""


def _results(results: Iterator[Any], wait: _Wait, is_full: Callable[[], bool]) -> Iterator[Any]:
    while True:
        wait.since = wait.since or time.monotonic()
        try:
            result = next(results)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            text = str(error).partition("\n")[0]
            if text.startswith("Caught "):  # raised by a job: its worker is well
                raise
            if "DataLoader timed out" in text:
                if is_full():  # a worker that finds no room there loses its result and goes on
                    raise _WorkerLostError("DataLoader worker lost its result", True) from error
                continue
            if "DataLoader worker" in text or not isinstance(error, RuntimeError):
                raise _WorkerLostError(wait.hung or text, "Bus error" in str(error) or is_full()) from error
            raise
        wait.since = None
        yield result


def _raised(result: Any) -> Any:
    if isinstance(result, SingleshotError):
        raise result
    return result


class _Jobs:
    """The jobs of the pool's present run: torch keeps one sampler for the loader's life."""

    def __init__(self) -> None:
        self.jobs: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


class _Itself:
    """A data set whose item at a job is that job."""

    def __getitem__(self, job: Job) -> Job:
        return job


def _result_or_error(prepare: Callable[[Job], T], job: Job | None) -> T | SingleshotError | None:
    """A job's result, or the user's mistake as a value: raised in a worker, torch would bury it in a traceback."""
    try:
        return None if job is None else prepare(job)
    except SingleshotError as error:
        # Without its cause and frames, which do not travel between processes.
        return type(error)(str(error))


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a training's own handler would keep a worker alive
    Queue._on_queue_feeder_error = staticmethod(_end_without_room)  # type: ignore[attr-defined]
    cv2.setNumThreads(0)
    keep_freed_memory()  # images come and go all the time, each a mapping of its own otherwise


def _end_without_room(error: Exception, result: object) -> None:
    """End a worker whose result cannot be sent, as where shared memory is full: it would be missed without end."""
    if "No space left" not in str(error):
        traceback.print_exception(error)
    os._exit(1)
