"""File names for results, made from the names of images that anyone may have chosen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from singleshot.images.suffixes import IMAGE_SUFFIXES

# What OpenCV's FFmpeg usually opens.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts"}
    | {".m2ts", ".3gp", ".ogv", ".mjpeg", ".mjpg", ".h264"}
)
_MAX_BYTES = 120  # of a stem: leaves room for "-123" and a suffix under the usual limit of 255
# Called with a path that is about to be written.
Begun = Callable[[Path], None]
_COUNTERS = 10_000  # remembered collisions; forgotten ones are found again by looking at the disk


def safe_stem(name: str) -> str:
    """The last part of an image's name without its suffix, fit for a file name on every system.

    Path separators, control characters and what Windows forbids become "_"; leading dots go (no hidden
    files, no ".."); 120 bytes at most; "image" when nothing is left. "clip.mp4#000012" keeps its dot.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    stem, dot, suffix = last.rpartition(".")
    if dot and stem and f".{suffix}".lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        last = stem
    last = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in last)
    last = last.encode("utf-8", "replace")[:_MAX_BYTES].decode("utf-8", "ignore").strip(". ")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", last):
        last = f"_{last}"
    return last or "image"


class OutputNames:
    """Free paths in one folder: name.txt, then name-2.txt, name-3.txt.

    What is on the disk decides, so that memory does not grow with the number of files; only the counters of
    names that collided are remembered, and few of those.
    """

    def __init__(self, folder: Path, begun: Begun = lambda _: None) -> None:
        self.folder, self._begun = folder, begun
        self._next: dict[str, int] = {}

    def free(self, name: str, suffix: str) -> Path:
        """A path in the folder that does not exist yet."""
        path = self._free(name, suffix)
        self._begun(path)
        return path

    def _free(self, name: str, suffix: str) -> Path:
        stem = safe_stem(name)
        key = stem + suffix
        path = self.folder / key
        if key not in self._next and not path.exists():
            return path
        number = self._next.get(key, 2)
        while (path := self.folder / f"{stem}-{number}{suffix}").exists():
            number += 1
        if len(self._next) >= _COUNTERS:
            self._next.clear()
        self._next[key] = number + 1
        return path
