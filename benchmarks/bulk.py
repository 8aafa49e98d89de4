"""Images per second of `singleshot detect` from JPEG files to a results file, and what its parts allow.

python benchmarks/bulk.py MODEL.onnx FOLDER [--images 1000] [--rounds 7] [--precision P] [--batch N] [--json]

Each candidate is a process, and each round runs all of them in turn:
- files: what the command does, from FOLDER's JPEG files (taken as often as it needs) to one results.json, no pictures;
- decoding: the same reading, decoding and resizing by the same threads, nothing else;
- network: the same engine on squares in memory, in the same batches, with decoding of boxes and NMS;
- torchvision: its ssdlite320_mobilenet_v3_large end to end from the same images in memory, in batches of 1, with as
  many classes as the model and about 50 candidates an image (singleshot.bench.random_weights.settle).

Decoding and network use the same cores, so together they allow 1 / (1 / decoding + 1 / network) images per second, each
measured alone with all the cores. (The slower of the two would be the limit only if each had cores of its own; that is
shown too.) Wanted: files at 75 % of it, and at 4 times torchvision. Medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from common import race_processes, serve, tell

import singleshot
from singleshot.runtime.decoding import ReadPlan, decode_frame
from singleshot.runtime.detector import Detector
from singleshot.runtime.prefetch import Prefetcher
from singleshot.runtime.preparing import prepare
from singleshot.runtime.sources import Frame

PEER = "ssdlite320_mobilenet_v3_large"
CANDIDATES = ("files", "decoding", "network", "torchvision")
_DIFFERENT = 64  # squares and images that are kept in memory


def files_of(folder: str) -> list[str]:
    paths = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"{folder}: no JPEG file")
    return paths


def frames(paths: list[str], count: int) -> Iterator[Frame]:
    for path in islice(cycle(paths), count):
        yield Frame(path, None, source=path, path=path)


def files(detector: Detector, paths: list[str], args: argparse.Namespace) -> Callable[[], object]:
    from singleshot.api.detect import DetectOptions, write_results

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = DetectOptions(args.model, (), folder, draw=False)
            stream = detector.stream(frames(paths, args.images), args.batch, keep_images=False)
            assert write_results(stream, options, detector.class_names).counts.images == args.images

    return run


def decoding(detector: Detector, paths: list[str], args: argparse.Namespace) -> Callable[[], object]:
    plan = ReadPlan(detector.input_spec, keep=False, reduce=True)

    def run() -> None:
        ahead = 2 * detector.batch_size + 2
        reader = Prefetcher(
            frames(paths, args.images),
            lambda frame, reserve: prepare(decode_frame(frame, plan, reserve), plan),
            ahead,
        )
        while (item := reader.get()).frame is not None:
            reader.release(item.held)
        reader.close()

    return run


def network(detector: Detector, paths: list[str], args: argparse.Namespace) -> Callable[[], object]:
    plan = ReadPlan(detector.input_spec, keep=False)
    squares = np.stack([prepare(decode_frame(frame, plan), plan).square for frame in frames(paths, _DIFFERENT)])
    batch = args.batch or detector.batch_size
    batches = [squares[start : start + batch] for start in range(0, len(squares) - batch + 1, batch)]

    def run() -> None:
        for images in islice(cycle(batches), args.images // batch):
            detector.engine(images)

    return run


def torchvision(detector: Detector, paths: list[str], args: argparse.Namespace) -> Callable[[], object]:
    from singleshot.bench.records import Candidate, Job
    from singleshot.bench.torch_runners import torchvision_runner
    from singleshot.images.decode import read_image

    images = [read_image(path) for path in paths[:_DIFFERENT]]
    classes = len(detector.class_names)
    peer = Candidate(PEER, "torchvision", "float32", PEER, "", threads=args.threads, classes=classes)
    runner = torchvision_runner(Job(peer, paths[:2], only_first=False))

    def run() -> None:
        for image in islice(cycle(images), args.images // 8):
            runner.memory([image])

    return run


def counts(images: int, batch: int) -> dict[str, int]:
    """Images of one turn of each candidate."""
    return {"files": images, "decoding": images, "network": images // batch * batch, "torchvision": images // 8}


def report(seconds: dict[str, list[float]], done: dict[str, int], batch: int, images: int) -> None:
    rates = {name: [done[name] / s for s in seconds[name]] for name in CANDIDATES}
    together = [1 / (1 / d + 1 / n) for d, n in zip(rates["decoding"], rates["network"], strict=True)]
    slower = [min(pair) for pair in zip(rates["decoding"], rates["network"], strict=True)]

    def share(of: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(rates["files"], of, strict=True))

    tell(
        "bulk detection from files",
        {
            "images, batch": f"{images}, {batch}",
            **{f"{name}, images per second": statistics.median(rates[name]) for name in CANDIDATES},
            "decoding and network allow together, images per second": statistics.median(together),
            "files / what they allow together (want 0.75)": share(together),
            "files / the slower of the two": share(slower),
            f"files / torchvision {PEER} from memory (want 4)": share(rates["torchvision"]),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", default=None)
    parser.add_argument("--precision", default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--candidate", choices=CANDIDATES)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    detector = singleshot.load(args.model, engine=args.engine, precision=args.precision, threads=args.threads)
    paths = files_of(args.folder)
    if args.candidate is not None:
        make = {"files": files, "decoding": decoding, "network": network, "torchvision": torchvision}[args.candidate]
        serve(make(detector, paths, args), warmup=1)
        return
    batch = args.batch or detector.batch_size
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    report(race_processes(list(CANDIDATES), args.rounds, arguments), counts(args.images, batch), batch, args.images)


if __name__ == "__main__":
    main()
