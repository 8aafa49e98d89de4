"""Work that a thread of its own does meanwhile, item by item and in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundWorker(Generic[T]):
    """Calls `work` with every item put, in a thread.

    What `work` raises is raised by the next `put` or by `finish`, once, and no item is worked on after it. End with
    `stop`, whatever happened.

    Args:
        work: What is done with each item.
        most: How many items may wait; `put` then waits.
        most_bytes: How large those may be in total by `weigh`; one alone may be larger.
        weigh: Bytes of an item.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        most: int = 64,
        most_bytes: int = 64 * 2**20,
        weigh: Callable[[T], int] = lambda _: 0,
    ) -> None:
        self._work, self._weigh = work, weigh
        self._most, self._most_bytes = most, most_bytes
        self._state = threading.Condition()
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._busy = self._failed = self._stopped = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="singleshot-write", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand an item over. Raises what the work on an earlier one raised."""
        weight = self._weigh(item)
        with self._state:
            while self._is_full(weight) and not self._failed:
                self._state.wait()
            self._raise()
            if not self._failed and not self._stopped:
                self._waiting.append((item, weight))
                self._bytes += weight
                self._state.notify_all()

    def finish(self) -> None:
        """Wait until all that was put is done. Raises what the work raised."""
        with self._state:
            while (self._waiting or self._busy) and not self._failed:
                self._state.wait()
            self._raise()

    def stop(self) -> None:
        """Drop what waits and end the thread, after the item that it is at. Raises nothing."""
        with self._state:
            self._stopped = True
            self._waiting.clear()
            self._state.notify_all()
        self._thread.join()

    def _is_full(self, weight: int) -> bool:
        too_large = self._bytes > 0 and self._bytes + weight > self._most_bytes
        return len(self._waiting) >= self._most or too_large

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        while True:
            with self._state:
                while not self._waiting and not self._stopped:
                    self._state.wait()
                if self._stopped:
                    return
                item, weight = self._waiting.popleft()
                self._busy = True
                self._state.notify_all()
            failure = None
            try:
                self._work(item)
            except BaseException as error:
                failure = error
            del item
            with self._state:
                self._busy = False
                self._bytes -= weight
                if failure is not None:
                    self._failed, self._failure = True, failure
                    self._waiting.clear()
                self._state.notify_all()
                if failure is not None:
                    return
