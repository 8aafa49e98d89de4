"""The model files that the command line named, and no others: copies of them that workers open, and when they change.

Workers open copies, so that all have the same one, whenever they start, and none a file that is half written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.hub import is_hub, local_model, parse_address
from singleshot.serve.worker_process import ModelFiles, WorkerDiedError

if TYPE_CHECKING:
    from singleshot.serve.metrics import Metrics
    from singleshot.serve.pool import Pool

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
_COMPANIONS = {".xml": (".bin", ".json"), ".onnx": (".json",)}

Identity = tuple[tuple[int, ...] | None, ...]


class HalfWrittenError(Exception):
    """A file changed while it was read, or is not there now."""


def named_models(given: Sequence[str]) -> dict[str, Path]:
    """Name -> path, of "NAME=PATH", or "PATH", which is called as its file is, or on the hub as its repository.

    Raises ConfigError, CheckpointError, MissingExtraError.
    """
    paths: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).is_file():
            name, path = parse_address(text).name if is_hub(text) else Path(text).stem, text
        if not name or not name.isprintable() or len(name) > 100:
            raise ConfigError(f"{printable(text)}: no name for a model; give NAME={printable(path, 60)}")
        if name in paths:
            raise ConfigError(
                f"{printable(text)}: a second model called {printable(name)}; give NAME={printable(path)}"
            )
        path = str(local_model(path))
        if not Path(path).is_file():
            raise CheckpointError(f"{printable(path)}: {'is a folder' if Path(path).is_dir() else 'no such file'}")
        paths[name] = Path(path)
    return paths


class ModelCopies:
    """Copies of model files in a folder of their own, and which of the files have changed since.

    Args:
        paths: By name.

    Raises:
        ConfigError: There is no folder for temporary files.
    """

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="singleshot-serve-")
        except OSError as error:
            raise ConfigError("serve: no folder for temporary files can be written; set TMPDIR to one") from error
        self._taken: dict[str, Identity] = {}
        self._seen: dict[str, Identity] = {}
        self._number = 0

    def close(self) -> None:
        """Remove the copies."""
        self._folder.cleanup()

    def take(self, name: str) -> str:
        """Copy a model's file, and what belongs to it; the path of the copy. Raises HalfWrittenError."""
        source = self.paths[name]
        before = _identity(source)
        self._taken[name] = before
        self._number += 1
        folder = Path(self._folder.name, str(self._number))
        folder.mkdir()
        try:
            for path in _parts(source):
                if path == source or path.is_file():
                    shutil.copyfile(path, folder / path.name)
        except OSError as error:
            raise HalfWrittenError(f"{printable(source)}: cannot be read ({error.strerror})") from error
        if _identity(source) != before:
            raise HalfWrittenError(f"{printable(source)}: is being written")
        return str(folder / source.name)

    def drop(self, path: str) -> None:
        """Remove a copy that no worker will open again."""
        shutil.rmtree(Path(path).parent, ignore_errors=True)

    def changed(self) -> list[str]:
        """Names of models whose file is another than the one taken last, and as it was at the call before."""
        names = []
        for name, path in self.paths.items():
            now = _identity(path)
            if now != self._taken[name] and now == self._seen.get(name) and now[0] is not None:
                names.append(name)
            self._seen[name] = now
        return names


def _parts(path: Path) -> list[Path]:
    return [path, *(path.with_suffix(suffix) for suffix in _COMPANIONS.get(path.suffix.lower(), ()))]


def _identity(path: Path) -> Identity:
    """What changes when a file, or one that belongs to it, is written anew; None for one that is not there."""
    found: list[tuple[int, ...] | None] = []
    for part in _parts(path):
        try:
            stat = os.stat(part)  # noqa: PTH116 - os.stat names what it reads
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


async def watch(copies: ModelCopies, pool: Pool, metrics: Metrics, seconds: float = WATCH_SECONDS) -> None:
    """Take model files over that are written anew while the service runs, for ever; one that cannot be opened is logged
    and the old one goes on."""
    while True:
        await asyncio.sleep(seconds)
        for name in copies.changed():
            await reload(name, copies, pool, metrics)


async def reload(name: str, copies: ModelCopies, pool: Pool, metrics: Metrics) -> None:
    """Workers with a model's file as it is now in place of those that have it as it was."""
    fields = {"model": name}
    old, new = pool.files[name], None
    try:
        new = await asyncio.to_thread(copies.take, name)
        await pool.replace_all({**pool.files, name: new})
    except (CheckpointError, WorkerDiedError, HalfWrittenError) as error:
        metrics.reloads.labels("failed").inc()
        log.error("model not reloaded", extra={"fields": {**fields, "reason": printable(error)}})
    else:
        metrics.reloads.labels("done").inc()
        log.info("model reloaded", extra={"fields": fields})
    unused = old if pool.files[name] == new else new
    if unused is not None:
        copies.drop(unused)


def take_all(paths: dict[str, Path], copies: ModelCopies) -> ModelFiles:
    """Copies of all files, for the start. Raises CheckpointError."""
    try:
        return {name: copies.take(name) for name in paths}
    except HalfWrittenError as error:
        raise CheckpointError(str(error)) from error
