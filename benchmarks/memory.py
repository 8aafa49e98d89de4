"""Memory of training over 20 epochs: flat from the second on.

    python benchmarks/memory.py [--epochs 20] [--json]

Resident memory of the training process and its loader after every epoch, on drawn scenes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common import resident_mb, tell

from singleshot.datasets import open_dataset
from singleshot.models import build
from singleshot.scenes.scenes import write_scenes
from singleshot.training.loop import Settings, Trainer
from singleshot.training.recipes import load_recipe
from singleshot.training.reports import PlainReporter


class Memory(PlainReporter):
    """Notes the memory after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.megabytes: list[float] = []

    def on_step(self, values) -> None:
        pass

    def on_epoch(self, row) -> None:
        self.megabytes.append(resident_mb())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        write_scenes(data, train=96, test=10, val=24)
        torch.manual_seed(0)
        train_set = open_dataset(str(data), "train")
        model = build("ssd320-mini", len(train_set.class_names))
        settings = Settings(out=Path(folder), epochs=args.epochs, batch=8)
        memory = Memory()
        val_set = open_dataset(str(data), "val")
        Trainer(model, train_set, val_set, load_recipe("scratch"), settings, [memory]).run()
    mb = memory.megabytes
    tell(
        "memory of training (MB)",
        {
            "after each epoch": " ".join(f"{v:.0f}" for v in mb),
            "growth from the second epoch to the last, MB": mb[-1] - mb[1],
        },
    )


if __name__ == "__main__":
    main()
