"""Who hears of a training: the terminal, a CSV file and TensorBoard."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from singleshot.errors import MissingExtraError
from singleshot.files import atomic_write
from singleshot.text_table import format_rate

_TRAINING = ("epoch", "step", "seconds", "lr", "loss", "loss_location", "loss_confidence", "images_per_second")
_VALIDATION = ("val_loss_location", "val_loss_confidence", "val_map50")
COLUMNS = (*_TRAINING, *_VALIDATION)
_SCALARS = ("loss", "loss_location", "loss_confidence", "lr", "images_per_second")


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """What a step or an epoch has measured, by the names under which it is logged: train/loss, val/map50, ..."""
    found = {f"train/{name}": values.get(name) for name in _SCALARS}
    found |= {f"val/{name.removeprefix('val_')}": values.get(name) for name in _VALIDATION}
    return {name: float(value) for name, value in found.items() if value not in (None, "")}


class Reporter:
    """Hears of a training's course; each kind overrides what it cares for.

    `on_step` is called a few times a second at most; pictures are drawn only if somebody has `wants_pictures`.
    A class of your own is called by `train --log package.module:Name`, made without arguments.
    """

    wants_pictures = False

    def on_start(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """The training begins or goes on in `folder`; settings: what run.json holds, "options" and "recipe"."""

    def on_step(self, values: Mapping[str, float]) -> None:
        """A step is done."""

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done, with its validation if it had one."""

    def on_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Validation images with what was found on them."""

    def on_end(self, interrupted: bool) -> None:
        """The training has ended as it should, or by Ctrl-C; after an error `close` alone is called."""

    def close(self) -> None:
        """Nothing more will come."""


class CsvReporter(Reporter):
    """log.csv with one row per epoch; on a resume the rows of the state that is gone on from come first."""

    def __init__(self, path: Path, history: Sequence[Mapping[str, Any]]) -> None:
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(history)
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, restval="", extrasaction="ignore")

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Write the row, there at once for whoever watches."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardReporter(Reporter):
    """Scalars and pictures for `tensorboard --logdir`."""

    wants_pictures = True

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard is not installed: pip install 'singleshot[train]'") from error
        self._writer = SummaryWriter(str(folder))

    def on_step(self, values: Mapping[str, float]) -> None:
        """Losses, rate and speed under train/, and each layer's update ratio."""
        for name, value in scalars(values).items():
            self._writer.add_scalar(name, value, int(values["step"]))
        for name, value in values.items():
            if name.startswith("update_ratio/"):
                self._writer.add_scalar(name, value, int(values["step"]))

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Losses and mAP50 of a validation under val/."""
        for name, value in scalars(row).items():
            if name.startswith("val/"):
                self._writer.add_scalar(name, value, row["step"])

    def on_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Each image under a number of its own."""
        for i, picture in enumerate(pictures):
            self._writer.add_image(f"val/{i}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _numbers(values: Mapping[str, Any], score: float | None) -> str:
    """score: mAP50, where one is to be shown."""
    parts = []
    if values.get("loss") is not None:  # of an epoch without a step, which ends with a validation, there is none
        losses = (values[name] for name in ("loss", "loss_location", "loss_confidence"))
        parts.append("loss {:.3f} (loc {:.3f} conf {:.3f})".format(*losses))
    if values.get("images_per_second") is not None:  # of an epoch that ends after a resume it is not known
        parts.append(f"{format_rate(values['images_per_second'])} img/s")
    if score is not None:
        parts.append(f"mAP50 {score:.4f}")
    if values.get("seconds_left") is not None:
        parts.append(f"{_duration(values['seconds_left'])} left")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class PlainReporter(Reporter):
    """Lines for a log file: one per epoch, and one every `interval` seconds within a long epoch.

    An mAP50 stands in the lines of the epochs after which it was measured, and in no other.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 30.0) -> None:
        self._stream, self._interval = stream or sys.stderr, interval
        self._last = time.monotonic()

    def on_step(self, values: Mapping[str, float]) -> None:
        """A line, if the last one is `interval` seconds ago."""
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            print(
                f"{values['progress']:4.0%}  epoch {int(values['epoch']) + 1}  {_numbers(values, None)}",
                file=self._stream,
                flush=True,
            )

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """A line."""
        self._last = time.monotonic()
        best = "  best so far" if row.get("best") else ""
        done = "done" if row.get("whole", True) else "in part"  # its time was over
        print(
            f"{row['progress']:4.0%}  epoch {row['epoch'] + 1} {done}  {_numbers(row, row.get('val_map50'))}{best}",
            file=self._stream,
            flush=True,
        )


class LiveReporter(Reporter):
    """A bar that stays in place on a terminal, with a line above it per validation."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=1.0, epoch=1, numbers="starting")
        self._progress.start()

    def on_step(self, values: Mapping[str, float]) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            completed=values["progress"],
            epoch=int(values["epoch"]) + 1,
            numbers=_numbers(values, values["last_map"]),
        )

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Move the bar; with a validation also a line."""
        numbers = _numbers(row, row["last_map"])
        self._progress.update(self._task, completed=row["progress"], epoch=row["epoch"] + 1, numbers=numbers)
        if row.get("val_map50") is not None:
            best = "  [green]best so far[/]" if row.get("best") else ""
            self._progress.console.print(f"epoch {row['epoch'] + 1:>4}  {numbers}{best}", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def console_reporter(quiet: bool = False) -> list[Reporter]:
    """What suits standard error: a live bar, plain lines, or nothing."""
    if quiet:
        return []
    return [LiveReporter() if sys.stderr.isatty() else PlainReporter()]
