"""A data set's folder, local or remote: what lies in it, and never anything outside it.

A data set comes from somebody else: no name in it and no link in it may lead out of its folder. Names here are
relative to the folder, with "/" between their parts, on every system and for every kind of storage.
"""

from __future__ import annotations

import html
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from singleshot.errors import DataError, MissingExtraError, printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
# A folder of more files than this is a mistake (or a trap); COCO has 123,287.
MAX_FILES = 20_000_000
_REMOTE_SECONDS = 60.0


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether the path names a place that fsspec opens, such as https://host/data or memory://data."""
    return "://" in str(path)


def is_image(name: str) -> bool:
    """Whether the file name ends as those of images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)


class Tree:
    """The files under `root`; each folder is listed once, so that thousands of images cost one call per folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = str(root).rstrip("/") if is_remote(root) else str(root)
        self._listed: dict[str, dict[str, bool]] = {}

    def path(self, name: str) -> str:
        """The whole path or address of a file in here: what opens it, and what messages call it."""
        raise NotImplementedError

    def _list(self, folder: str) -> dict[str, bool] | None:
        """Entries of a folder -> whether they are folders; None where there is no such folder."""
        raise NotImplementedError

    def _refuse_outside(self, name: str) -> None:
        """Raise DataError when that file or folder is a link that leads out."""

    def names(self, folder: str = "") -> dict[str, bool]:
        """Names in a folder -> whether that is a folder; {} where there is none.

        Raises DataError when the folder is a link that leaves the root, or cannot be listed.
        """
        if folder not in self._listed:
            self._listed[folder] = self._list(folder) or {}
        return self._listed[folder]

    def is_dir(self, name: str) -> bool:
        return self.find("", name) is not None and bool(self.names(_parent(name)).get(PurePosixPath(name).name))

    def files(self, folder: str = "", suffixes: tuple[str, ...] = ()) -> list[str]:
        """Sorted names of the files in a folder, those with one of the suffixes (any case) if any are given."""
        return sorted(
            name for name, below in self.names(folder).items()
            if not below and (not suffixes or name.lower().endswith(suffixes))
        )  # fmt: skip

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders in a folder, hidden ones left out."""
        return sorted(name for name, below in self.names(folder).items() if below and not name.startswith("."))

    def walk(self, folder: str = "") -> Iterator[str]:
        """Names, relative to the root, of all files under a folder; hidden folders are left out.

        Raises DataError beyond MAX_FILES, and for a folder that is a link out of the root or back to its parents.
        """
        queue, seen = [folder], 0
        while queue:
            here = queue.pop()
            if here.count("/") > 64:
                raise DataError(f"{printable(self.path(here))}: folders within folders without end; give one of them")
            for name in self.files(here):
                seen += 1
                if seen > MAX_FILES:
                    raise DataError(f"{printable(self.root)}: more than {MAX_FILES} files; name the folder you mean")
                yield join(here, name)
            queue += [join(here, name) for name in reversed(self.folders(here))]

    def find(self, folder: str, name: str) -> str | None:
        """The name, relative to the root, of the file `name` (may hold sub-folders) in `folder`; None if not there.

        Raises DataError when the name is absolute, climbs out of the folder, or is a link that leaves the root.
        """
        if name.startswith(("/", "\\")) or "\0" in name or Path(name).is_absolute() or "://" in name:
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

    def read(self, name: str, limit: int, what: str) -> bytes:
        """All bytes of a file in here; DataError as `read_limited`."""
        self._refuse_outside(name)
        return read_limited(self.path(name), limit, what)


class LocalTree(Tree):
    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._real = os.path.realpath(self.root)
        self._links: set[str] = set()

    def path(self, name: str) -> str:
        return str(Path(self.root, name)) if name else self.root

    def _list(self, folder: str) -> dict[str, bool] | None:
        listed = {}
        try:
            with os.scandir(self.path(folder)) as entries:
                for entry in entries:
                    listed[entry.name] = _is_folder(entry)
                    if entry.is_symlink():
                        self._links.add(join(folder, entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{printable(self.path(folder))}: cannot be listed ({error.strerror})") from error
        if listed:
            self._refuse_leaving(self.path(folder))
        return listed

    def _refuse_outside(self, name: str) -> None:
        if name in self._links:
            self._refuse_leaving(self.path(name))

    def _refuse_leaving(self, path: str) -> None:
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{printable(path)}: a link that leads out of {printable(self.root)}; "
                "copy what it points to into the folder"
            )


class RemoteTree(Tree):
    """The same over fsspec. A listing gives what lies under the address asked for, nothing else."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._system, self._base = filesystem(self.root)
        self._base = self._base.rstrip("/")
        self._is_web = self.root.startswith(("http:", "https:"))

    def path(self, name: str) -> str:
        return f"{self.root}/{quote(name) if self._is_web else name}" if name else self.root

    def _list(self, folder: str) -> dict[str, bool] | None:
        place = f"{self._base}/{quote(folder) if self._is_web else folder}".rstrip("/") + "/"
        try:
            entries = self._system.ls(place, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # each kind of storage has errors of its own
            raise DataError(f"{printable(self.path(folder))}: cannot be listed ({printable(error, 120)})") from error
        listed = {}
        for entry in entries:
            # Web servers list links with queries and to elsewhere; only what is directly below counts.
            address = str(entry["name"])
            name = address.rstrip("/")[len(place) :] if address.startswith(place) else ""
            if self._is_web:
                name = "" if "?" in name else unquote(html.unescape(name))
            if name and "/" not in name and name not in (".", ".."):
                listed[name] = entry["type"] == "directory" or address.endswith("/")
        return listed


def open_tree(path: str | os.PathLike[str]) -> Tree:
    """The tree at a local folder or a remote address."""
    return RemoteTree(str(path)) if is_remote(path) else LocalTree(path)


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it. Raises DataError for one that fsspec cannot open."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(
            f"{printable(address)}: remote data needs fsspec: pip install 'singleshot[train]'"
        ) from error
    # fsspec chains ("zip::https://...") and local files by address would go round the checks above.
    if "::" in address or address.startswith(("file:", "local:")):
        raise DataError(f"{printable(address)}: not an address that is read here (want https://, s3://, ...)")
    options: dict[str, Any] = {}
    if address.startswith(("http:", "https:")):
        try:
            from aiohttp import ClientTimeout
        except ImportError as error:
            raise MissingExtraError(f"{printable(address)}: needs aiohttp: pip install 'singleshot[train]'") from error
        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=_REMOTE_SECONDS,
                                                             sock_read=_REMOTE_SECONDS)}  # fmt: skip
    try:
        system, path = fsspec.core.url_to_fs(address, **options)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(f"{printable(address)}: cannot be opened ({printable(error, 200)})") from error
    return system, path


