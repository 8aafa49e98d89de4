"""A zip or tar archive in place of a folder: unpacked once into the user's cache, with the guards of `fetch`."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from pathlib import Path

from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_folder, locked_folder
from singleshot.storage import is_remote, reason_of

logger = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
# What is not read: packers that Python lacks, single files, parts of a divided archive.
UNREAD_ARCHIVES = (".rar", ".7z", ".zst", ".tzst", ".gz", ".bz2", ".xz", ".lz4", ".7z.001", ".zip.001", ".z01")
_ADVICE = "unpack it yourself and give the folder"
# COCO in YOLO's form has 246,575. Images hardly shrink in an archive, labels and drawings do.
_MAX_FILES, _MOST_TIMES, _LEAST_BOUND = 2_000_000, 100, 2 * 2**30
_LARGE = 200 * 2**20  # takes long enough for a line before it
_SPARE_BYTES = 256 * 2**20  # of the disk, left to others


def is_archive(name: str) -> bool:
    """Whether a file is an archive that `unpacked` takes, or refuses by name, by its ending."""
    return name.lower().endswith((*ARCHIVES, *UNREAD_ARCHIVES))


def unpacked(path: str | os.PathLike[str]) -> Path:
    """The folder with what a local archive holds: XDG_CACHE_HOME/singleshot/archives, by default in ~/.cache.

    It is unpacked where the archive is not there yet as it is now, by its size and time; whole or not at all.
    Raises DataError for one that is damaged, has a password, links, names that
    lead out, or more than it may have; ConfigError where the cache cannot be written.
    """
    where, shown = Path(path), printable(path)
    if is_remote(path):
        raise DataError(f"{shown}: an archive behind an address; download it, and give the file")
    if not where.name.lower().endswith(ARCHIVES):
        raise DataError(f"{shown}: not an archive that is read (want {', '.join(ARCHIVES)}); {_ADVICE}")
    if (where.parent / "shards.json").is_file():
        raise DataError(f"{shown}: one of several shards; give their folder, {printable(where.parent)}")
    home = _cache_folder() / _key(where)
    place = home / "data"
    if not place.is_dir():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with locked_folder(home):  # another process may unpack the same archive: wait for it
                if not place.is_dir():
                    _unpack(where, place)
        except OSError as error:
            there = printable(error.filename or home)
            raise ConfigError(
                f"{there}: cannot be written ({reason_of(error)}); set XDG_CACHE_HOME to a folder with room, or unpack "
                f"{shown} yourself and give the folder"
            ) from error
    return place


def _unpack(archive: Path, place: Path) -> None:
    from singleshot.datasets.fetch.unpack import unpack_archive  # with urllib, not for every start

    size = archive.stat().st_size
    bound, advice = max(_LEAST_BOUND, _MOST_TIMES * size), _ADVICE
    room = max(shutil.disk_usage(place.parent).free - _SPARE_BYTES, 0)
    if room < bound:
        bound, advice = room, f"set XDG_CACHE_HOME to a folder with more room, or {_ADVICE}"
    if size > _LARGE:
        logger.info("%s: unpacking into %s ...", printable(archive), printable(place))
    for left in place.parent.glob(".part-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with atomic_folder(place) as folder:
        done = unpack_archive(archive, (("", ""),), folder, bound, max_files=_MAX_FILES, advice=advice)
    logger.info(
        "%s: %d files unpacked into %s, where the next run finds them", printable(archive), done.files, printable(place)
    )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError as error:  # no home
        raise ConfigError(f"no folder to unpack into ({error}); set XDG_CACHE_HOME") from error
    return folder / "singleshot" / "archives"


def _key(archive: Path) -> str:
    """A name for the archive as it is now. Raises DataError."""
    try:
        status, whole = archive.stat(), os.path.realpath(archive)
    except OSError as error:
        raise DataError(f"{printable(archive)}: cannot be read ({reason_of(error)})") from error
    text = f"{whole}\0{status.st_size}\0{status.st_mtime_ns}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", archive.name.partition(".")[0])[:40]
    return f"{stem}-{digest[:16]}"
