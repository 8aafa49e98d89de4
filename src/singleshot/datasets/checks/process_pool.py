"""Work spread over processes that may die: a decoder can be killed for memory, or crash on a hostile file.

concurrent.futures spreads it, but gives up everything when one process dies and does not say on what. So every item
has a byte in shared memory that says how far it is: what was in hand when a pool broke is tried once more, each item
in a process of its own, and the rest goes on in a new pool.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import IO, Any, Generic, NamedTuple, TypeVar

import cv2

from singleshot.devices import cores
from singleshot.errors import DataError, printable

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 64
# More deaths than this are no longer the fault of single files.
MAX_DEATHS = 40
_IN_HAND, _DONE = 1, 2


class Died(NamedTuple):
    """What stands for the result of an item on which two processes in a row died."""

    exitcode: int | None

    def __str__(self) -> str:
        if self.exitcode is not None and self.exitcode < 0:
            name = next((s.name for s in signal.Signals if s == -self.exitcode), f"signal {-self.exitcode}")
            return f"ended by {name}" + (", as the system does when memory is full" if name == "SIGKILL" else "")
        return f"exit code {self.exitcode}"


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, chunk: int = 32
) -> Generator[tuple[int, Result | Died]]:
    """(position, result) of every item, in no order. `work` is a function of a module; it must not raise.

    A process that dies takes its item with it (`Died`); DataError when processes die again and again. Closing the
    iterator, or an exception such as Ctrl-C, ends the processes at once.
    """
    left, deaths = list(range(len(items))), 0
    while left:
        pool = ProcessPool(work, items, left, workers, chunk)
        answered = set()
        try:
            pool.start()
            for position, result in pool.results():
                answered.add(position)
                yield position, result
        finally:
            pool.close()
        left = [position for position in left if position not in answered]
        deaths += bool(left)
        for position in pool.in_hand(left):
            again = _try_alone(work, items[position])
            deaths += isinstance(again, Died)
            if deaths > MAX_DEATHS:
                raise DataError(
                    f"{deaths} processes died while reading images (the last one on {printable(items[position])}), "
                    f"{again}; free some memory, or try --workers 1"
                )
            left.remove(position)
            yield position, again


class ProcessPool(Generic[Item, Result]):
    """What `spread` uses until the first process dies; by itself where results are asked for later.

    positions: those of the items that are worked on.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        positions: Sequence[int],
        workers: int | None = None,
        chunk: int = 32,
    ) -> None:
        count = max(1, min(cores() if workers is None else workers, MAX_WORKERS, len(positions)))
        size = max(1, min(chunk, len(positions) // (count * 4)))
        self._chunks = [positions[i : i + size] for i in range(0, len(positions), size)]
        self._items = items
        self._state = _context().RawArray("b", len(items))
        self._executor = ProcessPoolExecutor(count, _context(), _begin, (work, self._state))
        self._futures: dict[Future[list[Result] | str], Sequence[int]] = {}
        self._children: list[Any] = []

    def start(self) -> None:
        """Start the processes; they begin to work."""
        others = mp.active_children()
        with _quiet_fork():
            for chunk in self._chunks:
                future = self._executor.submit(_work_on, chunk, [self._items[i] for i in chunk])
                self._futures[future] = chunk
            self._children = [child for child in mp.active_children() if child not in others]

    def results(self) -> Iterator[tuple[int, Result]]:
        """(position, result) as they come, until all are there or a process dies."""
        for future in as_completed(list(self._futures)):
            try:
                found = future.result()
            except BrokenProcessPool:
                continue  # those that were ready before are still to come
            if isinstance(found, str):  # our own mistake, with its traceback
                raise RuntimeError(found)
            yield from zip(self._futures[future], found, strict=True)

    def finished(self, wanted: Collection[int]) -> Iterator[tuple[int, Result]]:
        """The results of chunks that are done, in hand, or of wanted positions for the most part; no others begin."""
        for future, chunk in list(self._futures.items()):
            if 2 * sum(position in wanted for position in chunk) < len(chunk) and future.cancel():
                del self._futures[future]
        return self.results()

    def in_hand(self, positions: Sequence[int]) -> list[int]:
        """Those of the positions on which a process was at work when the pool broke."""
        return [position for position in positions if self._state[position] == _IN_HAND]

    def close(self) -> None:
        """End the processes; they hold nothing that a kill could harm."""
        for child in self._children:
            child.kill()
        self._executor.shutdown(cancel_futures=True)


def _context() -> Any:
    # Elsewhere than on Linux fork is absent or unsafe.
    return mp.get_context("fork" if sys.platform == "linux" else "spawn")


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    """A forked child cannot use or end the parent's threads, so OpenCV should have none when it is made; and Ctrl-C
    waits until the child ignores it, else the child would print a traceback."""
    threads, can_mask = cv2.getNumThreads(), hasattr(signal, "pthread_sigmask")
    try:
        cv2.setNumThreads(0)
        if can_mask:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        if can_mask:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        cv2.setNumThreads(threads)


def _try_alone(work: Callable[[Item], Result], item: Item) -> Result | Died:
    """The result of one item in a process of its own, or how that process died."""
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(target=_serve_one, args=(work, item, theirs), daemon=True)
    try:
        with _quiet_fork():
            process.start()
        theirs.close()
        result: Result = ours.recv()
    except (EOFError, OSError):
        process.join()
        return Died(process.exitcode)
    finally:
        process.kill()
        process.join()
        ours.close()
    return result


# ---------------------------------------------------------------------------------------------- in the processes

_job: tuple[Callable[[Any], Any], Any] | None = None
_words: IO[bytes] | None = None


def _begin(work: Callable[[Any], Any], state: Any) -> None:
    global _job, _words
    _job = work, state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    _words = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process lives)
    os.dup2(_words.fileno(), 2)


def _work_on(positions: Sequence[int], items: Sequence[Any]) -> list[Any] | str:
    """The results of a chunk, or the traceback of our own mistake."""
    assert _job is not None
    work, state = _job
    results = []
    try:
        for position, item in zip(positions, items, strict=True):
            state[position] = _IN_HAND
            results.append(work(item))
            state[position] = _DONE
    except Exception:
        return traceback.format_exc()
    return results


def _serve_one(work: Callable[[Any], Any], item: Any, pipe: Connection) -> None:
    _begin(work, None)
    pipe.send(work(item))


def take_stderr() -> str:
    """What was written to the process's standard error since the last call; for `work` running in a worker."""
    # The C libraries write there without a buffer, at the offset that this process shares with nobody.
    length = os.lseek(2, 0, os.SEEK_CUR)
    if not length:
        return ""
    text = os.pread(2, min(length, 4000), 0)
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    return text.decode("utf-8", "replace")
