"""Looking into a data set's folder: what is there, and never anything outside it.

A data set comes from somebody else: no name in it and no link in it may lead out of its folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from singleshot.errors import DataError, printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
# The only names that stand for each other; nothing else is guessed.
SPLIT_ALIASES = {"val": ("valid", "validation"), "valid": ("val",), "validation": ("val",)}


class Folder:
    """Listings of the folders under `root`, each read once.

    Listing instead of asking for each file keeps thousands of images to one system call per folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._listed: dict[Path, dict[str, bool]] = {}

    def names(self, folder: Path) -> dict[str, bool]:
        """Names in a folder -> whether that entry is a link; {} where there is no such folder.

        Raises DataError when the folder is a link that leaves the root, or cannot be listed.
        """
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    listed = {entry.name: entry.is_symlink() for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                listed = {}
            except OSError as error:
                raise DataError(f"{printable(folder)}: cannot be listed ({error.strerror})") from error
            if listed:
                self._refuse_outside(folder)
            self._listed[folder] = listed
        return self._listed[folder]

    def find(self, folder: Path, name: str) -> Path | None:
        """The file `name` (may hold sub-folders) below `folder`, or None when it is not there.

        Raises DataError when the name is absolute, climbs out of the folder, or is a link that leaves the root.
        """
        if name.startswith(("/", "\\")) or "\0" in name or Path(name).is_absolute():
            raise DataError(f"{printable(name)}: leaves the data set's folder (want a name relative to it)")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise DataError(f"{printable(name)}: leaves the data set's folder (want a name without '..')")
        if not parts:
            return None
        for part in parts[:-1]:
            if part not in self.names(folder):
                return None
            folder = folder / part
        link = self.names(folder).get(parts[-1])
        if link is None:
            return None
        found = folder / parts[-1]
        if link:
            self._refuse_outside(found)
        return found

    def _refuse_outside(self, path: Path) -> None:
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{printable(path)}: a link that leads out of {printable(self.root)}; "
                "copy what it points to into the folder"
            )


def find_split(split: str, splits: Collection[str]) -> str | None:
    """The name under which `split` is there, or None."""
    return next((name for name in (split, *SPLIT_ALIASES.get(split, ())) if name in splits), None)


def resolve_split(split: str, splits: Collection[str], where: str) -> str:
    """As `find_split`; DataError lists the splits that are there when it is not."""
    name = find_split(split, splits)
    if name is not None:
        return name
    there = ", ".join(printable(name) for name in sorted(splits)) or "none"
    raise DataError(f"{printable(where)}: no split {printable(split)!r} (there are: {there}); name one of them")


def describe_contents(path: Path, most: int = 20_000) -> str:
    """What lies in a folder and two levels below it, by file ending, for messages."""
    counts: dict[str, int] = {}
    level, seen = [path], 0
    for _ in range(3):
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > most:
                            break
                        if entry.is_dir(follow_symlinks=False):
                            below.append(Path(entry.path))
                        else:
                            suffix = Path(entry.name).suffix.lower()
                            kind = "image" if suffix in IMAGE_SUFFIXES else suffix or "suffixless"
                            counts[kind] = counts.get(kind, 0) + 1
            except OSError:
                continue
        level = below
    kinds = sorted(counts.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{n} {printable(kind, 20)} file{'s' * (n > 1)}" for kind, n in kinds) or "nothing"
