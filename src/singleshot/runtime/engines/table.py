"""Every engine in one table: a new one is a module of its own and a row here.

Nothing is imported until an engine is opened, so that whoever only wants names, such as the command line, pays nothing,
and so that this half reaches PyTorch's engine without importing torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from singleshot.errors import ConfigError, MissingExtraError, printable

if TYPE_CHECKING:
    import numpy as np

    from singleshot.records import ImageDetections
    from singleshot.runtime.engines.results import Decode


class Engine(Protocol):
    """Runs the network.

    images: uint8 RGB [B, H, W, C], any B >= 1 (the last batch is smaller). Returns B records with boxes
    normalised to the square, best first. One that reads a file's description itself has it in `info`.
    """

    def __call__(self, images: np.ndarray) -> list[ImageDetections]: ...


@runtime_checkable
class FileEngine(Protocol):
    """An engine of an exported file, whose outputs come as arrays that `decode` makes records of.

    Attributes:
        name: In the table of engines.
        decode: What makes records of the outputs.
        precision: What the network computes in.
        description: The JSON that it found in a file of its own form.
        input_shape: Of a batch, None for what is open.
        input_type: "u8" for bytes.
        output_names: What `outputs` gives.
    """

    name: str
    decode: Decode
    precision: str
    description: str | None
    input_shape: tuple[int | None, ...]
    input_type: str
    output_names: tuple[str, ...]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every output by name, of all images."""

    def __call__(self, images: np.ndarray) -> list[ImageDetections]: ...


@runtime_checkable
class SelectiveEngine(Protocol):
    """An engine that leaves out boxes of other classes before it counts how many it keeps.

    wanted: the labels to look for, None for all.
    """

    wanted: tuple[int, ...] | None


@runtime_checkable
class CompilingEngine(Protocol):
    """An engine that compiles the network anew for batches, once they have come for a while."""

    def compile_ahead(self, many: bool) -> None:
        """Compile for batches, or for single images, now; calls of the engine go on meanwhile."""


class EngineOptions(NamedTuple):
    """How a model file is to be run; None: as is usual for the engine.

    Attributes:
        device: "cpu", "cuda", "cuda:N", "tensorrt" or another of the engine's.
        threads: For the network; all cores if None.
        precision: A name, or "fastest" for what the device is fastest in.
        batch: Images that a call will usually bring.
        cache: A folder for compiled networks.
        rule: A name of conventions.DETECTION in place of a checkpoint's own thresholds.
    """

    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    batch: int | None = None
    cache: str | Path | None = None
    rule: str | None = None


AS_USUAL = EngineOptions()


class EngineRow(NamedTuple):
    """What is known of an engine before it is imported.

    Attributes:
        opener: "module:callable" that takes a path and EngineOptions and gives the Engine; see also `engine_module`.
        package: What it imports.
        title: Its name in messages.
        install: How to get the package.
        runs: The files that it runs, in words.
        files: Their endings; none for every file that no other engine runs.
        devices: Kinds that it may have; opening it fails for those that are not here.
        precisions: Likewise.
        batch: Images in a call that suit it on a processor, where more gains nothing and only waits longer.
        releases: Installed packages whose version matters for its speed, where that is not `package` alone.
    """

    opener: str
    package: str
    title: str
    install: str
    runs: str
    files: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[str, ...] = ("float32", "bfloat16", "float16")
    batch: int = 8
    releases: tuple[str, ...] = ()


