"""Images per second of a training that several processes share, next to one process with as many threads as they have.

    python benchmarks/processes.py path/to/data [--model singleshot-n] [--processes 2] [--seconds 60] [--rounds 3]

Each row is `singleshot train` on the processor for that long, in turns, without validation: one process with a thread
for each core, then processes with one thread each (torchrun, gloo). Images a second by the training's own count.
Wanted: two processes at 90 % of the one. Run it with nothing else on the machine.
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


def images_per_second(args: argparse.Namespace, processes: int) -> float:
    """By the log of a training with so many processes."""
    threads = args.processes // processes
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", args.data, "--model", args.model, "--recipe", "scratch", "--backbone-weights", "none"]
        words += ["--time", f"{args.seconds}s", "--batch", str(args.batch), "--val-split", "none", "--device", "cpu"]
        command = [*start, "singleshot", *words, "--no-tensorboard", "--quiet", "--json", "--out", f"{folder}/run"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return float(json.loads(done.stdout)["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="singleshot-n")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], args.processes: []}
    for _ in range(args.rounds):
        for processes, found in rates.items():
            found.append(images_per_second(args, processes))
    ratios = [many / one for one, many in zip(*rates.values(), strict=True)]
    rows: dict[str, object] = {f"{n} processes: images per second": statistics.median(v) for n, v in rates.items()}
    rows[f"{args.processes} processes / one (want .9)"] = statistics.median(ratios)
    rows["each round"] = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    tell(f"training by several processes: {args.model}, batch {args.batch}", rows)


if __name__ == "__main__":
    main()
