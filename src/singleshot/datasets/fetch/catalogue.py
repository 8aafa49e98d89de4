"""Which free data sets can be fetched: their official addresses, checksums, licences, and the layout that results.

What they are stands in catalogue.toml.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# What GitHub packs on the fly has no fixed size, so that a limit stands in for it; the largest one here is 20 MB.
_GITHUB_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Archive:
    """One file to download.

    address: where its makers give it. size: bytes; exact where there is a checksum, else about. checksum: of its
    bytes, sha256 in hex, or "" where they are not the same each time (then the set has a `content` checksum).
    limit: more bytes than this are never taken. moves: (start of a member's name, what it becomes in the result);
    members that match none are left out.
    """

    address: str
    size: int
    checksum: str
    moves: tuple[tuple[str, str], ...]
    limit: int = 0

    @property
    def name(self) -> str:
        """The file's name on disk."""
        return self.address.rpartition("/")[2]

    @property
    def most(self) -> int:
        """The most bytes that are ever taken."""
        return self.size if self.checksum else self.limit


@dataclass(frozen=True)
class FreeSet:
    """One data set. unpacked: bytes on disk, about. form: what `open_dataset` reads it as. joined: files below this
    folder that lie in several archives are put one after the other (split lists); others replace each other.
    content: see `unpack.content_checksum`, "" where the archives have checksums."""

    about: str
    form: str
    splits: tuple[str, ...]
    licence: str
    home: str
    archives: tuple[Archive, ...]
    unpacked: int
    joined: str = ""
    content: str = ""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)


@cache
def free_sets() -> dict[str, FreeSet]:
    """The sets of catalogue.toml by name."""
    text = (resources.files("singleshot.datasets.fetch") / "catalogue.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    archives = {key: _archive(**table) for key, table in tables["archives"].items()}
    return {name: _free_set(archives, **table) for name, table in tables["sets"].items()}


def _archive(moves: list[list[str]], github: str = "", commit: str = "", **values: Any) -> Archive:
    pairs = tuple((start, target) for start, target in moves)
    if not github:
        return Archive(moves=pairs, **values)
    folder = f"{github.rpartition('/')[2]}-{commit}/"  # which GitHub puts everything into
    own = tuple((folder + start, target) for start, target in pairs)
    address = f"https://github.com/{github}/archive/{commit}.zip"
    return Archive(address, checksum="", moves=own, limit=_GITHUB_LIMIT, **values)


def _free_set(known: dict[str, Archive], archives: list[str], splits: list[str], **values: Any) -> FreeSet:
    return FreeSet(archives=tuple(known[key] for key in archives), splits=tuple(splits), **values)
