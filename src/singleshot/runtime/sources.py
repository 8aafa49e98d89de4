"""The first stage of an image's way, where images come from: arrays, files, folders, patterns, videos, cameras, streams
and standard input, one by one."""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from singleshot.errors import DataError, SingleshotError, printable
from singleshot.images.headers import ending_of
from singleshot.images.suffixes import IMAGE_SUFFIXES, is_image
from singleshot.runtime.names import VIDEO_SUFFIXES
from singleshot.runtime.video_reader import LiveReader, VideoReader, open_capture

log = logging.getLogger(__name__)

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
LIVE_KINDS = frozenset({"camera", "stream"})
# First bytes of image files, which a list of paths does not start with, next to those that `ending_of` knows.
_IMAGE_HEADS = re.compile(rb"BM....\0\0\0\0|P[1-7]\n|\0\0\0\x0cjP  ", re.DOTALL)
_HEAD_BYTES = 64
Item = TypeVar("Item")
_LONGEST_PATH = 4096 * 4  # bytes: Linux's PATH_MAX, four times for safety


@dataclass(frozen=True, eq=False)
class Frame:
    """One image on its way to the detector, or the reason why there is none.

    Attributes:
        name: What to call it ("dir/a.jpg", "clip.mp4#000012").
        image: uint8 RGB [H, W, 3]; None when `error` is set, when it is still to be read from the file `path`, or when
            it was let go of.
        index: 0-based position over all sources.
        kind: image, video, camera, stream or stdin.
        source: The file, camera or address it came from (one video's frames share it).
        frame: 0-based number in a video.
        time: Seconds from the beginning of a video, or since a live source was opened.
        fps: Frames per second of a video, None where unknown; where they vary, by the shortest distance of two.
        total: How many frames the video has about, None where unknown.
        error: Why there is no image.
        path: The file that is still to be read.
        data: The bytes of an image file that are still to be decoded.
    """

    name: str
    image: np.ndarray | None
    index: int = 0
    kind: str = "image"
    source: str = ""
    frame: int | None = None
    time: float | None = None
    fps: float | None = None
    total: int | None = None
    error: DataError | None = None
    path: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class _Item:
    """What to open: its kind, path or address, and the name to show (an address without its password)."""

    kind: str
    target: str
    name: str


def open_sources(
    sources: Sequence[str],
    stdin: BinaryIO | None = None,
    decode: bool = True,
    sixteen_bit: str = "scale",
    is_done: Callable[[str], bool] = lambda source: False,
) -> Iterator[Frame]:
    """Frames of all sources in the order given, read one at a time.

    A source is an image or video file, a folder (its images, sorted by name, subfolders not entered), a glob
    pattern ("shots/**/*.jpg"), a text file (.txt) with a path in each line, a camera number, a stream address (rtsp,
    rtmp, http, ...), an image's address (https://host/a.jpg) or "-": standard input, which holds one image or a list
    of paths, one per line (separated by NUL bytes also works). An existing file or folder called "0" wins over camera
    0. A file's kind is detected by suffix, then by content.

    What cannot be read comes as a frame with `error` set, whatever was raised, so that the caller can report it and
    go on with the next. Only the names of one folder or pattern are held in memory.

    Args:
        sources: At least one.
        stdin: In place of the process's own.
        decode: Without it image files are not even opened: their frames have a `path` for Detector.stream, which
            reads several at a time.
        sixteen_bit: How 16-bit images that are decoded here become 8 bits, as the model's input_spec has it.
        is_done: Asked of each file in turn, whether to leave it out.

    Raises:
        DataError: A source does not exist or has no images; at once, before anything is read.
    """
    if not sources:
        raise DataError("no source given: want an image, folder, pattern, video, camera number, address or -")
    plans = [(source, _plan(source)) for source in sources]

    def frames_of(item: _Item) -> Iterator[Frame]:
        return _safely(partial(_open, item, stdin, decode, sixteen_bit), item.name, item.kind)

    return _number(
        frame
        for source, plan in plans
        for item in _safely(plan, source, "image")
        for frame in ([item] if isinstance(item, Frame) else () if is_done(item.name) else frames_of(item))
    )


