"""Who hears of a training by its name: MLflow, Weights & Biases, or a user's own class."""

from __future__ import annotations

import logging
import pkgutil
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write
from singleshot.training.reports import Reporter, scalars

log = logging.getLogger(__name__)

# A class of the user's: package.module:Name.
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_ID = re.compile(r"[\w-]{1,128}", re.ASCII)


class _RunId:
    """The id that a service gave to this run, kept in its folder: a resumed training goes on with the same one."""

    def __init__(self, folder: Path, service: str) -> None:
        self._path = folder / f"{service}-run.txt"

    def read(self) -> str | None:
        """The id; None where there is none."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")[:200].strip()
        except FileNotFoundError:
            return None
        if not _ID.fullmatch(text):
            raise ConfigError(f"{printable(self._path)}: want the id of a run, got {printable(text, 60)}; remove it")
        return text

    def write(self, value: str) -> None:
        """Keep it."""
        with atomic_write(self._path) as temporary:
            temporary.write_text(value + "\n")


class MlflowLogger(Reporter):
    """A run of MLflow, where its own environment variables say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    wants_pictures = True

    def __init__(self) -> None:
        with needs("mlflow", "--log mlflow"):
            import mlflow
        self._mlflow = mlflow
        self._status = "FAILED"

    def on_start(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the run, or go on with that of the folder; options as parameters, all settings as settings.json."""
        kept = _RunId(folder, "mlflow")
        known = kept.read()
        run = self._mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        kept.write(run.info.run_id)
        if known is None:  # parameters of a run cannot change
            options = settings["options"]
            self._mlflow.log_params({name: str(value)[:500] for name, value in options.items() if value is not None})
        self._mlflow.log_dict(dict(settings), "settings.json")

    def on_step(self, values: Mapping[str, float]) -> None:
        """Losses, rate and speed."""
        self._mlflow.log_metrics(scalars(values), step=int(values["step"]))

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """The same at an epoch's end, with its validation if it had one."""
        self._mlflow.log_metrics(scalars(row), step=int(row["step"]))

    def on_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Each image under a number of its own, the latest alone."""
        for i, picture in enumerate(pictures):
            self._mlflow.log_image(picture, f"val/{i}.png")

    def on_end(self, interrupted: bool) -> None:
        """How the run ended."""
        self._status = "KILLED" if interrupted else "FINISHED"

    def close(self) -> None:
        """Close the run."""
        self._mlflow.end_run(self._status)


class WandbLogger(Reporter):
    """A run of Weights & Biases, where its own environment variables say (WANDB_PROJECT, WANDB_MODE, WANDB_API_KEY)."""

    wants_pictures = True

    def __init__(self) -> None:
        with needs("wandb", "--log wandb"):
            import wandb
        self._wandb = wandb
        self._run: Any = None
        self._exit_code = 1

    def on_start(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the run, or go on with that of the folder; its files lie in the folder."""
        kept = _RunId(folder, "wandb")
        known = kept.read() or secrets.token_hex(4)
        kept.write(known)
        self._run = self._wandb.init(id=known, resume="allow", name=folder.name, dir=str(folder), config=dict(settings))

    def on_step(self, values: Mapping[str, float]) -> None:
        """Losses, rate and speed."""
        self._run.log(scalars(values), step=int(values["step"]))

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """The same at an epoch's end, with its validation if it had one."""
        self._run.log(scalars(row), step=int(row["step"]))

    def on_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Each image under a number of its own."""
        self._run.log({f"val/{i}": self._wandb.Image(picture) for i, picture in enumerate(pictures)}, step=step)

    def on_end(self, interrupted: bool) -> None:
        """How the run ended."""
        self._exit_code = 255 if interrupted else 0

    def close(self) -> None:
        """Close the run."""
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)


class Guarded(Reporter):
    """Somebody else's reporter: the first time that it fails it is left out, in one line; the training goes on."""

    def __init__(self, inner: Reporter, name: str) -> None:
        self._inner, self._name, self._works = inner, name, True
        self.wants_pictures = inner.wants_pictures

    def _call(self, action: Callable[[], None]) -> None:
        if self._works:
            self._guard(action)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._works = self.wants_pictures = False
            log.warning(
                "--log %s: %s: %s; the training goes on without it",
                printable(self._name, 60),
                type(error).__name__,
                printable(error, 200),
            )

    def on_step(self, values: Mapping[str, float]) -> None:
        """Hand on."""
        self._call(lambda: self._inner.on_step(values))

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """Hand on."""
        self._call(lambda: self._inner.on_epoch(row))

    def on_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Hand on."""
        self._call(lambda: self._inner.on_pictures(step, pictures))

    def on_end(self, interrupted: bool) -> None:
        """Hand on."""
        self._call(lambda: self._inner.on_end(interrupted))

    def close(self) -> None:
        """Hand on, also after a failure: what it holds open is closed."""
        self._guard(self._inner.close)

    def on_start(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Hand on; a logger that cannot begin ends the training before its first step."""
        try:
            self._inner.on_start(folder, settings)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"--log {printable(self._name, 60)}: {type(error).__name__}: {printable(error, 200)}"
            ) from error


_KNOWN: Mapping[str, Callable[[], Reporter]] = {"mlflow": MlflowLogger, "wandb": WandbLogger}


def open_loggers(names: Sequence[str]) -> list[Reporter]:
    """One for each name: "mlflow", "wandb", or package.module:Name of a class of the user's that is a `Reporter`.

    Raises:
        ConfigError: A name is neither, or its class cannot be imported, made without arguments, or is no Reporter.
        MissingExtraError: MLflow or Weights & Biases is not installed.
    """
    return [Guarded(_open(name), name) for name in dict.fromkeys(names)]


def _open(name: str) -> Reporter:
    where = f"--log {printable(name, 60)}"
    if name in _KNOWN:
        return _KNOWN[name]()
    if not _PATH.fullmatch(name):
        raise ConfigError(f"{where}: want {', '.join(_KNOWN)}, or a class of yours as package.module:Name")
    try:
        reporter = pkgutil.resolve_name(name)()
    except Exception as error:
        raise ConfigError(f"{where}: {type(error).__name__}: {printable(error, 200)}") from error
    if not isinstance(reporter, Reporter):
        raise ConfigError(f"{where}: want a subclass of singleshot.Reporter, got {type(reporter).__name__}")
    return reporter
