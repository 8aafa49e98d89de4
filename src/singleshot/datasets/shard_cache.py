"""Remote shards kept on the disk, in a folder of bounded size that any number of processes share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from singleshot.errors import ConfigError, printable
from singleshot.files import hold_file, locked_folder

_KEPT, _COMING = ".shard", ".coming"


class ShardCache(NamedTuple):
    """A folder with at most `limit` bytes of shards.

    A shard is kept once it was read whole and found right. When the folder is full nothing goes: shards come in another
    order every epoch, and what is kept saves its part of each. What no epoch of this data set asks for (`wanted`, keys)
    makes room first, the oldest before the others.
    """

    folder: Path
    limit: int
    wanted: frozenset[str] = frozenset()

    def find(self, key: str) -> Path | None:
        """The file of a shard that is kept."""
        path = self.folder / (key + _KEPT)
        return path if path.is_file() else None

    def reserve(self, key: str, size: int) -> CacheWriter | None:
        """A file to write a shard of `size` bytes into; None where there is no room, or another process has it.

        Raises ConfigError where the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked_folder(self.folder):
                if self.find(key) is not None or not self._make_room(key, size):
                    return None
                path = self.folder / f"{key}-{secrets.token_hex(4)}{_COMING}"
                file = path.open("xb")
                hold_file(file)
                file.truncate(size)  # the room is taken; disks keep holes for nothing
        except OSError as error:
            raise ConfigError(
                f"{printable(self.folder)}: cannot be written ({error.strerror}); give another --cache"
            ) from error
        return CacheWriter(path, self.folder / (key + _KEPT), file)

    def _make_room(self, key: str, size: int) -> bool:
        found = {path: path.stat() for path in self._files()}
        taken = sum(status.st_size for status in found.values())
        for path in sorted(found, key=lambda one: found[one].st_mtime):
            coming = path.suffix == _COMING
            if coming and not _is_abandoned(path):
                if path.name.startswith(key):
                    return False
                continue
            if coming or (taken + size > self.limit and path.stem not in self.wanted):
                path.unlink(missing_ok=True)
                taken -= found[path].st_size
        return taken + size <= self.limit

    def _files(self) -> Iterator[Path]:
        for path in self.folder.iterdir():
            if path.suffix in (_KEPT, _COMING):
                yield path

    def drop(self, key: str) -> None:
        """Remove a shard that turned out to be damaged."""
        (self.folder / (key + _KEPT)).unlink(missing_ok=True)


class CacheWriter(NamedTuple):
    """A shard on its way into a cache."""

    path: Path
    place: Path
    file: IO[bytes]

    def write(self, data: bytes) -> None:
        """The next bytes. Raises OSError for a full disk."""
        self.file.write(data)

    def keep(self) -> None:
        """It is whole and right: others may find it."""
        self.file.flush()
        self.path.replace(self.place)

    def close(self) -> None:
        """What was not kept is removed."""
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether the process that wrote it has ended."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        hold_file(file)
        return os.name != "nt"
    return False


def cache_key(address: str, size: int, sha256: str) -> str:
    """What a shard is called in a cache: by its content where the index says that, else by its address and size."""
    return sha256 or hashlib.sha256(f"{address}\0{size}".encode("utf-8", "surrogateescape")).hexdigest()
