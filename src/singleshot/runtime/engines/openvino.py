"""OpenVINO: the fastest on ordinary processors, and the default there.

The network is compiled for one image at a time, once so that all cores work on that image (lowest latency) and, when
a batch comes, once so that each core works on an image of its own, without waiting for the others. Against batches
inside the network this was faster in every measurement, and no batch size needs a compilation of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.devices import cores
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.model_info import KEY
from singleshot.records import ImageDetections
from singleshot.runtime.engines.results import Decode, detections_of, joined, padded
from singleshot.runtime.engines.table import AS_USUAL, EngineOptions

if TYPE_CHECKING:
    import openvino

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
_PATIENCE = 16  # runs; a compilation takes as long as about five
_CORES: dict[int, openvino.Core] = {}  # by process: what a fork inherits has no threads, and hangs
_CORE_LOCK = threading.Lock()
RT_INFO = [KEY]  # path of the description in an OpenVINO model's rt_info


class OpenVINOEngine:
    """Callable: uint8 RGB [B, H, W, C] -> one ImageDetections per image, boxes normalised to the input.

    path: an ONNX or OpenVINO (.xml) file; options: device: "cpu", or another of OpenVINO's devices; precision: float32
    (None), bfloat16, float16, or "fastest" that the device has; cache: a folder where compiled networks are kept, which
    halves the time to start. Safe to call from several threads, which then wait for each other. Raises CheckpointError,
    ConfigError; ImportError without OpenVINO.
    """

    name = "openvino"

    def __init__(self, path: str | Path, options: EngineOptions = AS_USUAL) -> None:
        if any(process != os.getpid() for process in _CORES):  # TBB waits for ever for the threads that stayed behind
            raise ConfigError(
                f"{printable(path)}: OpenVINO hangs in a process that was forked from one that uses it; start processes"
                " by spawn or forkserver (a detector can be pickled), or take engine onnxruntime"
            )
        self._core = shared_core()
        self.decode: Decode = detections_of
        self._where = printable(path)
        self._device = _pick_device(self._core, options.device)
        self.precision = _pick_precision(self._core, self._device, options.precision)
        # Results that depend on the machine would surprise: bfloat16 is for whoever asks for it.
        self._settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": PRECISIONS[self.precision]}
        if options.threads is not None and self._device == "CPU":
            self._settings["INFERENCE_NUM_THREADS"] = options.threads
            if options.threads < cores():
                # OpenVINO binds its threads to the first cores, in each process to the same ones: several processes
                # of one thread would all compute on core 0.
                self._settings["ENABLE_CPU_PINNING"] = False
        if options.cache is not None:
            self._settings["CACHE_DIR"] = str(options.cache)
        self._lock = threading.Lock()
        self._requests: dict[bool, list[openvino.InferRequest]] = {}
        self._unserved = {False: 0, True: 0}
        try:
            self._model = self._core.read_model(str(path))
            self.description = self._described()
            shape = self._model.input(0).partial_shape
            self.input_shape = tuple(None if side.is_dynamic else side.get_length() for side in shape)
            self.input_type = self._model.input(0).element_type.to_string()
            self.output_names = tuple(port.get_any_name() for port in self._model.outputs)
        except (RuntimeError, ValueError) as error:
            raise self._failure(error) from error
        self._rows = self._one_image()
        self._prepared((options.batch or 1) > 1)

    def _described(self) -> str | None:
        """The description in the model's rt_info, where `singleshot export` puts it."""
        if not self._model.has_rt_info(RT_INFO):
            return None
        value = self._model.get_rt_info(RT_INFO)
        return str(getattr(value, "value", value))

    def _one_image(self) -> int:
        """Fix the batch to 1, which compiles to faster code than an open one; returns the batch that the file allows.

        A model made for a fixed batch of several images may not take another.
        """
        if self.input_shape and self.input_shape[0] not in (None, 1):
            return int(self.input_shape[0])
        if len(self.input_shape) == 4 and None not in self.input_shape[1:]:
            try:
                self._model.reshape([1, *self.input_shape[1:]])
            except RuntimeError as error:
                raise self._failure(error) from error
        return 1

    def _suited(self, count: int) -> list[openvino.InferRequest]:
        """Requests for that many runs at once. The other kind serves a few of them too, before it pays to compile."""
        many = count > 1
        self._unserved[many] += count
        if many not in self._requests and self._unserved[many] <= _PATIENCE:
            return self._requests[not many]
        return self._prepared(many)

    def _prepared(self, many: bool) -> list[openvino.InferRequest]:
        """Requests that can run at the same time: one that has all cores, or one for each stream of images."""
        if many not in self._requests:
            self._requests[many] = self._compiled(many)
        return self._requests[many]

    def compile_ahead(self, many: bool) -> None:
        """See runtime.engines.table.CompilingEngine."""
        if many not in self._requests:
            requests = self._compiled(many)
            with self._lock:
                self._requests.setdefault(many, requests)

    def _compiled(self, many: bool) -> list[openvino.InferRequest]:
        settings = {**self._settings, "PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY"}
        try:
            compiled = self._core.compile_model(self._model, self._device, settings)
            count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if many else 1
            return [compiled.create_infer_request() for _ in range(count)]
        except RuntimeError as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> CheckpointError:
        lines = str(error).strip().splitlines() or ["no reason given"]
        return CheckpointError(f"{self._where}: OpenVINO cannot run it ({printable(lines[-1], 160)})")

    def _run(self, images: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Outputs in order with the number of images they are for; views that are overwritten when one goes on."""
        chunks = [images[start : start + self._rows] for start in range(0, len(images), self._rows)]
        requests = self._suited(len(chunks))
        started: list[np.ndarray] = []  # what is being read must not go away
        try:
            for step in range(len(chunks) + len(requests)):
                request = requests[step % len(requests)]
                if step >= len(requests) and step - len(requests) < len(chunks):
                    request.wait()
                    outputs = {n: request.get_output_tensor(i).data for i, n in enumerate(self.output_names)}
                    yield outputs, len(chunks[step - len(requests)])
                if step < len(chunks):
                    started.append(padded(chunks[step], self._rows))
                    request.start_async([started[-1]], share_inputs=True)
        finally:
            for request in requests:
                request.wait()

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every output by name, of all images."""
        with self._lock:
            parts = [{k: v[:n].copy() for k, v in found.items()} for found, n in self._run(images)]
        return joined(parts)

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        with self._lock:
            return [
                record
                for found, count in self._run(images)
                for record in self.decode({name: value[:count] for name, value in found.items()})
            ]


def devices_here() -> list[str]:
    """See runtime.engines.table.engine_module."""
    return ["cpu"]


def precisions_here(device: str) -> list[str]:
    """Those that the processor has instructions for, and a quantised file's."""
    has = shared_core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    native = [name for name, capability in (("bfloat16", "BF16"), ("float16", "FP16")) if capability in has]
    return ["float32", *native, "int8", *(["int8-bfloat16"] if "BF16" in has else [])]


def shared_core() -> openvino.Core:
    """The process's one openvino.Core, which is never let go of. Raises ImportError.

    The CPU plugin of each Core puts an alternate signal stack of its own in place and, when the Core goes, the one that
    it found back. Cores that go in another order than the reverse of their coming leave a stack there that is unmapped
    (seen in 2026.4), and the next signal with a handler, such as Ctrl-C, kills the process.
    """
    import openvino

    with _CORE_LOCK:
        if os.getpid() not in _CORES:
            _CORES[os.getpid()] = openvino.Core()
        return _CORES[os.getpid()]


def _pick_device(core: openvino.Core, device: str | None) -> str:
    if device in (None, "auto", "cpu"):
        return "CPU"
    there = [str(name) for name in core.available_devices]
    if str(device).upper() not in there:
        names = ", ".join(name.lower() for name in there)
        raise ConfigError(
            f"device {printable(device, 40)}: OpenVINO has {names} here; for cuda take engine onnxruntime and an"
            " .onnx file"
        )
    return str(device).upper()


def _pick_precision(core: openvino.Core, device: str, precision: str | None) -> str:
    """The name of a precision that the device computes in natively."""
    if precision is None:
        return "float32"
    has = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    native = [name for name, capability in _CAPABILITIES.items() if capability in has]
    if precision == "fastest":
        return native[0] if native else "float32"
    if precision != "float32" and precision not in native:
        raise ConfigError(f"precision {precision}: this {device} does not compute in it; want float32 or fastest")
    return precision
