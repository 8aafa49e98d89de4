"""The engines that check and measure exported files, and the packages that bench and export need."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import cast

from singleshot.errors import MissingExtraError, printable
from singleshot.runtime.engines.table import (
    ENGINES,
    EngineOptions,
    FileEngine,
    engines_of,
    is_exported,
    is_installed,
    open_engine,
)

# What can be exported, and the suffix of its main file.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
# Suffixes of the files that engines run.
EXPORTED = tuple(dict.fromkeys(suffix for row in ENGINES.values() for suffix in row.files))
# How to get the packages that only some commands need.
_EXPORT = "pip install 'singleshot[export]'"
_TRAIN = "pip install 'singleshot[train]'"
INSTALL = {
    **{row.package: row.install for row in ENGINES.values()},
    "torchvision": _TRAIN,
    "matplotlib": _TRAIN,
    "onnx": _EXPORT,
    "onnxscript": _EXPORT,
    "nncf": _EXPORT,
}


def has_package(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def require(what: str, *packages: str) -> None:
    """Raise MissingExtraError, which starts with `what` and says what to install, unless all the packages are there."""
    if not all(has_package(package) for package in packages):
        raise MissingExtraError(f"{what} needs {' and '.join(packages)}: {INSTALL[packages[0]]}")


def engines_for(path: Path, threads: int | None = None, first: bool = False) -> dict[str, FileEngine]:
    """Every engine that is installed and runs that file, by name, on the CPU; or the first one.

    Raises:
        CheckpointError: An engine cannot run the file.
        MissingExtraError: No engine for it is installed.
    """
    names = [name for name in engines_of(path) if is_exported(path) and is_installed(name)]
    if not names:
        raise MissingExtraError(f"{printable(path)}: no engine to check it with: {_EXPORT}")
    options = EngineOptions(device="cpu", threads=threads, batch=1)
    return {name: cast(FileEngine, open_engine(name, path, options)) for name in names[: 1 if first else None]}
