"""A data set's folder, local or remote: what lies in it, and never anything outside it.

A data set comes from somebody else: no name in it and no link in it may lead out of its folder. Names here are
relative to the folder, with "/" between their parts, on every system and for every kind of storage.
"""

from __future__ import annotations

import contextlib
import copy
import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urljoin, urlsplit

from singleshot.errors import ConfigError, DataError, printable
from singleshot.images.drawn_mark import CROPS, HEAD_BYTES, PICTURES, is_marked
from singleshot.images.suffixes import is_image
from singleshot.remote_file import check_folder
from singleshot.storage import filesystem, is_remote, open_limited, read_limited, read_remote, reason_of

# A folder of more files than this is a mistake (or a trap); COCO has 123,287.
MAX_FILES = 20_000_000
_MAX_FOLDERS = 1_000_000  # links can make endless ones of a few
_LISTING_BYTES = 256 * 2**20

# Bounded repeats: a listing comes from somebody else too.
_LINK = re.compile(
    r"""<a\s(?:[^<>]{0,1000}?\s)?href\s{0,9}=\s{0,9}(?:"([^"]{0,9999})"|'([^']{0,9999})'|([^\s"'<>]{1,9999}))""",
    re.IGNORECASE,
)


class EnoughError(Exception):
    """More of a tree was to be read than it was `limited` to."""


class _Allowance:
    """How much may still be read of a limited tree."""

    def __init__(self, files: int, most_bytes: int) -> None:
        self._files, self._bytes = files, most_bytes

    def read(self, path: str, limit: int, what: str, most: int | None) -> bytes:
        """As `read_limited`; EnoughError where nothing is left."""
        self._files -= 1
        wanted = min(limit if most is None else most, self._bytes)
        data = read_limited(path, limit, what, wanted + 1) if self._files >= 0 else b""
        self._bytes -= len(data)
        if self._files < 0 or self._bytes < 0 or (most is None and len(data) > limit):
            raise EnoughError
        return data if most is None else data[:most]


