"""What helps with small objects: input size, a finest map at stride 8, fitted default boxes and tiles, in one table.

    python benchmarks/small_objects.py path/to/deeppcb --model singleshot-n --epochs 20 --tile 320 --size 512
    python benchmarks/small_objects.py path/to/data --time 10m --only "whole,tiles fitted" --out runs/small

Every row is one training on train and one evaluation on --split, small objects alone: those whose side (the root of
their area) is under --under of their image's. Larger ones are neither counted nor are detections of them mistakes. Rows
of more pixels or tiles cost more in detection: `runs` is how often the network runs for an image, `area` its input's
area to that of the first row, `ms` the median of the milliseconds from an image's pixels to its detections by OpenVINO,
measured with all rows in turn. A run that lies in --out already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import command, folder_name, machine, race

import singleshot
from singleshot.datasets import open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.measure import measured
from singleshot.metrics import evaluate
from singleshot.records import ImageDetections
from singleshot.runtime import Detector
from singleshot.text_table import align_columns
from singleshot.weights.checkpoint import read_info


def rows_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Name -> words for `singleshot train`."""
    size, tile = ["--size", str(args.size)], ["--tile", str(args.tile)]
    rows = {
        "whole": [],
        "size": size,
        "tiles": tile,
    }
    rows = {name: ["--model", args.model, *words] for name, words in rows.items()}
    rows["stride 16"] = ["--model", "ssdlite320-mobilenetv2"]
    rows["stride 8"] = ["--model", "ssdlite320-mobilenetv2-fine"]
    own = {name: [*words, "--no-fit-priors"] for name, words in rows.items()}
    rows = own | {f"{name} fitted": [*words, "--fit-priors"] for name, words in rows.items()}
    return {name: words for name, words in rows.items() if not args.only or name in args.only.split(",")}


def small_only(data: Dataset, under: float) -> Dataset:
    """The larger objects become difficult ones, which no metric counts."""
    sizes = data.sizes[data.image_of].astype(np.float64)
    area = (data.boxes_px[:, 2:] - data.boxes_px[:, :2]).astype(np.float64).prod(axis=1)
    return replace(data, difficult=data.difficult | (np.sqrt(area / sizes.prod(axis=1)) >= under))


def find(detector: Detector, data: Dataset) -> list[ImageDetections]:
    """What a detector finds in each image, in its own tiles where it has some."""
    found = (detector.detect(data.names[i], score_min=0.01) for i in range(len(data)))
    return [ImageDetections(one.boxes, one.scores, one.labels) for one in found]


def average_precision(found: list[ImageDetections], data: Dataset) -> float:
    """AP50, the area under the curve, as `eval` has it."""
    truths = [data.truth(i) for i in range(len(data))]
    return float(evaluate(found, truths, metric="voc", class_names=data.class_names).mean_ap)


def row_of(name: str, model: Path, data: Dataset, under: float) -> dict[str, object]:
    """What a run reached, on all objects and on small ones."""
    info, detector = read_info(model), singleshot.load(model)
    windows = [1] * len(data)
    if info.tiling is not None:
        windows = [len(info.tiling.windows(w, h, shape=info.input_spec.sides)) for w, h in data.sizes.tolist()]
    found = find(detector, data)
    return {
        "row": name,
        "input": info.input_spec.size_text,
        "runs": float(np.mean(windows)),
        "area": info.input_spec.height * info.input_spec.width,
        "small": average_precision(found, small_only(data, under)),
        "all": average_precision(found, data),
    }


def milliseconds(runs: Mapping[str, Path], data: Dataset, images: int = 16, rounds: int = 5) -> dict[str, float]:
    """Median of an image, from pixels to detections, of every run's exported file, all in turn."""
    pictures = [data.sample(i).image for i in range(min(images, len(data)))]

    def turn(model: Path) -> Callable[[], object]:
        file = model.with_name("model.onnx")
        if not file.is_file():
            singleshot.export(model, out=file)
        detector = singleshot.load(file, engine="openvino", threads=1)
        return lambda: [detector.detect(picture) for picture in pictures]

    seconds = race({name: turn(model) for name, model in runs.items()}, rounds)
    return {name: 1e3 * statistics.median(each) / len(pictures) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="singleshot-n")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tile", type=int, default=320)
    parser.add_argument("--under", type=float, default=0.1, help="small: under this part of the image's side")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--time", help="such as 10m, in place of --epochs: as long for every row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test")
    parser.add_argument("--only", help="names of rows, by commas")
    parser.add_argument("--out", type=Path, help="where runs are kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    length = ["--time", args.time] if args.time else ["--epochs", str(args.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        rows, runs = [], {}
        for name, words in rows_of(args).items():
            run = out / f"{folder_name(name)}-{args.seed}"
            trained = run / "trained.json"
            if not trained.is_file():
                options = ["--seed", args.seed, "--quiet", "--backbone-weights", "none", *length, *words]
                trained.write_text(json.dumps(command("train", args.data, "--out", run, *options)))
            model = run / ("best.safetensors" if (run / "best.safetensors").is_file() else "last.safetensors")
            class_names = read_info(model).class_names
            data = measured(open_dataset(args.data, args.split, class_names=class_names))
            row = row_of(name, model, data, args.under)
            rows.append(row | {"epochs": json.loads(trained.read_text())["epochs"]})
            runs[name] = model
        times = milliseconds(runs, data)
    rows = [row | {"ms": times[str(row["row"])]} for row in rows]
    small = small_only(data, args.under)
    count = int((~small.difficult & ~small.crowd).sum())
    if args.json:
        print(json.dumps({"machine": machine(), "small objects": count, "rows": rows}))
        return
    print(f"{machine()}\n{count} of {len(data.labels)} objects of {args.split} are under {args.under:.0%} of the side")
    head = ["row", "epochs", "input", "runs", "area", "ms", f"AP50 under {args.under:.0%}", "AP50"]
    first = int(str(rows[0]["area"]))
    lines = [
        [str(one["row"]), f"{one['epochs']:.3g}", str(one["input"]), f"{one['runs']:.1f}",
         f"{int(str(one['area'])) / first:.2f}", f"{one['ms']:.1f}", f"{one['small']:.3f}", f"{one['all']:.3f}"]
        for one in rows
    ]  # fmt: skip
    print("\n".join(align_columns([head, *lines])))


if __name__ == "__main__":
    main()
