"""`singleshot bench` with candidates that it leaves to the benchmarks: Faster R-CNN, CUDA graphs, torch.compile.

python benchmarks/peers.py MODEL [--classes 20] [--engines openvino,torch] [--precisions int8,float32] [--rounds 5]
    [--threads N] [--json]

MODEL is a checkpoint, an exported file or a preset's name. torchvision's weights are random: its SSDs are settled as
ours are (singleshot.bench.random_weights), its Faster R-CNNs have hardly any candidates, to their advantage.
"""

from __future__ import annotations

import argparse
import json
import sys

from extra_candidates import extra_candidates

from singleshot.bench.options import BenchOptions
from singleshot.bench.run import run_bench
from singleshot.cli.bench import table


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--engines", type=names)
    parser.add_argument("--precisions", type=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    values = {key: value for key, value in vars(args).items() if key not in ("model", "json")}
    options = BenchOptions(versus="torchvision", **values)
    report = run_bench(
        args.model,
        options,
        extra=lambda model: extra_candidates(model, options),
        say=lambda note: print(note, file=sys.stderr),
    )
    print(json.dumps(report) if args.json else table(report))


if __name__ == "__main__":
    main()
