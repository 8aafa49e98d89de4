"""Training speed: the whole loop against the bare network step and against torchvision's SSDLite.

    python benchmarks/training.py [--rounds 5] [--data VOC-FOLDER] [--json]

The whole loop is what `singleshot train` runs: loading, augmentation, matching, loss, update, averaging, with the
default recipe. Bare steps are forward, backward and update of the network alone on one fixed batch. torchvision's
step includes its own matching and loss, since its model computes them in its forward. Every candidate is a process of
its own, and every round runs eight steps of each in turn.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import torch
import torchvision
from common import race_processes, ratio, serve, tell
from torch import nn

from singleshot.datasets import open_dataset
from singleshot.devices import autocast, pick_precision, place_model
from singleshot.loading.loader import TrainLoader
from singleshot.memory import keep_freed_memory
from singleshot.models import build
from singleshot.scenes.scenes import write_scenes
from singleshot.training.optimizers import make_optimizer
from singleshot.training.recipes import load_recipe
from singleshot.training.step import Stepper

BATCH = 16
STEPS = 8


def bare_step(name: str, device: torch.device, dtype: torch.dtype):
    model = build(name, 20).train()
    place_model(model, device)
    size = model.input_spec.size
    images = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    optimizer = make_optimizer(model, load_recipe("scratch"), 1e-4)

    def step() -> None:
        with autocast(device, dtype):
            raw = model(images)
        loss = raw.offsets.float().square().mean() + raw.logits.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def whole_loop(name: str, data: str, device: torch.device, dtype: torch.dtype, batch: int = BATCH):
    dataset, recipe = open_dataset(data, "train"), load_recipe("scratch")
    torch.manual_seed(0)
    model = build(name, len(dataset.class_names)).train()
    place_model(model, device)
    stepper = Stepper(model, recipe, batch, device, dtype)
    loader = TrainLoader(dataset, recipe.augment, model.input_spec, batch, seed=0)
    batches = itertools.chain.from_iterable(loader.epoch(e) for e in itertools.count())
    return lambda: stepper(next(batches), 0.01)


def torchvision_step(device: torch.device, dtype: torch.dtype):
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    images = [torch.rand(3, 320, 320, device=device) for _ in range(BATCH)]
    boxes = torch.tensor([[10.0, 10, 100, 100], [50, 50, 200, 300], [100, 20, 180, 80]], device=device)
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2, 3], device=device)} for _ in images]
    return peer_step(model.train().to(device), images, targets, dtype, 1e-4)


def peer_step(model: nn.Module, images: list[torch.Tensor], targets: list[dict], dtype: torch.dtype, lr: float):
    """A training step of one of torchvision's detectors on a fixed batch, on the device of the images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def step() -> None:
        with autocast(images[0].device, dtype):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return step


def candidate(name: str, data: str, device: torch.device, dtype: torch.dtype):
    model, part = name.split(" ", 1)
    if model == "torchvision":
        return torchvision_step(device, torch.float32 if part == "float32" else dtype)
    if device.type == "cpu":
        keep_freed_memory()  # as the training loop does
    return bare_step(model, device, dtype) if part == "bare" else whole_loop(model, data, device, dtype)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--data", help="images to train on; default: drawn scenes")
    parser.add_argument("--models", nargs="*", default=["ssd300-mobilenetv2", "ssdlite320-mobilenetv2", "ssd320-mini"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = pick_precision("auto", device)
    if args.candidate:
        serve(candidate(args.candidate, args.data, device, dtype), steps=STEPS)
        return
    peer = f"torchvision {dtype}"
    names = ["torchvision float32", peer]
    for name in args.models:
        names += [f"{name} bare", f"{name} loop"]
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or str(Path(folder) / "scenes")
        if not args.data:
            write_scenes(Path(data), train=400, test=10, val=10)
        seconds = race_processes(names, args.rounds, ["--data", data])
    result: dict[str, object] = {"batch": BATCH, "rounds": args.rounds, "our precision": str(dtype)}
    for name, values in seconds.items():
        result[f"{name}: img/s"] = BATCH / statistics.median(values)
    for name in args.models:
        result[f"{name}: whole loop / bare step (want .85)"] = ratio(seconds, f"{name} bare", f"{name} loop")
        result[f"{name}: loop / {peer} (want 1.2)"] = ratio(seconds, peer, f"{name} loop")
        result[f"{name}: loop / torchvision float32 (want 2)"] = ratio(seconds, "torchvision float32", f"{name} loop")
    tell("training, batch 16", result)


if __name__ == "__main__":
    main()
