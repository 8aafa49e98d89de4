"""Losses and average precision of a model on a data set, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from singleshot.datasets.dataset import Dataset
from singleshot.inputs import Placement, boxes_from_square
from singleshot.loading.loader import EvalLoader
from singleshot.metrics import Evaluation, evaluate
from singleshot.models import SSD
from singleshot.postprocess import to_detections
from singleshot.records import Batch, ImageDetections, Losses, RawOutput
from singleshot.runtime.detector import Detector, Engine
from singleshot.thresholds import Thresholds

# Raw outputs, boxes [B, G, 4] and labels [B, G] of a batch -> its losses.
LossOf = Callable[[RawOutput, torch.Tensor, torch.Tensor], Losses]


class Validation(NamedTuple):
    """Mean losses per batch (None where none were asked for), the evaluation, and the detections in pixels."""

    location: float | None
    confidence: float | None
    evaluation: Evaluation
    detections: list[ImageDetections]


def detect_all(
    model: SSD,
    loader: EvalLoader,
    thresholds: Thresholds,
    device: torch.device,
    on_raw: Callable[[Batch, RawOutput], None] | None = None,
) -> Iterator[ImageDetections]:
    """Detections of every image in order, boxes in pixels of the original; on_raw sees each batch's raw outputs."""
    size = model.input_spec.size
    for batch, places, sizes in loader:
        with torch.inference_mode():
            raw = model(batch.images.to(device, non_blocking=True))
            if on_raw is not None:
                on_raw(batch, raw)
            found = to_detections(
                raw, model.priors, variances=model.prior_spec.variances, **thresholds.for_postprocess()
            )
        records = [ImageDetections(*(values.cpu().numpy() for values in image)) for image in found]
        yield from _in_pixels(records, places, sizes, size)


def detect_all_with(engine: Engine, loader: EvalLoader, size: int) -> Iterator[ImageDetections]:
    """The same with an engine of the runtime, which sees the very squares that the model sees."""
    for batch, places, sizes in loader:
        found = engine(batch.images.permute(0, 2, 3, 1).numpy())
        yield from _in_pixels(found, places, sizes, size)


def _in_pixels(
    found: list[ImageDetections], places: list[Placement], sizes: np.ndarray, size: int
) -> Iterator[ImageDetections]:
    for (boxes, scores, labels), place, (width, height) in zip(found, places, sizes, strict=True):
        yield ImageDetections(boxes_from_square(boxes, place, size, int(height), int(width)), scores, labels)


def validate(
    model: SSD,
    dataset: Dataset,
    loader: EvalLoader,
    thresholds: Thresholds,
    device: torch.device,
    metric: str = "voc",
    loss_of: LossOf | None = None,
    on_image: Callable[[], None] | None = None,
) -> Validation:
    """Evaluate the model (in eval mode, float32); with loss_of also its losses, from the same forward pass."""
    losses: list[tuple[float, float]] = []

    def add_loss(batch: Batch, raw: RawOutput) -> None:
        assert loss_of is not None
        loss = loss_of(raw, batch.boxes.to(device), batch.labels.to(device))
        losses.append((float(loss.location), float(loss.confidence)))

    was_training = model.training
    model.eval()
    detections = []
    for found in detect_all(model, loader, thresholds, device, add_loss if loss_of is not None else None):
        detections.append(found)
        if on_image is not None:
            on_image()
    model.train(was_training)
    truths = [dataset.truth(i) for i in range(len(dataset))]
    evaluation = evaluate(detections, truths, metric=metric, class_names=dataset.class_names)
    if not losses:
        return Validation(None, None, evaluation, detections)
    location, confidence = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return Validation(location, confidence, evaluation, detections)


def validate_engine(
    detector: Detector,
    dataset: Dataset,
    loader: EvalLoader,
    metric: str = "voc",
    on_image: Callable[[], None] | None = None,
) -> Validation:
    """Evaluate an exported file through its engine, as `validate` does a model."""
    detections = []
    for found in detect_all_with(detector.engine, loader, detector.input_spec.size):
        detections.append(found)
        if on_image is not None:
            on_image()
    truths = [dataset.truth(i) for i in range(len(dataset))]
    evaluation = evaluate(detections, truths, metric=metric, class_names=dataset.class_names)
    return Validation(None, None, evaluation, detections)
