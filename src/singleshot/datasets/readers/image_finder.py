"""The image that a name in a label file means, however the tool that wrote it spelled the path.

Tools write the path of the machine where the labels were made, Windows' separators, URLs' quotes, another letter case
or Unicode form. What all spellings share is the end of the path: the longest end that fits exactly one image of the
data set names it. Only images of the set are ever compared; nothing outside its folder is looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from singleshot.datasets.tree import Tree
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.images.suffixes import is_image
from singleshot.storage import is_remote

# More than any path has; ends the work for a hostile name.
_MAX_CHARS, _MAX_PARTS = 4096, 64
_MOST_COPIES = 4
_MASKS = re.compile(r"(?:^|[/_ -])(?:masks?|segmentation\w*|ground_?truth|gt)(?:$|[/_ -])", re.IGNORECASE)
Parts = tuple[str, ...]
NamedImages = Callable[[], Collection[str]]  # see `other_endings`


class ImageFinder:
    """Finds the images of one tree. The whole tree is listed once, and only for a name that no usual place has."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._indexes: dict[bool, dict[str, list[tuple[Parts, str]]]] = {}

    def find(self, name: str, places: Sequence[str] = ()) -> str | None:
        """The image, relative to the root: as written in one of the folders `places`, else by the longest end of its
        path that exactly one image has, those in earlier places first. None where there is none.

        Raises DataError where the name fits several images, or leaves the folder and fits none.
        """
        refused = None
        for place in places:
            try:
                found = self._tree.find(place, name)
            except DataError as error:
                refused = error
                continue
            if found is not None and is_image(found) and not found.rpartition("/")[2].startswith("._"):
                return found
        found = self._by_end(name, places)
        if found is None and refused is not None:
            raise refused
        return found

    def of_stem(self, stem: str, places: Sequence[str] = ()) -> str | None:
        """The image of that name without its ending anywhere in the tree; as `find`."""
        return self._by_end(stem, places, stems=True)

    def _by_end(self, name: str, places: Sequence[str], stems: bool = False) -> str | None:
        if "\0" in name:
            return None
        for parts in _spellings(name[-_MAX_CHARS:]):
            fits = self._fitting(parts, stems)
            if len(fits) > 1:
                fits = _preferred(fits, parts, places) or fits
            if len(fits) > 1 and self._are_copies(photos := _photos(fits)):
                fits = photos[:1]
            if len(fits) > 1:
                there = ", ".join(printable(one, 60) for one in sorted(fits)[:3])
                raise DataError(
                    f"{printable(name, 120)!r} fits {len(fits)} images ({there}); write its path from the folder on"
                )
            if fits:
                return self._tree.find("", fits[0])  # refuses a link that leads out
        return None

    def _are_copies(self, images: Sequence[str]) -> bool:
        """Whether a few local images are the same, byte for byte: then any of them is meant."""
        if is_remote(self._tree.root) or not 0 < len(images) <= _MOST_COPIES:
            return False
        try:
            first = self._tree.read(images[0], MAX_FILE_BYTES, "image")
            return bool(first) and all(self._tree.read(one, MAX_FILE_BYTES, "image") == first for one in images[1:])
        except DataError:  # what cannot be read is no copy
            return False

    def _fitting(self, parts: Parts, stems: bool) -> list[str]:
        """The images with the longest end in common."""
        found = self._index(stems).get(parts[-1], [])
        for length in range(len(parts), 1, -1):
            fits = [image for own, image in found if own[-length:-1] == parts[-length:-1] and len(own) >= length]
            if fits:
                return fits
        return [image for _, image in found]

    def _index(self, stems: bool) -> dict[str, list[tuple[Parts, str]]]:
        """By the last part of the path, or that without its ending: all parts, and the image."""
        if stems not in self._indexes:
            index: dict[str, list[tuple[Parts, str]]] = {}
            for image in self._tree.images():
                parts = _folded(image.split("/"))
                index.setdefault(parts[-1].rpartition(".")[0] if stems else parts[-1], []).append((parts, image))
            self._indexes[stems] = index
        return self._indexes[stems]


def other_endings(
    finder: ImageFinder, names: Sequence[str], found: Sequence[str], used: NamedImages | None = None
) -> dict[int, str]:
    """Position -> the image that one of the names of a label file means but for its ending, "a.png" where there is
    a.jpg: no file of the set names it, and it lies in a folder of others that are found, or all others of the file are
    called so too. found: the images of the names, "" where missing; used: gives `last_parts` of the names of all
    files; None where they are not known, when all of one cannot be called so."""
    folders = {one.rpartition("/")[0] for one in found if one}
    named, taken = last_parts(names) if used is None else used(), {*found}
    meant: dict[int, str] = {}
    for at, name in enumerate(names):
        if found[at]:
            continue
        try:
            image = finder.of_stem(name.rpartition(".")[0], sorted(folders)) if is_image(name) else None
        except DataError:  # it fits several
            image = None
        if image is None or image in taken or not last_parts([image]).isdisjoint(named):
            continue
        if not folders or image.rpartition("/")[0] in folders:
            meant[at] = image
            taken.add(image)
    return meant if folders or (used is not None and len(meant) == len(names)) else {}


def last_parts(names: Iterable[str]) -> set[str]:
    """The last parts of paths, however they are spelled."""
    return {parts[-1] for name in names for parts in _spellings(name)}


def say_ending(meant: Mapping[int, str], names: Sequence[str]) -> str:
    """The note on the images that `other_endings` found."""
    at = min(meant)
    return (
        f"{len(meant)} of {len(names)} images are there with another ending than it says and read so: "
        f"{printable(names[at], 80)!r} is {printable(meant[at], 80)}; correct the names"
    )


def _spellings(name: str) -> Iterator[Parts]:
    """What the name may mean, as the parts of a path: as written, and with "%20" read as a URL's."""
    seen: set[Parts] = set()
    for text in (name, unquote(name)):
        parts = _folded(_parts(text)[-_MAX_PARTS:])
        if parts and parts not in seen:
            seen.add(parts)
            yield parts


def _parts(text: str) -> list[str]:
    text = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", text.strip().partition("?")[0]).replace("\\", "/")
    return [part.strip() for part in text.split("/") if part.strip() not in ("", ".", "..")]


def _folded(parts: Iterable[str]) -> Parts:
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)


def _photos(fits: list[str]) -> list[str]:
    """Those that are not in folders of masks, by their names."""
    return sorted(image for image in fits if not _MASKS.search(image.rpartition("/")[0]))


def _preferred(fits: list[str], parts: Parts, places: Sequence[str]) -> list[str]:
    """The one in the first of the places that has exactly one of them, or [] ."""
    for place in places:
        inside = [image for image in fits if place and image.startswith(f"{place}/")]
        if len(inside) == 1:
            return inside
    direct = [image for image in fits if "/" not in image]
    return direct if "" in places and len(direct) == 1 else []
