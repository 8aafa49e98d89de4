"""Work spread over processes that may die: a decoder can be killed for memory, or crash on a hostile file.

concurrent.futures gives up everything when one process dies and does not say on what. Here each process notes which
item it has in hand, so that the item is tried once more alone, then named, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

import cv2

from singleshot.devices import cores
from singleshot.errors import DataError, printable

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 64
# More deaths than this are no longer the fault of single files.
MAX_DEATHS = 40
_AHEAD = 2  # chunks that a worker has at hand, so that it never waits for the next


class Died(NamedTuple):
    """What stands for the result of an item on which two processes in a row died."""

    exitcode: int | None

    def __str__(self) -> str:
        if self.exitcode is not None and self.exitcode < 0:
            name = next((s.name for s in signal.Signals if s == -self.exitcode), f"signal {-self.exitcode}")
            return f"ended by {name}" + (", as the system does when memory is full" if name == "SIGKILL" else "")
        return f"exit code {self.exitcode}"


def pick_processes(workers: int | None = None) -> int:
    """Processes to use: as many as asked for, or as there are cores."""
    if workers is not None:
        return max(1, min(workers, MAX_WORKERS))
    return max(1, min(MAX_WORKERS, cores()))


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, chunk: int = 32
) -> Generator[tuple[int, Result | Died]]:
    """(position, result) of every item, in no order. `work` is a function of a module; it must not raise.

    A process that dies takes its item with it (`Died`); DataError when processes die again and again. Closing the
    iterator, or an exception such as Ctrl-C, ends the processes at once.
    """
    pool = ProcessPool(work, items, workers, chunk)
    try:
        pool.start()
        yield from pool.run()
    finally:
        pool.close()


class _Worker(NamedTuple):
    process: Any
    pipe: Connection
    slot: int
    jobs: deque[range]


class ProcessPool(Generic[Item, Result]):
    """What `spread` uses; by itself where the start, the end and the results are in different hands."""

    def __init__(
        self, work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, chunk: int = 32
    ) -> None:
        count = min(pick_processes(workers), max(1, len(items)))
        size = max(1, min(chunk, len(items) // (count * 4)))
        self._work, self._items = work, items
        self._todo = deque(range(i, min(i + size, len(items))) for i in range(0, len(items), size))
        # Elsewhere than on Linux fork is absent or unsafe.
        self._context: Any = mp.get_context("fork" if sys.platform == "linux" else "spawn")
        self._at = self._context.RawArray("q", [-1] * count)
        self._workers: dict[Connection, _Worker] = {}
        self._suspects: set[int] = set()
        self._deaths = 0
        self._count = count

    def start(self) -> None:
        """Start the processes; they begin to work."""
        for slot in range(min(self._count, len(self._todo))):
            self._start(slot)

    def stop(self) -> None:
        """Let the processes end what they have in hand, and nothing more; from any thread."""
        self._todo.clear()

    def kill(self) -> None:
        """Let the processes end at once; from any thread."""
        self.stop()
        for worker in list(self._workers.values()):
            worker.process.kill()

    def run(self, replace: bool = True) -> Iterator[tuple[int, Result | Died]]:
        """The results, until all are there; without `replace` until the first process dies."""
        while any(worker.jobs for worker in self._workers.values()):
            for pipe in wait(list(self._workers)):
                assert isinstance(pipe, Connection)
                worker = self._workers[pipe]
                try:
                    results = pipe.recv()
                except (EOFError, OSError):
                    if not replace:
                        return
                    yield from self._bury(worker)
                    continue
                if isinstance(results, str):  # our own mistake, with its traceback
                    raise RuntimeError(results)
                positions = worker.jobs.popleft()
                self._feed(worker)
                yield from zip(positions, results, strict=True)

    def close(self) -> None:
        """End the processes; they hold nothing that a kill could harm."""
        self.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        # A forked process has our ends of all pipes; with them open it would not notice our death.
        inherited = (*self._workers, ours) if self._context.get_start_method() == "fork" else ()
        self._at[slot] = -1
        arguments = (self._work, theirs, self._at, slot, inherited)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        threads = cv2.getNumThreads()
        try:
            # A forked child cannot use or end the parent's threads, so there should be none when it is made.
            cv2.setNumThreads(0)
            # Ctrl-C waits until the child ignores it, else the child would print a traceback.
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            process.start()
            worker = self._workers[ours] = _Worker(process, ours, slot, deque())
        finally:
            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            cv2.setNumThreads(threads)
        theirs.close()
        for _ in range(_AHEAD):
            self._feed(worker)

    def _feed(self, worker: _Worker) -> None:
        try:
            positions = self._todo.popleft()
        except IndexError:  # asked for rather than looked at: `stop` may empty it in between
            return
        worker.jobs.append(positions)
        # A process that has died is found when its results are read.
        with contextlib.suppress(OSError):
            worker.pipe.send((positions.start, self._items[positions.start : positions.stop]))

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, Died]]:
        """Put back what a dead process had, and start another in its place."""
        del self._workers[worker.pipe]
        worker.pipe.close()
        worker.process.join()
        self._deaths += 1
        at = self._at[worker.slot]
        if self._deaths > MAX_DEATHS:
            name = f" (the last one on {printable(self._items[at])})" if at >= 0 else ""
            raise DataError(
                f"{self._deaths} processes died while reading images{name}, {Died(worker.process.exitcode)}; "
                "free some memory, or try --workers 1"
            )
        for positions in worker.jobs:
            if at not in positions:
                self._todo.append(positions)
                continue
            self._todo += [part for part in (range(positions.start, at), range(at + 1, positions.stop)) if part]
            if at in self._suspects:
                yield at, Died(worker.process.exitcode)
            else:
                self._suspects.add(at)
                self._todo.append(range(at, at + 1))
        if self._todo:
            self._start(worker.slot)


def _serve(work: Callable[[Any], Any], pipe: Connection, at: Any, slot: int, inherited: tuple[Connection, ...]) -> None:
    """A worker's life: chunks come, lists of results go, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    with tempfile.TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        with contextlib.suppress(EOFError, OSError):
            while True:
                start, items = pipe.recv()
                try:
                    results = []
                    for position, item in enumerate(items, start):
                        at[slot] = position
                        results.append(work(item))
                except Exception:
                    pipe.send(traceback.format_exc())
                    return
                pipe.send(results)
                at[slot] = -1


def said() -> str:
    """What was written to the process's standard error since the last call; for `work` running in a worker."""
    # The C libraries write there without a buffer, at the offset that this process shares with nobody.
    length = os.lseek(2, 0, os.SEEK_CUR)
    if not length:
        return ""
    text = os.pread(2, min(length, 4000), 0)
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    return text.decode("utf-8", "replace")
