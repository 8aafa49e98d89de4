"""Bytes of a shard from its start to its end: from a disk, or from the network, read ahead, checked, and kept if so
asked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from singleshot.datasets.shard_cache import CacheWriter, ShardCache, cache_key
from singleshot.datasets.shard_index import AGAIN, MAX_SHARD_BYTES, Shard
from singleshot.errors import printable
from singleshot.remote_file import FinalError, RemoteFile, is_remote
from singleshot.storage import open_limited

logger = logging.getLogger(__name__)

BUFFER = 2**20
_AHEAD = 8  # pieces of BUFFER bytes that wait to be taken, of each open shard
_REMOTE_BLOCK = 8 * 2**20


@contextlib.contextmanager
def open_shard(path: str, expected: Shard | None = None, cache: ShardCache | None = None) -> Iterator[IO[bytes]]:
    """A tar, local or remote, for reading from its start to its end; a remote one is held against what the index says.

    Whoever has read what it wanted of a remote one calls `finish_shard`. Opening raises DataError as `read_limited`
    does, reading OSError too.
    """
    if not is_remote(path):
        with open_limited(path, MAX_SHARD_BYTES, "shard") as file:
            yield file
        return
    key = "" if expected is None else cache_key(path, expected.size, expected.sha256)
    kept = cache.find(key) if cache is not None and expected is not None else None
    with contextlib.ExitStack() as stack:
        raw: Any
        if kept is not None:
            raw = stack.enter_context(kept.open("rb", buffering=0))
        else:
            raw = RemoteFile(path, size=expected.size if expected else None, block=_REMOTE_BLOCK)
        checked = _CheckedFile(raw, expected)
        ahead = _ReadAhead(checked)
        stack.callback(ahead.close)
        if kept is None and cache is not None and expected is not None:
            checked.writer = cache.reserve(key, expected.size)
        try:
            yield io.BufferedReader(ahead, BUFFER)
        finally:
            if checked.is_wrong and kept is not None and cache is not None:
                cache.drop(key)


def finish_shard(file: IO[bytes]) -> None:
    """Read what is left of a remote shard, so that it is checked whole. Raises OSError as `open_shard`'s file does."""
    if isinstance(getattr(file, "raw", None), _ReadAhead):
        while file.read(BUFFER):
            pass


class _CheckedFile:
    """Pieces of a file, which are counted and summed; at its end they must be what the index says."""

    def __init__(self, raw: Any, expected: Shard | None) -> None:
        self._raw, self._expected = raw, expected
        self._at, self._sum = 0, hashlib.sha256()
        self.writer: CacheWriter | None = None
        self.is_wrong = self._is_over = False
        self._error: Exception | None = None

    def piece(self) -> bytes:
        """Up to BUFFER bytes, b"" at the end. Raises OSError, after what came before it, and again whenever asked."""
        pieces: list[bytes] = []
        count = 0
        try:
            while not (self._is_over or self._error) and count < BUFFER:
                piece = self._raw.read(BUFFER - count)
                self._is_over = not piece
                pieces.append(piece)
                count += len(piece)
                self._take(piece)
        except Exception as error:
            self._error = error
        if not count and self._error is not None:
            raise self._error
        return b"".join(pieces)

    def _take(self, piece: bytes) -> None:
        self._at += len(piece)
        if self._expected is None:
            return
        self._sum.update(piece)
        if self._at <= self._expected.size:
            self._write(piece)
        if self._is_over or self._at > self._expected.size:
            self._check(self._expected)
            if self.writer is not None:
                self.writer.keep()

    def _check(self, expected: Shard) -> None:
        message = ""
        if self._at != expected.size:
            more = " or more" * (self._at > expected.size)
            message = f"has {self._at} bytes{more}, the index says {expected.size}"
        elif expected.sha256 and self._sum.hexdigest() != expected.sha256:
            message = "has another SHA-256 than the index says"
        if message:
            self.is_wrong = True
            raise FinalError(None, f"{message}; fetch it again, or {AGAIN}")

    def _write(self, data: bytes) -> None:
        if self.writer is None:
            return
        try:
            self.writer.write(data)
        except OSError as error:  # the disk is full: a cache is no reason to stop
            logger.warning("%s: cannot be written (%s): not kept", printable(self.writer.place), error.strerror)
            self.writer.close()
            self.writer = None

    def close(self) -> None:
        """Close the file, and remove what was not kept."""
        self._raw.close()
        if self.writer is not None:
            self.writer.close()


class _ReadAhead(io.RawIOBase):
    """Pieces that one thread reads ahead, _AHEAD of them at most."""

    def __init__(self, file: _CheckedFile) -> None:
        self._file = file
        self._pool = ThreadPoolExecutor(1, "shard")
        self._waiting: deque[Future[bytes]] = deque()
        self._piece = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece and not self._ended:
            while len(self._waiting) < _AHEAD:
                self._waiting.append(self._pool.submit(self._file.piece))
            self._piece = memoryview(self._waiting.popleft().result())
            self._ended = not self._piece
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._file.close()
        super().close()
