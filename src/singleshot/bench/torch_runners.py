"""What a candidate's process runs with PyTorch: checkpoints, and torchvision's own detectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from singleshot.bench.random_weights import last_conv, lift_background, settle_heads
from singleshot.bench.records import Job
from singleshot.bench.runners import DetectorRunner, Runner
from singleshot.devices import autocast
from singleshot.evaluation.torch_engine import TorchEngine
from singleshot.images.decode import read_image
from singleshot.runtime.engines.table import EngineOptions
from singleshot.runtime.load import open_detector


def checkpoint_runner(job: Job, change: Callable[[Any], Any] = lambda model: model) -> Runner:
    """A checkpoint. change: what is made of the model before it runs."""
    one = job.candidate
    detector = open_detector(one.file, "torch", EngineOptions(one.device, one.threads, one.precision))
    engine = detector.engine
    assert isinstance(engine, TorchEngine)
    engine.model = change(engine.model)

    def network(squares: np.ndarray) -> None:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(squares)).to(engine.device).permute(0, 3, 1, 2)
            with autocast(engine.device, engine.dtype):
                engine.model(batch)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)

    return DetectorRunner(lambda many: detector, lambda many: network)


class TorchvisionRunner:
    """A detector of torchvision's as its documentation uses it: list of float images in, boxes in pixels out.

    Args:
        job: Its device and precision are taken.
        model: What `build_torchvision` made, or another of torchvision's detectors.
    """

    def __init__(self, job: Job, model: nn.Module) -> None:
        self._device, self._dtype = torch.device(job.candidate.device), getattr(torch, job.candidate.precision)
        self._model = model.to(self._device)

    def squares(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Raises NotImplementedError: torchvision's detectors do it all at once."""
        raise NotImplementedError("torchvision is measured end to end")

    def network(self, squares: np.ndarray) -> None:
        """As `squares`."""
        raise NotImplementedError("torchvision is measured end to end")

    detect = network

    def memory(self, images: Sequence[np.ndarray]) -> None:
        """From images in memory to boxes in their pixels."""
        self._run([torch.from_numpy(image).permute(2, 0, 1) for image in images])

    def files(self, paths: Sequence[str], batch: int) -> None:
        """The same from image files, in batches."""
        from torchvision.io import ImageReadMode, decode_image

        for start in range(0, len(paths), batch):
            self._run([decode_image(path, ImageReadMode.RGB) for path in paths[start : start + batch]])

    def _run(self, images: list[Tensor]) -> None:
        with torch.inference_mode(), autocast(self._device, self._dtype):
            found = self._model([image.to(self._device).float().div_(255) for image in images])
            for image in found:
                for values in image.values():
                    values.cpu()


def build_torchvision(job: Job) -> Any:
    """A detector by the builder that the job names, with random weights, so that nothing is downloaded, and as many
    classes as the model that it is measured against: more would cost it more."""
    from torchvision.models import detection

    one = job.candidate
    if one.threads is not None:
        torch.set_num_threads(one.threads)
    torch.manual_seed(0)
    build = getattr(detection, one.file)
    return build(weights=None, weights_backbone=None, num_classes=one.classes + 1).eval()


def torchvision_runner(job: Job) -> Runner:
    """One of torchvision's SSDs, settled as ours with random weights are."""
    model = build_torchvision(job)
    confidence = [last_conv(part) for part in model.head.classification_head.module_list]
    if job.only_first:  # settling takes longer than starting
        lift_background(confidence, job.candidate.classes + 1, 10.0)
        return TorchvisionRunner(job, model)
    settle_torchvision(
        model, [torch.from_numpy(read_image(path)).permute(2, 0, 1).float().div_(255) for path in job.images[:2]]
    )
    return TorchvisionRunner(job, model)


def settle_torchvision(model: Any, images: list[Tensor]) -> None:
    """As `settle_heads`, one of torchvision's SSDs. images: float RGB [3, H, W], 0 to 1."""
    squares = model.transform(images)[0].tensors
    settle_heads(
        model,
        lambda: model.head(list(model.backbone(squares).values()))["cls_logits"],
        [last_conv(part) for part in model.head.classification_head.module_list],
        [last_conv(part) for part in model.head.regression_head.module_list],
        model.score_thresh,
    )
