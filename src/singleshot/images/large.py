"""Images of more pixels than are decoded at once: windows of a file, read as they are asked for in bounded memory.

By GDAL (rasterio), of JPEG, PNG and TIFF, which can be read in rows, strips or tiles. A progressive JPEG or an
interlaced PNG cannot: all of it would have to be held.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from singleshot.errors import DataError, printable
from singleshot.images.headers import ending_of, jpeg_segments, tiff_order
from singleshot.images.orientation import orientation
from singleshot.images.samples import UnreadImageError

_DRIVERS = {"jpg": "JPEG", "png": "PNG", "tif": "GTiff"}
_HEAD_BYTES = 1 << 18
CACHE_BYTES = 256 * 2**20  # of decoded rows, so that neighbours of one row of tiles do not decode them anew
_MOST_BLOCK = 1 << 26  # pixels of a strip or tile, which is held whole
# A window of more pixels is read at a part of its size, by means; the network's input is far smaller.
_MOST_WINDOW = 1 << 24
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # frames, ITU T.81 table B.1


class LargeImage:
    """Rows and columns of an image file: `image[y0:y1, x0:x1]` is uint8 RGB, for a very large window reduced.

    shape: height, width, 3; nbytes: what is held. For one thread at a time.
    Raises DataError for what cannot be read in parts, and where rasterio is not installed.
    """

    def __init__(self, path: str, sixteen_bit: str = "scale") -> None:
        self._path, self._name = Path(path).absolute(), printable(path)
        try:
            import rasterio
        except ImportError:
            raise DataError(
                f"{self._name}: to read an image of that size in parts needs rasterio: pip install 'singleshot[large]'"
            ) from None
        # A picture has no place on the globe.
        warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
        self._rasterio = rasterio
        self._driver = self._check_head()
        with self._opened() as opened:
            self.shape = (opened.height, opened.width, 3)
            self._check(opened, sixteen_bit)
            self._colours = _palette(opened)
        self.nbytes = CACHE_BYTES
        self._open: Any = None

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        height, width = rows.stop - rows.start, columns.stop - columns.start
        reduced = max(1, int(np.ceil(np.sqrt(height * width / _MOST_WINDOW))))
        sides = -(-height // reduced), -(-width // reduced)
        how: dict[str, Any] = {"window": self._rasterio.windows.Window(columns.start, rows.start, width, height)}
        if reduced > 1:
            means = self._rasterio.enums.Resampling.average if self._colours is None else None
            how |= {"resampling": means or self._rasterio.enums.Resampling.nearest}
        try:
            with self._environment():
                if self._open is None:
                    self._open = self._rasterio.open(self._path, driver=self._driver)
                bands = [1] if self._open.count < 3 else [1, 2, 3]
                samples = self._open.read(bands, out_shape=(len(bands), *sides), **how)
        except self._rasterio.errors.RasterioError as error:
            raise DataError(f"{self._name}: damaged or cut short, does not decode ({printable(error, 80)})") from error
        if samples.dtype == np.uint16:
            samples = (samples >> 8).astype(np.uint8)
        channels = [samples[0]] * 3 if len(samples) == 1 else list(samples)
        image: np.ndarray = cv2.merge(channels) if self._colours is None else self._colours[samples[0]]
        return image

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            self._open.close()

    def _environment(self) -> Any:
        # No files next to it are looked at or written; what is over CACHE_BYTES is let go of.
        return self._rasterio.Env(
            GDAL_CACHEMAX=CACHE_BYTES, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"
        )

    def _opened(self) -> Any:
        try:
            with self._environment():
                return self._rasterio.open(self._path, driver=self._driver)
        except self._rasterio.errors.RasterioError as error:
            raise DataError(f"{self._name}: does not open ({printable(error, 80)})") from error

    def _check_head(self) -> str:
        """GDAL's name of the format; DataError where it is not read in parts."""
        with self._path.open("rb") as file:
            head = _head(file)
        ending = ending_of(head)
        whole = ""
        if ending not in _DRIVERS:
            whole = "only JPEG, PNG and TIFF can be"
        elif ending == "png" and head[28:29] == b"\1":
            whole = "an interlaced PNG cannot be"
        elif ending == "jpg" and any(marker in _PROGRESSIVE for marker, _ in jpeg_segments(head)):
            whole = "a progressive JPEG cannot be"
        elif orientation(head) != 1:
            whole = "one that its metadata turn is not; save it upright"
        if whole:
            raise DataError(f"{self._name}: too large to be read at once, and in parts {whole}")
        return _DRIVERS[ending]

    def _check(self, opened: Any, sixteen_bit: str) -> None:
        kind, tags = opened.dtypes[0], opened.tags(1, ns="IMAGE_STRUCTURE")
        bits = int(tags.get("NBITS", 8 * np.dtype(kind).itemsize))
        deep = kind == "uint16" and bits == 16 and sixteen_bit == "scale"
        if not ((kind == "uint8" and bits == 8) or deep) or opened.count > 4:
            raise UnreadImageError(
                f"{self._name}: {opened.count} channels of {bits} bits ({kind}); of an image of that size 1 to 4"
                " channels of 8 bits are read, and of 16 bits without a stretch"
            )
        if max(np.prod(shape) for shape in opened.block_shapes) > _MOST_BLOCK:
            raise DataError(f"{self._name}: its strips or tiles are too large to be held; save it with smaller ones")


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a file; of a TIFF its header with the first directory, which may stand at its end."""
    head = file.read(_HEAD_BYTES)
    if ending_of(head) != "tif":
        return head
    order, big = tiff_order(head) or "<", head[2:4] in (b"+\0", b"\0+")
    form, start = ("Q", 8) if big else ("I", 4)
    try:
        file.seek(struct.unpack_from(order + form, head, start)[0])
    except (struct.error, OSError, ValueError):
        return head
    return head[:start] + struct.pack(order + form, 2 * start) + file.read(_HEAD_BYTES)


def _palette(opened: Any) -> np.ndarray | None:
    """uint8 RGB [256, 3] of the numbers of colours; None where samples are colours themselves."""
    try:
        table = opened.colormap(1)
    except ValueError:
        return None
    return np.array([table.get(number, (0, 0, 0, 255))[:3] for number in range(256)], np.uint8)
