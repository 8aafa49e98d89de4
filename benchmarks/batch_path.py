"""Which files of singleshot one training step enters, from reading an image file to the loss.

    python benchmarks/batch_path.py [--augment NAME] [--json]

Trains two batches from a folder of JPEG files with one process (no workers) and traces the second with sys.setprofile,
so that what happens once (opening, construction, caches) does not count. A file is entered when a function of it is
called. Listed in the order of first entry with what comes before the Batch, and how often the path leaves a file and
comes back to it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from common import tell

import singleshot
from singleshot.datasets import open_dataset
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.models import build
from singleshot.scenes.scenes import write_scenes
from singleshot.training.objective import recipe_loss
from singleshot.training.recipes import load_recipe

PACKAGE = Path(singleshot.__file__).parent
BATCH = 4


@contextlib.contextmanager
def entered() -> Iterator[list[str]]:
    """The files of singleshot whose functions are called, in order, each run of calls to one file once."""
    files: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)):
            file = str(Path(name).relative_to(PACKAGE))
            if not files or files[-1] != file:
                files.append(file)

    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)


def path_of_a_batch(data: str, augment: str) -> tuple[list[str], list[str]]:
    """Files entered from the file to the Batch, and from the Batch to the loss."""
    dataset, recipe = open_dataset(data, "train"), load_recipe("paper")
    model = build("ssd320-mini", len(dataset.class_names)).train()
    loader = TrainLoader(dataset, AUGMENTS[augment], model.input_spec, BATCH, seed=0, workers=0)
    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())

    def loss() -> torch.Tensor:
        raw = model(batch.images)
        return recipe_loss(model, raw, batch.boxes, batch.labels, recipe).total

    batch = next(batches)
    loss()
    with entered() as before:
        batch = next(batches)
    with entered() as after:
        loss()
    loader.close()
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--augment", choices=list(AUGMENTS), default="caffe")
    parser.add_argument("--data", help="a folder of files to train on; default: drawn scenes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.data:
            write_scenes(Path(folder) / "scenes", train=4 * BATCH, test=2, val=2)
        before, after = path_of_a_batch(args.data or str(Path(folder) / "scenes"), args.augment)
    files = list(dict.fromkeys([*before, *after]))
    tell(
        "files that a batch enters",
        {
            "before it is a Batch": len(set(before)),
            "between file and loss (want 16 at most)": len(files),
            **{
                file: f"{'file' if file in before else 'Batch'}, entered {(before + after).count(file)} times"
                for file in files
            },
        },
    )


if __name__ == "__main__":
    main()
