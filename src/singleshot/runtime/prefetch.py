"""Frames made ready ahead of the engine, by several threads, in order and in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from singleshot.devices import cores
from singleshot.runtime.decoding import Reserve
from singleshot.runtime.preparing import Prepared
from singleshot.runtime.sources import LIVE_KINDS, Frame

# Pixels that may be held at once, over all threads; one image alone may be larger.
HELD_BYTES = 256 * 2**20
_MOST_THREADS = 8
_LEAVE_SECONDS = 2.0  # a camera that hangs must not hang us: its thread is a daemon and ends with the process


class Prefetcher:
    """Asks `frames` one by one, makes each ready in one of several threads, and gives them out in order.

    make: what is done with each, given how to reserve bytes; ahead: how many frames may be asked for before they are
    taken. What `make` or `frames` raises comes as a Prepared with `failure` after all that came before it. However
    frames end, they are closed, by the thread that asked last.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        make: Callable[[Frame, Reserve], Prepared],
        ahead: int,
        threads: int | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._make, self._ahead, self._most = make, max(ahead, 1), held_bytes
        self._frames, self._source = frames, iter(frames)
        self._asking = threading.Lock()  # held by the thread that asks for the next frame
        self._state = threading.Condition()  # for all that follows
        self._done: dict[int, Prepared] = {}
        self._asked = self._given = self._held = 0
        self._ended = self._stopped = self._closed = self._live = False
        count = threads or min(max(cores(), 2), _MOST_THREADS)
        self._threads = [
            threading.Thread(target=self._run, name="singleshot-read", daemon=True) for _ in range(min(count, ahead))
        ]
        for thread in self._threads:
            thread.start()

    def get(self) -> Prepared:
        """The next frame, waiting for it; a Prepared without a frame at the end."""
        with self._state:
            while self._given not in self._done:
                if self._ended and self._given == self._asked:
                    return Prepared(None)
                self._state.wait()
            item = self._done.pop(self._given)
            self._given += 1
            self._state.notify_all()
            return item

    @property
    def has_next(self) -> bool:
        """Whether `get` would not wait."""
        with self._state:
            return self._given in self._done or (self._ended and self._given == self._asked)

    def release(self, count: int) -> None:
        """Bytes that were reserved and are needed no longer."""
        with self._state:
            self._held -= count
            self._state.notify_all()

    def close(self) -> None:
        """Ask for no more; waits for the threads, but not for one that hangs."""
        with self._state:
            self._stopped = True
            self._done.clear()
            self._state.notify_all()
        for thread in self._threads:
            thread.join(timeout=_LEAVE_SECONDS)
            if thread.is_alive():
                break  # it hangs in the source, and so the others wait to ask

    def _run(self) -> None:
        while True:
            with self._asking:
                frame = self._next()
                if frame is None:
                    return
                number = self._asked - 1
            self._deliver(number, frame)
            del frame

    def _next(self) -> Frame | None:
        """Ask for the next frame when there is room for it; None at the end, however that comes."""
        with self._state:
            while not self._stopped and not self._ended and self._is_full:
                self._state.wait()
            if self._ended:
                return None
            stopped = self._stopped
        failure: BaseException | None = None
        frame = None
        if not stopped:
            try:
                frame = next(self._source, None)
            except BaseException as error:
                failure = error
        if frame is None:
            failure = self._close_source(failure)
        with self._state:
            if frame is not None or failure is not None:
                self._asked += 1
            if failure is not None and not self._stopped:
                self._done[self._asked - 1] = Prepared(None, failure=failure)
            self._ended = frame is None
            self._live = frame is not None and frame.kind in LIVE_KINDS
            self._state.notify_all()
        return frame

    @property
    def _is_full(self) -> bool:
        """A live source is asked for no more than one frame ahead: it would be an old one when it is taken."""
        return self._asked - self._given >= (1 if self._live else self._ahead)

    def _close_source(self, failure: BaseException | None) -> BaseException | None:
        """A generator: release its video or camera here, now. Returns what went wrong first."""
        close = getattr(self._frames, "close", None)
        if close is not None and not self._closed:
            self._closed = True
            try:
                close()
            except Exception as error:
                return failure or error
        return failure

    def _deliver(self, number: int, frame: Frame) -> None:
        reserved = 0

        def reserve(count: int) -> None:
            """The frame that is next to be taken never waits: nothing would be released without it."""
            nonlocal reserved
            with self._state:
                while self._held > 0 and self._held + count > self._most and number != self._given:
                    if self._stopped:
                        break
                    self._state.wait()
                self._held += count
                reserved += count

        try:
            item = self._make(frame, reserve)
        except BaseException as error:
            item = Prepared(None, failure=error)
        with self._state:
            self._held += item.held - reserved
            if not self._stopped:
                self._done[number] = item
            self._state.notify_all()
