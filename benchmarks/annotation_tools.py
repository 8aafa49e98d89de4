"""What annotation programs' own importers make of `detect --format coco-labels`: every image, box, class and score.

Run by a Python in which one or more of datumaro, label-studio-sdk and fiftyone are installed, which need not be ours:

    singleshot detect MODEL photos --no-draw --format coco-labels --out found
    python -m venv other && other/bin/pip install datumaro && other/bin/python benchmarks/annotation_tools.py found
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LABELS = Path("annotations/instances_default.json")


class Box(NamedTuple):
    """x, y, width and height in pixels; score: None where the importer has no place for it."""

    image: str
    label: str
    x: float
    y: float
    width: float
    height: float
    score: float | None


def written(found: Path) -> list[Box]:
    content = json.loads((found / LABELS).read_text())
    images = {one["id"]: one["file_name"] for one in content["images"]}
    names = {one["id"]: one["name"] for one in content["categories"]}
    rows = content["annotations"]
    return [Box(images[one["image_id"]], names[one["category_id"]], *one["bbox"], one["score"]) for one in rows]


def by_datumaro(found: Path) -> list[Box]:
    from datumaro import AnnotationType, Bbox, Dataset

    (found / "images").mkdir(exist_ok=True)  # without which it finds no root
    data = Dataset.import_from(str(found), "coco_instances")
    names = [label.name for label in data.categories()[AnnotationType.label]]
    boxes = [(item, one) for item in data for one in item.annotations if isinstance(one, Bbox)]
    return [Box(item.id, names[one.label], *one.get_bbox(), one.attributes.get("score")) for item, one in boxes]


def by_label_studio(found: Path) -> list[Box]:
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
    from label_studio_sdk.label_interface import LabelInterface

    boxes = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "tasks.json")
        convert_coco_to_ls(str(found / LABELS), str(out), out_type="predictions")
        interface = LabelInterface(out.with_suffix(".label_config.xml").read_text())
        for task in json.loads(out.read_text()):
            for prediction in task["predictions"]:
                assert interface.validate_prediction(prediction)
                for one in prediction["result"]:
                    value, width, height = one["value"], one["original_width"], one["original_height"]
                    place = [
                        value[k] * side / 100
                        for k, side in zip(("x", "y", "width", "height"), (width, height) * 2, strict=True)
                    ]
                    boxes.append(Box(task["data"]["image"], value["rectanglelabels"][0], *place, None))
    return boxes


def by_fiftyone(found: Path) -> list[Box]:
    """Its importer alone: a data set of its own wants MongoDB."""
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    importer = COCODetectionDatasetImporter(data_path=".", labels_path=str(found / LABELS))
    importer.setup()
    boxes = []
    for path, size, labels in importer:
        found_here: Any = labels["detections"] if isinstance(labels, dict) else labels
        for one in found_here.detections:
            place = [v * side for v, side in zip(one.bounding_box, (size.width, size.height) * 2, strict=True)]
            boxes.append(Box(path, one.label, *place, one.confidence))
    return boxes


IMPORTERS: dict[str, Callable[[Path], list[Box]]] = {
    "datumaro": by_datumaro,
    "label_studio_sdk": by_label_studio,
    "fiftyone": by_fiftyone,
}


def compare(wanted: list[Box], read: list[Box]) -> str:
    """In words; ends with the word `lost` where something is."""

    def key(one: Box) -> tuple[str, str, int, int]:
        return Path(one.image).stem, one.label, round(one.x), round(one.y)

    pairs = list(zip(sorted(wanted, key=key), sorted(read, key=key), strict=False))
    same = len(wanted) == len(read) and all(key(a)[:2] == key(b)[:2] for a, b in pairs)
    apart = max((abs(x - y) for a, b in pairs for x, y in zip(a[2:6], b[2:6], strict=True)), default=0.0)
    scores = all(b.score is not None and abs(a.score - b.score) < 1e-6 for a, b in pairs if a.score is not None)
    words = f"{len(read)} of {len(wanted)} boxes, corners and sides within {apart:.4f} pixels"
    return f"{words}, {'with' if scores else 'without'} scores{'' if same and apart < 0.01 else ': lost'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="the folder that detect wrote")
    found = parser.parse_args().found
    wanted = written(found)
    for name, read in IMPORTERS.items():
        there = importlib.util.find_spec(name) is not None
        print(f"{name}: {compare(wanted, read(found)) if there else 'not installed'}")


if __name__ == "__main__":
    main()
