"""Worker processes that prepare batches: one pool for every loader."""

from __future__ import annotations

import functools
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from singleshot.devices import cores
from singleshot.errors import ConfigError, SingleshotError
from singleshot.inputs import Size, sides_of
from singleshot.memory import keep_freed_memory

PREFETCH = 2  # batches in the making per worker, torch's default
MAX_AUTO_WORKERS = 8
MAX_WORKERS = 256

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
    shared_memory = Path("/dev/shm")
    if shared_memory.is_dir():
        room = shutil.disk_usage(shared_memory).free // (batch_size * math.prod(sides_of(size)) * 3)
        # Besides those in the making, the batch in use and the next one are held.
        wanted = min(wanted, max(0, (room - 2) // PREFETCH))
    return wanted


class WorkerPool(Generic[Job, T]):
    """Runs jobs in order, in worker processes that stay from one run to the next.

    On torch's DataLoader, for its workers: results cross in shared memory, a dead worker is noticed, and jobs are
    dealt to the workers in turn, on which streams rely. Its data set is the jobs themselves, and what it would
    collate a batch with makes the result of one.
    """

    def __init__(self, prepare: Callable[[Job], T], workers: int, pin_memory: bool) -> None:
        """Start no process yet.

        Args:
            prepare: Makes the result of a job, in a worker or here.
            workers: Processes; 0 for none.
            pin_memory: Whether results are put where an accelerator can fetch them without waiting.
        """
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
            # torch draws a seed per run, by default from the generator that initialises models.
            generator=torch.Generator(),
        )

    def run(self, jobs: Sequence[Job | None]) -> Iterator[T]:
        """Results in order, made ahead by the workers in turn; a SingleshotError of one is raised here.

        A job of None has no result: it lets a worker's turn pass.
        """
        self._jobs.jobs = jobs
        threads = cv2.getNumThreads()
        if self._loader.num_workers:
            # A forked child cannot use or end the parent's threads, so there should be none when it is made.
            cv2.setNumThreads(0)
        try:
            results = iter(self._loader)
        finally:
            cv2.setNumThreads(threads)
        for result in results:
            if isinstance(result, SingleshotError):
                raise result
            if result is not None:
                yield result

    def close(self) -> None:
        """End the worker processes; a later run starts new ones."""
        pool, self._loader._iterator = self._loader._iterator, None
        if isinstance(pool, _MultiProcessingDataLoaderIter):
            # By itself it goes when nothing refers to it any more; after an error a traceback may, for long.
            pool._shutdown_workers()


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
    cv2.setNumThreads(0)
    keep_freed_memory()  # images come and go all the time, each a mapping of its own otherwise
