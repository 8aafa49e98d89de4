"""Memory of the loader over 20 epochs of 100,000 labelled images: flat, since annotations are shared arrays.

    python benchmarks/loader_memory.py [--images 100000] [--epochs 20] [--workers 2] [--json]

100,000 images of a data set are 100,000 names and a million boxes; the files behind the names are few and tiny, so
that two million of them decode in minutes. Memory is that of the main process and its workers, shared pages counted by
share.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import resident_mb, tell

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.packed_strings import StringTable, offsets_of
from singleshot.inputs import InputSpec
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader

OBJECTS = 10
FILES = 500
SIDE = 32


def make_data(folder: Path, images: int) -> Dataset:
    rng = np.random.default_rng(0)
    for k in range(FILES):
        noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{k:04}.jpg"), noise)
    corners = rng.uniform(0, SIDE / 2, (images * OBJECTS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, SIDE / 2, corners.shape)], axis=1).astype(np.float32)
    return Dataset(
        source="made up",
        class_names=tuple("abcdefghij"),
        # "./" as often as it takes to give each image a name of its own, as long as real ones.
        names=StringTable.from_iterable(
            f"{folder}/{'./' * (i // FILES % 40)}{i % FILES:04}.jpg" for i in range(images)
        ),
        image_ids=StringTable.from_iterable(f"image-{i:012}" for i in range(images)),
        sizes=np.full((images, 2), SIDE, np.int32),
        ptr=offsets_of(np.full(images, OBJECTS)),
        boxes_px=boxes,
        labels=rng.integers(0, 10, len(boxes)),
        difficult=np.zeros(len(boxes), bool),
        crowd=np.zeros(len(boxes), bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), args.images)
        loader = TrainLoader(data, AUGMENTS["light"], InputSpec(size=SIDE), 256, 0, args.workers)
        megabytes, started = [], time.perf_counter()
        for epoch in range(args.epochs):
            for _ in loader.epoch(epoch):
                pass
            megabytes.append(round(resident_mb(), 1))
        seconds = time.perf_counter() - started
        loader.close()
    tell(
        "loader memory",
        {
            "images per epoch, epochs, workers": f"{args.images}, {args.epochs}, {args.workers}",
            "images per second": args.images * args.epochs / seconds,
            "MB after each epoch": str(megabytes),
            "growth from epoch 2 to the last, MB (want 0)": megabytes[-1] - megabytes[min(1, len(megabytes) - 1)],
        },
    )


if __name__ == "__main__":
    main()
