"""How many planted label errors are found, and at how many false alarms.

    python benchmarks/label_errors.py path/to/BCCD --time 5m --out runs/label-errors [--clean MODEL]

Plants 100 errors with a seed into a copy of a VOC folder's train split, a quarter each: moved by 0.35 to 0.7 of a box's
sides, missing, of another class, doubled with a jitter of up to 0.08 of the sides. Trains on that copy, errors
included, as a user would whose labels are wrong, and looks for suspects in the images that were trained on. --clean:
another model, trained on the labels as they were, for comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import tell

import singleshot
from singleshot.metrics.label_errors import REPORTED, LabelSuspect, find_label_errors

KINDS = ("moved", "missing", "class", "doubled")


class Planted(NamedTuple):
    """image: its stem; boxes: where a finding may lie, the true place and the planted one, VOC's pixels."""

    kind: str
    image: str
    boxes: list[list[float]]


def plant(source: Path, target: Path, count: int, seed: int) -> list[Planted]:
    """Copy a VOC folder and put errors into its train split, at most one for an object and its neighbours."""
    shutil.copytree(source, target)
    stems = (target / "ImageSets/Main/train.txt").read_text().split()
    trees = {stem: ET.parse(target / "Annotations" / f"{stem}.xml") for stem in stems}
    objects = [(stem, node) for stem in stems for node in trees[stem].findall("object")]
    names = sorted({node.findtext("name") or "" for _, node in objects})
    rng = np.random.default_rng(seed)
    planted: list[Planted] = []
    for i in rng.permutation(len(objects)).tolist():
        if len(planted) == count:
            break
        stem, node = objects[i]
        kind = KINDS[len(planted) % len(KINDS)]
        size = [float(trees[stem].findtext(f"size/{side}") or 0) for side in ("width", "height")]
        one = _plant_one(trees[stem].getroot(), node, kind, (names, size), rng)
        if one is not None:
            planted.append(Planted(kind, stem, one))
    for stem, tree in trees.items():
        tree.write(target / "Annotations" / f"{stem}.xml")
    return planted


def _plant_one(root: ET.Element, node: ET.Element, kind: str, about: tuple, rng: np.random.Generator):
    names, size = about
    box = _box(node)
    sides = box[2:] - box[:2]
    if kind == "missing":
        root.remove(node)
        return [box.tolist()]
    if kind == "class":
        name = node.find("name")
        name.text = str(rng.choice([one for one in names if one != name.text]))
        return [box.tolist()]
    if kind == "doubled":
        other = ET.fromstring(ET.tostring(node))
        _put(other, np.clip(box + rng.uniform(-0.08, 0.08, 4) * np.tile(sides, 2), 1, np.tile(size, 2)))
        root.append(other)
        return [box.tolist(), _box(other).tolist()]
    shift = rng.uniform(0.35, 0.7) * sides
    angle = rng.uniform(0, 2 * np.pi)
    moved = box + np.tile(shift * [np.cos(angle), np.sin(angle)], 2)
    if (moved[:2] < 1).any() or (moved[2:] > size).any():
        return None
    _put(node, moved)
    return [box.tolist(), moved.tolist()]


def _box(node: ET.Element) -> np.ndarray:
    return np.array([float(node.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")])


def _put(node: ET.Element, box: np.ndarray) -> None:
    for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        node.find(f"bndbox/{side}").text = str(round(value))


def score(suspects: list[LabelSuspect], stems: list[str], planted: list[Planted]) -> np.ndarray:
    """Of each suspect, best first, the planted error that it is the first to name, -1 for a false alarm."""
    left, hits = dict(enumerate(planted)), []
    for one in suspects:
        near = [k for k, error in left.items() if error.image == stems[one.image]
                and max(_iou(one.box, box) for box in error.boxes) >= 0.5]  # fmt: skip
        hits.append(near[0] if near else -1)
        if near:
            del left[near[0]]
    return np.array(hits, np.int64)


def _iou(a: np.ndarray, b: list[float]) -> float:
    inner = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + np.prod(np.subtract(b[2:], b[:2])) - inner))


def measure(model: str, data: Path, planted: list[Planted]) -> dict[str, object]:
    """What of the list that is reported is planted, and how many are found where half of a longer list is."""
    from singleshot.datasets import open_dataset

    dataset = open_dataset(str(data), "train")
    stems = [Path(dataset.names[i]).stem for i in range(len(dataset))]
    errors = singleshot.evaluate(model, data, split="train").errors
    assert errors is not None
    suspects = find_label_errors(errors.found, errors.truth, reported=0.3)
    hits = score(suspects, stems, planted)
    reported = sum(one.suspicion >= REPORTED for one in suspects)
    right = np.cumsum(hits >= 0)
    precision = right / np.arange(1, len(hits) + 1)
    half = int(np.flatnonzero(precision >= 0.5).max(initial=-1)) + 1
    kinds = {kind: [k for k, one in enumerate(planted) if one.kind == kind] for kind in KINDS}
    false = Counter(one.kind for one, hit in zip(suspects[:half], hits, strict=False) if hit < 0)
    return {
        "reported": reported,
        "of them planted": int((hits[:reported] >= 0).sum()),
        "found at half precision": int((hits[:half] >= 0).sum()),
        **{f"  {kind} of {len(rows)}": int(np.isin(hits[:half], rows).sum()) for kind, rows in kinds.items()},
        "false alarms at half precision": ", ".join(f"{count} {kind}" for kind, count in false.most_common()),
    }


def main() -> None:
    """Plant, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--time", default="5m")
    parser.add_argument("--out", type=Path, default=Path("runs/label-errors"))
    parser.add_argument("--errors", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    copy, run = options.out / f"data-{options.seed}", options.out / f"run-{options.seed}"
    listed = options.out / f"planted-{options.seed}.json"
    if not listed.is_file():
        planted = plant(options.data, copy, options.errors, options.seed)
        listed.write_text(json.dumps([one._asdict() for one in planted]))
    planted = [Planted(**one) for one in json.loads(listed.read_text())]
    if not (run / "best.safetensors").is_file():
        singleshot.train(copy, out=run, time=options.time, tensorboard=False)
    models = {"trained with the errors": str(run / "best.safetensors")}
    if options.clean:
        models["trained without them"] = options.clean
    for name, model in models.items():
        tell(f"{len(planted)} planted label errors, {name}", measure(model, copy, planted))


if __name__ == "__main__":
    main()
