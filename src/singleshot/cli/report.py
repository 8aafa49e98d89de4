"""`singleshot report`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import DeviceOption, JsonOption, QuietOption, progress_bar


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders that train wrote; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Of one run: folder, default the run's. Of several: the page, default comparison.html."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Evaluate on this in place of the run's data.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split. Default: the run's validation.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the page of a run, report.html, or compare runs: one HTML file each, which fetches nothing.

    One run is evaluated again; several are compared by what lies in their folders.

    Example: singleshot report runs/train-1 runs/train-2 --out comparison.html
    """
    from singleshot.api.report import ReportOptions, run_report

    options = ReportOptions.of({**locals(), "runs": tuple(map(str, runs))})
    page = run_report(options, functools.partial(progress_bar, quiet=quiet))
    if as_json:
        print(json.dumps({"page": str(page), "runs": [str(run) for run in runs]}))
    elif not quiet:
        print(page)
