"""`singleshot data check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from singleshot.cli.common import (
    SKIPPED,
    FollowLinksOption,
    JsonOption,
    LabelScoreOption,
    QuietOption,
    count_of,
    progress_bar,
)
from singleshot.errors import ConfigError, printable
from singleshot.files import is_free

if TYPE_CHECKING:
    from singleshot.datasets.checks import CheckResult
    from singleshot.datasets.checks.repair import Repaired

_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "note": typer.colors.BLUE}


def check_command(
    data: Annotated[str, typer.Argument(help="Folder, file or address of a data set, in any form that is read.")],
    split: Annotated[str | None, typer.Option(help="Look at this split only.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="The classes that are right, as train takes them: a,b,c, OLD=NEW, or a file of such lines."),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a repaired copy; the original is not touched.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the copy. Default: DATA's name and -fixed, in the current folder.")
    ] = None,
    most: Annotated[int, typer.Option(min=0, help="Findings to print of each kind.")] = 10,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes that decode images.")] = None,
    score_min: LabelScoreOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find what would break or spoil a training: every label is read, every image decoded.

    Ends with exit code 2 when a training would stop, 0 when it would not, or when --fix has written a repaired copy; 3
    when that copy still has what stops a training.

    Example: singleshot data check path/to/data --fix --out path/to/repaired
    """
    from singleshot.api.class_names import read_classes
    from singleshot.datasets import open_source
    from singleshot.datasets.checks import check_source
    from singleshot.datasets.findings import KINDS

    if out is not None and not fix:
        raise ConfigError("--out says where --fix writes; give --fix too")
    place = (Path(_default_out(data)) if out is None else out) if fix else None
    if place is not None and not is_free(place):
        raise ConfigError(f"{printable(place)}: is there already; give another --out, or remove it")
    new_names: list[str] = []
    names = None if not classes else read_classes(*classes, new_names=new_names)

    def progress(total: int, what: str) -> AbstractContextManager[Callable[[], None]]:
        return progress_bar(total, what, quiet)

    source = open_source(data, score_min=score_min, follow_links=follow_links)
    result = check_source(source, split, names, workers, progress, new_names=new_names)
    repaired = None
    if not as_json:
        _print_findings(result, most, quiet)
    if place is not None:
        from singleshot.datasets.checks.repair import repair

        repaired = repair(result, place, progress)
    if as_json:
        fixed = None if repaired is None else repaired.to_dict()
        print(json.dumps({"data": data, **result.to_dict(), "fixed": fixed}))
    elif repaired is not None:
        _print_repaired(repaired, most, quiet)
    elif not quiet and result.objects and any(KINDS[kind].fixable for kind in result.counts):
        again = f" --out {_quoted(_default_out(data))}{' --follow-links' * follow_links}"
        print(f"to repair what can be repaired, in a copy: singleshot data check {_quoted(data)} --fix{again}")
    if repaired is None and result.severity("error"):
        raise typer.Exit(2)
    if repaired is not None and result.counts.get("image-unread"):  # left as they are
        raise typer.Exit(SKIPPED)


def _default_out(data: str) -> str:
    from singleshot.datasets.archives import ARCHIVES

    name = data.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    if name in ("", ".", ".."):
        name = Path(data).resolve().name or "data"
    endings = (".json", ".yaml", ".yml", ".csv", *ARCHIVES)
    ending = max((end for end in endings if name.lower().endswith(end)), key=len, default="")
    return f"{name[: len(name) - len(ending)] or 'data'}-fixed"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(printable(text))


def _print_findings(result: CheckResult, most: int, quiet: bool) -> None:
    from singleshot.datasets.findings import KINDS

    by_kind: dict[str, list[Any]] = {}
    for finding in result.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, (severity, about, _) in KINDS.items():
        found = by_kind.get(kind, [])
        if not found:
            continue
        head = typer.style(severity, fg=_COLOURS[severity], bold=True) if sys.stdout.isatty() else severity
        total = result.counts[kind]
        print(f"{head} {kind}: {about} ({total})")
        for finding in found[:most]:
            print(f"  {finding}")
        if total > min(most, len(found)):
            print(f"  ... and {total - min(most, len(found))} more")
    if quiet:
        return
    splits = ", ".join(f"{printable(name, 40)} {count}" for name, count in result.splits.items()) or "none"
    made = " (made here)" if result.raw.made else ""
    numbers = ", ".join(count_of(result.severity(name), name) for name in ("error", "warning", "note"))
    print(
        f"{count_of(result.images, 'image')}, {count_of(result.objects, 'object')}, "
        f"{count_of(len(result.classes), 'class', 'classes')}; "
        f"splits: {splits}{made}; {result.seconds:.1f} s"
    )
    print(numbers if result.findings else "nothing wrong was found")


def _print_repaired(repaired: Repaired, most: int, quiet: bool) -> None:
    for action, changes in repaired.actions.items():
        count = repaired.counts[action]
        print(f"fixed: {action} ({count})")
        for change in changes[:most]:
            print(f"  {change}")
        if count > min(most, len(changes)):
            print(f"  ... and {count - min(most, len(changes))} more")
    for fault in repaired.left[:most]:
        print(f"not fixed: {fault}")
    if len(repaired.left) > most:
        print(f"not fixed: ... and {len(repaired.left) - most} more")
    if not quiet:
        print(
            f"written: {printable(repaired.out)} ({repaired.form} form, {count_of(repaired.images, 'image')}, "
            f"{count_of(repaired.objects, 'object')})"
        )
