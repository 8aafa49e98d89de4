"""A checkpoint as an engine of the runtime: images in, boxes out, by PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from singleshot.errors import ConfigError
from singleshot.models import SSD
from singleshot.postprocess import to_detections
from singleshot.records import ImageDetections
from singleshot.runtime.detector import Detector
from singleshot.weights.checkpoint import Thresholds
from singleshot.weights.opening import open_model


class TorchEngine:
    """Callable: uint8 RGB [B, S, S, 3] -> one ImageDetections per image, boxes normalised to the square."""

    def __init__(self, model: SSD, thresholds: Thresholds, device: torch.device) -> None:
        self.model = model.to(device).eval()
        if device.type == "cpu":
            self.model.to(memory_format=torch.channels_last)
        self.thresholds, self.device = thresholds, device

    def __call__(self, images: np.ndarray) -> list[ImageDetections]:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
            raw = self.model(batch)
            found = to_detections(
                raw,
                self.model.priors,
                variances=self.model.prior_spec.variances,
                **self.thresholds.for_postprocess(),
            )
        return [ImageDetections(*(values.cpu().numpy() for values in image)) for image in found]


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or CUDA where there is one. Raises ConfigError."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name}: not available here; want cpu, cuda or cuda:N") from error
    return device


def load_detector(path: str, device: str | None = None) -> Detector:
    """A Detector that runs the checkpoint, ours or another project's, with PyTorch."""
    place = pick_device(device)
    model, info = open_model(path, place)
    engine = TorchEngine(model, info.thresholds, place)
    return Detector(engine, info.input_spec, info.class_names, score_min=info.thresholds.show_min)
