"""A detector from any model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from singleshot.class_selection import Classes
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
    classes: Classes | None = None,
) -> Detector:
    """A detector from a model file.

    Args:
        path: What `singleshot export` writes (`.onnx`, OpenVINO's `.xml`), which runs without PyTorch; or a
            `.safetensors` checkpoint, or one of another project that `singleshot import` knows, which PyTorch runs; or
            the address of one on the Hugging Face Hub, `hf://OWNER/NAME[/FILE][@REVISION]`.
        device: "cpu", "cuda", "cuda:N", "tensorrt" (exported files only), or None for the CPU with exported files and
            whatever is there with checkpoints.
        engine: None for the usual one, which for exported files is OpenVINO on CPUs, else ONNX Runtime; "openvino",
            "onnxruntime", "torch"; "auto" measures once which is fastest here and remembers it.
        threads: None for all cores.
        precision: None for float32, "bfloat16", "float16", or "fastest" for what the processor is fastest in.
        batch: Images per call of the network where a method does not say otherwise.
        rule: Detect as another codebase does, in place of the checkpoint's own thresholds; a name such as "caffe".
        input_spec: For an ONNX file of another maker, with the inputs and outputs of ours: how an image becomes its
            input.
        class_names: For the same: what its labels mean.
        cache: A folder where OpenVINO keeps the compiled network, to start faster.
        classes: Find these only, in this order: names of the model's classes, "car,truck=vehicle" for some that become
            one, a file with such lines, or {new name: [old names]}. None for all.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: An option is wrong, or not for this kind of file.
        MissingExtraError: A package is not installed; the message names the extra.
    """
    from singleshot.api.class_names import read_groups
    from singleshot.hub import local_model
    from singleshot.runtime.engines.table import EngineOptions
    from singleshot.runtime.load import open_detector

    options = EngineOptions(device, threads, precision, batch, cache, rule)
    wanted = None if classes is None else read_groups(classes)
    return open_detector(local_model(path), engine, options, input_spec, class_names, wanted)
