"""Ctrl-C, `kill` and a closed terminal between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, which a terminal sends that closes.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """While entered, the first Ctrl-C, SIGTERM or SIGHUP is noted, for `check` to raise; a second one raises at once.

    Weights that are half updated could not be gone on from exactly. Outside the main thread, where Python allows no
    handlers, nothing is caught; nor is a signal that is ignored already, as `nohup` does.
    """

    def __init__(self) -> None:
        self.asked = False
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
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if stopping was asked for."""
        if self.asked:
            raise KeyboardInterrupt
