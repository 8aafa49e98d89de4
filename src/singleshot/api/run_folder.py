"""The folder of a run: free or to go on with, held by one process, and what an end before the end leaves in it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot.api.train_options import RUN_FILE
from singleshot.api.train_together import go_on
from singleshot.errors import ConfigError, printable
from singleshot.files import is_unused, locked_folder, numbered_folder, try_folder

if TYPE_CHECKING:
    from singleshot.training.loop import Trainer


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What cannot be written raises ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{printable(folder)}: cannot write there ({error.strerror}); give another --out") from error


@contextlib.contextmanager
def held(folder: Path, fresh: bool) -> Iterator[None]:
    """One run, one folder. fresh: nothing may be in it.

    Raises ConfigError where another process trains into it, or began to while this one got ready.
    """
    busy = f"{printable(folder)}: is being trained into; wait for it, or give another --out"
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=fresh or folder.is_dir())
            stack.enter_context(locked_folder(folder, busy))
        if fresh and not is_unused(folder):
            raise ConfigError(_taken(folder))
        yield


@contextlib.contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """A numbered folder of one's own, which goes again where nothing came of it. Raises ConfigError."""
    with writing(parent):
        folder = numbered_folder(parent, name)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # where it is not empty
            folder.rmdir()
            parent.rmdir()


def check_folder(folder: Path, resume: bool) -> None:
    """Raise ConfigError unless the folder of a run is free or goes on, and can be written."""
    with writing(folder):
        free = resume or is_unused(folder)
    if not free:
        raise ConfigError(_taken(folder))
    try_folder(folder)


def _taken(folder: Path) -> str:
    other = "go on with that run: --resume" if (folder / RUN_FILE).is_file() else "remove it"
    return f"{printable(folder)}: is there already; give another --out, or {other}"


def write_traceback(folder: Path, error: BaseException) -> str:
    """Write where an error came from into the run's folder; words that name the file, where it could be written."""
    path = folder / "error.txt"
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    except OSError:  # the disk is full, perhaps
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return ""
    return f" (details: {printable(path)})"


def saved_words(trainer: Trainer) -> str:
    """What is left of a training that failed, and how to go on."""
    from singleshot.training.checkpoints import LAST

    folder, saved, weights = trainer.settings.out, trainer.saved_step, trainer.weights_step
    parts = []
    if saved is not None:
        parts.append(f"saved after step {saved}; go on with: {printable(go_on(folder, trainer.settings.world))}")
    if weights is not None and weights != saved:  # a full disk took them, but not the state
        parts.append(f"{printable(folder / LAST)} holds the weights after step {weights}, for --start")
    return "; ".join(parts) or f"nothing was saved yet in {printable(folder)}"
