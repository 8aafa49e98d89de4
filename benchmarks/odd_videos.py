"""What `singleshot detect` makes of videos in many containers and codecs, against what was put into them.

    python benchmarks/odd_videos.py [--keep FOLDER]

Videos are encoded by what OpenCV has here; headers are then changed in their bytes: a phone's rotation, a browser's
WebM without a rate, frames at uneven times, a file that is cut off. Every frame carries its number as stripes and a
mark in one corner, so that the drawn video, read back, says which frames it shows when, and whether it stands upright.
"""

from __future__ import annotations

import argparse
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from singleshot.runtime import Detections, open_sources
from singleshot.runtime.picture_writer import PictureWriter
from singleshot.runtime.video_writer import _quiet_stderr

WIDTH, HEIGHT, COUNT, RATE = 160, 96, 60, 25.0
_BITS = 8
_DEFAULT_DURATION = b"\x23\xe3\x83"  # RFC 9559 section 5.1.4.1.13
_VOID = 0xEC
_ROTATED = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)  # by 90 degrees, clockwise


@dataclass
class Case:
    """A video: its file name, OpenCV's four characters, what is changed, and what is true of it then."""

    name: str
    tag: str
    change: Callable[[bytes], bytes] = lambda data: data
    rate: float = RATE
    rotated: bool = False
    times: list[float] = field(default_factory=list)
    breaks_off: bool = False
    size: tuple[int, int] = (WIDTH, HEIGHT)


