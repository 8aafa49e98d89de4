"""Mean average precision of an imported .tflite detector against the same file run by LiteRT.

    python benchmarks/tflite_parity.py MODEL.tflite path/to/VOC [--split val] [--images N] [--json]

Both see the same pixels: each photo stretched to the input's square by OpenCV. LiteRT runs the whole file, its
detection operator included; singleshot runs the imported network with the operator's settings, and again with 200
detections kept, by the operator's NMS over all classes at once and by NMS in each class. VOC's classes are looked up
among the model's by name, those of COCO under VOC's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from common import tell

from singleshot.datasets import open_dataset
from singleshot.inputs import boxes_from_square, to_square
from singleshot.metrics import evaluate
from singleshot.postprocess import to_detections
from singleshot.records import ImageDetections, ImageTruth
from singleshot.weights.imported_model import ImportedModel
from singleshot.weights.importing import import_foreign

COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


class LiteRT:
    """The file as its own runtime runs it, on one thread."""

    def __init__(self, path: str) -> None:
        self.interpreter = Interpreter(path, num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]
        # boxes, classes, scores, count: the detection operator's outputs in its order
        self.outputs = [one["index"] for one in self.interpreter.get_output_details()]

    def __call__(self, square: np.ndarray, foreign: ImportedModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RGB [S, S, 3] -> corner boxes 0..1, scores, classes."""
        values = square[None]
        if self.input["dtype"] is np.int8:
            values = (values.astype(np.int16) - 128).astype(np.int8)
        elif self.input["dtype"] is np.float32:
            spec = foreign.model.input_spec
            values = ((values - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
        self.interpreter.set_tensor(self.input["index"], values)
        self.interpreter.invoke()
        boxes, classes, scores, count = (self.interpreter.get_tensor(i) for i in self.outputs)
        found = int(count[0])
        return boxes[0, :found][:, [1, 0, 3, 2]], scores[0, :found], classes[0, :found].astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .tflite detector")
    parser.add_argument("data", help="a VOC folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, help="the first N alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", module="ai_edge_litert")
    foreign, litert = import_foreign(options.model), LiteRT(options.model)
    data = open_dataset(options.data, options.split)
    assert foreign.class_names is not None, "the model has no class names"
    to_data = np.full(len(foreign.class_names), -1)
    for i, name in enumerate(data.class_names):
        to_data[foreign.class_names.index(name if name in foreign.class_names else COCO_NAMES[name])] = i

    wide = replace(foreign.thresholds, keep=200)
    ours = {
        "singleshot, the file's settings": foreign.thresholds,
        "singleshot, 200 kept": wide,
        "singleshot, 200 kept, NMS in each class": replace(wide, class_agnostic=False),
    }
    found: dict[str, list[ImageDetections]] = {"LiteRT": [], **{name: [] for name in ours}}
    truth, seconds = [], {"LiteRT": 0.0, "singleshot": 0.0}
    model = foreign.model
    for i in range(min(len(data), options.images or len(data))):
        sample = data.sample(i)
        truth.append(ImageTruth(sample.boxes_px, sample.labels, sample.difficult))
        square, place = to_square(sample.image, model.input_spec)
        height, width = sample.image.shape[:2]

        def known(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> ImageDetections:
            """In pixels of the photo, of the data's classes alone."""
            mine = to_data[labels]
            boxes_px = boxes_from_square(boxes, place, model.input_spec.size, height, width)  # noqa: B023
            return ImageDetections(boxes_px[mine >= 0], scores[mine >= 0], mine[mine >= 0])

        started = time.perf_counter()
        found["LiteRT"].append(known(*litert(square, foreign)))
        seconds["LiteRT"] += time.perf_counter() - started
        started = time.perf_counter()
        with torch.inference_mode():
            raw = model(torch.from_numpy(square).permute(2, 0, 1).unsqueeze(0))
        seconds["singleshot"] += time.perf_counter() - started
        for name, thresholds in ours.items():
            kept = to_detections(
                raw, model.priors, variances=model.prior_spec.variances, **thresholds.for_postprocess()
            )
            found[name].append(known(*(part.numpy() for part in kept[0])))

    result: dict[str, object] = {"file": Path(options.model).name, "data": f"{len(truth)} photos of {options.split}"}
    score: dict[tuple[str, str], float] = {}
    for name, detections in found.items():
        for metric in ("voc07", "voc"):
            score[name, metric] = evaluate(detections, truth, metric, data.class_names).mean_ap
            result[f"mAP50 ({metric}), {name}"] = score[name, metric]
    for metric in ("voc07", "voc"):
        gap = score["singleshot, the file's settings", metric] - score["LiteRT", metric]
        result[f"gap ({metric}), want within 0.005"] = round(gap, 4)
    for name, spent in seconds.items():
        result[f"seconds per photo, {name}, one thread"] = spent / len(truth)
    tell("imported .tflite against LiteRT", result)


if __name__ == "__main__":
    main()