# The first that is installed is the usual one for a file and device.
ENGINES: dict[str, EngineRow] = {
    "openvino": EngineRow(
        opener="singleshot.runtime.engines.openvino:OpenVINOEngine",
        package="openvino",
        title="OpenVINO",
        install="pip install openvino",
        runs="exported files (.onnx, .xml)",
        files=(".onnx", ".xml"),
        devices=("cpu", "gpu", "npu"),
    ),
    "onnxruntime": EngineRow(
        opener="singleshot.runtime.engines.onnx_runtime:OnnxRuntimeEngine",
        package="onnxruntime",
        title="ONNX Runtime",
        install="pip install onnxruntime",
        runs="exported files (.onnx)",
        files=(".onnx",),
        devices=("cpu", "cuda", "tensorrt"),
        batch=4,
        releases=("onnxruntime", "onnxruntime-gpu"),
    ),
    "litert": EngineRow(
        opener="singleshot.runtime.engines.litert:LiteRTEngine",
        package="ai_edge_litert",
        title="LiteRT",
        install="pip install 'singleshot[litert]'",
        runs="exported files (.tflite)",
        files=(".tflite",),
        devices=("cpu",),
        precisions=("float32",),
        batch=1,
        releases=("ai-edge-litert",),
    ),
    "torch": EngineRow(
        opener="singleshot.evaluation.torch_engine:open_checkpoint",
        package="torch",
        title="PyTorch",
        install="pip install 'singleshot[train]'",
        runs="checkpoints (.safetensors)",
        files=(),
        devices=("cpu", "cuda"),
        batch=4,
    ),
}
GPU_DEVICES = ("cuda", "tensorrt")
_MAX_XML = 8 * 2**20  # bytes of another project's network that are looked at
_BATCH, _GPU_BATCH = 8, 32  # images in a call of an engine without a row; of any on a GPU


def engine_choices() -> tuple[str, ...]:
    """What a user may ask for."""
    return (*ENGINES, "auto")


def engines_of(path: str | Path) -> tuple[str, ...]:
    """Names of the engines that run such a file, by its ending, the usual one first; of a .tflite file, those of a
    checkpoint unless singleshot wrote it."""
    suffix = Path(path).suffix.lower()
    fitting = tuple(name for name, row in ENGINES.items() if suffix in row.files)
    if suffix == ".tflite" and Path(path).is_file():
        from singleshot.runtime.model_file import tflite_description

        # Another project's says nothing of its classes and input: it is imported.
        fitting = fitting if tflite_description(path) is not None else ()
    if suffix == ".xml" and _is_foreign_network(Path(path)):
        fitting = ()
    return fitting or tuple(name for name, row in ENGINES.items() if not row.files)


def _is_foreign_network(path: Path) -> bool:
    """Whether OpenVINO's .xml is another project's SSD, a checkpoint here: exported files have no DetectionOutput."""
    try:
        with path.open("rb") as file:
            return b'type="DetectionOutput"' in file.read(_MAX_XML)
    except OSError:
        return False


def is_exported(path: str | Path) -> bool:
    """Whether it is an exported file by its ending; every other is a checkpoint."""
    return any(ENGINES[name].files for name in engines_of(path))


def is_installed(name: str) -> bool:
    """Whether the engine's package is there; it is not imported."""
    try:
        return importlib.util.find_spec(ENGINES[name].package) is not None
    except (ImportError, ValueError):
        return False


def engine_module(name: str) -> ModuleType:
    """The engine's module, imported. `devices_here()` gives those of "cpu" and "cuda" that it has on this machine, the
    CPU first, `precisions_here(device)` those that it computes in there, a quantised file's among them."""
    return importlib.import_module(ENGINES[name].opener.partition(":")[0])


def open_engine(name: str, path: str | Path, options: EngineOptions = AS_USUAL) -> Engine:
    """One engine by name on a file. Raises CheckpointError, ConfigError, MissingExtraError."""
    row = ENGINES[name]
    if options.precision not in (None, "fastest", *row.precisions):
        precisions = ", ".join(row.precisions)
        raise ConfigError(f"precision {printable(options.precision, 40)}: want one of {precisions}, fastest")
    try:
        importlib.import_module(row.package)
    except ImportError as error:
        raise MissingExtraError(f"{printable(path)}: needs {row.title}: {row.install}") from error
    opener = row.opener.partition(":")[2]
    engine: Engine = getattr(engine_module(name), opener)(Path(path), options)
    return engine


def suited_batch(engine: Engine) -> int:
    """Images per call that suit an engine in a long job."""
    device = getattr(engine, "device", None)
    if str(getattr(device, "type", device)).partition(":")[0] in GPU_DEVICES:
        return _GPU_BATCH
    row = ENGINES.get(str(getattr(engine, "name", "")))
    return _BATCH if row is None else row.batch
