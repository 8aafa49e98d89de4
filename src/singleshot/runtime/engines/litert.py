"""LiteRT, which was TensorFlow Lite: phones and small boards, and here to prove what is exported for them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.records import ImageDetections
from singleshot.runtime.engines.results import Decode, detections_of, joined
from singleshot.runtime.engines.table import AS_USUAL, EngineOptions
from singleshot.runtime.model_file import tflite_description

# What TFLite_Detection_PostProcess gives, in its order.
OPERATOR_OUTPUTS = ("boxes", "classes", "scores", "count")


class LiteRTEngine:
    """Callable: uint8 RGB [B, H, W, C] -> one ImageDetections per image, boxes normalised to the input.

    path: a .tflite file that `singleshot export` wrote, which takes one image at a time; options: device: "cpu";
    precision: None, the file's own. Safe to call from several threads, which then wait for each other. Raises
    CheckpointError, ConfigError; ImportError without LiteRT.
    """

    name = "litert"

    def __init__(self, path: str | Path, options: EngineOptions = AS_USUAL) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if options.device not in (None, "auto", "cpu"):
            raise ConfigError(f"device {printable(options.device, 40)}: LiteRT runs on the cpu here")
        if options.precision not in (None, "float32", "fastest"):
            raise ConfigError(f"precision {printable(options.precision, 40)}: LiteRT computes in the file's own")
        self.decode: Decode = detections_of
        self.precision = "float32"
        self.description = tflite_description(path)
        self._lock = threading.Lock()
        try:
            self._network = Interpreter(model_path=str(path), num_threads=options.threads)
            self._network.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            lines = str(error).strip().splitlines() or ["no reason given"]
            raise CheckpointError(f"{printable(path)}: LiteRT cannot run it ({printable(lines[0], 160)})") from error
        image = self._network.get_input_details()[0]
        self._input = image["index"]
        self.input_shape = tuple(int(side) for side in image["shape"])
        self.input_type = {"uint8": "u8"}.get(np.dtype(image["dtype"]).name, np.dtype(image["dtype"]).name)
        self._outputs = {one["name"]: one["index"] for one in self._network.get_output_details()}
        found = set(OPERATOR_OUTPUTS) <= set(self._outputs)
        self.output_names = ("boxes", "scores", "labels", "counts") if found else tuple(self._outputs)

    def _run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        self._network.set_tensor(self._input, np.ascontiguousarray(image[None]))
        self._network.invoke()
        found = {name: self._network.get_tensor(index) for name, index in self._outputs.items()}
        if "labels" not in self.output_names:
            return found
        boxes, classes, scores, count = (found[name] for name in OPERATOR_OUTPUTS)
        return {
            "boxes": boxes[..., [1, 0, 3, 2]],  # from top, left, bottom, right
            "scores": scores,
            "labels": classes.astype(np.int64),
            "counts": count.astype(np.int64),
        }

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every output by name, of all images."""
        with self._lock:
            return joined([self._run(image) for image in images])

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        return self.decode(self.outputs(images))


def devices_here() -> list[str]:
    """See runtime.engines.table.engine_module."""
    return ["cpu"]


def precisions_here(device: str) -> list[str]:
    """float32, and a quantised file's."""
    return ["float32", "int8"]
