"""Decoded images kept from one epoch to the next, in memory or in a file, shared by all loader processes.

Every image has its place before the first one is decoded, so that processes need no lock: whoever decodes an image
first writes it there and then sets its flag; two that do so at once write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.measure import measured
from singleshot.datasets.packed_strings import offsets_of
from singleshot.errors import ConfigError, printable
from singleshot.inputs import Size, sides_of
from singleshot.memory import free_memory
from singleshot.storage import is_remote, part_of

# A cached image keeps at least this many times the network's input along both sides, so that crops of half the side
# are as sharp as from the file; larger ones are kept reduced.
_SHARPNESS = 2
_REDUCTIONS = (8, 4, 2)
_CLEAN, _IN_USE = 1, 2

Sides = tuple[int, int]  # height and width in pixels
_HEAD = 64


def open_cache(
    dataset: Dataset, size: Size, where: str, max_bytes: int, tile: Sides | None = None, skip_broken: bool = False
) -> PixelCache | None:
    """The cache that `where` names: "none", "ram", or the folder of a file; at most max_bytes of pixels for an input of
    `size` pixels; tile, skip_broken: as PixelCache has them. Raises as that does."""
    if where == "none":
        return None
    return PixelCache(dataset, size, max_bytes, None if where == "ram" else Path(where), tile, skip_broken)


def pick_cache(
    dataset: Dataset, size: Size, max_bytes: int, tile: Sides | None = None, skip_broken: bool = False
) -> str:
    """ "ram" where all decoded images fit into max_bytes and half of the memory that is free now, else "none"."""
    sizes = measured(dataset, skip_broken=skip_broken).sizes.astype(np.int64)
    needed = sum(math.prod(-(-side // _reduction(w, h, size, tile)) for side in (w, h)) * 3 for w, h in sizes.tolist())
    return "ram" if needed <= min(max_bytes, free_memory() // 2) else "none"


class PixelCache:
    """A Dataset whose `picture` takes pixels from the cache; what is not in it yet is decoded and put there.

    images: how many have a place; bytes: what they take when all are there. An image's pixels do not depend on
    whether it was cached, nor on how many fit: those without a place are read at the same reduction.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: Size,
        max_bytes: int,
        folder: Path | None = None,
        tile: Sides | None = None,
        skip_broken: bool = False,
    ) -> None:
        """size: of the network's input, side or height and width; folder: where the file goes, None for memory; tile:
        height and width of the part of an image that fills the input, None for all of it; skip_broken: an image that
        cannot be measured gets no place.

        Raises DataError for such an image otherwise, ConfigError where the file cannot be made.
        """
        self.dataset = dataset
        self._sizes = measured(dataset, skip_broken=skip_broken).sizes.astype(np.int64)
        self._reduce = np.array([_reduction(w, h, size, tile) for w, h in self._sizes.tolist()], np.int64)
        sides = -(-self._sizes // self._reduce[:, None])
        counts = sides.prod(axis=1) * 3
        offsets = offsets_of(-(-counts // 64) * 64)
        self.images = int(np.searchsorted(offsets, max_bytes, side="right")) - 1
        self.bytes = int(offsets[self.images])
        self._sides, self._offsets = sides, offsets
        # A flag and the checksum of each image, then the pixels.
        flags = _HEAD + self.images
        sums = -(-flags // 4) * 4
        self._start = -(-(sums + 4 * self.images) // 4096) * 4096
        length = max(self._start + self.bytes, 4096)
        self.path = None if folder is None else self._file(folder, size, length, tile)
        self._map = _in_memory(length) if self.path is None else _in_file(self.path, length)
        whole = np.frombuffer(self._map, np.uint8)
        self._state, self._ready = whole[:1], whole[_HEAD:flags]
        self._sums = whole[sums : sums + 4 * self.images].view(np.uint32)
        self._pixels = whole[self._start :]
        if self._state[0] != _CLEAN:
            self._ready[:] = 0  # a run that was killed: its last pages may not have reached the disk
        self._state[0] = _IN_USE

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def source(self) -> str:
        """The data set's own, for messages."""
        return self.dataset.source

    @property
    def filled(self) -> int:
        """How many images are in it."""
        return int(self._ready.sum())

    def picture(self, i: int) -> EncodedImage:
        """As `Dataset.picture`; raises DataError likewise, for damage to the pixels when they are asked for."""
        i %= len(self)
        reduce = int(self._reduce[i])
        if i < self.images and self._ready[i]:
            width, height = self._sizes[i].tolist()
            boxes_px, labels, _, ignored_px = self.dataset.objects(i, width, height)
            pixels = self._place(i)
            about = (reduce,), self.dataset.names[i], int(self._sums[i]), ignored_px
            return EncodedImage(width, height, boxes_px, labels, lambda _: pixels, *about)
        encoded = self.dataset.picture(i)

        def decode(_: int) -> np.ndarray:
            image = _decoded(encoded, reduce)
            if i < self.images and image.shape == self._place(i).shape:
                self._place(i)[:], self._sums[i] = image, encoded.checksum
                self._ready[i] = 1
            return image

        return encoded._replace(pixels=decode, reductions=(reduce,))

    def close(self) -> None:
        """Write the file to the disk and mark it as whole; the cache cannot be used any more."""
        if self.path is not None:
            self._map.flush()
            self._state[0] = _CLEAN
            self._map.flush()

    def _place(self, i: int) -> np.ndarray:
        width, height = self._sides[i].tolist()
        start = int(self._offsets[i])
        return self._pixels[start : start + width * height * 3].reshape(height, width, 3)

    def _file(self, folder: Path, size: Size, length: int, tile: Sides | None) -> Path:
        """The cache file for these images as they are now: changed files have another name."""
        height, width = sides_of(size)
        shape = f"{height}" if height == width else f"{height} x {width}"
        rule = self.dataset.sixteen_bit
        rule = "" if rule == "scale" else f" {rule}"
        rule += "" if tile is None else " tile {} x {}".format(*tile)
        digest = hashlib.sha256(f"2 {shape} {length}{rule}\n".encode())
        for name, (width, height) in zip(self.dataset.names, self._sizes.tolist(), strict=True):
            stamp = 0 if is_remote(name) or part_of(name) is not None else Path(name).stat().st_mtime_ns
            digest.update(f"{name}\n{width} {height} {stamp}\n".encode("utf-8", "surrogateescape"))
        return folder / f"pixels-{digest.hexdigest()[:24]}.cache"


def _reduction(width: int, height: int, size: Size, tile: Sides | None) -> int:
    rows, columns = sides_of(size)
    if tile is not None:
        height, width = min(height, tile[0]), min(width, tile[1])
    most = min(width / columns, height / rows) / _SHARPNESS
    return next((r for r in _REDUCTIONS if r <= most), 1)


def _decoded(encoded: EncodedImage, reduce: int) -> np.ndarray:
    if reduce in encoded.reductions:
        return encoded.pixels(reduce)
    import cv2

    # Files that cannot be read at a part of their size are shrunk as a JPEG decoder would: by means.
    sides = -(-encoded.width // reduce), -(-encoded.height // reduce)
    return cv2.resize(encoded.pixels(1), sides, interpolation=cv2.INTER_AREA)


def _in_memory(length: int) -> mmap.mmap:
    # Anonymous and shared: forked workers see one another's writes, and it is no part of /dev/shm's small quota.
    return mmap.mmap(-1, length)


def _in_file(path: Path, length: int) -> mmap.mmap:
    """The file, made if it is not there (sparse: it takes what is written to it)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != length:
            free = shutil.disk_usage(path.parent).free
            if free < length:
                raise ConfigError(
                    f"{printable(path.parent)}: {length >> 20} MB for the cache, {free >> 20} MB are free; "
                    "give a smaller --cache-size or another folder"
                )
            with _temporary(path) as temporary:
                os.truncate(temporary, length)
                Path(temporary).replace(path)
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), length)
    except OSError as error:
        raise ConfigError(f"{printable(path.parent)}: no cache can be kept there ({error.strerror})") from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[str]:
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    os.close(handle)
    try:
        yield name
    finally:
        Path(name).unlink(missing_ok=True)
