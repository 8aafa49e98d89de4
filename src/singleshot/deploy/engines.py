"""The engines of exported files that bench and export know, and the packages that they need. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from singleshot.errors import MissingExtraError, printable

if TYPE_CHECKING:
    from singleshot.runtime.open_exported import FileEngine

EXPORTED = (".onnx", ".xml")  # suffixes of the files that engines run
# How to get the packages that only some commands need.
_EXPORT = "pip install 'singleshot[export]'"
_TRAIN = "pip install 'singleshot[train]'"
INSTALL = {
    "torch": _TRAIN,
    "torchvision": _TRAIN,
    "matplotlib": _TRAIN,
    "openvino": "pip install openvino",
    "onnxruntime": "pip install onnxruntime",
    "onnx": _EXPORT,
    "onnxscript": _EXPORT,
    "nncf": _EXPORT,
}


class EngineKind(NamedTuple):
    """An engine of exported files; its package has its name.

    suffixes: of the files that it runs; devices: those it has here, the CPU first; precisions: those it computes in on
    a device, a quantised file's among them.
    """

    suffixes: tuple[str, ...]
    devices: Callable[[], list[str]]
    precisions: Callable[[str], list[str]]


def _openvino_precisions(device: str) -> list[str]:
    from singleshot.runtime.engines.openvino import shared_core

    has = shared_core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    native = [name for name, capability in (("bfloat16", "BF16"), ("float16", "FP16")) if capability in has]
    return ["float32", *native, "int8", *(["int8-bfloat16"] if "BF16" in has else [])]


def _onnxruntime_devices() -> list[str]:
    import onnxruntime

    return ["cpu", *(["cuda"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else [])]


ENGINES: dict[str, EngineKind] = {
    "openvino": EngineKind(EXPORTED, lambda: ["cpu"], _openvino_precisions),
    "onnxruntime": EngineKind(
        (".onnx",), _onnxruntime_devices, lambda device: ["float32", "int8"] if device == "cpu" else ["float32"]
    ),
}


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def require(what: str, *packages: str) -> None:
    """Raise MissingExtraError, which starts with `what` and says what to install, unless all the packages are there."""
    if not all(is_installed(package) for package in packages):
        raise MissingExtraError(f"{what} needs {' and '.join(packages)}: {INSTALL[packages[0]]}")


def engines_for(path: Path, threads: int | None = None, first: bool = False) -> dict[str, FileEngine]:
    """Every engine that is installed and runs that file, by name; or the first one.

    Raises:
        CheckpointError: An engine cannot run the file.
        MissingExtraError: No engine for it is installed.
    """
    from singleshot.runtime.open_exported import make_engine

    names = [name for name, kind in ENGINES.items() if path.suffix in kind.suffixes and is_installed(name)]
    if not names:
        raise MissingExtraError(f"{printable(path)}: no engine to check it with: {_EXPORT}")
    options = {"threads": threads, "precision": None, "batch": 1, "cache": None}
    return {name: make_engine(name, path, None, options) for name in names[: 1 if first else None]}
