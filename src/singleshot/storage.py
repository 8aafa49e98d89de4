"""Bytes of a file, local or remote, with limits on their number and on the time that they may take."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from singleshot.errors import DataError, printable
from singleshot.extras import needs
from singleshot.remote_file import CHUNK_BYTES, FEW_TRIES, RemoteFile
from singleshot.remote_file import filesystem as filesystem
from singleshot.remote_file import is_remote as is_remote
from singleshot.remote_file import reason_of as reason_of

# Source: github.com/git-lfs/git-lfs, docs/spec.md.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# The end of a path to bytes inside a shard or a TFRecord: train-000000.tar#OFFSET+LENGTH.
_PART = re.compile(r"(\.(?:tar|tfrecords?|tfrec|records?)|-\d{5}-of-\d{5})#(\d{1,15})\+(\d{1,15})$", re.IGNORECASE)


class Part(NamedTuple):
    """Bytes inside a file."""

    file: str
    start: int
    length: int


def part_of(path: str | os.PathLike[str]) -> Part | None:
    """The part of a file that a path of a shard's or TFRecord's image means; None for a path of a whole file."""
    found = _PART.search(str(path))
    if found is None or not (is_remote(path) or not os.path.lexists(path)):
        return None
    return Part(str(path)[: found.end(1)], int(found[2]), int(found[3]))


class LfsPointerError(DataError):
    """A file of which a clone of a Git repository holds only the pointer."""


def read_limited(path: str | os.PathLike[str], limit: int, what: str, most: int | None = None) -> bytes:
    """All bytes of a regular file, local or remote; with `most` its first bytes only.

    A path that ends in .tar#OFFSET+LENGTH (or .tfrecord# and the like) means those bytes of the tar, unless a file has
    that very name.
    Raises DataError when it is absent, not a file, unreadable, or above `limit` bytes where it is read whole.
    """
    where = str(path)
    wanted, start = limit + 1 if most is None else most, 0
    if (part := part_of(path)) is not None:
        path, start, wanted = part.file, part.start, min(wanted, part.length)
    with _named_errors(where, what):
        if is_remote(path):
            data = read_remote(str(path), wanted, start)
        else:
            data = _read_local(path, where, what, wanted, start)
    if most is None and len(data) > limit:
        raise _too_large(where, limit, what)
    if data.startswith(_LFS_POINTER) and not start:
        raise LfsPointerError(
            f"{printable(where)}: is a Git LFS pointer, not the {what} itself; fetch the files with: git lfs pull"
        )
    return data


@contextlib.contextmanager
def open_limited(path: str | os.PathLike[str], limit: int, what: str) -> Iterator[IO[bytes]]:
    """A regular file, local or remote, for reading piece by piece. A remote one is copied to the disk first.

    Raises DataError as `read_limited` does.
    """
    where = str(path)
    with contextlib.ExitStack() as stack:
        with _named_errors(where, what):
            if is_remote(path):
                file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                for chunk in _remote_chunks(str(path), limit + 1):
                    file.write(chunk)
            else:
                file = stack.enter_context(_open_local(path, where, what))
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
        if size > limit:
            raise _too_large(where, limit, what)
        yield file


@contextlib.contextmanager
def _named_errors(where: str, what: str) -> Iterator[None]:
    """What goes wrong in opening and reading, as a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{printable(where)}: no such {what} file") from error
    except IsADirectoryError as error:
        raise DataError(f"{printable(where)}: is a folder (want one {what} file)") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{printable(where)}: cannot be read ({reason_of(error)})") from error


def _too_large(where: str, limit: int, what: str) -> DataError:
    return DataError(f"{printable(where)}: larger than {limit // 2**20} MB (the most that is read of one {what} file)")


def _open_local(path: str | os.PathLike[str], where: str, what: str) -> IO[bytes]:
    return os.fdopen(_open_handle(path, where, what)[0], "rb")


def _open_handle(path: str | os.PathLike[str], where: str, what: str) -> tuple[int, int]:
    """(descriptor, size in bytes) of a regular file."""
    # O_NONBLOCK: a named pipe would block an ordinary open for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode):
        return handle, status.st_size
    os.close(handle)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    raise DataError(f"{printable(where)}: is not a regular file (want the {what} itself)")


def _read_local(path: str | os.PathLike[str], where: str, what: str, count: int, start: int) -> bytes:
    """As a file object would, for a third of the time with small files: it makes room for `count` bytes first."""
    handle, size = _open_handle(path, where, what)
    try:
        if start:
            os.lseek(handle, start, os.SEEK_SET)
        ask, pieces = max(1, size - start + 1), []
        while count > 0 and (piece := os.read(handle, min(count, ask))):
            pieces.append(piece)
            count -= len(piece)
            if len(piece) < ask:  # the end, or all that was wanted
                break
            ask = CHUNK_BYTES  # more than its size: it grows, or the system made it up
    finally:
        os.close(handle)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_remote(address: str, count: int, start: int = 0) -> bytes:
    """At most `count` bytes of a remote file from `start` on. Raises OSError for whatever goes wrong."""
    return b"".join(_remote_chunks(address, count, start))


def _remote_chunks(address: str, count: int, start: int = 0) -> Iterator[bytes]:
    """`count` bytes from `start` on, or as many as there are, in pieces; OSError for whatever goes wrong."""
    with contextlib.closing(RemoteFile(address, start, count, tries=FEW_TRIES)) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def masked_crc32c(data: bytes) -> int:
    """The checksum of bytes as LevelDB and TFRecord keep it, rotated and shifted (LevelDB, util/crc32c.h).

    Raises MissingExtraError without google-crc32c.
    """
    with needs("train", "this file"):
        import google_crc32c
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
