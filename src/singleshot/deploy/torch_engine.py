"""A checkpoint as an engine of the runtime: images in, boxes out, by PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from singleshot.errors import ConfigError, printable
from singleshot.models import SSD
from singleshot.postprocess import to_detections
from singleshot.records import ImageDetections
from singleshot.runtime.detector import Detector
from singleshot.thresholds import Thresholds
from singleshot.training.precision import PRECISIONS, autocast, pick_precision
from singleshot.weights.opening import open_model


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
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2)
            with autocast(self.device, self.dtype):
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


def pick_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; float32 for None, "fastest" for what the device is fastest in. Raises ConfigError."""
    if precision is None:
        return torch.float32
    if precision not in PRECISIONS and precision != "fastest":
        raise ConfigError(f"precision {printable(precision, 40)}: want one of float32, bfloat16, float16, fastest")
    return pick_precision("auto" if precision == "fastest" else precision, device)


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
