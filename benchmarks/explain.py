"""How many missed objects `singleshot explain` finds the causes of, whether these hold, and what it costs.

python benchmarks/explain.py MODEL DATA [--split test] [--images 100] [--score-min 0.4] [--threads 1]

Every cause is tried again here, from what was recorded of it: all of an object's changes are made, the raw outputs go
through `to_detections` and to pixels as `detect` has it, and a detection of its class must then have the object (VOC's
rule, IoU 0.5); with any one of the changes left out none must. Time is CPU time of this process, explaining and
detecting in turns on the same image.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from common import machine

from singleshot.api.explain import Explainer
from singleshot.counterfactuals import changed
from singleshot.evaluation.measured_classes import ModelClasses, open_measured
from singleshot.explaining import Scene
from singleshot.inputs import boxes_from_square, to_square
from singleshot.metrics.voc import best_overlaps
from singleshot.postprocess import to_detections
from singleshot.records import ImageTruth

GRADIENTS = 4


def appears(scene: Scene, to_px: Callable[[np.ndarray], np.ndarray], truth: ImageTruth, number: int) -> bool:
    """Whether a detection has the object, by the whole way of `detect`."""
    rules = scene.rules.for_postprocess()
    (found,) = to_detections(scene.raw, scene.priors, variances=scene.variances, **rules)
    boxes, label = to_px(found.boxes.numpy()), truth.labels[number]
    area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    rows = area & (found.scores.numpy() >= np.float32(scene.show_min)) & (found.labels.numpy() == label)
    same = np.flatnonzero(truth.labels == label)
    zeros = np.zeros(int(rows.sum()), np.int64), np.zeros(len(same), np.int64)
    overlap, best = best_overlaps(
        boxes[rows].astype(np.float64), zeros[0], truth.boxes[same].astype(np.float64), zeros[1]
    )
    return bool(((overlap >= 0.5) & (best == int(np.flatnonzero(same == number)[0]))).any())


def confirmed(
    scene: Scene,
    changes: Sequence[Mapping[str, Any]],
    to_px: Callable[[np.ndarray], np.ndarray],
    truth: ImageTruth,
    number: int,
) -> bool:
    """Whether the object appears with all of the changes, and with none of them left out; but for that of box voting,
    which the first has besides its own and which is no cause then."""
    if changes and "box_voting" in changes[0] and len(changes[0]) > 1:
        scene = changed(scene, {"box_voting": None})
    for left_out in (None, *range(len(changes))):
        state = scene
        for i, change in enumerate(changes):
            if i != left_out and change.get("prior", 0) < len(state.priors):
                state = changed(state, change)
        if appears(state, to_px, truth, number) != (left_out is None):
            return False
    return bool(changes)


def report(seconds: Mapping[str, list[float]]) -> None:
    """Print CPU times, and their ratio."""
    for name, values in seconds.items():
        if values:
            ms = np.array(values) * 1e3
            print(
                f"{name:<10} CPU ms: median {np.median(ms):.1f}, 95 % {np.quantile(ms, 0.95):.1f}, max {ms.max():.1f}"
            )
    ratios = np.array(seconds["explain"]) / np.array(seconds["detect"])
    print(f"explaining beyond detecting, as a part of detecting: median {np.median(ratios):.2f}")


def options_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--score-min", type=float)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = options_given()
    torch.set_num_threads(options.threads)
    explainer = Explainer(options.model, "cpu")
    detector, info = explainer.detector, explainer.detector.info
    assert info is not None
    engine: Any = detector.engine
    spec, shown = info.input_spec, detector.score_min if options.score_min is None else options.score_min
    dataset, classes, *_ = open_measured(
        options.data, options.split, ModelClasses(detector.class_names, detector.learnt)
    )
    own = {measured: label for label, measured in enumerate(classes.labels) if measured >= 0}
    causes, objects, held, detections, same = Counter[str](), 0, 0, 0, 0
    seconds: dict[str, list[float]] = {"detect": [], "explain": [], "gradient": []}
    count = min(options.images, len(dataset))
    for i in range(count):
        sample = dataset.sample(i)
        image = sample.image
        truth = ImageTruth(sample.boxes_px, np.array([own[int(c)] for c in sample.labels], np.int64), sample.difficult)
        started = time.process_time()
        found = detector.detect(image, shown)
        middle = time.process_time()
        done = explainer.explain(image, truth, score_min=shown, gradients=0)
        ended = time.process_time()
        if i:  # the first one records the layers
            seconds["detect"].append(middle - started)
            seconds["explain"].append(ended - middle - (middle - started))
            if len(found) >= GRADIENTS:
                explainer.explain(image, truth, score_min=shown, gradients=GRADIENTS)
                seconds["gradient"].append((time.process_time() - ended - (ended - middle)) / GRADIENTS)
        detections += len(found)
        same += np.array_equal(done.found.boxes, found.boxes) and np.array_equal(done.found.scores, found.scores)

        square, place = to_square(image, spec)
        height, width = image.shape[:2]
        with torch.inference_mode():
            raw = engine.forward(torch.from_numpy(square[None]).permute(0, 3, 1, 2))
        scene = Scene(
            raw, engine.model.priors, engine.model.prior_spec.variances, engine.thresholds, shown, torch.ones(4)
        )

        def to_px(boxes: np.ndarray, where: Any = (place, height, width)) -> np.ndarray:
            return boxes_from_square(boxes, where[0], spec.sides, where[1], where[2])

        assert done.objects is not None
        objects += len(done.objects)
        for number, one in enumerate(done.objects):
            if one.detection is None:
                causes["+".join(cause.kind for cause in one.causes)] += 1
                held += confirmed(scene, [c.change for c in one.causes if c.change], to_px, truth, number)
    missed = sum(causes.values())
    print(f"{machine()}; {options.threads} threads")
    print(f"{count} images, {objects} objects, {missed} missed, {detections} detections")
    print(f"detections equal to detect's to the bit: {same} of {count} images")
    print(f"causes confirmed: {held} of {missed} ({held / max(missed, 1):.2%})")
    for kind, number in causes.most_common():
        print(f"  {kind:<32} {number:>5} ({number / missed:.1%})")
    report(seconds)


if __name__ == "__main__":
    main()
