"""A GPU in one command, without network, in under 9 minutes: tests, training and inference next to torchvision.

    python benchmarks/gpu.py --out runs/gpu
    python benchmarks/gpu.py --out runs/gpu --device cpu --quick      # tries the script itself

First tests/gpu runs on the device. Then every model and its peer, in one process and in turns round by round:

- training: forward, matching, loss, backward and update on a fixed batch of images with three objects each, in every
  precision, for every batch size; for one model the whole loop too, with loading from drawn scenes
- inference: the network with decoding and NMS, weights settled to about 50 candidates an image (as in inference.py), at
  batch 1 and larger ones; at batch 1 the network as a CUDA graph and compiled as well

torchvision's training step has its own matching and loss in it, its inference everything from a float image of the
model's size to boxes. It runs in float32 with TF32 as it comes, and by autocast in ours' precisions.

--out gets gpu.json with every second measured and gpu.md with the table. What does not run is in both with its reason;
when --minutes are over, what is left is named as not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision
from common import machine, wait
from torch import nn
from training import peer_step, whole_loop

from singleshot.bench.random_weights import settle
from singleshot.bench.torch_runners import settle_torchvision
from singleshot.devices import autocast, place_model
from singleshot.models import SSD, build
from singleshot.postprocess import to_detections
from singleshot.records import Batch
from singleshot.scenes.scenes import write_scenes
from singleshot.timing import time_in_turns
from singleshot.training.recipes import load_recipe
from singleshot.training.step import Stepper

CLASSES, SCORE_MIN = 20, 0.01
LITE, VGG = "ssdlite320_mobilenet_v3_large", "ssd300_vgg16"
PEERS = {"ssd300-vgg16": VGG, "ssd300-mobilenetv2": LITE, "ssdlite320-mobilenetv2": LITE, "ssd320-lite0": LITE}
TRAIN_BATCHES, DETECT_BATCHES = (32, 128), (1, 32, 128)
QUICK_BATCHES = (2,), (1, 2)
LOOP_MODEL, LOOP_BATCH, LOOP_STEPS = "ssdlite320-mobilenetv2", 64, 8
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figure:
    """What one candidate does; images_per_s is None, and why says the reason, where it was not measured.

    to_peer: how many times the images per second of torchvision's best in the same turns, None for torchvision itself.
    """

    task: str
    model: str
    how: str
    batch: int
    images_per_s: float | None
    seconds: tuple[float, ...] = ()
    to_peer: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Candidate:
    """make gives what is timed, and is called only when its turn has come."""

    model: str
    how: str
    make: Callable[[], Callable[[], object]]


def batch_of(size: int, batch: int, device: torch.device) -> Batch:
    """Random images with three objects each, on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    boxes = torch.tensor([[0.03, 0.03, 0.33, 0.33], [0.15, 0.15, 0.66, 0.95], [0.33, 0.05, 0.6, 0.25]])
    labels = torch.tensor([0, 1, 2])
    names = tuple(f"{i}.jpg" for i in range(batch))
    boxes, labels = boxes.repeat(batch, 1, 1).to(device), labels.repeat(batch, 1).to(device)
    return Batch(images.to(device), boxes, labels, torch.arange(batch), names)


def own_training(name: str, batch: int, device: torch.device, dtype: torch.dtype, compiled: bool = False):
    torch.manual_seed(0)
    model = build(name, CLASSES).train()
    place_model(model, device)
    stepper = Stepper(model, load_recipe("scratch"), batch, device, dtype, compiled)
    images = batch_of(model.input_spec.size, batch, device)
    return lambda: stepper(images, 0.01)


def own_loop(data: Path, device: torch.device, dtype: torch.dtype, batch: int):
    """Everything that `singleshot train` does in a step, eight steps a turn: more than a loader has ready."""
    step = whole_loop(LOOP_MODEL, str(data), device, dtype, batch)

    def turn() -> None:
        for _ in range(LOOP_STEPS):
            step()

    return turn


def peer_model(builder: str) -> nn.Module:
    make = getattr(torchvision.models.detection, builder)
    return make(weights=None, weights_backbone=None, num_classes=CLASSES + 1)


def peer_training(builder: str, batch: int, device: torch.device, dtype: torch.dtype):
    model = peer_model(builder).train().to(device)
    size = 300 if builder == VGG else 320
    images = [torch.rand(3, size, size, device=device) for _ in range(batch)]
    one = batch_of(size, 1, device)
    targets = [{"boxes": one.boxes[0] * size, "labels": one.labels[0] + 1} for _ in images]
    return peer_step(model, images, targets, dtype, 1e-5)


