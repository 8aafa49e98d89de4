"""Training loop, loader, export and start-up of this tree against another checkout of singleshot, in turns in one run.

    git worktree add ../before COMMIT
    python benchmarks/against_commit.py ../before/src path/to/bccd [--rounds 5] [--only export]

Each turn is a process of its own, with the same interpreter and packages; what is printed is the median of the ratios
(this tree / the other, of the same round; above 1 is faster) and the extremes. The other tree may be as old as 4d37c1b,
before modules moved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "src"
# Images a second of the loader, caches off, one worker process; modules by their names of before and after the move.
LOADER = """
import sys, time
try:
    from singleshot.loading.augment_spec import AUGMENTS
    from singleshot.loading.loader import TrainLoader
    from singleshot.datasets import open_dataset
except ImportError:
    from singleshot.data.augment import AUGMENTS
    from singleshot.data.loader import TrainLoader
    from singleshot.data import open_dataset
from singleshot.inputs import InputSpec
data = open_dataset(sys.argv[1], "train")
loader = TrainLoader(data, AUGMENTS["caffe"], InputSpec(size=300), 8, workers=0)
count = 0
for batch in loader.epoch(0):
    count += len(batch.images)
    if count == 16:
        started, first = time.perf_counter(), count
print((count - first) / (time.perf_counter() - started))
"""


def run(source: Path, *words: object, folder: Path) -> str:
    """Standard output of a Python process that sees that tree."""
    environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True).stdout


def training(source: Path, data: Path, folder: Path) -> float:
    """Images a second of the whole loop, as `train --json` says."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    words = ["train", data, "--model", "ssd320-mini", "--backbone-weights", "none", "--epochs", 3, "--val-every", 3]
    text = run(source, "-m", "singleshot", *words, "--cache", "none", "--out", out, "--json", "--quiet", folder=folder)
    return float(json.loads(text.splitlines()[-1])["images_per_second"])


def loader(source: Path, data: Path, folder: Path) -> float:
    """Augmented images a second in this process."""
    return float(run(source, "-c", LOADER, data, folder=folder))


def seconds(words: list[object]) -> Callable[[Path, Path, Path], float]:
    """Runs a second of a command."""

    def task(source: Path, data: Path, folder: Path) -> float:
        started = time.perf_counter()
        run(
            source,
            *words,
            *(["--out", Path(tempfile.mkdtemp(dir=folder)) / "m.onnx"] if "export" in words else []),
            folder=folder,
        )
        return 1 / (time.perf_counter() - started)

    return task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="figures that begin so, e.g. loader")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), args.data.resolve()
        model = folder / "first"
        words = ["train", data, "--model", "ssd320-mini", "--backbone-weights", "none", "--time", "5s", "--out", model]
        run(args.other, "-m", "singleshot", *words, "--quiet", folder=folder)  # both read the older one's
        checkpoint = model / "last.safetensors"
        tasks = {
            "training loop": training,
            "loader": loader,
            "export": seconds(["-m", "singleshot", "export", checkpoint]),
            "import singleshot": seconds(["-c", "import singleshot"]),
            "singleshot --help": seconds(["-m", "singleshot", "--help"]),
        }
        for title, task in tasks.items():
            if args.only and not title.startswith(args.only):
                continue
            ratios = []
            for number in range(args.rounds):
                order = (HERE, args.other) if number % 2 else (args.other, HERE)
                figures = {source: task(source, data, folder) for source in order}
                ratios.append(figures[HERE] / figures[args.other])
            print(f"{title:<20} {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