def read_limited(path: str | os.PathLike[str], limit: int, what: str, most: int | None = None) -> bytes:
    """All bytes of a regular file, local or remote; with `most` its first bytes only.

    Raises DataError when it is absent, not a file, unreadable, or above `limit` bytes where it is read whole.
    """
    where = printable(path)
    wanted = limit + 1 if most is None else most
    try:
        data = _read_remote(str(path), wanted) if is_remote(path) else _read_local(path, wanted, where, what)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such {what} file") from error
    except IsADirectoryError as error:
        raise DataError(f"{where}: is a folder (want one {what} file)") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or printable(error, 120)
        raise DataError(f"{where}: cannot be read ({reason})") from error
    if most is None and len(data) > limit:
        raise DataError(f"{where}: larger than {limit // 2**20} MB (the most that is read of one {what} file)")
    return data


def _read_local(path: str | os.PathLike[str], count: int, where: str, what: str) -> bytes:
    # O_NONBLOCK: a named pipe would block an ordinary open for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DataError(f"{where}: is not a regular file (want the {what} itself)")
        return file.read(count)


def _read_remote(address: str, count: int) -> bytes:
    system, path = filesystem(address)
    try:
        with system.open(path, "rb", block_size=2**20) as file:
            return file.read(count)
    except (OSError, DataError):
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise OSError(None, f"{type(error).__name__}: {error}") from error


def describe_contents(tree: Tree, most: int = 20_000) -> str:
    """What lies in a folder and two levels below it, by file ending, for messages."""
    counts: dict[str, int] = {}
    level, seen = [""], 0
    for _ in range(3):
        below: list[str] = []
        for folder in level:
            try:
                names = tree.names(folder)
            except DataError:
                continue
            for name, is_folder in names.items():
                seen += 1
                if seen > most:
                    break
                if is_folder:
                    below.append(join(folder, name))
                else:
                    suffix = PurePosixPath(name).suffix.lower()
                    kind = "image" if suffix in IMAGE_SUFFIXES else suffix or "suffixless"
                    counts[kind] = counts.get(kind, 0) + 1
        level = below
    kinds = sorted(counts.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{n} {printable(kind, 20)} file{'s' * (n > 1)}" for kind, n in kinds) or "nothing"