def settled(name: str, device: torch.device) -> SSD:
    torch.manual_seed(0)
    model = build(name, CLASSES)
    settle(model, batch_of(model.input_spec.size, 2, torch.device("cpu")).images.permute(0, 2, 3, 1).numpy(), SCORE_MIN)
    place_model(model, device)
    return model


def own_detection(name: str, batch: int, device: torch.device, dtype: torch.dtype, how: str):
    """how: "", "graph" for a CUDA graph of the network, "compiled"."""
    model = settled(name, device)
    images = batch_of(model.input_spec.size, batch, device).images
    network: Callable[[torch.Tensor], object] = torch.compile(model) if how == "compiled" else model

    def forward():
        with torch.inference_mode(), autocast(device, dtype):
            return network(images)

    run = graphed(model, images, device, dtype) if how == "graph" else forward

    def detect() -> object:
        raw = run()
        with torch.inference_mode():
            return to_detections(type(raw)(*(x.float() for x in raw)), model.priors, score_min=SCORE_MIN)

    return detect


def graphed(model: SSD, images: torch.Tensor, device: torch.device, dtype: torch.dtype):
    """The network recorded once and replayed. Autocast keeps no casted weights across the recording."""

    def forward():
        half = dtype is not torch.float32
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype=dtype if half else None, enabled=half, cache_enabled=False),
        ):
            return model(images)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        raw = forward()

    def replay():
        graph.replay()
        return raw

    return replay


def peer_detection(builder: str, batch: int, device: torch.device, dtype: torch.dtype):
    torch.manual_seed(0)
    model, size = peer_model(builder), 300 if builder == VGG else 320
    model.score_thresh = SCORE_MIN
    settle_torchvision(model, [torch.rand(3, size, size) for _ in range(2)])
    model.eval().to(device)
    images = [torch.rand(3, size, size, device=device) for _ in range(batch)]

    def detect() -> object:
        with torch.inference_mode(), autocast(device, dtype):
            return model(images)

    return detect


def training_candidates(name: str, batch: int, device: torch.device, dtypes: list[torch.dtype]) -> Iterator[Candidate]:
    peer = PEERS[name]
    for dtype in [torch.float32, *dtypes]:
        yield Candidate(f"torchvision {peer}", short(dtype), lambda d=dtype: peer_training(peer, batch, device, d))
        yield Candidate(name, short(dtype), lambda d=dtype: own_training(name, batch, device, d))


def detection_candidates(name: str, batch: int, device: torch.device, dtypes: list[torch.dtype]) -> Iterator[Candidate]:
    peer = PEERS[name]
    for dtype in [torch.float32, *dtypes]:
        yield Candidate(f"torchvision {peer}", short(dtype), lambda d=dtype: peer_detection(peer, batch, device, d))
        yield Candidate(name, short(dtype), lambda d=dtype: own_detection(name, batch, device, d, ""))
    if batch == 1 and device.type == "cuda":
        for how in ("graph", "compiled"):
            yield Candidate(
                name, f"{short(dtypes[0])}, {how}", lambda h=how: own_detection(name, batch, device, dtypes[0], h)
            )


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measured(task: str, batch: int, candidates: list[Candidate], rounds: int, ends: float) -> list[Figure]:
    """All candidates in turns; one that cannot be made or run has no figure and a reason."""
    runs: dict[str, Callable[[], object]] = {}
    figures: dict[str, Figure] = {}
    steps = LOOP_STEPS if task == "whole loop" else 1
    for one in candidates:
        key = f"{one.model} {one.how}"
        missing = Figure(task, one.model, one.how, batch, None)
        if time.monotonic() > ends:
            figures[key] = Figure(**{**asdict(missing), "why": "no time was left"})
            continue
        try:
            runs[key] = one.make()
            for _ in range(3):
                runs[key]()
            wait()
            figures[key] = missing
        except Exception as error:  # one candidate's failure must not cost the others' figures
            runs.pop(key, None)
            reason = (str(error).strip().splitlines() or [""])[0]
            figures[key] = Figure(**{**asdict(missing), "why": f"{type(error).__name__}: {reason[:200]}"})
    timed = time_in_turns(runs, rounds, 1, wait)
    peers = [seconds for key, seconds in timed.items() if key.startswith("torchvision")]
    best = min(peers, key=statistics.median, default=None)
    for key, seconds in timed.items():
        found = {"images_per_s": steps * batch / statistics.median(seconds), "seconds": tuple(seconds)}
        if best is not None and seconds not in peers:
            found["to_peer"] = statistics.median(a / b for a, b in zip(best, seconds, strict=True))
        figures[key] = Figure(**{**asdict(figures[key]), **found})
    del runs
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return list(figures.values())