def first_still(sources: Sequence[str]) -> str | None:
    """The first of the sources that is no video, camera or stream, in folders and patterns too; None where all are.
    Lists of paths are not read for it. Raises DataError as `open_sources`."""
    items = (item for source in sources for item in _plan(source)())
    return next((item.name for item in items if item.kind in ("image", "stdin")), None)


def is_lasting(source: str) -> bool:
    """Whether a source, which exists, gives the same once more: no camera, stream or standard input."""
    if source == "-" or re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://", source):
        return False
    path = Path(source)
    return not path.is_char_device() and (path.exists() or not source.isdigit())


def _safely(items: Callable[[], Iterator[Item]], name: str, kind: str) -> Iterator[Item | Frame]:
    """The items, at whose end a frame with what they raised: no source ends those after it."""
    try:
        yield from items()
    except MemoryError:
        yield _failed(name, kind, "does not fit into this machine's memory")
    except Exception as error:
        yield _failed(name, kind, unreadable(error))


def unreadable(error: Exception) -> str:
    """Whatever a source raised, in words."""
    why = error if isinstance(error, SingleshotError) else f"{type(error).__name__}: {printable(error, 120)}"
    return f"cannot be read ({why})"


def _number(frames: Iterator[Frame]) -> Iterator[Frame]:
    for index, frame in enumerate(frames):
        object.__setattr__(frame, "index", index)  # made just here: nobody else holds it yet
        yield frame


def _plan(source: str) -> Callable[[], Iterator[_Item]]:
    """What a source holds, listed when called; raises DataError when it holds nothing."""
    if source == "-":
        return lambda: iter([_Item("stdin", "-", "standard input")])
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    if address is not None and address[1].lower() != "file":
        if address[1].lower() not in STREAM_SCHEMES:
            raise DataError(f"{printable(source)}: unknown kind of address; want {', '.join(STREAM_SCHEMES)}")
        is_file = address[1].lower() in ("http", "https") and is_image(urlsplit(source).path)
        return lambda: iter([_Item("image" if is_file else "stream", source, _without_secrets(source))])
    path = Path(source[len("file://") :] if address is not None else source)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # too long a name, a NUL byte
        raise DataError(f"{printable(source)}: not a usable path ({error})") from error
    if exists:
        if path.is_dir():
            return _plan_folder(path)
        return lambda: iter([_file_item(path)])
    if source.isascii() and source.isdigit():
        return lambda: iter([_Item("camera", source, f"camera-{int(source)}")])
    if glob.has_magic(source):
        return _plan_glob(source)
    raise DataError(f"{printable(source)}: no such file or folder{_nearest(path)}")


