"""The engines that check and measure exported files, and what can be exported for them."""

from __future__ import annotations

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
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "tflite": ".tflite"}
# Suffixes of the files that engines run.
EXPORTED = tuple(dict.fromkeys(suffix for row in ENGINES.values() for suffix in row.files))


def engines_for(path: Path, threads: int | None = None, first: bool = False) -> dict[str, FileEngine]:
    """Every engine that is installed and runs that file, by name, on the CPU; or the first one.

    Raises:
        CheckpointError: An engine cannot run the file.
        MissingExtraError: No engine for it is installed.
    """
    names = [name for name in engines_of(path) if is_exported(path) and is_installed(name)]
    if not names:
        raise MissingExtraError(f"{printable(path)}: no engine to check it with: pip install 'singleshot[export]'")
    options = EngineOptions(device="cpu", threads=threads, batch=1)
    return {name: cast(FileEngine, open_engine(name, path, options)) for name in names[: 1 if first else None]}