class Tree:
    """The files under `root`; each folder is listed once, so that thousands of images cost one call per folder."""

    follow_links = False
    _allowance: _Allowance | None = None
    _given: Tree | None = None

    def __init__(self, root: str | os.PathLike[str]) -> None:
        scheme, separator, rest = str(root).partition("://")
        self.root = scheme + separator + rest.rstrip("/") if separator else str(root)
        self._listed: dict[str, dict[str, bool]] = {}
        self._sorted: dict[tuple[str, object], list[str]] = {}  # every form of labels asks for the same files
        self.memo: dict[str, object] = {}  # what readers found out of its names, by what it is

    def path(self, name: str) -> str:
        """The whole path or address of a file in here: what opens it, and what messages call it."""
        raise NotImplementedError

    def _list(self, folder: str) -> dict[str, bool] | None:
        """Entries of a folder -> whether they are folders; None where there is no such folder."""
        raise NotImplementedError

    def _refuse_outside(self, name: str) -> None:
        """Raise DataError when that file or folder is a link that leads out."""

    def _leads_back(self, folder: str) -> bool:
        """Whether the folder is a link to one that it lies in. The system ends such a circle after many turns."""
        return False

    def refuse_links(self) -> None:
        """Raise DataError for the first link that leads out, of those that were listed so far."""

    def below(self, folder: str) -> Tree:
        """The tree of a folder in here, under the same rules."""
        tree = self._open_below(folder)
        tree._given = self.given
        return tree

    def _open_below(self, folder: str) -> Tree:
        return open_tree(self.path(folder), self.follow_links)

    @property
    def given(self) -> Tree:
        """The tree that this one was taken from by `below`, that of the folder that the user gave; itself if none."""
        return self._given or self

    def limited(self, files: int, most_bytes: int) -> Tree:
        """The same tree, which raises EnoughError once more than that has been read of it."""
        tree = copy.copy(self)
        tree._allowance = _Allowance(files, most_bytes)
        return tree

    @property
    def is_limited(self) -> bool:
        """Whether it only is looked at, to find out what lies there."""
        return self._allowance is not None

    def names(self, folder: str = "") -> dict[str, bool]:
        """Names in a folder -> whether that is a folder; {} where there is none.

        Raises DataError when the folder is a link that leaves the root, or cannot be listed.
        """
        if folder not in self._listed:
            self._listed[folder] = self._list(folder) or {}
        return self._listed[folder]

    def is_dir(self, name: str) -> bool:
        """Whether there is a folder of that name in here; DataError as `find`."""
        found = self.find("", name)
        return found is not None and self.names(_parent(found))[found.rpartition("/")[2]]

    def files(self, folder: str = "", suffixes: tuple[str, ...] = ()) -> list[str]:
        """Sorted names of the files in a folder, of those with one of the suffixes (any case) if any are given; hidden
        ones are left out: macOS writes "._NAME" for each NAME into its archives."""
        if not suffixes:
            return self._names_of(folder, False, "._")
        if (folder, suffixes) not in self._sorted:
            self._sorted[folder, suffixes] = [k for k in self.files(folder) if k.lower().endswith(suffixes)]
        return list(self._sorted[folder, suffixes])

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders in a folder, hidden ones and what macOS adds left out."""
        return self._names_of(folder, True, (".", "__MACOSX"))

    def _names_of(self, folder: str, below: bool, hidden: str | tuple[str, ...]) -> list[str]:
        if (folder, below) not in self._sorted:
            names = (name for name, is_folder in self.names(folder).items() if is_folder == below)
            self._sorted[folder, below] = sorted(name for name in names if not name.startswith(hidden))
        return list(self._sorted[folder, below])

    def open_folders(self, folder: str = "") -> list[str]:
        """As `folders`, without those that cannot be listed, lead out, or back to where they lie."""
        found = []
        for name in self.folders(folder):
            with contextlib.suppress(DataError):
                self.names(join(folder, name))
                if not self._leads_back(join(folder, name)):
                    found.append(name)
        return found

    def with_below(self, folder: str, levels: int) -> Iterator[str]:
        """The folder and, so many levels deep, those below it as `open_folders` has them, each before its own."""
        yield folder
        for name in self.open_folders(folder) if levels > 0 else ():
            yield from self.with_below(join(folder, name), levels - 1)

    def walk(self, folder: str = "", lenient: bool = False) -> Iterator[str]:
        """Names, relative to the root, of all files under a folder; hidden folders and drawn pictures are left out.

        Raises DataError beyond MAX_FILES, and for a folder that is a link out of the root or back to its parents;
        `lenient` passes over such folders.
        """
        queue, seen, folders_seen = [folder], 0, 0
        while queue:
            here = queue.pop()
            folders_seen += 1
            if folders_seen > _MAX_FOLDERS:
                raise DataError(f"{printable(self.root)}: more than {_MAX_FOLDERS} folders; name the one that you mean")
            try:
                if here.count("/") > 64 or self._leads_back(here):
                    there = printable(self.path(here))
                    raise DataError(f"{there}: folders within folders without end; give one of them")
                files, folders = self.files(here), self.folders(here)
            except DataError:
                if lenient:
                    continue
                raise
            for name in files:
                seen += 1
                if seen > MAX_FILES:
                    raise DataError(f"{printable(self.root)}: more than {MAX_FILES} files; name the folder you mean")
                yield join(here, name)
            queue += [join(here, name) for name in reversed(folders) if not self._is_drawn(here, name)]

    def _is_drawn(self, folder: str, name: str) -> bool:
        """Whether a folder holds what `detect` drew or cut out, by the first picture in it or in its first folder."""
        if name not in (PICTURES, CROPS):
            return False
        place = join(folder, name)
        try:
            if name == CROPS and (below := self.folders(place)):
                place = join(place, below[0])
            first = next(filter(is_image, self.files(place)), None)
            return first is not None and is_marked(self.read(join(place, first), HEAD_BYTES, "image", most=HEAD_BYTES))
        except DataError:
            return False

    def images(self) -> Iterator[str]:
        """Names, relative to the root, of all images; folders that lead out or cannot be listed are passed over."""
        return filter(is_image, self.walk(lenient=True))

    def find(self, folder: str, name: str) -> str | None:
        """The name, relative to the root, of the file `name` (may hold sub-folders) in `folder`; None if not there.

        Raises DataError when the name is absolute, climbs out of the folder, or is a link that leaves the root.
        """
        if name.startswith(("/", "\\")) or "\0" in name or os.path.splitdrive(name)[0] or "://" in name:
            raise DataError(f"{printable(name)}: leaves the data set's folder (want a name relative to it)")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise DataError(f"{printable(name)}: leaves the data set's folder (want a name without '..')")
        if not parts:
            return None
        for part in parts:
            if part not in self.names(folder):
                return None
            folder = join(folder, part)
        self._refuse_outside(folder)
        return folder

    def read(self, name: str, limit: int, what: str, most: int | None = None) -> bytes:
        """All bytes of a file in here, or with `most` its first ones; DataError as `read_limited`."""
        self._refuse_outside(name)
        if self._allowance is None:
            return read_limited(self.path(name), limit, what, most)
        return self._allowance.read(self.path(name), limit, what, most)

    @contextlib.contextmanager
    def open(self, name: str, limit: int, what: str) -> Iterator[IO[bytes]]:
        """A file in here for reading piece by piece; DataError as `read_limited`."""
        self._refuse_outside(name)
        if self._allowance is not None:
            self._allowance.read(self.path(name), limit, what, None)
        with open_limited(self.path(name), limit, what) as file:
            yield file


class LocalTree(Tree):
    """A folder on the disk. Links in it are followed as far as they stay in it; with `follow_links` out of it too."""

    def __init__(self, root: str | os.PathLike[str], follow_links: bool = False) -> None:
        super().__init__(root)
        self.follow_links = follow_links
        self._real = os.path.realpath(self.root)
        whole = str(Path(self.root))
        self._prefix = "" if whole == "." else whole.rstrip(os.sep) + os.sep
        self._links: set[str] = set()

    def path(self, name: str) -> str:
        """The path of a file, as the user gave the root."""
        return self._prefix + name if name else self.root  # Path() would cost more than all else of a large set

    def _open_below(self, folder: str) -> LocalTree:
        """As Tree's; its links may lead to all of this tree."""
        tree = LocalTree(self.path(folder), self.follow_links)
        tree._real = self._real
        return tree

    def _list(self, folder: str) -> dict[str, bool] | None:
        listed = {}
        try:
            with os.scandir(self.path(folder)) as entries:
                for entry in entries:
                    listed[entry.name] = _is_folder(entry)
                    if entry.is_symlink():
                        self._links.add(join(folder, entry.name))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no folder can have
            return None
        except OSError as error:
            raise DataError(f"{printable(self.path(folder))}: cannot be listed ({reason_of(error)})") from error
        if listed:
            self._refuse_leaving(self.path(folder))
        return listed

    def _refuse_outside(self, name: str) -> None:
        self.names(_parent(name))  # looks at links, of the folder and in it
        if name in self._links:
            self._refuse_leaving(self.path(name))

    def refuse_links(self) -> None:
        """As Tree's."""
        for name in sorted(self._links):
            self._refuse_leaving(self.path(name))

    def _leads_back(self, folder: str) -> bool:
        if folder not in self._links:
            return False
        target = os.path.realpath(self.path(folder)).rstrip(os.sep) + os.sep
        while folder:  # each of those above: links may lead from one place to another and back
            folder = _parent(folder)
            if (os.path.realpath(self.path(folder)) + os.sep).startswith(target):
                return True
        return False

    def _refuse_leaving(self, path: str) -> None:
        if self.follow_links:
            return
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{printable(path)}: a link that leads out of {printable(self.root)}; "
                "copy what it points to into the folder, or, if the folder is your own, give --follow-links to train, "
                "eval or data"
            )


