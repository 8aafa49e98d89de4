"""What it is worth that training takes no negatives from crowds and regions without labels, on drawn scenes.

    python benchmarks/ignored_regions.py --model ssd320-mini --epochs 10 --seeds 3 --out runs/ignored

A part of the objects to train on, drawn by lot, is not labelled one by one. In the row "crowds" they are crowds of
their class (COCO's iscrowd, boxes a tenth wider on each side), in which nothing is a negative; in the row "no labels"
they are background, as objects in crowds were before. All objects of val are labelled. A run that lies in --out already
is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import command, machine

from singleshot.datasets import open_source
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.writing import write_dataset
from singleshot.scenes.scenes import write_scenes
from singleshot.text_table import align_columns

TRAIN, VAL = 300, 200  # scenes
WIDER = 0.1  # of the sides


def crowd_of(obj: RawObject, image: RawImage) -> RawObject:
    """A crowd drawn roughly round an object."""
    x0, y0, x1, y1 = obj.box
    wide, tall = WIDER * (x1 - x0), WIDER * (y1 - y0)
    box = max(x0 - wide, 0.0), max(y0 - tall, 0.0), min(x1 + wide, image.width), min(y1 + tall, image.height)
    return obj._replace(box=box, crowd=True)


def write_rows(scenes: RawSet, share: float, out: Path) -> dict[str, Path]:
    """Row -> its data set."""
    rng, train = np.random.default_rng(0), set(scenes.splits["train"])
    chosen = [rng.random(len(image.objects)) < (share if i in train else 0.0) for i, image in enumerate(scenes.images)]
    rows = {}
    for name in ("no labels", "crowds"):
        images = []
        for image, which in zip(scenes.images, chosen, strict=True):
            objects = [
                crowd_of(obj, image) if unlabelled else obj
                for obj, unlabelled in zip(image.objects, which, strict=True)
                if name == "crowds" or not unlabelled
            ]
            images.append(image._replace(objects=objects))
        rows[name] = out / f"data-{name.replace(' ', '-')}-{share:g}"
        if not rows[name].is_dir():
            write_dataset(scenes._replace(images=images), rows[name], "coco")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="singleshot-n")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1 / 3, help="of the objects that are not labelled one by one")
    parser.add_argument("--out", type=Path, help="where data and runs are kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        write_scenes(out / "scenes", train=TRAIN, test=0, val=VAL)
        found: dict[str, list[float]] = {}
        rows = write_rows(open_source(out / "scenes").read(), args.share, out)
        for seed in range(args.seeds):
            for name, data in rows.items():
                run = out / f"{data.name}-{args.epochs}-{seed}"
                kept = run / "trained.json"
                if not kept.is_file():
                    words = ["--model", args.model, "--backbone-weights", "none", "--size", args.size]
                    words += ["--batch", args.batch, "--epochs", args.epochs, "--val-every", args.epochs]
                    done = command("train", data, "--out", run, "--seed", seed, "--quiet", *words)
                    kept.write_text(json.dumps(done))
                found.setdefault(name, []).append(json.loads(kept.read_text())["val_map50"])
    if args.json:
        print(json.dumps({"machine": machine(), "val_map50": found}))
        return
    print(machine())
    seeds = [f"seed {seed}" for seed in range(args.seeds)]
    cells = [[name, f"{statistics.mean(each):.3f}", *(f"{one:.3f}" for one in each)] for name, each in found.items()]
    for line in align_columns([["val mAP50", "mean", *seeds], *cells]):
        print(line)


if __name__ == "__main__":
    main()
