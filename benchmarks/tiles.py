"""What `--tile` and `--tiles-only` gain in large images: mAP with and without, on images joined side by side.

python benchmarks/tiles.py MODEL DATA [--split test] [--join 3] [--tile 640] [--tile 640:0.4] [--json]

--join 3 puts nine images each into one of three by three, in which objects are a third as large in the network's square
as in training; the borders of tiles run through them, for tiles lie by the joined image's size and the overlap.
--join 1 takes the images as they are. Every box over 0.01 counts, as in `singleshot eval`. The times are of one pass,
an image at a time, for orientation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from common import tell

import singleshot
from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.metrics import evaluate
from singleshot.records import ImageDetections, ImageTruth
from singleshot.runtime import Detector
from singleshot.tiling import Tiling


def joined(dataset: Dataset, side: int) -> Iterator[tuple[np.ndarray, ImageTruth]]:
    """uint8 RGB images of side x side images each, what is left over at the end left out, with their ground truth."""
    for start in range(0, len(dataset) - side * side + 1, side * side):
        numbers = range(start, start + side * side)
        images = [dataset.sample(i).image for i in numbers]
        truths = [dataset.truth(i) for i in numbers]
        height, width = np.max([image.shape[:2] for image in images], axis=0)
        canvas = np.zeros((side * height, side * width, 3), np.uint8)
        boxes = []
        for place, (image, truth) in enumerate(zip(images, truths, strict=True)):
            top, left = place // side * height, place % side * width
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
            boxes.append(truth.boxes + np.array([left, top, left, top], np.float32))
        yield (
            canvas,
            ImageTruth(
                np.concatenate(boxes),
                np.concatenate([truth.labels for truth in truths]),
                np.concatenate([truth.difficult for truth in truths]),
                np.concatenate([truth.crowd for truth in truths]),
            ),
        )


def measure(detector: Detector, dataset: Dataset, side: int, tile: Tiling | None) -> dict[str, object]:
    found, truths, seconds = [], [], 0.0
    for image, truth in joined(dataset, side):
        started = time.perf_counter()
        one = detector.detect(image, score_min=0.01, tile=tile)
        seconds += time.perf_counter() - started
        found.append(ImageDetections(one.boxes, one.scores, one.labels))
        truths.append(truth)
    voc = evaluate(found, truths, metric="voc", class_names=dataset.class_names)
    coco = evaluate(found, truths, metric="coco", class_names=dataset.class_names)
    name = "whole"
    if tile is not None:
        name = f"{'whole and ' * tile.whole}tiles of {tile.side}, overlap {tile.overlap:g}"
    return {
        f"{name}: mAP50": voc.mean_ap,
        f"{name}: COCO AP": coco.stats["AP"],
        f"{name}: ms an image": 1000 * seconds / len(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--join", type=int, default=3)
    parser.add_argument("--tile", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.join < 1:
        parser.error("--join: want at least 1")
    detector = singleshot.load(args.model)
    dataset = open_dataset(args.data, args.split, class_names=detector.class_names)
    figures: dict[str, object] = {"images": len(dataset), "joined": f"{args.join} x {args.join}"}
    figures |= measure(detector, dataset, args.join, None)
    for tile in args.tile or ["640"]:
        for whole in (True, False):
            figures |= measure(detector, dataset, args.join, replace(Tiling.of(tile), whole=whole))
    tell("whole images and tiles", figures)


if __name__ == "__main__":
    main()
