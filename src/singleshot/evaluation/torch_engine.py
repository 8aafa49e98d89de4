"""A checkpoint as an engine of the runtime: images in, boxes out, by PyTorch."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from singleshot.conventions import detection_rule
from singleshot.devices import autocast, has_bfloat16, pick_device, pick_dtype
from singleshot.model_info import ModelInfo
from singleshot.models import SSD
from singleshot.postprocess import Traced, trace_detections
from singleshot.records import ImageDetections, RawOutput
from singleshot.runtime.engines.table import EngineOptions
from singleshot.thresholds import Thresholds
from singleshot.weights.open_model import open_model

log = logging.getLogger(__name__)
_IMPORTED_BY = os.getpid()


class TorchEngine:
    """Callable: uint8 RGB [B, H, W, C] -> one ImageDetections per image, boxes normalised to the input.

    dtype: what the network computes in; decoding and what follows is always float32. info: of the file, if it came from
    one. wanted: the labels to look for, None for all.
    """

    name = "torch"
    info: ModelInfo | None = None
    wanted: tuple[int, ...] | None = None

    def __init__(
        self, model: SSD, thresholds: Thresholds, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = model.to(device).eval()
        if device.type == "cpu":
            self.model.to(memory_format=torch.channels_last)
        self.thresholds, self.device, self.dtype = thresholds, device, dtype

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        with torch.inference_mode():
            return self.decode(self.forward(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)))

    def forward(self, images: torch.Tensor) -> RawOutput:
        """Raw outputs of images [B, C, H, W], 0..255, wherever they are."""
        with autocast(self.device, self.dtype):
            raw: RawOutput = self.model(images.to(self.device, non_blocking=True))
            return raw

    def decode(self, raw: RawOutput) -> list[ImageDetections]:
        """Detections of raw outputs as arrays, boxes normalised to the input."""
        return [ImageDetections(*(values.cpu().numpy() for values in image[:3])) for image in self.trace(raw)]

    def trace(self, raw: RawOutput) -> list[Traced]:
        """The same as tensors, each detection with the prior it came from."""
        model = self.model
        return trace_detections(raw, model.priors, model.prior_spec.variances, self.thresholds, self.wanted)


def open_checkpoint(path: Path, options: EngineOptions) -> TorchEngine:
    """The engine of a checkpoint, ours or another project's, with its description in `info`.

    PyTorch's number of threads is one for the whole process. Raises ConfigError, CheckpointError.
    """
    if os.getpid() != _IMPORTED_BY and torch.get_num_threads() > 1:
        log.warning("PyTorch computes with one thread in a process that was forked: its others did not come along")
        torch.set_num_threads(1)
        options = options._replace(threads=None)
    # A wrong name is refused before anything is read.
    rule = None if options.rule is None else detection_rule(options.rule)
    device = pick_device(options.device)
    dtype = pick_dtype(options.precision, device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model, info = open_model(path, device)
    if rule is not None:
        info = replace(info, thresholds=info.thresholds.under(rule))
    engine = TorchEngine(model, info.thresholds, device, dtype)
    engine.info = info
    return engine


def devices_here() -> list[str]:
    """See runtime.engines.table.engine_module."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def precisions_here(device: str) -> list[str]:
    """Those that the device has instructions for; emulated bfloat16 is slower than float32."""
    if device == "cuda":
        return ["float32", "float16", "bfloat16"]
    return ["float32", *(["bfloat16"] if has_bfloat16() else [])]
