"""Train for a budget of time on a data set, then measure on its test split with the real commands.

    python benchmarks/quality.py path/to/bccd --time 6m [--out runs/bccd] [--picture docs/bccd.jpg] [--json]

--picture draws detections on the first test images as one sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from common import command, tell

import singleshot
from singleshot.datasets import open_dataset

COLUMNS, ROWS, CELL = 3, 2, (400, 300)


def sheet(model: Path, data: str, split: str, path: Path) -> None:
    """The first images of the split with their detections, side by side."""
    dataset, detector = open_dataset(data, split), singleshot.load(str(model))
    cells = []
    for i in range(COLUMNS * ROWS):
        image = dataset.sample(i).image
        cells.append(cv2.resize(detector.detect(image).draw(image), CELL, interpolation=cv2.INTER_AREA))
    rows = [np.hstack(cells[r * COLUMNS : (r + 1) * COLUMNS]) for r in range(ROWS)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--time", default="6m")
    parser.add_argument("--model", default="ssd320-mini")
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--evaluate-only", action="store_true", help="the model in --out is there already")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    best = args.out / "best.safetensors"
    result: dict[str, object] = {"model": args.model, "seed": args.seed, "data": Path(args.data).name}
    if not args.evaluate_only:
        options = ["--model", args.model, "--backbone-weights", "none", "--time", args.time, "--seed", args.seed]
        trained = command("train", args.data, *options, "--out", args.out, "--quiet")
        result |= {key: trained[key] for key in ("seconds", "epochs", "steps", "val_map50")}
    for metric in ("voc", "voc07", "coco"):
        report = command("eval", best, args.data, "--split", args.split, "--metric", metric)
        result[f"{args.split} {metric} mean"] = report["mean_ap"]
        result[f"{args.split} {metric} per class"] = ", ".join(
            f"{c['name']} {c['ap']:.3f}" for c in report["per_class"]
        )
        if metric == "coco":
            result[f"{args.split} coco AP50"] = report["stats"]["AP50"]
    if args.picture:
        sheet(best, args.data, args.split, args.picture)
    tell(f"quality after {args.time} from scratch", result)


if __name__ == "__main__":
    main()
