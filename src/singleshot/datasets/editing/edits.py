"""What an editor of label files takes and gives, and how parts of a file are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from singleshot.datasets.raw import Box, RawImage

# rewrite(path, change): a file of the set becomes what `change` makes of its bytes.
Rewrite = Callable[[str, Callable[[bytes], bytes]], None]
Outline = tuple[Sequence[float], Sequence[float]]


class LabelObject(NamedTuple):
    """An object as its label file has it. number: its place there, which names it in an Edit; box: in the file's own
    measure, pixels or parts of the image; fixed: why its box cannot be changed here, "" where it can."""

    number: int
    name: str
    box: Box
    difficult: bool = False
    crowd: bool = False
    fixed: str = ""


class Change(NamedTuple):
    """name, box: what the object gets in place of its own, None for no change."""

    name: str | None = None
    box: Box | None = None


class Edit(NamedTuple):
    """What is done with the objects of one image: some are deleted, some changed, some added at the end."""

    deleted: frozenset[int] = frozenset()
    changed: Mapping[int, Change] = {}
    added: Sequence[tuple[str, Box]] = ()


class Editor(Protocol):
    """Label files of one form, as bytes. DataError for a file that cannot be changed in place."""

    def objects(self, data: bytes, image: RawImage) -> list[LabelObject]:
        """The objects of an image in its label file, those that can be read."""

    def own(self, data: bytes, image: RawImage) -> bytes:
        """The part of the bytes that is about this image."""

    def apply(self, data: bytes, image: RawImage, edit: Edit) -> bytes:
        """The file after the edit; the same bytes for an empty one."""

    def blank(self, image: RawImage) -> bytes:
        """A label file for an image that has none; its size is known. DataError where the form has no such files."""

    def place(self, name: str) -> str:
        """Where the label file of an image belongs, both relative to the data set's folder; as `blank`."""

    def add_class(self, name: str, rewrite: Rewrite) -> None:
        """A class that the set does not have: objects may get it from now on. DataError where it has no room."""


class Splice(NamedTuple):
    """What comes in place of data[start:end]."""

    start: int
    end: int
    text: str


def splice(text: str, splices: Iterable[Splice]) -> str:
    """The text with its parts replaced; of several at one place the first given comes first."""
    pieces, at = [], 0
    for start, end, new in sorted(splices, key=lambda one: (one.start, one.end)):
        assert start >= at, "parts overlap"
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


def moved_outline(outline: Outline, old: Box, new: Box) -> Outline:
    """The points of an outline after its box became another one: moved and stretched with it."""
    moved = []
    for axis, values in enumerate(outline):
        side = old[axis + 2] - old[axis]
        scale = (new[axis + 2] - new[axis]) / side if side else 1.0
        moved.append([new[axis] + (value - old[axis]) * scale for value in values])
    return moved[0], moved[1]
