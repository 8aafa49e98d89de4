"""Unpacking tar and zip archives that somebody else made: nothing outside the folder, no links, bounded in size."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self

from singleshot.datasets.fetch.download import Progress, disk_error, ignore_progress
from singleshot.errors import DataError, printable

MAX_FILES = 250_000  # COCO has 123,287
_CHUNK = 2**20
_MAX_HEADER_BYTES = 2**16  # names and times; paths end at 4096 bytes
_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


class Unpacked(NamedTuple):
    """What came out."""

    files: int
    bytes: int


class _Member(NamedTuple):
    """One entry of an archive; kind is "file", "folder" or what else it is; size is what it says of itself."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack_archive(
    archive: Path,
    moves: tuple[tuple[str, str], ...],
    into: Path,
    most_bytes: int,
    joined: str = "",
    progress: Progress = ignore_progress,
    max_files: int = MAX_FILES,
    advice: str = "",
) -> Unpacked:
    """Unpack the members that `moves` names into a folder; see `Archive.moves` and `FreeSet.joined`.

    advice: what to do about an archive that cannot be unpacked, for messages; "" where it came by `fetch`.

    Raises DataError for a member with an absolute name, "..", a link, a device; for more than `most_bytes` (as
    declared by all members, and as written by those kept) or `max_files`; for an archive that is broken or holds
    nothing of what is wanted. What was written till then stays in `into`.
    """
    where = printable(archive)
    files = written = declared = 0
    again, unexpected = advice or "run it again", advice or "not the archive that is expected"
    more = f"; {advice}" if advice else ""
    try:
        for seen, member in enumerate(_members(archive), 1):
            name = _safe_name(member.name, where, more)
            if member.kind not in ("file", "folder"):
                raise DataError(
                    f"{where}: holds a {member.kind} ({printable(name)}); want files and folders only{more}"
                )
            declared += member.size
            if seen > max_files:
                raise DataError(f"{where}: holds more than {max_files} files; {unexpected}")
            if declared > most_bytes:
                raise DataError(f"{where}: unpacks to more than {most_bytes} bytes; {unexpected}")
            target = _target(name, moves)
            if member.kind == "folder" or not target or target.rpartition("/")[2].startswith("._"):
                continue  # "._x" beside "x" is what macOS adds
            written += _write(member, into / target, most_bytes - written, bool(joined) and target.startswith(joined))
            files += 1
            progress(f"unpack {archive.name}", written, None)
    except _BROKEN as error:
        raise DataError(f"{where}: cannot be unpacked ({printable(error, 100)}); {again}") from error
    except OSError as error:
        # Reading a damaged gzip raises an OSError without a number.
        if error.errno is not None:
            raise disk_error(into, error, *filter(None, [advice])) from error
        raise DataError(f"{where}: cannot be unpacked ({printable(error, 100)}); {again}") from error
    if not files and advice:
        raise DataError(f"{where}: holds no files; {advice}")
    if not files:
        raise DataError(f"{where}: holds none of {', '.join(start for start, _ in moves)}; the archive has changed")
    return Unpacked(files, written)


def content_checksum(folder: Path) -> str:
    """One sha256 for all files of a folder, whatever archive they came in: that of the lines which `sha256sum` prints
    for them ("HASH  NAME" and a line end), names relative to the folder and in order of their bytes."""
    total = hashlib.sha256()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape")):
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{digest}  {name}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _members(archive: Path) -> Iterator[_Member]:
    yield from _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, tarinfo=_BoundedHeader) as tar:
        while (info := tar.next()) is not None:
            # tarfile keeps all of them, and what global headers say with each.
            tar.members.clear()  # type: ignore[attr-defined]
            tar.pax_headers = {}
            kind = next((form for form, test in _TAR_KINDS if test(info)), "entry of an unknown kind")
            yield _Member(info.name, kind, info.size if kind == "file" else 0, functools.partial(tar.extractfile, info))


class _BoundedHeader(tarfile.TarInfo):
    """What tarfile would read into memory as long as an archive says: names, further headers, the maps of sparse files.

    Some kilobytes of gzip hold gigabytes of them.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As TarInfo's. Raises ValueError."""
        info = super().frombuf(buf, encoding, errors)
        if info.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        if info.type in _HEADERS and info.size > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {info.size} bytes")
        return info

    # tarfile's readers of pax headers' maps.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = staticmethod(lambda *_: _refuse_sparse())


def _refuse_sparse() -> None:
    raise ValueError("a sparse file")


_TAR_KINDS: tuple[tuple[str, Callable[[tarfile.TarInfo], bool]], ...] = (
    ("file", tarfile.TarInfo.isreg),
    ("folder", tarfile.TarInfo.isdir),
    ("link", tarfile.TarInfo.issym),
    ("link", tarfile.TarInfo.islnk),
    ("device", tarfile.TarInfo.isdev),
)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            form = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if stat.S_ISLNK(form):
                kind = "link"
            elif form not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "device"
            elif info.flag_bits & 1:
                kind = "file with a password"
            yield _Member(_zip_name(info), kind, info.file_size, functools.partial(zipped.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member; macOS writes UTF-8 without the mark that says so."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _safe_name(name: str, where: str, more: str) -> str:
    """The name without "." and empty parts. Raises DataError for one that could lead out of the folder."""
    parts = name.split("/")
    outside = name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name)
    if outside or any(ord(char) < 32 for char in name):
        raise DataError(f"{where}: holds the name {printable(name)!r}; want names within its folder{more}")
    return "/".join(part for part in parts if part not in ("", "."))


def _target(name: str, moves: tuple[tuple[str, str], ...]) -> str:
    """What a member is called in the result, "" where it is left out."""
    return next((target + name[len(start) :] for start, target in moves if name.startswith(start)), "")


def _write(member: _Member, path: Path, most: int, append: bool) -> int:
    """Copy a member's bytes to a file; returns how many. DataError past `most`, or where fewer come than it says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # tarfile gives None for what is no file
    count = 0
    with source, path.open("a+b" if append else "wb") as file:
        if append and file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        while chunk := source.read(_CHUNK):
            count += len(chunk)
            if count > most:
                raise DataError(f"{printable(member.name)}: unpacks to more than it says; not what is expected")
            file.write(chunk)
    if count != member.size:
        raise DataError(f"{printable(member.name)}: {count} bytes of {member.size} came out; the archive is broken")
    return count
