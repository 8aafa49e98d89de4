"""The README's speed table: presets by PyTorch, ONNX Runtime and OpenVINO, beside torchvision's detectors.

python benchmarks/inference.py [--rounds 9] [--models ssdlite320-mobilenetv2,...] [--threads N] [--json]

Weights are random everywhere, since speed does not depend on them; what does, the number of candidates for NMS, is set
to about 50 an image on both sides (singleshot.bench.torch_candidates.settle), with as many classes.
torchvision's model as its builder gives it, with COCO's 91 columns and every prior a candidate, runs besides. Every
candidate is a process.
Ours is the network with decoding and NMS, from the square to boxes; torchvision is end to end from an image in memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common import tell

from singleshot.bench.model_files import ModelFile, find_pictures, random_model, write_files, write_int8
from singleshot.bench.race import Candidate, Measured, cell_summary, race, ratios

DETECT, NETWORK, MEMORY = ("detect", 1), ("network", 1), ("memory", 1)
AS_BUILT = "as built (91 columns, untrained)"
LITE, VGG = "ssdlite320_mobilenet_v3_large", "ssd300_vgg16"


class Case(NamedTuple):
    """classes, and what is wanted: peer is torchvision's builder, times by precision, share of the int8 network's time
    that decoding and NMS may add."""

    classes: int
    peer: str
    times: Mapping[str, float]
    share: float


CASES = {
    "ssdlite320-mobilenetv2": Case(5, LITE, {"int8": 6.5}, 0.15),
    "ssd300-mobilenetv2": Case(5, LITE, {"int8": 5.5}, 0.15),
    "ssd300-vgg16": Case(20, VGG, {"bfloat16": 2.5, "int8": 4.5}, 0.10),
}
AIMS = {("ssdlite320-mobilenetv2", "int8"): 9.0}


def candidates(
    checkpoint: Path, plain: ModelFile, int8: ModelFile | None, case: Case, threads: int | None
) -> list[Candidate]:
    """Ours and the peer. The detector's cells, and for OpenVINO the network alone and end to end from memory too."""
    made = []
    for engine in ("torch", "onnxruntime"):
        file = checkpoint if engine == "torch" else plain.path
        made.append(Candidate(f"{engine} float32", engine, "float32", str(file), threads=threads, cells=(DETECT,)))
    for precision in ("float32", "bfloat16", "int8", "int8-bfloat16"):
        file = int8 if precision.startswith("int8") else plain
        if file is not None:
            made.append(Candidate(
                f"openvino {precision}", "openvino", precision, str(file.path), str(file.network), threads=threads,
                cells=(NETWORK, DETECT, MEMORY),
            ))  # fmt: skip
    peer = f"torchvision {case.peer}"
    for name, variant, classes in ((peer, "", case.classes), (f"{peer} {AS_BUILT}", "untrained", 90)):
        about = {"variant": variant, "threads": threads, "classes": classes}
        made.append(Candidate(name, "torchvision", "float32", case.peer, cells=(MEMORY,), **about))
    return made


def share(result: Measured) -> float | None:
    """What decoding and NMS add to the network's time: the median over the rounds."""
    pairs = zip(result.seconds.get(DETECT, []), result.seconds.get(NETWORK, []), strict=False)
    parts = [statistics.median(whole) / statistics.median(network) - 1 for whole, network in pairs]
    return statistics.median(parts) if parts else None


def measure(name: str, case: Case, folder: Path, rounds: int, threads: int | None) -> dict[str, object]:
    """Everything about one preset, flat, for `tell`."""
    said: dict[str, object] = {}
    pictures = find_pictures(None, folder / "pictures")
    model, info = random_model(name, case.classes, pictures)
    checkpoint, plain = write_files(model, info, folder)
    int8 = None
    try:
        int8 = write_int8(model, info, folder, pictures)
    except Exception as error:  # the other precisions are measured all the same
        said[f"{name} int8: FAILED"] = f"{type(error).__name__}: {error}"
    del model
    results = race(candidates(checkpoint, plain, int8, case, threads), pictures.paths, rounds)
    peer = f"torchvision {case.peer}"
    for result in results:
        own = result.candidate.name
        for cell, why in result.failures.items():
            said[f"{name} {own}{'' if cell is None else ' ' + cell[0]}: FAILED"] = why
        for cell, what in ((NETWORK, "network"), (DETECT, "network + boxes"), (MEMORY, "end to end from memory")):
            found = cell_summary(result, cell)
            if found is not None:
                said[f"{name} {own}, {what}: img/s"] = found["images_per_s"]
    whole = ratios(results, peer, DETECT, MEMORY)
    for own, times in whole.items():
        precision = own.removeprefix("openvino ")
        wanted = case.times.get(precision) if own.startswith("openvino") else None
        aim = AIMS.get((name, precision))
        note = "" if wanted is None else f" (want {wanted:g}{'' if aim is None else f', aim {aim:g}'})"
        said[f"{name} {own} / {peer}{note}"] = times
    for own, times in ratios(results, f"{peer} {AS_BUILT}", DETECT, MEMORY).items():
        said[f"{name} {own} / {peer} {AS_BUILT}"] = times
    for own, times in ratios(results, peer, MEMORY).items():
        said[f"{name} {own} / {peer}, both end to end from memory"] = times
    for result in results:
        added = share(result)
        if added is not None:
            precision = result.candidate.precision
            note = f" (want under {case.share:g})" if precision == "int8" else ""
            said[f"{name} {result.candidate.name}: decoding + NMS / network{note}"] = added
    return said


def speed_table(said: Mapping[str, object], models: Sequence[str]) -> str:
    """Images per second as a table for the README: a row per engine and precision, a column per preset."""
    rows = ["torch float32", "onnxruntime float32", *(f"openvino {p}" for p in ("float32", "bfloat16", "int8", "int8-bfloat16"))]  # fmt: skip  # noqa: E501
    lines = ["| images/s, batch 1, network + decoding + NMS | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]  # fmt: skip  # noqa: E501

    def shown(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else "-"

    for row in rows:
        cells = [shown(said.get(f"{model} {row}, network + boxes: img/s")) for model in models]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    peers = {model: f"torchvision {CASES[model].peer}" for model in models}
    for peer in dict.fromkeys(peers.values()):
        keys = [f"{model} {peer}, end to end from memory: img/s" for model in models]
        lines.append(f"| {peer}, end to end | " + " | ".join(shown(said.get(key)) for key in keys) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    models = args.models.split(",")
    unknown = [name for name in models if name not in CASES]
    if unknown or args.rounds < 1:
        parser.error(f"unknown model {', '.join(unknown)}" if unknown else "--rounds: want at least 1")
    said: dict[str, object] = {"rounds": args.rounds}
    for name in models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="singleshot-bench-") as folder:
            try:
                said.update(measure(name, CASES[name], Path(folder), args.rounds, args.threads))
            except Exception as error:  # one model that cannot be made must not cost the others' figures
                said[f"{name}: FAILED"] = f"{type(error).__name__}: {error}"
    tell("inference", said)
    if not args.json:
        print("\n" + speed_table(said, models))


if __name__ == "__main__":
    main()
