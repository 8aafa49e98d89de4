"""Trainings killed at random moments and gone on with: how many end with the bytes of one that was not killed.

    python benchmarks/kills.py [--kills 50] [--signals KILL TERM HUP INT2]

Each training is a process of the real command, on drawn scenes; it is killed twice, goes on with --resume and ends.
What is compared: best, last and resume.safetensors, and log.csv without its clock columns.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from singleshot.scenes.scenes import write_scenes
from singleshot.training.clock import without_clock
from singleshot.training.loop import BEST, LAST, LOG, STATE

KILLS = {"KILL": [signal.SIGKILL], "TERM": [signal.SIGTERM], "HUP": [signal.SIGHUP], "INT2": [signal.SIGINT] * 2}


def command(data: Path, out: Path, epochs: int) -> list[str]:
    """A training of `epochs` on the scenes, with states written all the time."""
    slow = (
        "import singleshot.training.loop as loop; loop._SAVE_EVERY = 0.3; loop._SAVE_BEFORE_VALIDATION = 0.0;"
        "from singleshot.cli import main; main()"
    )
    words = [sys.executable, "-c", slow, "train", "--out", str(out), "--quiet", "--no-tensorboard"]
    if (out / "run.json").is_file():
        return [*words, "--resume"]
    fresh = ["--model", "ssd320-mini", "--backbone-weights", "none", "--batch", "4", "--epochs", str(epochs)]
    return [*words, str(data), *fresh]


def train(data: Path, out: Path, epochs: int) -> float:
    """Train to the end; seconds of the process."""
    started = time.monotonic()
    done = subprocess.run(command(data, out, epochs), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{out}: {done.stderr.decode()[-2000:]}")
    return time.monotonic() - started


def kill(data: Path, out: Path, epochs: int, signals: list[int], after: float) -> bool:
    """Train, with the signals so many seconds after the start; False where it was over before, or did not start."""
    process = subprocess.Popen(command(data, out, epochs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        process.wait()
        return True
    return False


def rows(out: Path) -> list[dict[str, str]]:
    """The log without its clock columns."""
    with (out / LOG).open(newline="") as file:
        return [without_clock(row) for row in csv.DictReader(file)]


def same(a: Path, b: Path) -> bool:
    """Whether two runs ended alike."""
    return rows(a) == rows(b) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in (BEST, LAST, STATE)
    )


def main() -> None:
    """Kill, go on, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    parser.add_argument("--signals", nargs="+", choices=list(KILLS), default=list(KILLS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scenes(root / "data", train=16, test=4, val=4)
        whole = train(root / "data", root / "straight", options.epochs)
        print(f"a training takes {whole:.1f} s", flush=True)
        for name in options.signals:
            good = bad = 0
            while good + bad < options.kills:
                out = root / f"{name}-{good + bad}"
                kills = sum(
                    kill(root / "data", out, options.epochs, KILLS[name], draw.uniform(0.3, 1.02) * whole) for _ in "12"
                )
                if not_over(out):
                    train(root / "data", out, options.epochs)
                alike = same(out, root / "straight")
                good, bad = good + kills * alike, bad + kills * (not alike)
                print(f"{name}: {good} of {good + bad} byte-identical", flush=True)


def not_over(out: Path) -> bool:
    """Whether a run has something left to do."""
    from singleshot.training.state import read_about

    try:
        return not read_about(out / STATE).progress.finished
    except Exception:  # there is none yet, or it was cut: --resume says what it does
        return True


if __name__ == "__main__":
    main()
