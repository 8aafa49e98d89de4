"""The pure core: postprocess against torchvision, matching + loss against the training step, VGG forward.

python benchmarks/core.py [--rounds 15] [--json]
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from common import race, ratio, tell
from torchvision.models.detection.image_list import ImageList
from training import bare_step

from singleshot.boxes import to_corners
from singleshot.devices import pick_precision, place_model
from singleshot.losses import multibox_loss
from singleshot.matching import match
from singleshot.models import build
from singleshot.postprocess import to_detections
from singleshot.priors import PRIORS, make_priors
from singleshot.records import RawOutput


def postprocess(device: torch.device) -> dict:
    """The same raw tensors of an untrained network through both."""
    torch.manual_seed(0)
    model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21)
    model.eval().to(device)
    image = torch.rand(1, 3, 300, 300, device=device)
    with torch.no_grad():
        features = list(model.backbone(image).values())
        head = model.head(features)
        anchors = model.anchor_generator(ImageList(image, [(300, 300)]), features)
    raw, priors = RawOutput(head["bbox_regression"], head["cls_logits"]), make_priors(PRIORS["ssd300-coco"]).to(device)

    def theirs() -> None:
        with torch.no_grad():
            model.postprocess_detections(dict(head), anchors, [(300, 300)])

    return {"torchvision": theirs, "singleshot": lambda: to_detections(raw, priors)}


def matching_and_loss(device: torch.device):
    """A batch of 32 images with 20 objects each on 8732 priors, 21 columns; the loss with its gradient."""
    generator = torch.Generator().manual_seed(0)
    priors = make_priors(PRIORS["ssd300-voc"]).to(device)
    centre, size = torch.rand(32, 20, 2, generator=generator), torch.rand(32, 20, 2, generator=generator) * 0.4 + 0.03
    boxes = to_corners(torch.cat([centre, size], -1)).clamp(0, 1).to(device)
    labels = torch.randint(0, 20, (32, 20), generator=generator).to(device)
    offsets = torch.randn(32, 8732, 4, generator=generator).to(device).requires_grad_()
    logits = torch.randn(32, 8732, 21, generator=generator).to(device).requires_grad_()

    def run() -> None:
        losses = multibox_loss(RawOutput(offsets, logits), match(priors, boxes, labels))
        torch.autograd.grad(losses.total, (offsets, logits))

    return run


def vgg_forward(device: torch.device) -> dict:
    """Backbone and head alone, float32, batch 1."""
    theirs = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21)
    theirs.eval().to(device)
    ours = build("ssd300-vgg16", 20).eval()
    place_model(ours, device)
    image = torch.rand(1, 3, 300, 300, device=device)
    last = (image * 255).contiguous(memory_format=torch.channels_last)

    def peer() -> None:
        with torch.inference_mode():
            theirs.head(list(theirs.backbone(image).values()))

    def own() -> None:
        with torch.inference_mode():
            ours(last)

    return {"torchvision": peer, "singleshot": own}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, object] = {"rounds": args.rounds, "device": str(device)}

    seconds = race(postprocess(device), args.rounds, warmup=3)
    for name, values in seconds.items():
        result[f"postprocess {name}: ms"] = sorted(values)[len(values) // 2] * 1e3
    result["postprocess: times faster than torchvision (want 4)"] = ratio(seconds, "torchvision", "singleshot")

    step = bare_step("ssd300-mobilenetv2", device, pick_precision("auto", device))

    def two_steps() -> None:  # the step is measured at batch 16, the matching at 32
        step()
        step()

    seconds = race({"step": two_steps, "match": matching_and_loss(device)}, args.rounds, warmup=2)
    for name, values in seconds.items():
        result[f"matching + loss, {name}: ms per 32 images"] = sorted(values)[len(values) // 2] * 1e3
    result["matching + loss / step (want under .1)"] = ratio(seconds, "match", "step")

    seconds = race(vgg_forward(device), args.rounds, warmup=2)
    for name, values in seconds.items():
        result[f"ssd300-vgg16 forward {name}: img/s"] = 1 / sorted(values)[len(values) // 2]
    result["ssd300-vgg16 forward: singleshot / torchvision (want 1)"] = ratio(seconds, "torchvision", "singleshot")
    tell("core", result)


if __name__ == "__main__":
    main()
