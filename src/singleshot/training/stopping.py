"""Ctrl-C, `kill` and a closed terminal between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, which a terminal sends that closes.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """While entered, the first Ctrl-C, SIGTERM or SIGHUP is noted, for `check` to raise; a second one raises at once.

    Weights that are half updated could not be gone on from exactly. twice: whether the second came. Outside the main
    thread, where Python allows no handlers, nothing is caught; nor is a signal that is ignored already, as by `nohup`.
    """

    def __init__(self, apart: float = 0.0, quiet: bool = False) -> None:
        """apart: seconds in which a second signal counts as the first: where one reaches a whole job, whoever started
        the processes passes it on to them once more. quiet: say nothing."""
        self.asked = self.twice = False
        self._apart, self._quiet, self._when = apart, quiet, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            wanted = [which for which in _SIGNALS if signal.getsignal(which) is not signal.SIG_IGN]
            self._before = {which: signal.signal(which, self._note) for which in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if time.monotonic() - self._when < self._apart:
                return
            self.twice = True
            raise KeyboardInterrupt
        self.asked, self._when = True, time.monotonic()
        if self._quiet:
            return
        with contextlib.suppress(OSError):  # not through a logger, which may be in use this very moment
            os.write(2, b"\nstopping after this step, and saving; once more stops at once, without saving\n")

    def ignore_children(self) -> None:
        """Put aside the present handler of a child's end, which torch sets with its first workers: it raises where one
        died, in the middle of a step. Whoever waits for a worker notices all the same (`loading.workers`)."""
        which = getattr(signal, "SIGCHLD", None)  # not on Windows
        if which is None or which in self._before or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(which)
        if callable(handler):
            self._before[which] = handler
            signal.signal(which, lambda number, frame: None)

    def check(self) -> None:
        """Raise KeyboardInterrupt if stopping was asked for."""
        if self.asked:
            raise KeyboardInterrupt
