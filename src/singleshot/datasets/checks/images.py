"""One parallel pass over the image files: every one is read and decoded to its end, as training would.

libjpeg, libpng and libtiff only print where they find a file damaged in the middle, and OpenCV returns an image all
the same; so each process keeps its standard error in a file and looks whether a decode wrote there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.datasets.checks.process_pool import Died, spread, take_stderr
from singleshot.datasets.findings import RaiseErrors
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES, check_image, decode_grey, ends_early
from singleshot.images.headers import header_size
from singleshot.images.orientation import orientation
from singleshot.images.samples import UnreadImageError, count_greys, stretched
from singleshot.storage import LfsPointerError, read_limited

THUMB = 16
_LEAST_SIDE = 8 * THUMB  # of a JPEG that is decoded smaller: the blocks that its edges cut count for little

# Decoders' words about what is no damage: metadata (profiles, EXIF, TIFF tags), and JPEG habits of some cameras.
_HARMLESS = re.compile(
    r"libpng warning: (?!IDAT)|\[ ?WARN|Invalid SOS parameters|Unknown Adobe|Inconsistent progression|"
    r"\[ ?INFO|Warning, unknown field"
)
_LOG_HEAD = re.compile(r"^\[ ?(?:ERROR|FATAL):\S+\] global \S+ \w+ |^libpng (?:error|warning): ")
_DEEP = re.compile(r"^imdecode_\S*(?: can't read \w+:)?.*?error: \([^)]*\) ?")


class Look(NamedTuple):
    """What one file showed. kind and message: what is wrong with it ("" for nothing); width, height as training sees
    them, 0 where it does not decode; orientation: EXIF's; data: digest of the bytes; thumb: grey, 16 x 16 bytes;
    deep: it has 16 bits; few_greys: how many of its grey values 8 bits keep, where those are few, else 0."""

    kind: str
    message: str
    width: int = 0
    height: int = 0
    orientation: int = 1
    data: bytes = bytes(16)
    thumb: bytes = bytes(THUMB * THUMB)
    deep: bool = False
    few_greys: int = 0


class Pictures(NamedTuple):
    """n files. sizes: int32 [n, 2] width and height after any EXIF turn, 0 where a file does not decode;
    orientations: uint8 [n]; data: uint8 [n, 16] digests of the bytes; thumbs: uint8 [n, 16, 16] grey;
    deep: bool [n] those with 16 bits; few_greys: uint8 [n] as in Look; problems: position -> (kind, message)."""

    paths: list[str]
    sizes: np.ndarray
    orientations: np.ndarray
    data: np.ndarray
    thumbs: np.ndarray
    deep: np.ndarray
    few_greys: np.ndarray
    problems: dict[int, tuple[str, str]]

    @property
    def usable(self) -> np.ndarray:
        """bool [n]: those that decode, or would if their samples were read."""
        return self.sizes[:, 0] > 0


def look_at(
    paths: Sequence[str],
    workers: int | None = None,
    on_image: Callable[[], None] | None = None,
    early: Callable[[Collection[str]], Iterable[tuple[str, Look]]] | None = None,
) -> Pictures:
    """Decode every file, each given once, in parallel. early(paths): what comes to be known of some, and of others.

    Raises DataError only where the processes cannot go on.
    """
    n = len(paths)
    found = Pictures(
        list(paths),
        np.zeros((n, 2), np.int32),
        np.ones(n, np.uint8),
        np.zeros((n, 16), np.uint8),
        np.zeros((n, THUMB, THUMB), np.uint8),
        np.zeros(n, bool),
        np.zeros(n, np.uint8),
        {},
    )
    left = {path: i for i, path in enumerate(paths)}
    for path, seen in early(left) if early is not None else ():
        if path in left:
            _keep(found, left.pop(path), seen)
            if on_image is not None:
                on_image()
    todo = list(left.values())
    with closing(spread(look, [paths[i] for i in todo], workers)) as results:
        for k, result in results:
            i = todo[k]
            if isinstance(result, Died):
                message = f"the process that decoded it died, twice ({result}); take it out, or make it smaller"
                found.problems[i] = ("image-corrupt", message)
            else:
                _keep(found, i, result)
            if on_image is not None:
                on_image()
    return found


def _keep(found: Pictures, i: int, seen: Look) -> None:
    found.sizes[i] = seen.width, seen.height
    found.orientations[i] = seen.orientation
    found.data[i] = np.frombuffer(seen.data, np.uint8)
    found.thumbs[i] = np.frombuffer(seen.thumb, np.uint8).reshape(THUMB, THUMB)
    found.deep[i], found.few_greys[i] = seen.deep, seen.few_greys
    if seen.kind:
        found.problems[i] = (seen.kind, seen.message)


def look(path: str) -> Look:
    """Read and decode one file, in a process of `spread`."""
    try:
        data = read_limited(path, MAX_FILE_BYTES, "image")
        size = check_image(data, path)
    except UnreadImageError as error:
        return _unread(data, str(error).removeprefix(f"{printable(path)}: "))
    except LfsPointerError as error:
        return Look("image-pointer", str(error).removeprefix(f"{printable(path)}: "))
    except DataError as error:
        kind = "image-missing" if isinstance(error.__cause__, FileNotFoundError) else "image-corrupt"
        return Look(kind, str(error).removeprefix(f"{printable(path)}: "))
    except MemoryError:
        return Look("image-corrupt", "there is no memory to read it; make it smaller")
    if ends_early(data):
        return Look("image-corrupt", "cut short: its end is missing; fetch it again or remove it from the data set")
    turn = orientation(data)
    take_stderr()
    try:
        # Grey is decoded from the same bytes as colour, with the same words about damage, in half of the time.
        grey = decode_grey(data, size, _LEAST_SIDE, turn)
    except (cv2.error, MemoryError):
        grey = None
    words = _words(take_stderr())
    if grey is None:
        reason = f" ({words})" if words else ""
        return Look("image-corrupt", f"does not decode{reason}; fetch it again or remove it from the data set")
    height, width = (size if turn >= 5 else size[::-1]) if data[:2] == b"\xff\xd8" else grey.shape
    kind = "image-damaged" if words else ""
    message = f"the decoder says: {words}; fetch it again or remove it from the data set" if words else ""
    deep, greys = grey.dtype.itemsize == 2, 0
    if deep:
        counted = count_greys(grey)
        greys, grey = counted.kept if counted.few else 0, stretched(grey)
    thumb = thumbnail(grey)
    return Look(
        kind,
        message,
        width,
        height,
        turn,
        hashlib.sha256(data).digest()[:16],
        thumb.tobytes(),
        deep,
        greys,
    )


def _unread(data: bytes, message: str) -> Look:
    """Of a whole picture that is not read: its size is known, so that its labels can be held against it."""
    turn = orientation(data)
    width, height = header_size(data) or (0, 0)
    sides = (height, width) if turn >= 5 else (width, height)
    return Look("image-unread", message, *sides, turn, hashlib.sha256(data).digest()[:16])


def report_problems(pictures: Pictures, source: str, problems: RaiseErrors) -> None:
    """Say what is wrong with each file; of Git LFS pointers, which come in sets, once."""
    pointers = [k for k, (kind, _) in pictures.problems.items() if kind == "image-pointer"]
    if pointers:
        first = printable(pictures.paths[min(pointers)])
        fault = f"{len(pointers)} of {len(pictures.paths)} images are Git LFS pointers, not the images themselves"
        problems.add("image-pointer", source, f"{fault} ({first} is the first); fetch them with: git lfs pull")
    for k, (kind, message) in sorted(pictures.problems.items()):
        if kind != "image-pointer":
            problems.add(kind, pictures.paths[k], message)


def check_greys(pictures: Pictures, source: str, problems: RaiseErrors) -> None:
    """Say once how many 16-bit pictures keep few grey values in 8 bits."""
    few = np.flatnonzero(pictures.few_greys)
    if not len(few):
        return
    names = [printable(pictures.paths[i].replace("\\", "/").rpartition("/")[2], 80) for i in few[:3].tolist()]
    low, high = int(pictures.few_greys[few].min()), int(pictures.few_greys[few].max())
    count = f"{low} to {high}" if low < high else f"{low}"
    more = ", ..." if len(few) > len(names) else ""
    fault = (
        f"{len(few)} of {int(pictures.deep.sum())} 16-bit images keep {count} grey values in 8 bits "
        f"({', '.join(names)}{more}); train with --sixteen-bit stretch, which spreads each picture's own range over "
        "all 256"
    )
    problems.add("image-few-greys", source, fault)


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """uint8 [16, 16] of a grey image: means, of a large one of 12 x 12 samples each for a third of what all pixels
    cost."""
    if grey.size > 2 * (12 * THUMB) ** 2 or min(grey.shape) < THUMB:  # where a side grows, only some places count
        grey = cv2.resize(grey, (12 * THUMB, 12 * THUMB), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)


def _words(text: str) -> str:
    """The first words of a decoder about damage, without its log's preamble; "" for none."""
    for line in text.splitlines():
        if line.strip() and not _HARMLESS.search(line):
            return printable(_DEEP.sub("", _LOG_HEAD.sub("", line.strip())) or line.strip(), 160)
    return ""
