"""Start-up: a new process that imports singleshot, loads an exported file and detects in its first picture.

    python benchmarks/cold_start.py [MODEL.onnx ...] [--runs 7] [--json]

Median over processes of the seconds from the start of the interpreter until it has ended, of those from the import
until the boxes are there, and of the peak of resident memory. Without a file: ssd320-mini and ssd300-mobilenetv2 with
random weights and 20 classes. The first process of each, which reads the files from the disk, is not counted. The goal
is 1.2 s and 400 MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import time
started = time.perf_counter()
import json, resource, sys
import singleshot
imported = time.perf_counter()
options = json.loads(sys.argv[3])
detector = singleshot.load(sys.argv[1], **options)
loaded = time.perf_counter()
found = detector.detect(sys.argv[2])
done = time.perf_counter()
try:  # of this program alone; what getrusage says starts with the memory of the process that started it
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps({
    "import": imported - started, "load": loaded - imported, "detect": done - loaded, "all": done - started,
    "MB": peak, "found": len(found),
    "torch": "torch" in sys.modules,
}))
"""


def start(model: Path, picture: Path, options: dict[str, object]) -> dict[str, float]:
    """One process; its own figures and "process", the seconds seen from outside."""
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(model), str(picture), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(done.stderr)
    values = json.loads(done.stdout)
    assert not values["torch"], "PyTorch was imported"
    return {**values, "process": seconds}


def exported(folder: Path) -> list[Path]:
    """Two models with random weights."""
    import torch

    from singleshot.deploy.onnx_file import detector_model
    from singleshot.models import build
    from singleshot.weights.checkpoint import ModelInfo

    paths = []
    for name in ("ssd320-mini", "ssd300-mobilenetv2"):
        torch.manual_seed(0)
        model = build(name, 20).eval()
        info = ModelInfo.of(model, tuple(f"class {i + 1}" for i in range(20)))
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(detector_model(model, info).SerializeToString())
    return paths


def drawn(folder: Path) -> Path:
    """A JPEG of 640 x 480 pixels."""
    import cv2
    import numpy as np

    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    path = folder / "picture.jpg"
    cv2.imwrite(str(path), cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))
    return path


def main() -> None:
    from common import tell

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    engines = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = drawn(folder)
        models = args.models or exported(folder)
        candidates: dict[str, tuple[Path, dict[str, object]]] = {
            f"{model.stem}, {engine}": (model, {"engine": engine}) for model in models for engine in engines
        }
        if "openvino" in engines:
            kept = {"engine": "openvino", "cache": str(folder / "kept")}
            candidates |= {f"{model.stem}, openvino, compiled network kept": (model, kept) for model in models}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
        for number in range(args.runs + 1):
            for name, candidate in candidates.items():
                values = start(candidate[0], picture, candidate[1])
                if number:
                    runs[name].append(values)
    result: dict[str, object] = {}
    for name, rows in runs.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        result[f"{name}: process, s"] = middle["process"]
        parts = ", ".join(f"{key} {middle[key]:.2f}" for key in ("import", "load", "detect"))
        result[f"{name}: import and first detection, s"] = middle["all"]
        result[f"{name}: of that"] = parts
        result[f"{name}: peak of memory, MB"] = middle["MB"]
    tell(f"start-up, median of {args.runs} processes", result)


if __name__ == "__main__":
    main()