def _without_secrets(address: str) -> str:
    """The address without user, password and query, which must not end up in results and logs."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _nearest(path: Path) -> str:
    """ "; did you mean ...?" with the most similar name in the same folder, or where the path breaks off."""
    parent = path.parent
    try:
        if not parent.is_dir():
            return f" (there is no folder {printable(parent)})"
        names = [entry.name for entry in islice(parent.iterdir(), 10_000)]
    except OSError:
        return ""
    found = get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {printable(parent / found[0])}?" if found else ""


def _is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not Path(name).name.startswith(".")


def _plan_folder(folder: Path) -> Callable[[], Iterator[_Item]]:
    has_images, videos, deeper = False, 0, False
    try:
        with os.scandir(folder) as entries:  # says of most what they are without another look at the disk
            for entry in entries:
                has_images = has_images or (_is_image_name(entry.name) and entry.is_file())
                videos += Path(entry.name).suffix.lower() in VIDEO_SUFFIXES
                deeper = deeper or (not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise DataError(f"{printable(folder)}: the folder cannot be read ({error.strerror})") from error
    advice = [f"videos are left out ({videos}), give them as files"] if videos else []
    advice += [f"subfolders are not entered, for them use '{printable(folder)}/**/*.jpg'"] if deeper else []
    if not has_images:
        missing = "no image in this folder (want .jpg, .png, .webp, ...)"
        raise DataError(f"{printable(folder)}: {'; '.join((missing, *advice))}")
    if advice:
        log.info("%s: %s", printable(folder), "; ".join(advice))

    def items() -> Iterator[_Item]:
        names = sorted(entry.name for entry in folder.iterdir() if _is_image_name(entry.name))
        return (_Item("image", str(folder / name), str(folder / name)) for name in names)

    return items


def _plan_glob(pattern: str) -> Callable[[], Iterator[_Item]]:
    def wanted() -> Iterator[str]:
        for name in glob.iglob(pattern, recursive=True):  # noqa: PTH207, as Path.glob drops "./" and roots
            if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and Path(name).is_file():
                yield name

    if next(wanted(), None) is None:
        some = next(glob.iglob(pattern, recursive=True), None)  # noqa: PTH207
        advice = f" (it matches {printable(some)}, not an image or video by its suffix)" if some else ""
        raise DataError(f"{printable(pattern)}: no image or video matches this pattern{advice}")
    return lambda: (_file_item(Path(name)) for name in sorted(wanted()))


def _file_item(path: Path) -> _Item:
    """Image or video: by suffix, then by content. What is neither goes as an image, whose reader has the error."""
    name = str(path)
    suffix = path.suffix.lower()
    if path.is_char_device():
        return _Item("camera", name, name)  # /dev/video0
    if suffix in IMAGE_SUFFIXES:
        return _Item("image", name, name)
    if suffix in VIDEO_SUFFIXES:
        return _Item("video", name, name)
    if suffix == ".txt":
        return _Item("list", name, name)
    if path.is_file():
        with path.open("rb") as file:
            if _is_image(file.read(_HEAD_BYTES)):
                return _Item("image", name, name)
        capture = open_capture(name)
        if capture is not None:
            capture.release()
            return _Item("video", name, name)
    return _Item("image", name, name)


def _open(item: _Item, stdin: BinaryIO | None, decode: bool, sixteen_bit: str) -> Iterator[Frame]:
    if item.kind == "image":
        yield _image_frame(item, sixteen_bit) if decode else Frame(item.name, None, source=item.name, path=item.target)
    elif item.kind == "stdin":
        yield from _stdin_frames(stdin if stdin is not None else _standard_input(), decode, sixteen_bit)
    elif item.kind == "list":
        with Path(item.target).open("rb") as file:
            yield from _listed_frames(file, file.readline(_LONGEST_PATH), item, decode, sixteen_bit)
    else:
        yield from _video_frames(item)


def _image_frame(item: _Item, sixteen_bit: str) -> Frame:
    from singleshot.images.decode import read_image

    try:
        return Frame(item.name, read_image(item.target, sixteen_bit), source=item.name)
    except DataError as error:
        return Frame(item.name, None, source=item.name, error=error)


def _standard_input() -> BinaryIO:
    stdin = sys.stdin
    if stdin is None:
        return io.BytesIO()
    if sys.__stdin__ is not None and stdin is sys.__stdin__:
        # Our own buffer over the same file: a thread that still waits in sys.stdin's at exit kills the interpreter.
        return open(stdin.fileno(), "rb", closefd=False)
    return stdin.buffer


def _stdin_frames(stream: BinaryIO, decode: bool, sixteen_bit: str) -> Iterator[Frame]:
    """Frames of standard input: one image, or the files of a list of paths that is read as it comes."""
    from singleshot.images.decode import decode_image

    head = stream.readline(_LONGEST_PATH)
    if len(head) < 16:
        head += stream.read(16 - len(head))
    if head[4:8] == b"ftyp" and len(head) < _HEAD_BYTES:
        head += stream.read(_HEAD_BYTES - len(head))
    if not head.strip():
        yield _failed("standard input", "stdin", "it is empty; want an image or a list of paths, one per line")
    elif _is_image(head):
        try:
            image = decode_image(head + stream.read(), "standard input", sixteen_bit=sixteen_bit)
            yield Frame("stdin", image, kind="stdin", source="-")
        except DataError as error:
            yield Frame("stdin", None, kind="stdin", source="-", error=error)
    else:
        yield from _listed_frames(stream, head, _Item("stdin", "", "standard input"), decode, sixteen_bit)


def _is_image(head: bytes) -> bool:
    return bool(ending_of(head) not in ("", "bmp") or _IMAGE_HEADS.match(head))


def _listed_frames(stream: BinaryIO, head: bytes, where: _Item, decode: bool, sixteen_bit: str) -> Iterator[Frame]:
    """Of a list of paths that starts with `head`. A relative path in a file is of the working folder, or else of the
    file's."""
    for path in _paths(stream, head):
        if path is None:
            yield _failed(where.name, where.kind, "it is neither an image nor a list of paths")
            return
        if not path.strip():
            continue
        try:
            here, near = Path(path), Path(where.target).parent / path
            item = _file_item(near if where.kind == "list" and not here.exists() and near.exists() else here)
        except (OSError, ValueError) as error:
            yield _failed(path, "image", str(error))
            continue
        if item.kind == "list":
            yield _failed(path, "image", "a list in a list; give it as a source of its own")
            continue
        yield from _safely(partial(_open, item, None, decode, sixteen_bit), item.name, item.kind)


