"""Train by real commands for a budget of time, over seeds, and measure each on images that no training saw.

    python benchmarks/accuracy.py path/to/sets --out runs/accuracy
    python benchmarks/accuracy.py path/to/sets --only "BCCD, default command, 5 minutes" --seeds 0
    python benchmarks/accuracy.py path/to/sets --table          # the table of what is in --out, nothing is trained

Rows are tables of accuracy_rows.toml, or of --rows (input_rows.toml: fitted default boxes and grey input): `data` (a
folder below the one given), `time` or `epochs`, and where it is not the default `options` (further words for
`singleshot train`), `split` (test), `metric` of mAP50 (voc: area under the curve) and `wanted`. One process trains at a
time: run it with nothing else on the machine. Best checkpoints are chosen on val by `train`; the split of a row is
looked at once for each run. --out keeps a JSON for each row and seed, which is not measured again, and accuracy.md with
means, standard deviations and the command of each row.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import command, folder_name, machine

ROWS = Path(__file__).with_name("accuracy_rows.toml")
KEYS = {"data", "time", "epochs", "options", "split", "metric", "wanted"}
LIMIT = {"map50": "mAP50", "ap": "AP"}


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows with their defaults filled in."""
    rows = {}
    for name, row in tomllib.loads(path.read_text()).items():
        if not isinstance(row, dict) or not {"data"} <= set(row) <= KEYS or ("time" in row) == ("epochs" in row):
            sys.exit(f"{path}, {name}: want data, time or epochs, and at most {', '.join(sorted(KEYS))} besides")
        rows[name] = {"options": [], "split": "test", "metric": "voc", "wanted": {}, **row}
    return rows


def words_of(row: Mapping[str, Any], data: object) -> list[str]:
    """`singleshot train` of a row, without seed and folder."""
    length = next(key for key in ("time", "epochs") if key in row)
    return ["train", str(data), f"--{length}", str(row[length]), *row["options"]]


def measure(name: str, row: Mapping[str, Any], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One training and its evaluation, or what an earlier call left. RuntimeError where a command fails."""
    kept = args.out / f"{folder_name(name)}-{seed}.json"
    asked = {key: row[key] for key in ("data", "time", "epochs", "options", "split", "metric") if key in row}
    if kept.is_file() and (known := json.loads(kept.read_text()))["asked"] == asked:
        return known
    data, folder = args.data / row["data"], kept.with_suffix("")
    trained = command(*words_of(row, data), "--seed", seed, "--out", folder, "--no-tensorboard", "--quiet")
    options = json.loads((folder / "run.json").read_text())["options"]
    best = trained["best"] or str(folder / "last.safetensors")

    def score(metric: str, model: object = best) -> float | None:
        return command("eval", model, data, "--split", row["split"], "--metric", metric)["mean_ap"]

    found = {"asked": asked, "seed": seed, "machine": machine(), "model": options["model"]}
    found |= {"map50": score(row["metric"]), "ap": score("coco")}
    found |= {key: trained[key] for key in ("seconds", "epochs", "steps", "images_per_second")}
    if args.int8:
        with tempfile.TemporaryDirectory() as place:
            small = Path(place) / "int8.onnx"
            command("export", best, "--int8", data, "--out", small)
            found |= {"int8 ap": score("coco", small), "int8 mb": small.stat().st_size / 1e6}
    kept.write_text(json.dumps(found, indent=2))
    return found


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Such as .912 +- .003; a dash where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" +- {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.3f}{spread}"


def to_markdown(rows: Mapping[str, Mapping[str, Any]], found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The table, and below it what to type for each row."""
    lines = ["| what | model | seeds | mAP50 | AP | int8 AP | wanted | epochs |", "|---" * 8 + "|"]
    for name, runs in found.items():
        row = rows[name]
        wanted = ", ".join(f"{LIMIT[key]} {value:g}" for key, value in row["wanted"].items()) or "-"
        cells = [
            f"{name} ({row['split']})",
            ", ".join(sorted({f"`{run['model']}`" for run in runs})),
            str(len(runs)),
            *(mean_and_spread([run.get(key) for run in runs]) for key in ("map50", "ap", "int8 ap")),
            wanted,
            f"{statistics.fmean(run['epochs'] for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({run["machine"] for runs in found.values() for run in runs})
    lines += ["", f"Measured on {'; '.join(machines)}. +-: standard deviation over the seeds.", "", "```bash"]
    lines += [f"singleshot {shlex.join(words_of(rows[name], rows[name]['data']))}  # {name}" for name in found]
    return "\n".join([*lines, "```", ""])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the data sets that rows name")
    parser.add_argument("--rows", type=Path, default=ROWS, help="TOML file; default: accuracy_rows.toml")
    parser.add_argument("--only", action="append", help="a row's name; may be given several times")
    parser.add_argument("--seeds", default="0,1,2", help="a comma-separated list; default: 0,1,2")
    parser.add_argument("--int8", action="store_true", help="quantise each model and measure it too")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    args.rows = read_rows(args.rows)
    if unknown := [name for name in args.only or () if name not in args.rows]:
        parser.error(f"--only {unknown[0]!r}: want one of {'; '.join(args.rows)}")
    return args


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {name: row for name, row in args.rows.items() if name in (args.only or args.rows)}
    failed = False
    for seed in [] if args.table else [int(seed) for seed in args.seeds.split(",")]:
        for name, row in rows.items():
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            try:
                measure(name, row, seed, args)
            except RuntimeError as error:  # one row's failure must not cost the others' figures
                failed = True
                print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)
    found = {}
    for name in args.rows:
        files = sorted(args.out.glob(f"{folder_name(name)}-*.json"))
        if files:
            found[name] = [json.loads(file.read_text()) for file in files]
    table = to_markdown(args.rows, found)
    (args.out / "accuracy.md").write_text(table)
    print(table, end="")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
