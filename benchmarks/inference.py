"""The README's speed table: presets by PyTorch, ONNX Runtime and OpenVINO, and torchvision's detectors.

python benchmarks/inference.py [--rounds 9] [--models ssdlite320-mobilenetv2,...] [--threads N] [--json]

Weights are random everywhere, since speed does not depend on them; what does, the number of candidates for NMS, is set
to about 50 an image on both sides (singleshot.bench.random_weights.settle), with as many classes.
torchvision's model as its builder gives it, with COCO's 91 columns and every prior a candidate, runs besides. Every
candidate is a process.
Ours is the network with decoding and NMS, from the square to boxes; torchvision is end to end from an image in memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import extra_candidates
from common import tell

from singleshot.bench.candidates import candidates_of, torchvision_candidates
from singleshot.bench.images import BenchImages, find_images
from singleshot.bench.model_files import Model, find_model
from singleshot.bench.options import BenchOptions
from singleshot.bench.race import race, ratios, task_summary
from singleshot.bench.records import Candidate, Measured, Task

DETECT, NETWORK, MEMORY = Task("detect", 1), Task("network", 1), Task("memory", 1)
WHAT = {NETWORK: "network", DETECT: "network + boxes", MEMORY: "end to end from memory"}
OURS = (
    "torch float32",
    "onnxruntime float32",
    "openvino float32",
    "openvino bfloat16",
    "openvino int8",
    "openvino int8-bfloat16",
)
COCO_COLUMNS = 91
AS_BUILT = f"as built ({COCO_COLUMNS} columns, untrained)"
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


def candidates(model: Model, case: Case, options: BenchOptions) -> list[Candidate]:
    """Ours and the peer. With decoding and NMS, and for OpenVINO the network alone and end to end from memory too."""
    made = []
    for one in candidates_of(model, options)[0]:
        if one.name in OURS:
            made.append(replace(one, tasks=tuple(WHAT) if one.engine == "openvino" else (DETECT,)))
    (peer,) = torchvision_candidates(case.peer, case.classes, options)
    made.append(replace(peer, tasks=(MEMORY,)))
    untrained = replace(made[-1], name=f"{peer.name} {AS_BUILT}", runner=extra_candidates.AS_BUILT)
    return [*made, replace(untrained, classes=COCO_COLUMNS - 1)]


def prepared(name: str, images: BenchImages, folder: Path, options: BenchOptions, figures: dict[str, object]) -> Model:
    """The preset as files, quantised too where that can be done."""
    try:
        return find_model(name, folder, images, replace(options, precisions=("float32", "int8")))
    except Exception as error:  # the other precisions are measured all the same
        figures[f"{name} int8: FAILED"] = f"{type(error).__name__}: {error}"
    return find_model(name, folder, images, options)


def share(result: Measured) -> float | None:
    """What decoding and NMS add to the network's time: the median over the rounds."""
    pairs = zip(result.seconds.get(DETECT, []), result.seconds.get(NETWORK, []), strict=False)
    parts = [statistics.median(whole) / statistics.median(network) - 1 for whole, network in pairs]
    return statistics.median(parts) if parts else None


def measure(name: str, case: Case, folder: Path, rounds: int, threads: int | None) -> dict[str, object]:
    """Everything about one preset, flat, for `tell`."""
    figures: dict[str, object] = {}
    images = find_images(None, folder / "images")
    options = BenchOptions(device="cpu", batches=(1,), threads=threads, classes=case.classes)
    model = prepared(name, images, folder, options, figures)
    results = race(candidates(model, case, options), images.paths, rounds)
    for result in results:
        own = result.candidate.name
        for task, why in result.failures.items():
            figures[f"{name} {own}{'' if task is None else ' ' + task.kind}: FAILED"] = why
        for task, what in WHAT.items():
            found = task_summary(result, task)
            if found is not None:
                figures[f"{name} {own}, {what}: img/s"] = found["images_per_s"]
    figures |= compared(name, case, results)
    for result in results:
        added = share(result)
        if added is not None:
            note = f" (want under {case.share:g})" if result.candidate.precision == "int8" else ""
            figures[f"{name} {result.candidate.name}: decoding + NMS / network{note}"] = added
    return figures


def compared(name: str, case: Case, results: Sequence[Measured]) -> Iterator[tuple[str, float]]:
    """How many times the peer's images per second each does, and what is wanted."""
    peer = f"torchvision {case.peer}"
    for own, times in ratios(results, peer, DETECT, MEMORY).items():
        precision = own.removeprefix("openvino ")
        wanted = case.times.get(precision) if own.startswith("openvino") else None
        aim = AIMS.get((name, precision))
        note = "" if wanted is None else f" (want {wanted:g}{'' if aim is None else f', aim {aim:g}'})"
        yield f"{name} {own} / {peer}{note}", times
    for own, times in ratios(results, f"{peer} {AS_BUILT}", DETECT, MEMORY).items():
        yield f"{name} {own} / {peer} {AS_BUILT}", times
    for own, times in ratios(results, peer, MEMORY).items():
        yield f"{name} {own} / {peer}, both end to end from memory", times


def speed_table(figures: Mapping[str, object], models: Sequence[str]) -> str:
    """Images per second as a table for the README: a row per engine and precision, a column per preset."""
    head = ["images/s, batch 1, network + decoding + NMS", *models]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]

    def shown(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else "-"

    for row in OURS:
        cells = [shown(figures.get(f"{model} {row}, network + boxes: img/s")) for model in models]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    peers = {model: f"torchvision {CASES[model].peer}" for model in models}
    for peer in dict.fromkeys(peers.values()):
        keys = [f"{model} {peer}, end to end from memory: img/s" for model in models]
        lines.append(f"| {peer}, end to end | " + " | ".join(shown(figures.get(key)) for key in keys) + " |")
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
    figures: dict[str, object] = {"rounds": args.rounds}
    for name in models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="singleshot-bench-") as folder:
            try:
                figures.update(measure(name, CASES[name], Path(folder), args.rounds, args.threads))
            except Exception as error:  # one model that cannot be made must not cost the others' figures
                figures[f"{name}: FAILED"] = f"{type(error).__name__}: {error}"
    tell("inference", figures)
    if not args.json:
        print("\n" + speed_table(figures, models))


if __name__ == "__main__":
    main()
