"""The page of a run, written anew, or of several next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from singleshot.api.options import Options, Progress, no_progress
from singleshot.errors import ConfigError, printable
from singleshot.extras import require

COMPARISON = "comparison.html"


@dataclass(frozen=True)
class ReportOptions(Options):
    """Of which runs, and where to; see `report`."""

    runs: tuple[str, ...]
    out: str | None = None
    data: str | None = None
    split: str | None = None
    device: str | None = "auto"

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("report: of which run? Give its folder: singleshot report runs/train-1")
        if len(self.runs) > 1 and (self.data is not None or self.split is not None):
            raise ConfigError("--data, --split: for one run, which is evaluated; several are compared as they are")


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    device: str | None = "auto",
    progress: Progress = no_progress,
) -> Path:
    """Write the page of a run, which is evaluated for it, or compare several by what lies in their folders.

    Args:
        runs: Folders that `train` wrote.
        out: Of one run the folder for report.html and what else an evaluation writes, None for the run's own; of
            several the page, None for comparison.html in this folder.
        data: To evaluate on in place of the run's own.
        split: Likewise; None for the one that the run was validated on.
        device: "cpu", "cuda", "cuda:N", or "auto".
        progress: As in `evaluate`.

    Returns:
        The page.

    Raises:
        ConfigError: A folder holds no run, or its files cannot be read.
        CheckpointError, DataError, MissingExtraError: As in `evaluate`.
    """
    chosen = (runs,) if isinstance(runs, str | Path) else tuple(runs)
    return run_report(ReportOptions.of({**locals(), "runs": chosen}), progress)


def run_report(options: ReportOptions, progress: Progress = no_progress) -> Path:
    """As `report`."""
    require("report", "report", "jinja2")
    return _one(options, progress) if len(options.runs) == 1 else _compare(options)


def _one(options: ReportOptions, progress: Progress) -> Path:
    from singleshot.api.evaluate import EvaluateOptions, run_evaluation
    from singleshot.api.held_out import held_out_share
    from singleshot.report.page import REPORT
    from singleshot.report.run_files import read_run

    run = read_run(options.runs[0])
    model = next((path for name in ("best", "last") if (path := run.folder / f"{name}.safetensors").is_file()), None)
    if model is None:
        raise ConfigError(f"{printable(run.folder)}: no best.safetensors or last.safetensors there; train it first")
    split = options.split or str(run.options.get("val_split") or "val")
    if split == "none" or held_out_share(split) is not None:
        what = "without validation" if split == "none" else f"with {split} of its own images held out"
        raise ConfigError(f"{printable(run.folder)}: was trained {what}; give a split with --split")
    out = Path(options.out) if options.out is not None else run.folder
    data = options.data or str(run.options.get("data") or "")
    wanted = EvaluateOptions(
        str(model),
        data,
        split,
        out=str(out),
        device=options.device,
        clip_boxes=bool(run.options.get("clip_boxes")),
        follow_links=bool(run.options.get("follow_links")),
    )
    run_evaluation(wanted, progress)
    return out / REPORT


def _compare(options: ReportOptions) -> Path:
    from singleshot.report.compare import compare_sections, run_names
    from singleshot.report.page import render_page, write_page
    from singleshot.report.run_files import read_run

    out = Path(options.out or COMPARISON)
    if out.is_dir():
        out = out / COMPARISON
    elif out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {printable(out)}: want a folder that is there, or a name that ends in .html")
    runs = [read_run(folder) for folder in options.runs]
    title = f"{len(runs)} runs"
    write_page(out, render_page(title, ", ".join(run_names(runs)), [], compare_sections(runs)))
    return out
