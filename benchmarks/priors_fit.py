"""Default boxes fitted to train splits: how many objects a prior matches on the other splits, before and after.

    python benchmarks/priors_fit.py path/to/bccd path/to/deeppcb [--models ssd320-mini ...] [--thin] [--json]
    python benchmarks/priors_fit.py path/to/deeppcb --models ssd320-mini --train 20 --seeds 3    # mAP with and without

--thin adds drawn scenes of four times their width, seen in a letterbox: long thin boxes. --train measures on test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
from common import machine
from quality import command

import singleshot
from singleshot.datasets import find_split, open_source
from singleshot.scenes.scenes import write_scenes
from singleshot.text_table import align_columns

WIDER = 4


def write_thin(folder: Path) -> Path:
    """The drawn scenes, WIDER times as wide; their pixels are repeated and their boxes exact."""
    write_scenes(folder, train=400, val=50, test=100)
    for path in (folder / "Annotations").iterdir():
        tree = ElementTree.parse(path)
        for tag, first in (("width", 0), ("xmin", 1), ("xmax", 0)):  # VOC counts from 1, the last pixel included
            for node in tree.iter(tag):
                node.text = str(round(WIDER * (float(node.text or "") - first) + first))
        tree.write(path)
    for path in (folder / "JPEGImages").iterdir():
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(image, None, fx=WIDER, fy=1, interpolation=cv2.INTER_NEAREST))
    return folder


def fit(data: Path, model: str, resize: str) -> list[dict[str, object]]:
    """A row for each split."""
    start = time.perf_counter()
    found = singleshot.fit_priors(data, model=model, resize=resize)
    seconds = time.perf_counter() - start
    return [
        {
            "data": data.name,
            "model": model,
            "priors": found.old.count,
            "fitted": found.table.count,
            "split": one.name,
            "objects": one.before.all.objects,
            "matched before": one.before.all.matched,
            "matched": one.after.all.matched,
            "IoU before": one.before.all.mean_iou,
            "IoU": one.after.all.mean_iou,
            "seconds": seconds,
        }
        for one in found.splits
    ]


def train(data: Path, model: str, resize: str, minutes: float, seed: int) -> list[dict[str, object]]:
    """mAP50 and COCO AP on the test split (val where there is none), with the model's own default boxes and fitted."""
    rows = []
    split = find_split("test", open_source(data).splits) or "val"
    for fitted in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            words = ["--model", model, "--resize", resize, "--backbone-weights", "none", "--time", f"{minutes * 60:g}s"]
            command("train", data, *words, "--seed", seed, *["--fit-priors"] * fitted, "--out", out, "--quiet")
            report = json.loads(
                command("eval", out / "best.safetensors", data, "--split", split, "--metric", "coco", "--json")
            )
        figures = {"mAP50": report["stats"]["AP50"], "AP": report["mean_ap"]}
        rows.append({"data": data.name, "model": model, "seed": seed, "fitted": fitted, "split": split, **figures})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--models", nargs="+", default=["ssd320-mini", "ssdlite320-mobilenetv2", "ssd300-vgg16"])
    parser.add_argument("--thin", action="store_true", help="drawn scenes with long thin boxes too")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train with and without, this long each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = [(data, "stretch") for data in args.data]
        sets += [(write_thin(Path(folder) / "thin scenes"), "letterbox")] if args.thin else []
        fits = [row for data, resize in sets for model in args.models for row in fit(data, model, resize)]
        trained = [
            row
            for data, resize in sets if args.train
            for model in args.models
            for seed in range(args.seeds)
            for row in train(data, model, resize, args.train, seed)
        ]  # fmt: skip
    if args.json:
        print(json.dumps({"machine": machine(), "fits": fits, "trained": trained}))
        return
    print(machine())
    for rows in (fits, trained):
        if rows:
            cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
            print("\n".join(align_columns([list(rows[0]), *cells])))
    for data, model in dict.fromkeys((row["data"], row["model"]) for row in trained):
        for name in ("mAP50", "AP"):
            own, fitted = (
                [
                    float(str(row[name]))
                    for row in trained
                    if (row["data"], row["model"], row["fitted"]) == (data, model, one)
                ]
                for one in (False, True)
            )
            gain = statistics.mean(b - a for a, b in zip(own, fitted, strict=True))
            means = statistics.mean(own), statistics.mean(fitted)
            print(f"{data}, {model}: mean {name} {means[0]:.4f}, fitted {means[1]:.4f} ({gain:+.4f}, {len(own)} seeds)")


if __name__ == "__main__":
    main()
