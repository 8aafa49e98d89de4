"""ONNX Runtime: everywhere, on CPUs and by its providers on GPUs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.records import ImageDetections
from singleshot.runtime.engines.results import Decode, detections_of, joined, padded
from singleshot.runtime.engines.table import AS_USUAL, EngineOptions

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# The provider's option for each; CUDA's computes in the file's own.
_TENSORRT = {"float16": "trt_fp16_enable", "bfloat16": "trt_bf16_enable"}


class OnnxRuntimeEngine:
    """Callable: uint8 RGB [B, H, W, C] -> one ImageDetections per image, boxes normalised to the input.

    path: an ONNX file; options: device: "cpu", "cuda", "cuda:N", "tensorrt", or None for CUDA where this ONNX Runtime
    has it and else the CPU; precision: None for the file's own, "fastest", or with tensorrt float16 or bfloat16. Raises
    CheckpointError, ConfigError; ImportError without ONNX Runtime.
    """

    name = "onnxruntime"
    description = None  # an ONNX file's is read without its engine

    def __init__(self, path: str | Path, options: EngineOptions = AS_USUAL) -> None:
        import onnxruntime

        self.decode: Decode = detections_of
        device = options.device
        kind, provider = _pick_provider(onnxruntime.get_available_providers(), device)
        provider[1].update(_precision_options(kind, options.precision))
        self.precision = next((name for name, key in _TENSORRT.items() if key in provider[1]), "float32")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # errors come as exceptions
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        providers = [provider] if kind == "cpu" else [provider, (PROVIDERS["cpu"], {})]
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:  # its exceptions have no base class of their own
            reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else "no reason given", 160)
            raise CheckpointError(f"{printable(path)}: ONNX Runtime cannot run it ({reason})") from error
        if device not in (None, "auto") and self._session.get_providers()[0] != provider[0]:
            raise ConfigError(
                f"device {printable(device, 40)}: ONNX Runtime cannot use it here, its libraries or the GPU are missing"
            )
        first = self._session.get_inputs()[0]
        self._input = first.name
        self.input_shape = tuple(side if isinstance(side, int) else None for side in first.shape)
        self.input_type = {"tensor(uint8)": "u8"}.get(first.type, first.type)
        self.output_names = tuple(output.name for output in self._session.get_outputs())
        self._rows = self.input_shape[0] if self.input_shape else None

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values = self._session.run(None, {self._input: np.ascontiguousarray(images)})
        return dict(zip(self.output_names, values, strict=True))

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every output by name, of all images."""
        rows = self._rows
        if rows is None or rows == len(images):
            return self._run(images)
        starts = range(0, len(images), rows)  # a file made for a fixed batch
        parts = [self._run(padded(images[start : start + rows], rows)) for start in starts]
        return {name: values[: len(images)] for name, values in joined(parts).items()}

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        return self.decode(self.outputs(images))


def devices_here() -> list[str]:
    """See runtime.engines.table.engine_module."""
    import onnxruntime

    return ["cpu", *(["cuda"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else [])]


def precisions_here(device: str) -> list[str]:
    """float32, and a quantised file's on a processor."""
    return ["float32", "int8"] if device == "cpu" else ["float32"]


def _pick_provider(there: list[str], device: str | None) -> tuple[str, tuple[str, dict[str, str | bool]]]:
    """Our name of the provider for a device, and its own with its options."""
    if device in (None, "auto"):
        kind = "cuda" if PROVIDERS["cuda"] in there else "cpu"
        return kind, (PROVIDERS[kind], {})
    match = re.fullmatch(r"(cpu|(?:cuda|tensorrt)(?::(\d{1,3}))?)", str(device))
    kind = str(device).partition(":")[0]
    if match is None or PROVIDERS[kind] not in there:
        have = ", ".join(name for name, provider in PROVIDERS.items() if provider in there)
        raise ConfigError(f"device {printable(device, 40)}: this ONNX Runtime has {have}; pip install onnxruntime-gpu")
    return kind, (PROVIDERS[kind], {} if match[2] is None else {"device_id": match[2]})


def _precision_options(kind: str, precision: str | None) -> dict[str, str | bool]:
    """Options of the provider; ConfigError where it does not compute in that precision."""
    if precision in (None, "float32"):
        return {}
    if kind == "tensorrt" and precision in (*_TENSORRT, "fastest"):
        return {_TENSORRT["float16" if precision == "fastest" else str(precision)]: True}
    if precision == "fastest":
        return {}
    raise ConfigError(
        f"precision {printable(precision, 40)}: ONNX Runtime computes in the file's own on {kind}; want float32, or"
        " engine openvino"
    )
