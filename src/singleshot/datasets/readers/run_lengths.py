"""The box round a mask that is written as lengths of runs, without ever making the mask: COCO's and Label Studio's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from singleshot.datasets.raw import Box
from singleshot.datasets.readers.common import json_number, whole_side
from singleshot.datasets.readers.shapes import show

# A count of COCO's text has so many characters of 5 bits at most: 40 bits are more than any image has pixels.
_MOST_CHARS = 8
_WANT_COUNTS = "want the lengths of runs"


def surround_rle(mask: dict[str, Any]) -> Box | str:
    """What surrounds COCO's mask, {"size": [height, width], "counts": ...}, or what is wrong with it. Counts are
    numbers, or pycocotools' text; pixels go down the columns, the first run is outside of the mask."""
    size = mask.get("size")
    sides = [whole_side(json_number(side)) or 0 for side in size] if isinstance(size, list) else []
    if len(sides) != 2 or not all(sides):
        return "the size of its RLE is no height and width; want [height, width] in whole pixels"
    height, width = sides
    counts = mask.get("counts")
    found = _read_text(counts) if isinstance(counts, str) else None
    if isinstance(counts, list) and all(isinstance(n, int) for n in counts):
        found = counts
    if found is None or any(n < 0 for n in found):
        return f"the counts of its RLE are {show(counts)}; {_WANT_COUNTS}"
    if sum(found) > height * width:
        return f"the counts of its RLE are of more pixels than {width} x {height}; write the mask again"
    box = _surround(_inside(found), height)
    return (box[1], box[0], box[3], box[2]) if box else "its mask has no pixel; remove it"


def _read_text(text: str) -> list[int] | None:
    """pycocotools' text as counts; None where it is none. Source: rleFrString in cocoapi/common/maskApi.c."""
    counts: list[int] = []
    value = chars = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or chars == _MOST_CHARS:
            return None
        value |= (code & 31) << 5 * chars
        chars += 1
        if code & 32:
            continue
        if code & 16:
            value -= 1 << 5 * chars
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = chars = 0
    return counts if not chars else None


def _inside(counts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and past-the-last pixel of every second run."""
    at = 0
    for k, count in enumerate(counts):
        if k % 2 and count:
            yield at, at + count
        at += count


def _surround(runs: Iterable[tuple[int, int]], length: int) -> tuple[int, int, int, int] | None:
    """What surrounds runs of pixels in lines of that length: first place and line, and past the last ones."""
    box: tuple[int, int, int, int] | None = None
    for start, end in runs:
        first, last = start // length, (end - 1) // length
        left, right = (start % length, (end - 1) % length + 1) if first == last else (0, length)
        own = (left, first, right, last + 1)
        box = (min(box[0], own[0]), min(box[1], own[1]), max(box[2], own[2]), max(box[3], own[3])) if box else own
    return box


# ---------------------------------------------------------------------------------------------- Label Studio


class _Bits:
    """Reads numbers of a few bits each."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """The next number; ValueError past the end."""
        start, end = self._at // 8, (self._at + count + 7) // 8
        if end > len(self._data):
            raise ValueError("ends in the middle")
        self._at += count
        return int.from_bytes(self._data[start:end], "big") >> (8 * end - self._at) & ((1 << count) - 1)


def surround_brush(rle: Any, width: int, height: int) -> Box | str:
    """What surrounds a brush stroke of Label Studio, bytes that pack the image's RGBA row by row, or what is wrong.

    Source: decode_rle in label-studio-converter's brush.py, of @thi.ng/rle-pack.
    """
    try:
        data = bytes(rle) if isinstance(rle, list) else b""
        box = _surround(_opaque(_Bits(data), 4 * width * height), width)
    except (ValueError, TypeError) as error:  # no bytes, or not as many as it says
        return f"its rle is no packed brush stroke of {width} x {height} pixels ({str(error)[:60]}); export it again"
    return box or "a brush stroke without a pixel; remove it"


def _opaque(bits: _Bits, count: int) -> Iterator[tuple[int, int]]:
    """First and past-the-last pixel of runs whose fourth channel is not 0. ValueError where bits end, or make another
    count of values."""
    if bits.read(32) != count:
        raise ValueError("of another size")
    word, sizes, at = bits.read(5) + 1, [bits.read(4) + 1 for _ in range(4)], 0
    while at < count:
        is_run = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        if end > count:
            raise ValueError("goes beyond its end")
        for start, stop in [(at, end)] if is_run else ((k, k + 1) for k in range(at, end)):
            if bits.read(word) and start // 4 < stop // 4:  # values at 3, 7, 11, ... are pixels' fourth channel
                yield start // 4, stop // 4
        at = end
