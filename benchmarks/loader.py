"""Training augmentation from file to uint8 tensor and boxes, on one core, beside the peers' own code.

    python benchmarks/loader.py VOC-FOLDER [--lufficc CHECKOUT] [--images 300] [--rounds 5] [--json]

Every candidate is a process of its own on the same core and goes through the same images; rounds are interleaved.
torchvision: transforms v2 in the order of its references/detection/presets.py for SSD (photometric distortion,
zoom-out, IoU crop, flip), then the resize that its model does, with PIL images and with tensors. lufficc/SSD: its own
transforms, up to the resize (before it subtracts means in float), from a checkout of https://github.com/lufficc/SSD.
OpenCV: imread and resize alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from common import race_processes, serve, tell

from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.inputs import InputSpec
from singleshot.loading.augment import Augmenter
from singleshot.loading.augment_spec import AUGMENTS
from singleshot.loading.cache import PixelCache
from singleshot.memory import keep_freed_memory

SIZE = 300
MEAN = (123, 117, 104)
OURS = ("singleshot", "singleshot, from the cache")
PEERS = ("torchvision v2, PIL", "torchvision v2, tensors")
LUFFICC = "lufficc/SSD"
OPENCV = "OpenCV decode + resize alone"
Load = Callable[[int], object]


def opencv(data: Dataset) -> Load:
    return lambda i: cv2.resize(cv2.imread(data.names[i]), (SIZE, SIZE))


def singleshot(data: Dataset, cached: bool) -> Load:
    augmenter, step = Augmenter(AUGMENTS["caffe"], InputSpec(size=SIZE)), [0]
    pictures = PixelCache(data, SIZE, 8 << 30) if cached else data
    keep_freed_memory()  # as a loader's worker does

    def load(i: int) -> object:
        step[0] += 1
        rng = np.random.default_rng((0, 0, step[0]))
        image, boxes, labels = augmenter(pictures.picture(i), rng)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(boxes), torch.from_numpy(labels)

    return load


def torchvision(data: Dataset, backend: str) -> Load:
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2

    fill = defaultdict(lambda: MEAN, {tv_tensors.Mask: 0})
    steps = [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill=fill),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(0.5),
        v2.SanitizeBoundingBoxes(),
        v2.Resize((SIZE, SIZE)),
    ]
    transform = v2.Compose([*steps, v2.PILToTensor()] if backend == "PIL" else steps)

    def load(i: int) -> object:
        name = data.names[i]
        if backend == "PIL":
            image = Image.open(name).convert("RGB")
            width, height = image.size
        else:
            image = tv_tensors.Image(decode_image(read_file(name), ImageReadMode.RGB))
            height, width = image.shape[-2:]
        boxes = torch.from_numpy(data.boxes_of(i).copy())
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(data.labels_of(i).copy()),
        }
        return transform(image, target)

    return load


def lufficc(data: Dataset, checkout: str) -> Load:
    sys.path.insert(0, checkout)
    from PIL import Image

    t = importlib.import_module("ssd.data.transforms.transforms")
    # It picks one of a ragged tuple, which numpy no longer takes for an array.
    t.random.choice = lambda options: options[np.random.randint(len(options))]
    mean = [123, 117, 104]
    compose = t.Compose(
        [
            t.ConvertFromInts(),
            t.PhotometricDistort(),
            t.Expand(mean),
            t.RandomSampleCrop(),
            t.RandomMirror(),
            t.ToPercentCoords(),
            t.Resize(SIZE),
        ]
    )

    def load(i: int) -> object:
        image = np.array(Image.open(data.names[i]).convert("RGB"))
        image, boxes, labels = compose(image, data.boxes_of(i).copy(), data.labels_of(i).copy())
        return torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1), boxes, labels

    return load


def candidate(name: str, data: Dataset, args: argparse.Namespace) -> Load:
    if name == OPENCV:
        return opencv(data)
    if name in OURS:
        return singleshot(data, cached=name == OURS[1])
    if name in PEERS:
        return torchvision(data, "PIL" if name == PEERS[0] else "tensors")
    return lufficc(data, args.lufficc)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="VOC folder")
    parser.add_argument("--lufficc", default="", help="a checkout of lufficc/SSD; left out without one")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidate")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = open_dataset(args.data, "train", clip_boxes=True)
    rows = [i for i in range(len(data)) if len(data.boxes_of(i))][: args.images]
    data = data.subset(rows)
    if args.candidate:
        # One core for everything that the candidate starts.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        np.random.seed(0)
        load = candidate(args.candidate, data, args)

        def run() -> None:
            for i in range(len(data)):
                load(i)

        serve(run, warmup=1)
        return
    names = [OPENCV, *OURS, *PEERS, *([LUFFICC] if args.lufficc else [])]
    passed = [a for a in sys.argv[1:] if a != "--json"]
    seconds = race_processes(names, args.rounds, passed)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def times(slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))

    ours, cached = OURS
    faster = min(PEERS, key=lambda name: median[name])
    sizes = data.sizes[:, 0].mean(), data.sizes[:, 1].mean()
    result: dict[str, object] = {"images": f"{len(data)} of {sizes[0]:.0f} x {sizes[1]:.0f} on average, {args.data}"}
    result |= {f"{name}: img/s": len(data) / median[name] for name in names}
    result["singleshot / torchvision's faster backend (want 5)"] = times(faster, ours)
    if args.lufficc:
        result["singleshot / lufficc (want 2.8)"] = times(LUFFICC, ours)
    result["singleshot / OpenCV decode + resize (want .4)"] = times(OPENCV, ours)
    result["cached: img/s / 350 (want 2)"] = len(data) / median[cached] / 350
    result["cached / from the file"] = times(ours, cached)
    tell(f"loader, {Path(args.data).name}", result)


if __name__ == "__main__":
    main()
