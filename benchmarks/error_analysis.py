"""Kinds of errors and what they cost, of the detections of a model on real data, next to tidecv's own figures.

pip install --no-deps tidecv appdirs seaborn pandas pycocotools
python benchmarks/error_analysis.py MODEL DATA [--split val]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from tidecv.data import Data
from tidecv.quantify import TIDERun

import singleshot
from singleshot.metrics import ErrorAnalysis
from singleshot.metrics.flat import FlatDetections, FlatTruth

# tidecv's order of what it corrects.
_ORDER = ("class", "location", "both", "duplicate", "background", "missed", "false positives", "false negatives")


def tide(found: FlatDetections, truth: FlatTruth) -> tuple[float, dict[str, float]]:
    """mAP and what each correction adds to it, 0..1, by tidecv at its thresholds .5 and .1."""
    theirs, ours = Data("truth"), Data("found")
    for image in np.union1d(found.image, truth.image).tolist():
        theirs.add_image(image, str(image))
    for image, box, label, ignored in zip(truth.image, truth.boxes, truth.labels, truth.ignored, strict=True):
        add = theirs.add_ignore_region if ignored else theirs.add_ground_truth
        add(int(image), int(label), _xywh(box))
    for image, box, label, score in zip(found.image, found.boxes, found.labels, found.scores, strict=True):
        ours.add_detection(int(image), int(label), float(score), _xywh(box))
    run = TIDERun(theirs, ours, 0.5, 0.1, "bbox", 100)
    gains = [*run.fix_main_errors().values(), *run.fix_special_errors().values()]
    return run.ap / 100, {name: max(gain, 0.0) / 100 for name, gain in zip(_ORDER, gains, strict=True)}


def _xywh(box: np.ndarray) -> list[float]:
    return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]


def main() -> None:
    """Print both and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    errors = singleshot.evaluate(options.model, options.data, split=options.split).errors
    assert isinstance(errors, ErrorAnalysis)
    started = time.perf_counter()
    ap, gains = tide(errors.found, errors.truth)
    seconds = time.perf_counter() - started
    print(f"{len(errors.found.labels)} detections, {len(errors.truth.labels)} objects; tidecv took {seconds:.1f} s")
    print(f"{'':16} {'singleshot':>12} {'tidecv':>12}")
    print(f"{'AP':16} {errors.ap:12.6f} {ap:12.6f}")
    for name in _ORDER:
        print(f"{name:16} {errors.gains[name]:12.6f} {gains[name]:12.6f}")
    pairs = [(errors.ap, ap), *((errors.gains[name], gains[name]) for name in _ORDER)]
    print(f"largest difference {max(abs((a or 0.0) - b) for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