def frame(number: int, width: int, height: int) -> np.ndarray:
    """BGR: stripes for the bits of its number below, a white mark at the left top."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(_BITS):
        if number >> bit & 1:
            image[height // 2 :, bit * width // _BITS : (bit + 1) * width // _BITS] = 220
    image[: height // 4, : width // 4] = 255
    return image


def number_of(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    below = image[height // 2 + height // 8 : -height // 8].mean(axis=(0, 2))
    return sum(int(below[int((bit + 0.5) * width / _BITS)] > 140) << bit for bit in range(_BITS))


def without_rate(data: bytes) -> bytes:
    """As MediaRecorder writes WebM: no DefaultDuration, so that FFmpeg may take 1000 ticks a second for the rate."""
    at = data.index(_DEFAULT_DURATION)
    length = data[at + 3] & 0x7F
    return data[:at] + bytes([_VOID, 0x80 | (2 + length)]) + bytes(2 + length) + data[at + 4 + length :]


def uneven_times() -> list[float]:
    rng = np.random.default_rng(0)
    return [0.0, *np.cumsum(rng.choice([0.033, 0.034, 0.067, 0.12], COUNT - 1)).round(3).tolist()]


def with_times(data: bytes) -> bytes:
    """Of a WebM that its writer made at 25 frames a second: SimpleBlocks at uneven times (RFC 9559 section 5.1.3.4)."""
    data = without_rate(data)
    changed = bytearray(data)
    times, number, cluster = uneven_times(), 0, 0
    at = data.index(b"\x1f\x43\xb6\x75")  # the first Cluster
    while number < COUNT and at < len(data) - 8:
        if data[at : at + 4] == b"\x1f\x43\xb6\x75":
            cluster, at = 0, at + 4 + _vint(data, at + 4)[1]
            continue
        if data[at] == 0xE7:  # Timestamp of the cluster
            cluster = int.from_bytes(data[at + 2 : at + 2 + (data[at + 1] & 0x7F)], "big")
            at += 2 + (data[at + 1] & 0x7F)
            continue
        length, size = _vint(data, at + 1)
        if data[at] == 0xA3:  # SimpleBlock: track, then the time within the cluster
            when = round(times[number] * 1000) - cluster
            changed[at + 1 + size + 1 : at + 1 + size + 3] = struct.pack(">h", when)
            number += 1
        at += 1 + size + length
    return bytes(changed).replace(
        b"\x44\x89\x88" + _duration(data), b"\x44\x89\x88" + struct.pack(">d", times[-1] * 1000 + 40)
    )


def _duration(data: bytes) -> bytes:
    at = data.index(b"\x44\x89\x88")
    return data[at + 3 : at + 11]


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """An EBML length and how many bytes it has."""
    size = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + size], "big") & ((1 << 7 * size) - 1), size


def rotated(data: bytes) -> bytes:
    """As a phone that is held upright writes it: the matrix of the track header (ISO/IEC 14496-12, 8.3.2)."""
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    return data[:at] + _ROTATED + data[at + 36 :]


CASES = [
    Case("h264.mp4", "avc1"),
    Case("mpeg4.mp4", "mp4v"),
    Case("mjpeg.avi", "MJPG"),
    Case("xvid.avi", "XVID"),
    Case("vp8.webm", "VP80"),
    Case("vp9.webm", "VP90"),
    Case("browser.webm", "VP80", without_rate),
    Case("uneven.webm", "VP80", with_times, times=uneven_times()),
    Case("mpeg4.mkv", "mp4v"),
    Case("ntsc.mkv", "mp4v", rate=30000 / 1001),
    Case("phone.mov", "mp4v", rotated, rotated=True),
    Case("flash.flv", "FLV1"),
    Case("mpeg2.ts", "mpg2"),
    Case("program.mpg", "mpg2"),
    Case("windows.wmv", "WMV2"),
    Case("motion.mjpg", "MJPG"),
    Case("theora.ogv", "THEO"),
    Case("cut.avi", "MJPG", lambda data: data[: len(data) // 2], breaks_off=True),
    Case("cut.webm", "VP80", lambda data: data[: len(data) * 6 // 10], breaks_off=True),
    Case("tiny.avi", "MJPG", size=(2, 2)),
    Case("odd.avi", "MJPG", size=(161, 97)),
]


def encode(case: Case, path: Path) -> bool:
    """False where there is no encoder here."""
    with _quiet_stderr():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*case.tag), case.rate, case.size)
        if not writer.isOpened():
            return False
        for number in range(COUNT):
            writer.write(frame(number, *case.size))
        writer.release()
    path.write_bytes(case.change(path.read_bytes()))
    return True


def draw(path: Path, out: Path) -> tuple[list[float], str]:
    """Times of the frames that were read, and the error at the end if any; the drawn video goes into `out`."""
    writer, times, error = PictureWriter(out), [], ""
    for one in open_sources([str(path)]):
        if one.image is None:
            error = str(one.error).split(": ", 1)[-1]
            continue
        height, width = one.image.shape[:2]
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
        writer.add(one, Detections(*nothing, one.name, width, height))
        times.append(float(one.time or 0))
    writer.close()
    return times, error


def shown(path: Path) -> tuple[list[tuple[float, int]], float, tuple[int, int], bool]:
    """Of a drawn video: when each frame is first shown, the rate, width and height, whether it stands upright."""
    capture = cv2.VideoCapture(str(path))
    first: list[tuple[float, int]] = []
    mark, last = 0.0, np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    while True:
        when = capture.get(cv2.CAP_PROP_POS_MSEC)
        good, image = capture.read()
        if not good:
            break
        when, last = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, image
        number = number_of(np.rot90(image) if image.shape[0] > image.shape[1] else image)
        if not first or first[-1][1] != number:
            first.append((when, number))
    height, width = last.shape[:2]
    corner = last[:, ::-1] if height > width else last  # turned clockwise the mark is at the right top
    mark = float(corner[: height // 8, : width // 8].mean())
    return first, capture.get(cv2.CAP_PROP_FPS), (width, height), mark > 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="leave the videos in this folder")
    keep = parser.parse_args().keep
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    print("| video | read of put in | rate | drawn as | frames shown | rate | farthest from time, frames | upright | |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        folder = keep or Path(made)
        folder.mkdir(exist_ok=True)
        for case in CASES:
            path = folder / case.name
            if not encode(case, path):
                print(f"| {case.name} ({case.tag}) | no encoder here |")
                continue
            times, error = draw(path, folder / f"drawn-{case.name}")
            (drawn,) = (folder / f"drawn-{case.name}").iterdir()
            first, rate, (width, height), upright = shown(drawn)
            truth = case.times or [number / case.rate for number in range(COUNT)]
            readable = min(case.size) > _BITS
            apart = max((abs(when - truth[number]) for when, number in first if number < COUNT), default=0.0) * rate
            ok = upright and (height > width) == case.rotated
            cells = (case.name, f"{len(times)} of {COUNT}", f"{case.rate:.2f}", drawn.suffix[1:],
                     str(len(first)) if readable else "-", f"{rate:.2f}", f"{apart:.2f}" if readable else "-",
                     ("yes" if ok else "NO") if readable else "-", error)  # fmt: skip
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
