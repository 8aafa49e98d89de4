"""Default boxes fitted to train splits: how many objects a prior matches on the other splits, before and after.

    python benchmarks/priors_fit.py path/to/bccd path/to/deeppcb [--models ssd320-mini ...] [--thin] [--json]
    python benchmarks/priors_fit.py --write-thin path/to/sets/thin

--thin adds drawn scenes of four times their width, seen in a letterbox: long thin boxes; --write-thin leaves them in a
folder. What fitted default boxes do to mAP: benchmarks/accuracy.py with --rows benchmarks/input_rows.toml.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
from common import machine

import singleshot
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--models", nargs="+", default=["ssd320-mini", "ssdlite320-mobilenetv2", "ssd300-vgg16"])
    parser.add_argument("--thin", action="store_true", help="drawn scenes with long thin boxes too")
    parser.add_argument("--write-thin", type=Path, metavar="FOLDER", help="write the thin scenes, and do nothing else")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.write_thin:
        write_thin(args.write_thin)
        return
    with tempfile.TemporaryDirectory() as folder:
        sets = [(data, "stretch") for data in args.data]
        sets += [(write_thin(Path(folder) / "thin scenes"), "letterbox")] if args.thin else []
        fits = [row for data, resize in sets for model in args.models for row in fit(data, model, resize)]
    if args.json:
        print(json.dumps({"machine": machine(), "fits": fits}))
        return
    print(machine())
    if fits:
        cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in fits]
        print("\n".join(align_columns([list(fits[0]), *cells])))


if __name__ == "__main__":
    main()
