"""What box voting does to a model's average precision, and what it costs in the exported file.

python benchmarks/box_voting.py MODEL DATA [--split test] [--least 0.5 0.3 0.7] [--threads 1] [--rounds 3]

MODEL is a checkpoint of singleshot. Its rule is changed in copies of it: no vote, and votes from each least IoU on; the
COCO metrics of each by PyTorch. Then no vote and the first of these are exported and run in turn on the split's images,
one at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import command, machine

import singleshot
from singleshot.datasets import open_dataset
from singleshot.timing import time_in_turns
from singleshot.weights.checkpoint import load_checkpoint, save_checkpoint

IMAGES = 40


def copies(model: str, folder: Path, least: list[float]) -> dict[str, Path]:
    """The checkpoint with each rule, by its name for people."""
    network, info = load_checkpoint(model)
    found = {}
    for value in (None, *least):
        rules = replace(info.thresholds, box_voting=value)
        path = folder / f"{value}.safetensors"
        save_checkpoint(path, network.state_dict(), replace(info, thresholds=rules))
        found["no vote" if value is None else f"from IoU {value:g}"] = path
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--least", type=float, nargs="+", default=[0.5, 0.3, 0.7])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        models = copies(given.model, Path(temporary), given.least)
        for name, path in models.items():
            stats = command("eval", path, given.data, "--split", given.split, "--metric", "coco")["stats"]
            figures = "  ".join(f"{key} {stats[key]:.3f}" for key in ("AP", "AP50", "AP75"))
            print(f"{name:<14} {figures}", flush=True)
        images = open_dataset(given.data, given.split)
        pictures = [images.sample(i).image for i in range(min(IMAGES, len(images)))]
        calls = {}
        for name, path in list(models.items())[:2]:
            file = singleshot.export(path, out=path.with_suffix(".onnx"))
            detector = singleshot.load(file, engine="openvino", threads=given.threads)
            calls[name] = lambda detector=detector: [detector.detect(picture) for picture in pictures]
        seconds = time_in_turns(calls, given.rounds)
        for name, values in seconds.items():
            print(f"{name:<14} {float(np.median(values)) / len(pictures) * 1e3:.2f} ms an image, OpenVINO")


if __name__ == "__main__":
    main()
