"""Which files of singleshot a batch enters in one training step, from reading its first image file to the loss.

    python benchmarks/batch_path.py [--augment NAME] [--data FOLDER] [--model NAME] [--json]

Trains two batches from a folder of JPEG files in one process (no workers) and traces the second with sys.setprofile,
so that what happens once (opening, construction) does not count. A file is entered when a function of it is called
between the first read of an image and the return of the loss. Listed in the order of first entry: where, and how
often the path comes to the file from another one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from types import FrameType

import torch
from common import tell

import singleshot
from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.losses import multibox_loss
from singleshot.models import build
from singleshot.scenes.scenes import write_scenes
from singleshot.training.recipes import load_recipe
from singleshot.training.step import Stepper

PACKAGE = str(Path(singleshot.__file__).parent) + "/"
BATCH = 4
FIRST, LAST = Dataset.picture.__code__, multibox_loss.__code__


class Trace:
    """Files entered since it was started, a run of calls to one file once: until the Batch, and from it to the loss."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self.now = self.before
        self.open = False

    def start(self) -> None:
        """Listen; the list begins with the first image that is read."""
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        self.open = self.open or frame.f_code is FIRST
        if event == "return" and frame.f_code is LAST:
            sys.setprofile(None)
        name = frame.f_code.co_filename
        if self.open and event == "call" and name.startswith(PACKAGE):
            file = name.removeprefix(PACKAGE)
            if not self.now or self.now[-1] != file:
                self.now.append(file)


def trace_a_step(data: str, augment: str, model_name: str) -> Trace:
    """The second of two training steps, with the default loss of the published recipe."""
    dataset, recipe = open_dataset(data, "train"), load_recipe("paper")
    model = build(model_name, len(dataset.class_names)).train()
    stepper = Stepper(model, recipe, BATCH, torch.device("cpu"), torch.float32)
    loader = TrainLoader(dataset, AUGMENTS[augment], model.input_spec, BATCH, seed=0, workers=0)
    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    stepper(next(batches), 0.01)
    trace = Trace()
    trace.start()
    batch = next(batches)
    trace.now = trace.after
    stepper(batch, 0.01)
    loader.close()
    return trace


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--augment", choices=list(AUGMENTS), default="caffe")
    parser.add_argument("--data", help="a folder of files to train on; default: drawn scenes")
    parser.add_argument("--model", default="ssd320-mini")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.data:
            write_scenes(Path(folder) / "scenes", train=4 * BATCH, test=2, val=2)
        trace = trace_a_step(args.data or str(Path(folder) / "scenes"), args.augment, args.model)
    path = trace.before + trace.after
    files = list(dict.fromkeys(path))
    result: dict[str, object] = {
        "files before the Batch": len(set(trace.before)),
        "files between file and loss (want 16 at most)": len(files),
    }
    for file in files:
        result[file] = f"{'file' if file in trace.before else 'Batch'}, {path.count(file)} times"
    tell("files that a batch enters", result)


if __name__ == "__main__":
    main()
