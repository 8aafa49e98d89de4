"""Images per second of a training by threads and by processes, alone and next to a process that keeps one core busy.

    python benchmarks/sharing.py path/to/data [--model singleshot-n] [--seconds 60] [--rounds 3]

Each row is `singleshot train` on the processor for that long, in turns, without validation; images a second by its own
count. Processes: as many as there are cores, with one thread each, by torchrun. Wanted: processes alone at 90 %
of all threads alone; next to one busy core 80 % of what one thread does alone. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import NamedTuple

from common import tell

from singleshot.devices import cores


class Row(NamedTuple):
    processes: int
    threads: int
    busy: bool = False


ONE, ALL, BUSY = "one thread, alone", "all threads, alone", "all threads, next to a busy core"
PROCESSES, PROCESSES_BUSY = "processes, alone", "processes, next to a busy core"


def rows(count: int) -> dict[str, Row]:
    """By the number of cores."""
    return {
        ALL: Row(1, count),
        ONE: Row(1, 1),
        BUSY: Row(1, count, busy=True),
        PROCESSES: Row(count, 1),
        PROCESSES_BUSY: Row(count, 1, busy=True),
    }


def images_per_second(args: argparse.Namespace, row: Row) -> float:
    """By a training's own count."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if row.busy else None
    start = [sys.executable, "-m"]
    if row.processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(row.processes), "-m"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", args.data, "--model", args.model, "--recipe", "scratch", "--backbone-weights", "none"]
            words += ["--time", f"{args.seconds}s", "--batch", str(args.batch), "--val-split", "none"]
            words += ["--device", "cpu", "--no-tensorboard", "--quiet", "--json", "--out", f"{folder}/run"]
            command = [*start, "singleshot", *words]
            environment = {**os.environ, "OMP_NUM_THREADS": str(row.threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
            return float(json.loads(done.stdout)["images_per_second"])
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="singleshot-n")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, row in rows(cores()).items():
            rates.setdefault(name, []).append(images_per_second(args, row))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result: dict[str, object] = {f"{name}: images per second": value for name, value in medians.items()}
    result["processes / all threads, alone (want .9)"] = medians[PROCESSES] / medians[ALL]
    result["all threads next to a busy core / one thread alone (want .8)"] = medians[BUSY] / medians[ONE]
    result["processes next to a busy core / one thread alone (want .8)"] = medians[PROCESSES_BUSY] / medians[ONE]
    tell(f"training by threads and processes: {args.model}, batch {args.batch}", result)


if __name__ == "__main__":
    main()
