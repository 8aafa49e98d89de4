"""Files behind addresses: opening them by fsspec, reading them over connections that break, without showing secrets."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from singleshot.errors import DataError, printable
from singleshot.extras import needs

logger = logging.getLogger(__name__)

# How long a server may take to connect, or to send anything; and what it must keep up on the whole.
REMOTE_SECONDS = 60.0
REMOTE_BYTES_PER_SECOND = 1000
CHUNK_BYTES = 1 << 20
_GATHER_SECONDS = 0.25
# Tries without a MiB of progress between them; the pause doubles from the first on, half of it by chance.
TRIES, FEW_TRIES = 8, 4
_PAUSE, _LONGEST_PAUSE, _LONGEST_ASKED = 0.5, 30.0, 120.0
# Answers that may be others a moment later: too slow, too early, too many questions, whatever broke in the server.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_FORBIDDEN, _GONE, _PAST_END = (401, 403, 407), (404, 410), 416
_CREDENTIALS = re.compile(r"^\w+://[^/?#]*@")
# In texts of others: user and password, and the query, where signed addresses have their signature.
_SECRETS = re.compile(r"(\w{1,20}://)(?:[^\s/@'\"]{1,500}@)?([^\s?'\"<>]{0,2000})(\?[^\s'\"<>)]{0,9999})?")


class FinalError(OSError):
    """An answer that another try does not change."""


def is_remote(path: object) -> bool:
    """Whether the path names a place that fsspec opens, such as https://host/data or memory://data."""
    return "://" in str(path)


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it. Raises DataError for one that fsspec cannot open, and
    one with a user or password, which logs and run.json would show."""
    if _CREDENTIALS.match(address):
        raise DataError(
            f"{without_secrets(address)}: has a user or password in it, which logs and results would show; leave them "
            "out and put them where the storage looks for them: ~/.netrc for https, ~/.aws or AWS_... variables for s3"
        )
    with needs("train", f"{printable(address)}: remote data"):
        import fsspec
    # fsspec chains ("zip::https://...") and local files by address would go round the checks above.
    if "::" in address or address.lower().startswith(("file:", "local:")):
        raise DataError(f"{printable(address)}: not an address that is read here (want https://, s3://, ...)")
    options: dict[str, Any] = {}
    if is_web(address):
        with needs("remote", f"{printable(address)}:"):
            from aiohttp import ClientTimeout
        timeout = ClientTimeout(total=None, sock_connect=REMOTE_SECONDS, sock_read=REMOTE_SECONDS)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # passwords of ~/.netrc, proxies
    try:
        system, path = fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        extra = "; install it: pip install 'singleshot[s3]'" if address.lower().startswith("s3:") else ""
        raise DataError(f"{printable(address)}: cannot be opened ({reason_of(error)}){extra}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{printable(address)}: cannot be opened ({reason_of(error)})") from error
    return system, path


def check_folder(address: str) -> None:
    """Raise DataError where an address cannot be that of a folder."""
    if is_web(address) and "?" in address:
        raise DataError(
            f"{printable(without_secrets(address))}: an address with a query (?...) is one file, not a folder;"
            " give the folder's own, and credentials in ~/.netrc"
        )
    filesystem(address)


def is_web(address: str) -> bool:
    """Whether it is read by HTTP."""
    return address.lower().startswith(("http:", "https:"))


def without_secrets(text: object) -> str:
    """The text with neither users, passwords nor queries in its addresses."""
    return _SECRETS.sub(lambda found: f"{found[1]}{found[2]}{'?...' if found[3] else ''}", str(text)[:20_000])


def reason_of(error: BaseException) -> str:
    """Why, on one line without secrets: a server chooses the words of its errors."""
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if not message and isinstance(error, TimeoutError):
        message = f"no answer within {REMOTE_SECONDS:g} seconds"
    return printable(without_secrets(message or type(error).__name__), 160)


class RemoteFile(io.RawIOBase):
    """A remote file in one long read. Where the connection breaks or the server is busy it tries again, after pauses
    that double, or as the server asks (Retry-After), and goes on where it was: by a range where the server has them,
    else by reading past what came before.

    Reading raises FileNotFoundError where nothing is there (any more), DataError as `filesystem`, and OSError for
    whatever else goes wrong, without secrets in its words.
    """

    def __init__(
        self,
        address: str,
        start: int = 0,
        count: int | None = None,
        size: int | None = None,
        tries: int = TRIES,
        block: int = CHUNK_BYTES,
    ) -> None:
        """Open nothing yet.

        Args:
            address: What `filesystem` opens.
            start: The first byte to read.
            count: How many are wanted at most, where not all; the server must have ranges if `start` is not 0.
            size: Of the whole file, where that is known: fewer bytes are a break.
            tries: Without progress, before it is given up.
            block: What storage other than the web is asked for at a time.
        """
        self._address, self._at, self._count, self._size = address, start, count, size
        self._end = None if count is None else start + count
        self._tries, self._block = tries, block
        self._file: Any = None
        self._is_web = is_web(address)
        self._version = ""
        self._failures, self._mark = 0, start
        self._start, self._waited = start, 0.0
        self._patience = REMOTE_SECONDS * tries / FEW_TRIES
        self._stopped = threading.Event()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, as many as came; 0 at the end. Raises as the class says."""
        room = len(buffer) if self._end is None else min(len(buffer), self._end - self._at)
        if room <= 0:
            return 0
        while True:
            begun = time.monotonic()
            try:
                data = self._read(room)
                self._waited += time.monotonic() - begun
                break
            except (FileNotFoundError, DataError, FinalError):
                raise
            except Exception as error:  # each kind of storage has errors of its own
                self._waited += time.monotonic() - begun
                self._drop()
                self._pause(error)
        buffer[: len(data)] = data
        self._at += len(data)
        if self._at - self._mark >= CHUNK_BYTES:
            self._failures, self._mark = 0, self._at
        return len(data)

    def _read(self, room: int) -> bytes:
        if self._file is None:
            self._file = self._open()
        data: bytes = _gather(self._file, room) if self._is_web else self._file.read(room)
        if not data and self._size is not None and self._at < self._size:
            raise EOFError(f"the answer ended at byte {self._at} of {self._size}")
        got = self._at + len(data) - self._start
        if self._waited > self._patience + got / REMOTE_BYTES_PER_SECOND:
            raise FinalError(None, f"only {got} bytes came in {self._waited:.1f} seconds")
        return data

    def _pause(self, error: Exception) -> None:
        """Wait before the next try. Raises OSError where there is none."""
        status = getattr(error, "status", None) if hasattr(error, "request_info") else None
        if status in _GONE:
            raise FileNotFoundError(2, "nothing is there (any more)") from error
        if status in _FORBIDDEN or isinstance(error, PermissionError) or "NoCredentials" in type(error).__name__:
            what = f"HTTP {status}" if status else reason_of(error)
            raise FinalError(
                None, f"forbidden: {what}; credentials come from ~/.netrc or the storage's own settings"
            ) from error
        if status == _PAST_END:
            raise FinalError(None, f"ends at byte {self._at} already") from error
        what = f"HTTP {status}" if status else reason_of(error)
        passing = status is None or status in _PASSING
        if passing and not isinstance(error, OSError | EOFError) and type(error).__module__ == "builtins":
            passing = isinstance(error, TimeoutError)  # a mistake in the address, or ours
        if "Certificate" in type(error).__name__ or "InvalidUrl" in type(error).__name__:
            passing = False
        self._failures += 1
        got = self._at - self._start
        hangs = self._waited > self._patience + got / REMOTE_BYTES_PER_SECOND
        if not passing or hangs or self._failures >= self._tries:
            after = f", after {self._failures} tries" if self._failures > 1 else ""
            raise FinalError(None, f"{what}{after}") from error
        pause = _pause_of(self._failures, getattr(error, "headers", None))
        shown = without_secrets(self._address)
        logger.info("%s: %s; trying again in %.1f s", printable(shown), what, pause)
        if self._stopped.wait(pause):
            raise FinalError(None, "closed") from error

    def _open(self) -> Any:
        system, path = filesystem(self._address)
        if not self._is_web:
            file = system.open(path, "rb", block_size=self._block)
            if self._at:
                file.seek(self._at)
            return file
        # One answer is read as it comes: what the server says of the file's size is not believed, and it need not
        # know ranges. With a size given, fsspec does not ask for it.
        headers = {"Accept-Encoding": "identity"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-{'' if self._end is None else self._end - 1}"
        file = system.open(path, "rb", block_size=0, size=1, headers=headers)
        try:
            self._check_version(file.r.headers)
            if self._at and file.r.status != 206:
                self._skip(file)
        except BaseException:
            file.close()
            raise
        return file

    def _check_version(self, headers: Any) -> None:
        version = headers.get("ETag") or headers.get("Last-Modified") or ""
        if self._version and version != self._version:
            raise FinalError(None, "changed on the server while it was read")
        self._version = version

    def _skip(self, file: Any) -> None:
        """Read past what came before, from a server without ranges."""
        if self._start:
            raise FinalError(None, "the server cannot send a part of a file (HTTP ranges)")
        past = self._at
        while past:
            skipped = len(_gather(file, min(past, CHUNK_BYTES)))
            if not skipped:
                raise EOFError(f"the answer ended before byte {self._at}")
            past -= skipped

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def close(self) -> None:
        """Close the connection; a pause between two tries ends."""
        self._stopped.set()
        self._drop()
        super().close()


def _gather(file: Any, count: int) -> bytes:
    """Up to `count` bytes of an answer, what comes within a moment: one call for each piece costs time."""
    from fsspec.asyn import sync

    async def gather() -> bytes:
        pieces: list[bytes] = []
        got, end = 0, time.monotonic() + _GATHER_SECONDS
        try:
            while got < count and time.monotonic() < end and (piece := await file.r.content.read(count - got)):
                pieces.append(piece)
                got += len(piece)
        except Exception:
            if not pieces:  # else the next one meets it again
                raise
        return b"".join(pieces)

    data: bytes = sync(file.loop, gather)
    return data


def _pause_of(failures: int, headers: Any, now: Callable[[], float] = time.time) -> float:
    """Seconds to wait after so many failures; what the server asks for goes before."""
    asked = str(headers.get("Retry-After", "")) if headers is not None and hasattr(headers, "get") else ""
    if asked.isascii() and asked.isdigit():
        return min(float(asked[:9]), _LONGEST_ASKED) + random.uniform(0, _PAUSE)
    if asked:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(asked).timestamp() - now()
            return min(max(0.0, seconds), _LONGEST_ASKED) + random.uniform(0, _PAUSE)
    return min(_PAUSE * 2.0 ** (failures - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
