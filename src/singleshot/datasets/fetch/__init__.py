"""Free data sets by name: download, verify, unpack into one folder that `open_dataset` reads."""

from __future__ import annotations

import contextlib
import difflib
import shutil
from dataclasses import dataclass
from pathlib import Path

from singleshot.datasets.fetch.catalogue import Archive, FreeSet, free_sets
from singleshot.datasets.fetch.download import Progress, download_archive, free_bytes, ignore_progress, with_mirror
from singleshot.datasets.fetch.unpack import content_checksum, unpack_archive
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import LOCK, locked_folder

__all__ = ["Archive", "Fetched", "FreeSet", "Progress", "fetch_set", "find_set", "free_sets", "show_bytes"]

# Lies in each result; says where it came from. Not .txt or .json: readers look into those.
_SOURCE = "SOURCE.md"
# Twice what is expected, and never less than this, may come out of a set's archives (GitHub's hold other objects too).
_LEAST_BOUND = 256 * 2**20


@dataclass(frozen=True)
class Fetched:
    """What a call did. fresh: False where the set was there already; then files and bytes are 0. kept: archives."""

    name: str
    out: Path
    fresh: bool
    files: int = 0
    bytes: int = 0
    kept: tuple[Path, ...] = ()


def find_set(name: str) -> FreeSet:
    """The set of that name. Raises ConfigError that suggests the nearest one."""
    sets = free_sets()
    if name in sets:
        return sets[name]
    near = difflib.get_close_matches(name.lower(), sets, 1, 0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{printable(name)!r}: no set of that name; {guess}want one of {', '.join(sets)}")


def show_bytes(count: int) -> str:
    """1234567 -> "1.2 MB"."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def fetch_set(
    name: str,
    out: str | Path | None = None,
    mirror: str | None = None,
    keep: bool = False,
    progress: Progress = ignore_progress,
) -> Fetched:
    """Download a set of the catalogue and unpack it into the folder `out` (default: data/NAME).

    Archives lie in OUT.fetch beside it until all is done (with `keep` they stay); a run that was stopped is gone on
    with by the next one. `out` appears at once and whole, or not at all. mirror: see `with_mirror`.
    Raises ConfigError and DataError, in one line.
    """
    entry = find_set(name)
    for archive in entry.archives:
        with_mirror(archive.address, mirror)
    shown = Path(out) if out is not None else Path("data", name)
    try:
        place = shown.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, links in a circle
        raise ConfigError(f"{printable(shown)}: is no path ({error}); give another --out") from error
    if _is_complete(place, name):
        return Fetched(name, shown, fresh=False)
    work = place.with_name(f"{place.name}.fetch")
    try:
        work.mkdir(parents=True, exist_ok=True)
        # Two runs would write to the same part file.
        with locked_folder(work, f"{printable(work)}: another run is fetching into it; wait for it"):
            files, count, archives = _fetch(name, entry, place, work, mirror, progress)
            if not keep:
                _clear(work, archives)
    except OSError as error:
        raise ConfigError(
            f"{printable(error.filename or work)}: cannot be written ({error.strerror or error}); give another --out"
        ) from error
    kept = tuple(shown.with_name(work.name) / path.name for path in archives) if keep else ()
    return Fetched(name, shown, True, files, count, kept)


def _fetch(
    name: str, entry: FreeSet, place: Path, work: Path, mirror: str | None, progress: Progress
) -> tuple[int, int, list[Path]]:
    """Files and bytes of the result, and where its archives lie."""
    _require_space(entry, work)
    archives = [download_archive(archive, work, mirror, progress) for archive in entry.archives]
    # Here, not under a name of its own each time: a killed run's leftovers go away.
    fresh = work / "unpacked"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        files = count = 0
        most = max(2 * entry.unpacked, _LEAST_BOUND)
        for archive, path in zip(entry.archives, archives, strict=True):
            try:
                came = unpack_archive(path, archive.moves, fresh, most - count, entry.joined, progress)
            except DataError:
                if not archive.checksum:
                    path.unlink()  # nothing says that it came as it should
                raise
            files, count = files + came.files, count + came.bytes
        if entry.content:
            _verify_content(entry, fresh, archives)
        (fresh / _SOURCE).write_text(_source_text(name, entry), encoding="utf-8")
        if place.exists():
            place.rmdir()  # an empty one
        fresh.replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return files, count, archives


def _clear(work: Path, archives: list[Path]) -> None:
    """Remove the archives, and their folder if nothing else lies in it."""
    for path in (*archives, work / LOCK):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()


def _is_complete(place: Path, name: str) -> bool:
    """Whether the set is there already. Raises ConfigError when something else is there, other than an empty folder."""
    where = printable(place)
    try:
        if not place.exists() or (place.is_dir() and next(place.iterdir(), None) is None):
            return False
        with (place / _SOURCE).open(encoding="utf-8", errors="replace") as file:
            first = file.readline(200)
    except FileNotFoundError:
        first = ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{where}: cannot be used ({reason}); give another --out") from error
    if first.strip() != _title(name):
        raise ConfigError(f"{where}: is there already, and not {name} as fetched; give another --out, or remove it")
    return True


def _title(name: str) -> str:
    return f"# {name}, by singleshot data fetch"


def _source_text(name: str, entry: FreeSet) -> str:
    lines = [_title(name), "", f"{entry.about}.", "", f"- Home: {entry.home}", f"- Licence: {entry.licence}"]
    for archive in entry.archives:
        lines.append(f"- From: {archive.address}" + f" (sha256 {archive.checksum})" * bool(archive.checksum))
    if entry.content:
        lines.append(f"- sha256 of the content: {entry.content}")
    return "\n".join(lines) + "\n"


def _require_space(entry: FreeSet, work: Path) -> None:
    """Raises DataError when the disk has less room than archives and result need together."""
    come = [work / f"{archive.name}{end}" for archive in entry.archives for end in ("", ".part")]
    there = sum(path.stat().st_size for path in come if path.is_file())
    needed, free = entry.size + entry.unpacked - there, free_bytes(work)
    if free < needed:
        raise DataError(
            f"{printable(work.parent)}: {show_bytes(free)} free; want {show_bytes(needed)} (archives and their "
            "contents); make room, or give another --out"
        )


def _verify_content(entry: FreeSet, folder: Path, archives: list[Path]) -> None:
    found = content_checksum(folder)
    if found != entry.content:
        for path in archives:
            path.unlink(missing_ok=True)
        names = ", ".join(printable(path.name) for path in archives)
        raise DataError(
            f"{names}: sha256 of the content is {found}; want {entry.content}; run it again, or see {entry.home} "
            "for what has changed"
        )