class RemoteTree(Tree):
    """The same over fsspec. A listing gives what lies under the address asked for, nothing else."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._is_web = self.root.lower().startswith(("http:", "https:"))
        check_folder(self.root)

    def path(self, name: str) -> str:
        """The address of a file, quoted where it is a URL."""
        return f"{self.root}/{_quote(name) if self._is_web else name}" if name else self.root

    def _list(self, folder: str) -> dict[str, bool] | None:
        if folder and folder.rpartition("/")[2] not in self.names(_parent(folder)):
            return None  # saves a question, and some servers' strange answers to it
        try:
            return self._list_web(folder) if self._is_web else self._list_storage(folder)
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                what = "nothing is there, or the server does not list it (of shards give the address of shards.json)"
                raise DataError(f"{printable(self.root)}: {what}") from None
            return None
        except DataError:
            raise
        except Exception as error:  # each kind of storage has errors of its own
            raise DataError(f"{printable(self.path(folder))}: cannot be listed ({reason_of(error)})") from error

    def _list_storage(self, folder: str) -> dict[str, bool]:
        # Asked for each time: in a forked worker the parent's connection does not work.
        system, base = filesystem(self.root)
        place = f"{base.rstrip('/')}/{folder}".rstrip("/") + "/"
        listed = {}
        for entry in system.ls(place, detail=True):
            address = str(entry["name"])
            name = address.rstrip("/")[len(place) :] if address.startswith(place) else ""
            if name and "/" not in name and name not in (".", ".."):
                listed[name] = entry["type"] == "directory" or address.endswith("/")
        return listed

    def _list_web(self, folder: str) -> dict[str, bool]:
        """The links of the page that the server shows for a folder, as far as they lead directly below it."""
        place = self.path(folder) + "/"
        page = read_remote(place, _LISTING_BYTES + 1)
        if len(page) > _LISTING_BYTES:
            raise DataError(f"{printable(place)}: a listing of more than {_LISTING_BYTES // 2**20} MB")
        asked, listed = urlsplit(place), {}
        above = _unquote(asked.path)
        for match in _LINK.finditer(page.decode("utf-8", "surrogateescape")):
            try:
                link = urlsplit(urljoin(place, html.unescape(next(filter(None, match.groups()), ""))))
            except ValueError:
                continue
            whole = _unquote(link.path)
            if (link.scheme, link.netloc) != (asked.scheme, asked.netloc) or link.query or link.fragment:
                continue
            name = whole[len(above) :].removesuffix("/") if whole.startswith(above) else ""
            if name and "/" not in name and "\0" not in name and name not in (".", ".."):
                listed[name] = whole.endswith("/")
        return listed


def _quote(name: str) -> str:
    return quote(name, errors="surrogateescape")


def _unquote(name: str) -> str:
    return unquote(name, errors="surrogateescape")


def open_tree(path: str | os.PathLike[str], follow_links: bool = False) -> Tree:
    """The tree at a local folder or a remote address. Raises ConfigError for links of a remote one."""
    if not is_remote(path):
        return LocalTree(path, follow_links)
    if follow_links:
        raise ConfigError(f"--follow-links: for folders on this machine; {printable(path)} has no links, leave it out")
    return RemoteTree(str(path))


def join(folder: str, name: str) -> str:
    """The name of a file in a folder ("" is the root)."""
    return f"{folder}/{name}" if folder else name


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
