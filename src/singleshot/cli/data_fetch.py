"""`singleshot data fetch`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import JsonOption, QuietOption

if TYPE_CHECKING:
    from singleshot.datasets.fetch import FreeSet, Progress


def fetch(
    name: Annotated[str | None, typer.Argument(help="Which set; without one, they are listed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the result. Default: data/NAME.")] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Take the same paths from here, such as http://host:8080 (host down, firewall).")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives, in OUT.fetch.")] = False,
    list_sets: Annotated[bool, typer.Option("--list", help="List the sets with sizes and licences.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download a free data set, verify it and unpack it ready for training. Stopped runs go on where they were.

    Example: singleshot data fetch bccd, then singleshot train data/bccd
    """
    from singleshot.datasets.fetch import fetch_set, find_set, free_sets, show_bytes

    if name is None or list_sets:
        _list_sets(free_sets(), as_json)
        return
    entry = find_set(name)
    if not quiet:
        print(f"{name}: {show_bytes(entry.size)} to download; licence: {entry.licence}", file=sys.stderr)
    with _byte_bar(quiet) as progress:
        done = fetch_set(name, out, mirror, keep, progress)
    if as_json:
        kept = {path.name: str(path) for path in done.kept}
        counts = {"fetched": done.fresh, "files": done.files, "bytes": done.bytes}
        print(json.dumps({"name": name, "out": str(done.out), **counts, **_described(entry, kept)}))
        return
    if done.fresh:
        print(f"{done.out}: {name}, {done.files} files, {show_bytes(done.bytes)}; splits {', '.join(entry.splits)}")
    else:
        print(f"{done.out}: {name} is there already; nothing to do")
    if not quiet:
        for path in done.kept:
            print(f"kept: {path}", file=sys.stderr)
        print(f"next: singleshot data info {done.out}", file=sys.stderr)


def _described(entry: FreeSet, kept: dict[str, str] | None = None) -> dict[str, Any]:
    """A set of the catalogue for JSON; kept: where archives lie, by their names."""
    archives = [
        {"address": archive.address, "bytes": archive.size, "sha256": archive.checksum or None}
        | ({"kept": kept[archive.name]} if kept and archive.name in kept else {})
        for archive in entry.archives
    ]
    return {
        "about": entry.about,
        "form": entry.form,
        "splits": entry.splits,
        "licence": entry.licence,
        "home": entry.home,
        "content_sha256": entry.content or None,
        "archives": archives,
    }


def _list_sets(sets: dict[str, FreeSet], as_json: bool) -> None:
    from singleshot.datasets.fetch import show_bytes

    if as_json:
        rows = [
            {"name": name, "bytes": entry.size, "unpacked_bytes": entry.unpacked, **_described(entry)}
            for name, entry in sets.items()
        ]
        print(json.dumps(rows))
        return
    width = max(map(len, sets), default=0)
    for name, entry in sets.items():
        print(f"{name:{width}}  {show_bytes(entry.size):>8}  {entry.about}")
        print(f"{'':{width}}  {'':8}  licence: {entry.licence}")


@contextlib.contextmanager
def _byte_bar(quiet: bool) -> Iterator[Progress]:
    """A bar with bytes and rate on standard error where that is a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                for other in tasks.values():
                    bar.remove_task(other)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield move
