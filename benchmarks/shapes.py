"""What the shape of the input costs and gains on 16:9 pictures: 288x512 against 512x512, and grey against colour.

python benchmarks/shapes.py [DATA] [--model singleshot-n] [--minutes 20] [--epochs 1] [--rounds 30] [--threads N]
    [--out FOLDER] [--json]

Each candidate is trained, quantised to int8 and raced: all take the same pictures in turn in one run, so that the
ratios of images per second hold whatever else the machine does. `network` is the engine's call alone, `detect` the
whole way from pixels to boxes, `loading` what training reads, augments and hands on, in this process. AP is that of the
int8 files on the test split; it says something after --minutes for each candidate, without which they train for
--epochs. DATA has the splits train, val and test; without it 16:9 scenes are drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from common import race, ratio, tell

import singleshot
from singleshot.datasets import open_dataset
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.loader import TrainLoader
from singleshot.models.cost import model_cost
from singleshot.runtime import Detector
from singleshot.scenes.scenes import SCENE_CLASSES, render_scene
from singleshot.weights.checkpoint import read_info
from singleshot.weights.open_model import open_model

# Those after the first are compared with the one that is named.
CANDIDATES = {
    "512x512": ({"size": 512}, None),
    "288x512": ({"size": (288, 512)}, "512x512"),
    "288x512 grey": ({"size": (288, 512), "grey": True}, "288x512"),
}
PICTURES, BATCH = 16, 8  # in the race


def write_scenes(folder: Path, counts: Mapping[str, int], width: int = 960, height: int = 540) -> None:
    """16:9 scenes in COCO form, a folder for each split."""
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        images, boxes = [], []
        for i in range(count):
            image, objects = render_scene(np.random.default_rng([len(split), i]), width, height)
            cv2.imwrite(str(folder / split / f"{i:04}.jpg"), image[..., ::-1])
            images.append({"id": i, "file_name": f"{i:04}.jpg", "width": width, "height": height})
            for one in objects:
                x0, y0, x1, y1 = one.box_px
                box = [x0, y0, x1 - x0, y1 - y0]
                boxes.append({"id": len(boxes) + 1, "image_id": i, "category_id": one.label + 1, "bbox": box})
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(SCENE_CLASSES)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def multiply_adds(checkpoint: Path) -> tuple[float, int]:
    """Of one image, in millions, and the number of priors."""
    model, _ = open_model(checkpoint)
    return model_cost(model).gflops * 1e3 / 2, model.prior_spec.count


def calls(
    detectors: Mapping[str, Detector], pictures: list[np.ndarray], whole: bool
) -> dict[str, Callable[[], object]]:
    """What is raced: all pictures, one at a time."""

    def run(detector: Detector) -> Callable[[], object]:
        if whole:
            return lambda: [detector.detect(picture) for picture in pictures]
        square = np.zeros((1, *detector.input_spec.shape), np.uint8)
        return lambda: [detector.engine(square) for _ in pictures]

    return {name: run(detector) for name, detector in detectors.items()}


def loading(checkpoints: Mapping[str, Path], data: str) -> dict[str, Callable[[], object]]:
    """What is raced: the first batches of an epoch of each model's input, the images decoded each time."""
    train_set = open_dataset(data, "train")

    def run(checkpoint: Path) -> Callable[[], object]:
        spec = read_info(checkpoint).input_spec
        loader = TrainLoader(train_set, AUGMENTS["light"], spec, BATCH, workers=0)
        return lambda: [batch.labels for batch in islice(loader.epoch(0), PICTURES // BATCH)]

    return {name: run(checkpoint) for name, checkpoint in checkpoints.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default="singleshot-n")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--scenes", type=int, default=400, help="to train on, where no data is given")
    parser.add_argument("--out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(args.out or temporary)
        data = args.data or str(out / "scenes")
        if args.data is None:
            write_scenes(
                Path(data), {"train": args.scenes, "val": math.ceil(args.scenes / 8), "test": args.scenes // 4}
            )
        length = {"time": 60 * args.minutes} if args.minutes else {"epochs": args.epochs}
        detectors: dict[str, Detector] = {}
        costs, checkpoints = {}, {}
        for name, (options, against) in CANDIDATES.items():
            folder = out / name.replace(" ", "-")
            run = singleshot.train(data, model=args.model, out=folder, tensorboard=False, **length, **options)
            checkpoints[name] = checkpoint = run.best or run.last
            file = singleshot.export(checkpoint, out=folder / "int8.onnx", int8=data)
            detectors[name] = singleshot.load(file, engine="openvino", threads=args.threads)
            costs[name] = multiply_adds(checkpoint)
            result[f"{name}: priors"] = costs[name][1]
            result[f"{name}: million multiply-adds"] = costs[name][0]
            evaluation = singleshot.evaluate(file, data, split="test", metric="coco", workers=0)
            result[f"{name}: COCO AP in int8 after {run.epochs} epochs"] = evaluation.mean_ap
            if against is not None:
                result[f"{name} / {against}: multiply-adds"] = costs[name][0] / costs[against][0]
        test = open_dataset(data, "test")
        pictures = [test.sample(i).image for i in range(min(PICTURES, len(test)))]
        races = {
            "network": calls(detectors, pictures, whole=False),
            "detect": calls(detectors, pictures, whole=True),
            "loading": loading(checkpoints, data),
        }
        for what, candidates in races.items():
            seconds = race(candidates, args.rounds)
            for name, (_, against) in CANDIDATES.items():
                if against is not None:
                    result[f"{name} / {against}: images per second, {what}"] = ratio(seconds, against, name)
    tell(f"shapes of the input, {args.model} in int8", result)


if __name__ == "__main__":
    main()
