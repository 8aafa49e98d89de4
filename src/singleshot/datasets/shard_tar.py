"""The tars of a WebDataset, read from their starts to their ends.

A sample is two members, one after the other: KEY.jpg (.png, ...), the bytes of the image file, and KEY.json, its
labels. The `webdataset` package reads such tars too. It is not used here: its addresses may be shell commands
("pipe:..."), and it unpickles members that end in .pyd or .pickle. What is read here are plain members with the endings
below, each of limited size, and nothing is ever unpacked to a disk.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.shard_cache import ShardCache
from singleshot.datasets.shard_index import AGAIN, MAX_SHARD_BYTES, Shard, WrongError
from singleshot.datasets.shard_source import BUFFER, finish_shard, open_shard
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.storage import reason_of

ENDINGS = ("jpg", "png", "webp", "bmp", "tif", "gif")
# 30,000 objects in one image; JSON in memory takes some ten times its bytes.
MAX_LABEL_BYTES = 4 * 2**20

# A name has no folder, and one dot: where webdataset divides it.
_MEMBER_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,90}}\.({'|'.join(ENDINGS)}|json)")
_DATALESS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_ZEROS = bytes(tarfile.BLOCKSIZE)


class Packed(NamedTuple):
    """A sample still packed. key: the members' name without ending; path: names the image's bytes to `read_limited`;
    image: those bytes, or empty where only labels were asked for; label: the JSON."""

    key: str
    path: str
    image: bytes
    label: bytes


def read_samples(
    path: str,
    problems: RaiseErrors,
    with_images: bool = True,
    expected: Shard | None = None,
    cache: ShardCache | None = None,
) -> Iterator[Packed]:
    """The samples of one tar in their order, read once from its start to its end.

    What is wrong with a member leaves that sample out; after damage to the tar itself nothing more comes. `expected`:
    what the index says of it, against which a remote one is held; `cache`: where that is kept.
    """
    half: Packed | None = None
    try:
        with open_shard(path, expected, cache) as file:
            walk = _Walk(file)
            for member in walk:
                message = _unfit(member)
                if message:
                    problems.add("annotation-malformed", path, message, printable(member.name, 100))
                    continue
                key, _, ending = member.name.partition(".")
                if half is None or half.key != key or bool(half.path) == (ending != "json"):
                    _report_half(half, path, problems)
                    half = Packed(key, "", b"", b"")
                if ending == "json":
                    half = half._replace(label=walk.read(member))
                else:
                    data = walk.read(member) if with_images else b""
                    half = half._replace(path=f"{path}#{member.start}+{member.size}", image=data)
                if half.path and half.label:
                    yield half
                    half = None
            finish_shard(file)
    except WrongError as error:
        problems.add("annotation-unreadable", path, f"{error}; fetch it again, or {AGAIN}")
    except DataError as error:  # from opening it
        problems.add_unreadable(path, error)
    except FileNotFoundError:
        problems.add("annotation-unreadable", path, "no such shard file")
    except OSError as error:
        problems.add("annotation-unreadable", path, f"cannot be read ({reason_of(error)})")
    else:
        _report_half(half, path, problems)


def _report_half(half: Packed | None, path: str, problems: RaiseErrors) -> None:
    if half is not None and not half.path:
        problems.add("image-missing", path, f"labels without an image before or after them; {AGAIN}", half.key)
    elif half is not None:
        problems.add("annotation-malformed", path, f"an image without {half.key}.json; {AGAIN}", half.key)


class _Member(NamedTuple):
    """start: where its bytes are in the tar."""

    name: str
    start: int
    size: int
    plain: bool


class _Walk:
    """The members of a tar, forward only. Raises WrongError where the tar is damaged or cut short."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at, self._seeks = file, 0, file.seekable()

    def __iter__(self) -> Iterator[_Member]:
        following = 0
        while True:
            self._skip_to(following)
            start = following + tarfile.BLOCKSIZE
            block = self._take(tarfile.BLOCKSIZE)
            if block == _ZEROS:
                return
            try:
                # The header alone: tarfile's own walk believes what extended headers say of sizes, and holds them.
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise WrongError(f"no header of a tar member at byte {following}") from error
            if not 0 <= info.size <= MAX_SHARD_BYTES:
                raise WrongError(f"member {printable(info.name, 100)} of {info.size} bytes, which cannot be")
            held = 0 if info.type in _DATALESS else info.size
            following = start + -(-held // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            yield _Member(info.name, start, info.size, plain)

    def read(self, member: _Member) -> bytes:
        """All bytes of the member that came last."""
        self._skip_to(member.start)
        return self._take(member.size)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        self._at += len(data)
        if len(data) < count:
            raise WrongError(f"ends at byte {self._at}, in the middle")
        return data

    def _skip_to(self, place: int) -> None:
        if self._seeks and place != self._at:
            self._file.seek(place)
            self._at = place
        while self._at < place:
            self._take(min(place - self._at, BUFFER))


def _unfit(member: _Member) -> str:
    """Why a member is not read; "" for one that is."""
    if not member.plain:
        return f"is a link, a folder or something else that shards do not hold (want plain files); {AGAIN}"
    if not _MEMBER_NAME.fullmatch(member.name):
        return f"is no name of a member (want KEY.json or KEY.{ENDINGS[0]}, without folders and further dots); {AGAIN}"
    most = MAX_LABEL_BYTES if member.name.endswith(".json") else MAX_FILE_BYTES
    if not 0 < member.size <= most:
        return f"has {member.size} bytes (want 1 to {most}); {AGAIN}"
    return ""
