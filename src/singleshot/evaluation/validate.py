"""Losses and average precision of a model in training on a data set, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.tiles import TiledSamples
from singleshot.evaluation.engine_loop import evaluate_engine
from singleshot.evaluation.torch_engine import TorchEngine
from singleshot.loading.loader import EvalBatch
from singleshot.metrics import Evaluation
from singleshot.models import SSD
from singleshot.records import ImageDetections, Losses, RawOutput
from singleshot.thresholds import Thresholds

# Raw outputs, boxes [B, G, 4], labels [B, G] and ignored regions [B, K, 4] or None of a batch -> its losses.
LossOf = Callable[[RawOutput, torch.Tensor, torch.Tensor, torch.Tensor | None], Losses]
# Losses (location, confidence) of each batch and detections of each image here -> those of all processes, in order.
BatchLosses = list[tuple[float, float]]
Gather = Callable[[BatchLosses, list[ImageDetections]], tuple[BatchLosses, list[ImageDetections]]]


class Validation(NamedTuple):
    """Mean losses per batch (None where none were asked for), the evaluation, and the detections in pixels."""

    location: float | None
    confidence: float | None
    evaluation: Evaluation
    detections: list[ImageDetections]


def validate(
    model: SSD,
    dataset: Dataset,
    loader: Iterable[EvalBatch],
    thresholds: Thresholds,
    device: torch.device,
    loss_of: LossOf | None = None,
    on_image: Callable[[], None] | None = None,
    gather: Gather | None = None,
    tiles: TiledSamples | None = None,
) -> Validation:
    """Evaluate the model (in eval mode, float32); with loss_of also its losses, from the same forward pass.

    Args:
        model: On `device`; its mode is as before afterwards.
        dataset: Whose ground truth is compared with.
        loader: Gives all images of the data set in order, or this process' part of them.
        thresholds: How raw outputs become detections.
        device: Where the model is.
        loss_of: See LossOf; on the device.
        on_image: Called after each image.
        gather: Where the loader gives a part: see Gather.
        tiles: Of the data set's images, where the loader gives these: see `evaluate_engine`.
    """
    losses: BatchLosses = []
    was_training = model.training
    engine = TorchEngine(model, thresholds, device)

    def detect(images: EvalBatch) -> list[ImageDetections]:
        batch = images.batch
        with torch.inference_mode():
            raw = engine.forward(batch.images)
            if loss_of is not None:
                ignored = None if batch.ignored is None else batch.ignored.to(device)
                loss = loss_of(raw, batch.boxes.to(device), batch.labels.to(device), ignored)
                losses.append((float(loss.location), float(loss.confidence)))
            return engine.decode(raw)

    def gathered(detections: list[ImageDetections]) -> list[ImageDetections]:
        assert gather is not None
        losses[:], everyones = gather(losses, detections)
        return everyones

    everyone = None if gather is None else gathered
    evaluated = evaluate_engine(detect, loader, dataset, model.input_spec.sides, "voc", on_image, everyone, tiles)
    model.train(was_training)
    if not losses:
        return Validation(None, None, *evaluated)
    location, confidence = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return Validation(location, confidence, *evaluated)
