"""A checkpoint as an engine of the runtime: images in, boxes out, by PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from singleshot.devices import autocast, pick_device, pick_dtype
from singleshot.models import SSD
from singleshot.postprocess import to_detections
from singleshot.records import ImageDetections, RawOutput
from singleshot.runtime.detector import Detector
from singleshot.thresholds import Thresholds
from singleshot.weights.open_model import open_model


class TorchEngine:
    """Callable: uint8 RGB [B, S, S, 3] -> one ImageDetections per image, boxes normalised to the square.

    dtype: what the network computes in; decoding and what follows is always float32.
    """

    name = "torch"

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
        """Raw outputs of images [B, 3, S, S], 0..255, wherever they are."""
        with autocast(self.device, self.dtype):
            return self.model(images.to(self.device, non_blocking=True))

    def decode(self, raw: RawOutput) -> list[ImageDetections]:
        """Detections of raw outputs as arrays, boxes normalised to the square."""
        model = self.model
        found = to_detections(
            raw, model.priors, variances=model.prior_spec.variances, **self.thresholds.for_postprocess()
        )
        return [ImageDetections(*(values.cpu().numpy() for values in image)) for image in found]


def load_detector(
    path: str,
    device: str | None = None,
    rule: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    batch: int | None = None,
) -> Detector:
    """A Detector that runs the checkpoint, ours or another project's, with PyTorch.

    rule: a name of thresholds.DETECTION in place of the model's own thresholds; threads: PyTorch's number of threads,
    which is one for the whole process; precision: see pick_dtype. Raises ConfigError, CheckpointError.
    """
    place = pick_device(device)
    dtype = pick_dtype(precision, place)
    if threads is not None:
        torch.set_num_threads(threads)
    model, info = open_model(path, place)
    thresholds = info.thresholds if rule is None else info.thresholds.under(rule)
    engine = TorchEngine(model, thresholds, place, dtype)
    return Detector(engine, info.input_spec, info.class_names, score_min=thresholds.show_min, batch_size=batch)
