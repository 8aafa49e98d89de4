"""An accelerator computes what the CPU does: network, matching, loss, detection, a training step, a whole training.

SINGLESHOT_TEST_DEVICE names the device; without it CUDA is taken where there is one. benchmarks/gpu.py runs these.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from singleshot.boxes import to_corners
from singleshot.devices import place_model
from singleshot.matching import RULES
from singleshot.models import build
from singleshot.postprocess import to_detections
from singleshot.records import Batch, RawOutput
from singleshot.scenes.scenes import write_scenes
from singleshot.training.recipes import load_recipe
from singleshot.training.step import Objective, Stepper

NAME = os.environ.get("SINGLESHOT_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
pytestmark = pytest.mark.skipif(not NAME, reason="no CUDA device")
DEVICE = torch.device(NAME or "cpu")
MODELS = ("ssd300-vgg16", "ssdlite320-mobilenetv2", "ssd320-mini", "ssd320-lite0")


@pytest.fixture(autouse=True)
def exact() -> None:
    """float32 without TF32, which rounds products to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def batch(size: int, count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    centre, size_ = (
        torch.rand(count, 4, 2, generator=generator),
        torch.rand(count, 4, 2, generator=generator) * 0.4 + 0.05,
    )
    boxes = to_corners(torch.cat([centre, size_], -1)).clamp(0, 1)
    labels = torch.randint(0, 3, (count, 4), generator=generator)
    return Batch(images, boxes, labels, torch.arange(count), tuple(f"{i}.png" for i in range(count)))


def on(device: torch.device, values: Batch) -> Batch:
    return values._replace(
        images=values.images.to(device), boxes=values.boxes.to(device), labels=values.labels.to(device)
    )


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_detections_are_those_of_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 3).eval()
    images = batch(model.input_spec.size, 2).images
    with torch.no_grad():
        wanted = model(images)
        place_model(model, DEVICE)
        found = model(images.to(DEVICE))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.device.type == DEVICE.type
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-3)
    boxes = to_detections(found, model.priors)
    again = to_detections(RawOutput(*(x.cpu() for x in found)), model.priors.cpu())
    for one, other in zip(boxes, again, strict=True):
        assert len(one.boxes) == len(other.boxes) > 0
        torch.testing.assert_close(one.boxes.cpu(), other.boxes, rtol=0, atol=1e-5)
        assert torch.equal(one.labels.cpu(), other.labels)


@pytest.mark.parametrize("matching", RULES)
@pytest.mark.parametrize("loss", ["caffe", "focal"])
def test_every_matching_has_the_targets_and_losses_of_the_cpu(matching: str, loss: str) -> None:
    torch.manual_seed(0)
    model = build("ssd320-mini", 3).eval()
    data = batch(320, 2)
    recipe = load_recipe("scratch").model_copy(update={"matching": matching, "loss": loss, "min_negatives": 0})
    generator = torch.Generator().manual_seed(1)
    offsets = torch.randn(2, len(model.priors), 4, generator=generator) * 0.1
    logits = torch.randn(2, len(model.priors), 4, generator=generator)
    losses = []
    for device in (torch.device("cpu"), DEVICE):
        model.to(device)
        raw = RawOutput(*(x.clone().to(device).requires_grad_() for x in (offsets, logits)))
        there = on(device, data)
        found = Objective(model, recipe)(raw, there.boxes, there.labels)
        gradients = torch.autograd.grad(found.total, list(raw))
        losses.append([found.total.detach().cpu(), *(g.cpu() for g in gradients)])
    for ours, theirs in zip(losses[1], losses[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_lower_the_loss_in_every_precision(name: str, dtype: torch.dtype) -> None:
    if DEVICE.type == "cpu" and dtype is torch.float16:
        dtype = torch.float32  # no CPU trains in it
    torch.manual_seed(0)
    model = build(name, 3).train()
    place_model(model, DEVICE)
    recipe = load_recipe("scratch").model_copy(update={"optimizer": "adamw", "lr": 1e-3})
    stepper = Stepper(model, recipe, 16, DEVICE, dtype)
    data = on(DEVICE, batch(model.input_spec.size, 2))
    losses = [float(stepper(data, 0.3).total) for _ in range(8)]
    stepper.check()
    assert stepper.is_finite()
    assert min(losses[-3:]) < 0.9 * losses[0], losses


def test_a_training_its_evaluation_and_its_detections_run_there(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", train=8, test=4, val=4)
    run = str(tmp_path / "run")

    def command(*words: str) -> str:
        whole = [sys.executable, "-m", "singleshot", *words, "--device", NAME]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("train", str(tmp_path / "scenes"), "--model", "ssd320-mini", "--epochs", "1", "--batch", "4", "--out", run)
    command("train", "--resume", "--out", run, "--epochs", "2", "--accept-changes")
    command("eval", f"{run}/best.safetensors", str(tmp_path / "scenes"))
    picture = next(path for path in sorted((tmp_path / "scenes").rglob("*")) if path.suffix in (".jpg", ".png"))
    command("detect", f"{run}/best.safetensors", str(picture), "--out", str(tmp_path / "out"))
