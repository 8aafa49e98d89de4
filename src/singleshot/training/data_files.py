"""The files of a data set as a run knows them: by size and time of change before it reads them, by their bytes after.

Nothing is read for this alone: the checksum of an image is taken from the bytes that its training or validation reads
anyway. Where a run goes on, only files whose size or time is another are read for it, and only those that it had read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.loading.shard_stream import ShardStream
from singleshot.storage import is_remote, part_of, read_limited

_THREADS = 16
_SHOWN = 3  # files in a message
_FIELDS = ("sizes", "times", "checksums")


@dataclass(frozen=True)
class FileChanges:
    """What differs, in words, "" where nothing does; unread: how many files have another time of change, the same size
    and were not read yet, so that nothing more can be told."""

    words: str
    unread: int


@dataclass
class DataFiles:
    """sizes, times: int64 [files], bytes and mtime in ns of the images (of the tars of shards), -1 where there is no
    local file; checksums: int64 [images], CRC-32 of what was read of each, -1 before."""

    names: Sequence[str]
    sizes: np.ndarray
    times: np.ndarray
    checksums: np.ndarray
    skip_missing: bool = False  # whether files that are gone are no change: a training that skips them says so itself

    @classmethod
    def of(cls, data: Dataset | ShardStream, skip_missing: bool = False) -> DataFiles:
        """Of an opened split, nothing read yet."""
        names: Any = data.paths if isinstance(data, ShardStream) else data.names  # a StringTable is no Sequence
        stats = np.empty((2, len(names)), np.int64)

        def take(start: int) -> None:
            for i in range(start, len(names), _THREADS):
                stats[:, i] = _stat(names[i])

        with ThreadPoolExecutor(_THREADS) as pool:  # a network's file system answers many at a time
            list(pool.map(take, range(_THREADS)))
        return cls(names, stats[0], stats[1], np.full(len(data), -1, np.int64), skip_missing)

    def tensors(self) -> dict[str, Tensor]:
        """What a state keeps."""
        return {name: torch.from_numpy(getattr(self, name)) for name in _FIELDS}

    @classmethod
    def from_tensors(cls, names: Sequence[str], tensors: Mapping[str, Tensor]) -> DataFiles | None:
        """Inverse of `tensors`; None where a state has none."""
        if not all(name in tensors and tensors[name].dtype is torch.int64 for name in _FIELDS):
            return None
        sizes, times, checksums = (tensors[name].numpy().copy() for name in _FIELDS)
        return cls(names, sizes, times, checksums)

    def note(self, indices: Tensor, checksums: Tensor | None) -> None:
        """Keep the checksums of images that were read. Raises DataError where one was another the last time."""
        if checksums is None:
            return
        read = checksums >= 0
        at, new = indices[read].numpy(), checksums[read].numpy()
        before = self.checksums[at]
        for i in at[(before >= 0) & (before != new)].tolist():
            name = self.names[i] if len(self.names) == len(self.checksums) else f"image {i} of the shards"
            raise DataError(
                f"{printable(name)}: changed while the run went on; put it back, or go on with it as it is now:"
                " --resume --accept-changes"
            )
        self.checksums[at] = new

    def changes(self, now: DataFiles) -> FileChanges:
        """What `now`, of the same images, has other than this one, which takes over the checksums that still hold."""
        if len(self.sizes) != len(now.sizes) or len(self.checksums) != len(now.checksums):
            return FileChanges(f"{len(self.sizes)} files then, {len(now.sizes)} now", 0)
        differ = (self.sizes != now.sizes) | (self.times != now.times)
        if now.skip_missing:
            differ &= now.sizes >= 0
        others = np.flatnonzero(differ).tolist()
        now.checksums[:] = self.checksums
        if len(self.sizes) != len(self.checksums):  # shards: each sample is compared when its turn comes
            found = {i: self._sizes(now, i) for i in others if self.sizes[i] != now.sizes[i]}
            if found:
                now.checksums[:] = -1
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                words = pool.map(lambda i: self._difference(now, i), others)
                found = {i: text for i, text in zip(others, words, strict=True) if text}
            now.checksums[list(found)] = -1
        unknown = self.checksums < 0
        if len(self.sizes) != len(unknown):
            unknown = np.full(len(self.sizes), unknown.any())
        unread = sum(i not in found and bool(unknown[i]) for i in others)
        shown = ", ".join(f"{printable(self.names[i])} ({text})" for i, text in list(found.items())[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return FileChanges(shown + more, unread)

    def _difference(self, now: DataFiles, i: int) -> str:
        if self.sizes[i] != now.sizes[i]:
            return self._sizes(now, i)
        if self.checksums[i] < 0:
            return ""
        try:
            found = zlib.crc32(read_limited(now.names[i], MAX_FILE_BYTES, "image"))
        except DataError:
            return "cannot be read"
        then = int(self.checksums[i])
        return "" if found == then else f"other bytes: checksum {then:08x} then, {found:08x} now"

    def _sizes(self, now: DataFiles, i: int) -> str:
        then, there = (f"{n} bytes" if n >= 0 else "no file" for n in (int(self.sizes[i]), int(now.sizes[i])))
        return f"{then} then, {there} now"


def _stat(name: str) -> tuple[int, int]:
    if is_remote(name) or part_of(name) is not None:
        return -1, -1
    try:
        found = os.stat(name)  # noqa: PTH116 - of a hundred thousand files
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
