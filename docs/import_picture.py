"""Draws what a model finds in photos that may not be shown: its boxes beside the labelled ones, without pixels.

    python docs/import_picture.py MODEL DATA NAME... [--split val] [--out docs/import.png]

MODEL: a checkpoint, ours or another project's; DATA: a data set; NAME: stems of photos in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

import singleshot
from singleshot.datasets import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--split", default="val")
    parser.add_argument("--score-min", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("docs/import.png"))
    arguments = parser.parse_args()
    detector = singleshot.load(arguments.model)
    dataset = open_dataset(arguments.data, arguments.split)
    place = {Path(dataset.names[i]).stem: i for i in range(len(dataset))}
    _, axes = plt.subplots(1, len(arguments.names), figsize=(3.4 * len(arguments.names), 3.6), squeeze=False)
    for axis, name in zip(axes[0], arguments.names, strict=True):
        sample = dataset.sample(place[name])
        found = detector.detect(sample.image, arguments.score_min)
        height, width = sample.image.shape[:2]
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], title=f"photo {name}")
        for (x0, y0, x1, y1), label in zip(sample.boxes_px, sample.labels, strict=True):
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ls="--", lw=1.2, ec="0.55"))
            said = dataset.class_names[label]
            axis.text(x1 - 3, y1 - 3, said, color="0.45", fontsize=8, ha="right", va="bottom")
        for one in found:
            x0, y0, x1, y1 = one.boxes[0]
            colour = f"C{int(one.labels[0]) % 10}"
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, lw=2, ec=colour))
            axis.text(x0 + 3, y0 + 3, f"{one.names[0]} {one.scores[0]:.2f}", color="white", fontsize=9, va="top",
                      bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5})  # fmt: skip
    plt.tight_layout()
    plt.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
