"""What a training has left next to a process that keeps one core busy, against one thread that has a core to itself.

    python benchmarks/sharing.py path/to/data [--model ssd320-mini] [--seconds 60] [--rounds 3]

Each row is `singleshot train` for that long, in turns, without validation; images a second by its own count. Wanted:
next to one busy core 80 % of what one thread does alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from common import tell

ROWS = ("all threads, alone", "one thread, alone", "all threads, next to a busy core")


def images_per_second(args: argparse.Namespace, row: str) -> float:
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if row.startswith("one") else {})}
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if "busy" in row else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", args.data, "--model", args.model, "--recipe", "scratch", "--time", f"{args.seconds}s"]
            words += ["--val-split", "none", "--no-tensorboard", "--quiet", "--json", "--out", f"{folder}/run"]
            command = [sys.executable, "-m", "singleshot", *words, "--backbone-weights", "none"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            return float(json.loads(done.stdout)["images_per_second"])
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="ssd320-mini")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {row: [] for row in ROWS}
    for _ in range(args.rounds):
        for row in ROWS:
            rates[row].append(images_per_second(args, row))
    medians = {row: statistics.median(values) for row, values in rates.items()}
    result: dict[str, object] = {f"{row}: images per second": value for row, value in medians.items()}
    result["next to a busy core / one thread alone (want .8)"] = medians[ROWS[2]] / medians[ROWS[1]]
    tell(f"training next to a busy core: {args.model}", result)


if __name__ == "__main__":
    main()
