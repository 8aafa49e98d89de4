"""singleshot: an SSD (Single Shot MultiBox Detector) toolkit.

detector = singleshot.load("best.onnx")
found = detector.detect("photo.jpg")
print(found.names, found.scores, found.boxes)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from singleshot._version import __version__

__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from singleshot.inputs import InputSpec
    from singleshot.runtime.detector import Detector


def load(
    path: str | Path,
    device: str | None = None,
    *,
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    batch: int | None = None,
    rule: str | None = None,
    input_spec: InputSpec | dict[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> Detector:
    """A detector from a model file.

    path: what `singleshot export` writes (`.onnx`, OpenVINO's `.xml`), which runs without PyTorch; or a `.safetensors`
    checkpoint, or one of another project that `singleshot import` knows, which PyTorch runs.

    device: "cpu", "cuda", "cuda:N", "tensorrt" (exported files only), or None for the CPU with exported files and
    whatever is there with checkpoints. engine: None for the usual one, which for exported files is OpenVINO on CPUs,
    else ONNX Runtime; "openvino", "onnxruntime", "torch"; "auto" measures once which is fastest here and remembers it.
    threads: None for all cores. precision: None for float32, "bfloat16", "float16", or "fastest" for what the processor
    is fastest in. batch: images per call of the network where a method does not name another. rule: detect as another
    codebase does ("caffe", "torchvision", ...) in place of the checkpoint's own thresholds.

    For an ONNX file of another maker, with the inputs and outputs of ours: input_spec says how an image becomes its
    input, class_names what its labels mean. cache: a folder where OpenVINO keeps the compiled network, to start faster.

    Raises CheckpointError, ConfigError, or MissingExtraError where a package is not installed.
    """
    from singleshot.runtime.engines.table import EngineOptions
    from singleshot.runtime.load import open_detector

    options = EngineOptions(device, threads, precision, batch, cache, rule)
    return open_detector(path, engine, options, input_spec, class_names)