def _paths(stream: BinaryIO, head: bytes) -> Iterator[str | None]:
    """Paths in a stream whose first bytes are `head`, one per line or ended by NUL; None where it is not a list."""
    end = b"\0" if b"\0" in head else b"\n"
    left = head
    while True:
        *whole, left = left.split(end)
        for raw in whole:
            yield _path(raw, end)
        chunk = stream.read1(1 << 16)  # type: ignore[attr-defined]
        if not chunk:
            yield _path(left, end)
            return
        left += chunk
        if len(left) > 1 << 17 and end not in left:
            yield None
            return


def _path(raw: bytes, end: bytes) -> str:
    return (raw if end == b"\0" else raw.rstrip(b"\r")).decode("utf-8", "surrogateescape")


def _failed(name: str, kind: str, why: str) -> Frame:
    return Frame(name, None, kind=kind, source=name, error=DataError(f"{printable(name)}: {why}"))


def _video_frames(item: _Item) -> Iterator[Frame]:
    """Frames of a video, camera or stream until it ends; a last frame with an error when it broke off."""
    capture = open_capture(int(item.target) if item.target.isdigit() and item.kind == "camera" else item.target)
    if capture is None:
        wanted = {
            "video": "not a video that OpenCV can read",
            "camera": "cannot open this camera; it is not there, or another program uses it",
            "stream": "cannot open this stream",
        }
        yield _failed(item.name, item.kind, wanted[item.kind])
        return
    number = 0
    video = VideoReader(capture, item.target if item.kind == "video" else None)
    kind = "video" if video.is_recorded and item.kind == "stream" else item.kind  # a file at an address
    reader = LiveReader(capture) if kind in LIVE_KINDS else video
    try:
        for number, (seconds, image) in enumerate(reader, start=1):
            yield Frame(
                f"{item.name}#{number - 1:06d}",
                image,
                kind=kind,
                source=item.name,
                frame=number - 1,
                time=seconds,
                fps=reader.rate,
                total=video.total,
            )
            del image
    finally:
        if reader is video:
            capture.release()
    why = video.broke_off if reader is video else None if number else "no frame of it can be read"
    if why is not None:
        yield replace(_failed(item.name, kind, why), frame=number)
