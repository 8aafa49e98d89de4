"""OpenCV without its own log, which says in many lines what our errors say in one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import cv2

_lock = threading.Lock()
_depth = 0
_before = 0


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence it; the level, which is one for the whole process, comes back when the last thread leaves."""
    global _depth, _before
    log = cv2.utils.logging
    with _lock:
        if _depth == 0:
            _before = log.getLogLevel()
            log.setLogLevel(log.LOG_LEVEL_SILENT)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                log.setLogLevel(_before)
