"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from singleshot.errors import ConfigError, SingleshotError, printable

# The file of images and categories that detection writes for COCO results, known to the readers of data sets.
IMAGE_INFO = "image_info.json"
LOCK = ".lock"
_PART = ".part-"

# What a disk says that is full, read-only, broken, or has a quota or a limit of its own.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
# The same by libraries that write by themselves: safetensors, PyTorch.
_DISK_WORDS = ("No space left on device", "os error 28", "os error 27", "File too large", "file write failed")


def abandon(stack: contextlib.ExitStack) -> None:
    """Leave a stack as an exception would: every `atomic_write` in it removes its file."""
    with contextlib.suppress(InterruptedError), stack:
        raise InterruptedError


@contextlib.contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    """A fault of the disk is an OSError that names the path, whoever wrote."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FAULTS:
            error.filename = str(path)
        raise
    except SingleshotError:
        raise
    except Exception as error:
        if any(words in str(error) for words in _DISK_WORDS):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


@contextlib.contextmanager
def atomic_write(path: str | Path, *, durable: bool = False, before: Path | None = None) -> Iterator[Path]:
    """Give a temporary path next to `path`; on success rename it over `path`, on failure remove it.

    The temporary name keeps the suffix, since some writers choose a format by it. Parent folders are made. durable:
    the disk has the file before the name is given, so that a power failure leaves the old file or the new one. before:
    where the old file goes; in between, for a moment, nothing is called `path`.
    Raises ConfigError when the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PART, suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot write there ({error.strerror}); give another --out") from error
    os.close(handle)
    temporary = Path(name)
    try:
        with _named_faults(path):
            yield temporary
            # mkstemp makes files private; a result should have the mode that any new file has.
            temporary.chmod(0o666 & ~_umask())
            if durable:
                _sync(temporary)
        if before is not None and path.exists():
            path.replace(before)
        temporary.replace(path)
        if durable and os.name != "nt":  # Windows opens no folders
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on failure remove it.

    Raises ConfigError when something other than an empty folder is there already, or it cannot be written.
    """
    path = Path(path)
    try:
        if not is_free(path):
            raise ConfigError(f"{printable(path)}: is there already; give another --out, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot write there ({error.strerror}); give another --out") from error
    # Named first and made within `try`: Ctrl-C between the two would leave it behind.
    temporary = path.parent / f"{_PART}{secrets.token_hex(16)}"
    try:
        try:
            temporary.mkdir(mode=0o700)
        except OSError as error:
            said = f"{printable(path)}: cannot write there ({error.strerror}); give another --out"
            raise ConfigError(said) from error
        with _named_faults(path):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class RowFile:
    """An unbuffered file that grows by whole rows: of rows that the disk has no room for nothing is written.

    held: bytes that wait to be written together; reserve: bytes that the file holds on the disk past its rows, so that
    the rows that wait and a last one still go in when the disk is full (where the system can allocate: not on Windows).
    """

    def __init__(self, file: BinaryIO, held: int = 1 << 15, reserve: int = 1 << 17) -> None:
        self._file, self._held = file, held
        self._reserve = reserve if hasattr(os, "posix_fallocate") else 0
        self._rows: list[bytes] = []
        self._waiting = 0
        self._end = file.tell()
        if self._reserve:
            os.posix_fallocate(file.fileno(), self._end, self._reserve)

    def write(self, row: bytes) -> None:
        """Add a row. Raises OSError; the file then ends with the last rows that were written, and the others wait."""
        self._rows.append(row)
        self._waiting += len(row)
        if self._waiting >= self._held:
            self._flush(self._reserve)

    def _flush(self, reserve: int) -> None:
        data = memoryview(b"".join(self._rows))
        try:
            if reserve:
                os.posix_fallocate(self._file.fileno(), self._end, len(data) + reserve)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._held = sys.maxsize  # what comes now, such as a last row, waits for `finish`
            self._file.seek(self._end)
            if not self._reserve:
                self._file.truncate()
            raise
        self._end += len(data)
        self._rows, self._waiting = [], 0

    def finish(self) -> None:
        """Write what waits; the file then ends with it. Raises OSError."""
        self._flush(0)
        self._file.truncate(self._end)


def hold_file(file: IO[Any], wait: bool = False) -> None:
    """Keep other processes from holding an open file until it is closed, or this process ends.

    Where another one holds it: raises BlockingIOError, or waits. Raises OSError where the file system has no locks. On
    Windows nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def locked_folder(folder: Path, busy: str = "") -> Iterator[None]:
    """Hold the folder by its file LOCK, which the system lets go with the process, however that ends.

    Where another process holds it: raises ConfigError that says `busy` and which process it is, or waits for it where
    that is "". On Windows nothing is held.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            hold_file(file, wait=not busy)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(200)
            raise ConfigError(f"{busy} ({printable(holder)})" if holder else busy) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder; only for who holds it (`locked_folder`)."""
    for part in folder.glob(f"{_PART}*"):
        if part.is_file():
            part.unlink(missing_ok=True)


def is_free(path: Path) -> bool:
    """Whether results may go there: nothing is there yet, or an empty folder."""
    return not path.exists() or (path.is_dir() and next(path.iterdir(), None) is None)


def is_unused(path: Path) -> bool:
    """As `is_free`, where a process that was killed at its start may have left a lock or half a file."""
    if not path.is_dir():
        return not path.exists()
    return all(one.name == LOCK or one.name.startswith(_PART) for one in path.iterdir())


def try_folder(path: Path) -> None:
    """Try that files can be written into `path`, there already or still to be made, and leave nothing.

    Raises ConfigError. Permissions alone do not say it: a disk may be read-only or full, a name too long.
    """
    try:
        whole = nearest = Path(os.path.abspath(path))  # noqa: PTH100 - no ".." may lead out of the trial
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        with tempfile.TemporaryDirectory(prefix=_PART, dir=nearest) as made:
            # The missing folders are made in there, under their own names.
            trial = Path(made) / whole.relative_to(nearest)
            trial.mkdir(parents=True, exist_ok=True)
            (trial / "trial").write_bytes(b"x" * 4096)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{printable(path)}: cannot write there ({reason}); give another --out") from error


def numbered_folder(parent: Path, name: str) -> Path:
    """Make parent/name-1, or the first number that is not there yet: two processes never get the same.

    Raises OSError where it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def _sync(path: Path) -> None:
    """Wait until the disk has the file or folder. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
