"""Bulk detection by a Ray cluster of this machine next to plain `detect`, and the memory of both.

    pip install 'singleshot[ray]'
    python benchmarks/cluster.py MODEL.onnx FOLDER [--images 20000] [--rounds 1]

The real command over links to FOLDER's images, `--cluster local` and without, in turns. Seconds are the command's from
start to end; memory is the sum over the processes that were not there before (PSS: what several share counts once),
every second; of each fifth of the run the most is shown. Wanted: 85 % of the images per second at 20,000 images, memory
flat. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bulk_memory import link
from common import tell

KINDS = {"detect": [], "detect --cluster local": ["--cluster", "local"]}


def processes() -> set[Path]:
    """All of the machine."""
    return {folder for folder in Path("/proc").iterdir() if folder.name.isdigit()}


def pss_mb(before: set[Path]) -> float:
    """MB of all processes that were not there before, wherever Ray started them; what several share counts once."""
    total = 0.0
    for folder in processes() - before:
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:  # it ended in between, or is another user's
            continue
        total += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
    return total


def run(words: list[str]) -> tuple[float, list[float]]:
    """Seconds of the command, and MB once a second."""
    command = [sys.executable, "-m", "singleshot", "detect", *words]
    before, started, memory = processes(), time.monotonic(), []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            memory.append(pss_mb(before))
            time.sleep(1)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: {errors.read().decode()[-2000:]}")
    return time.monotonic() - started, memory


def fifths(values: list[float]) -> str:
    """The most in each fifth of a run, such as 900, 905, ..."""
    step = max(1, len(values) // 5)
    return ", ".join(f"{max(values[start : start + step]):.0f}" for start in range(0, min(step * 5, len(values)), step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        link(args.folder, images, args.images)
        for turn in range(args.rounds):
            for name, more in KINDS.items():
                out = f"{folder}/out-{turn}-{len(more)}"
                took, memory[name] = run([args.model, str(images), "--out", out, "--no-draw", "--quiet", *more])
                seconds[name].append(took)
    rows: dict[str, object] = {}
    for name, values in seconds.items():
        rows[f"{name}: images per second"] = args.images / statistics.median(values)
        rows[f"{name}: MB, fifth by fifth"] = fifths(memory[name])
    plain, cluster = (statistics.median(values) for values in seconds.values())
    rows["cluster / plain (want .85)"] = plain / cluster
    tell(f"bulk detection of {args.images} images on a cluster of this machine", rows)


if __name__ == "__main__":
    main()
