"""What `--tile` gains: mAP50 of a detector on a data set, whole images against whole images and tiles, by object size.

python benchmarks/tiles.py MODEL DATA [--split test] [--tile 320] [--tile 480:0.25] [--json]

Every box over 0.01 counts, as in `singleshot eval`; mAP50 by the area under the curve, COCO's AP and its AP of small
(under 32 x 32 px of the image) and medium objects. The times are of one pass each, an image at a time, for orientation.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import tell

import singleshot
from singleshot.data import open_dataset
from singleshot.data.dataset import Dataset
from singleshot.metrics import evaluate
from singleshot.records import ImageDetections
from singleshot.runtime import Detector


def measure(detector: Detector, dataset: Dataset, tile: str | None) -> dict[str, object]:
    found, seconds = [], 0.0
    truths = [dataset.truth(i) for i in range(len(dataset))]
    for i in range(len(dataset)):
        image = np.ascontiguousarray(dataset.sample(i).image)
        started = time.perf_counter()
        one = detector.detect(image, score_min=0.01, tile=tile)
        seconds += time.perf_counter() - started
        found.append(ImageDetections(one.boxes, one.scores, one.labels))
    voc = evaluate(found, truths, metric="voc", class_names=dataset.class_names)
    coco = evaluate(found, truths, metric="coco", class_names=dataset.class_names)
    name = "whole" if tile is None else f"whole and tiles of {tile}"
    return {
        f"{name}: mAP50": voc.mean_ap,
        **{f"{name}: COCO {key}": value for key, value in coco.stats.items() if key in ("AP", "APs", "APm")},
        f"{name}: ms an image": 1000 * seconds / len(dataset),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tile", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    detector = singleshot.load(args.model)
    dataset = open_dataset(args.data, args.split, class_names=detector.class_names)
    said: dict[str, object] = {"images, objects": f"{len(dataset)}, {len(dataset.labels)}"}
    for tile in [None, *(args.tile or [str(detector.input_spec.size)])]:
        said |= measure(detector, dataset, tile)
    tell("whole images and tiles", said)


if __name__ == "__main__":
    main()