def run_tests(device: torch.device, quick: bool) -> str:
    """The last line of what pytest says; quick leaves the largest network out."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(REPOSITORY / "tests" / "gpu"),
         *(["-k", "not vgg16"] if quick else [])],
        env={**os.environ, "SINGLESHOT_TEST_DEVICE": str(device)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    print("\n".join(lines[-30:]) if done.returncode else lines[-1], file=sys.stderr, flush=True)
    return f"exit code {done.returncode}: {lines[-1] if lines else 'no output'}"


def to_markdown(about: str, tests: str, figures: list[Figure]) -> str:
    """The tables."""
    lines = [f"# On {about}", "", f"tests/gpu: {tests}", ""]
    for task in dict.fromkeys(one.task for one in figures):
        lines += [
            f"## {task}",
            "",
            "| model | how | batch | images per second | to torchvision's best |",
            "|---" * 5 + "|",
        ]
        for one in figures:
            if one.task != task:
                continue
            speed = one.why if one.images_per_s is None else f"{one.images_per_s:.1f}"
            ratio = "-" if one.to_peer is None else f"{one.to_peer:.2f}"
            lines.append(f"| {one.model} | {one.how} | {one.batch} | {speed} | {ratio} |")
        lines.append("")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=8.5, help="when to start nothing more; default: 8.5")
    parser.add_argument("--quick", action="store_true", help="tiny batches, two rounds, one precision")
    args = parser.parse_args()
    if unknown := [name for name in args.models.split(",") if name not in PEERS]:
        parser.error(f"--models {', '.join(unknown)}: want some of {', '.join(PEERS)}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: no CUDA device here; --device cpu --quick tries the script")
    return args


def main() -> None:
    args = parse()
    ends = time.monotonic() + 60 * args.minutes
    device = torch.device(args.device)
    dtypes = [torch.bfloat16] if args.quick or device.type == "cpu" else [torch.bfloat16, torch.float16]
    train_batches, detect_batches = QUICK_BATCHES if args.quick else (TRAIN_BATCHES, DETECT_BATCHES)
    rounds = 2 if args.quick else args.rounds
    args.out.mkdir(parents=True, exist_ok=True)
    about = f"{machine()}, torchvision {torchvision.__version__}, {device}"
    tests, figures = run_tests(device, args.quick), []

    def keep(found: list[Figure]) -> None:
        figures.extend(found)
        whole = {"about": about, "tests": tests, "figures": [asdict(one) for one in figures]}
        (args.out / "gpu.json").write_text(json.dumps(whole, indent=2))
        (args.out / "gpu.md").write_text(to_markdown(about, tests, figures))

    data, batch = args.out / "scenes", 4 if args.quick else LOOP_BATCH
    if not data.exists():
        write_scenes(data, train=max(10 * batch, 40), test=10, val=10)
    loop = Candidate(LOOP_MODEL, short(dtypes[0]), lambda: own_loop(data, device, dtypes[0], batch))
    compiled = Candidate(
        LOOP_MODEL, f"{short(dtypes[0])}, compiled", lambda: own_training(LOOP_MODEL, batch, device, dtypes[0], True)
    )
    keep(measured("whole loop", batch, [loop], rounds, ends))
    if device.type == "cuda":
        keep(measured("training step, compiled", batch, [compiled], rounds, ends))
    for name in args.models.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        for batch in detect_batches:
            candidates = list(detection_candidates(name, batch, device, dtypes))
            keep(measured("network, decoding and NMS", batch, candidates, rounds, ends))
        for batch in train_batches:
            candidates = list(training_candidates(name, batch, device, dtypes))
            keep(measured("training step", batch, candidates, rounds, ends))
    print((args.out / "gpu.md").read_text(), end="")
    sys.exit(0 if tests.startswith("exit code 0") else 1)


if __name__ == "__main__":
    main()
