"""Train variants of a recipe on one data set, one after the other, and compare them on val in one table.

    python benchmarks/ablation.py path/to/data --time 10m --seeds 0,1,2 --out runs/ablation
    python benchmarks/ablation.py path/to/data --epochs 30 --rows mine.toml
    python benchmarks/ablation.py path/to/data --time 10m --only base,atss,focal

Without --rows the built-in variants of matching, loss, box loss and sampling are trained. A file of rows has a table
for each, whose keys are those of a recipe and take the place of what --recipe has; `options` are further words
for `singleshot train`. The first row is what the others are compared with.

    [base]
    ["atss, focal"]
    matching = "atss"
    loss = "focal"
    [fine]
    options = ["--model", "ssdlite320-mobilenetv2-fine"]

Rows take turns for each seed, so that a drifting machine hits all alike. --out holds the runs and, after each of them,
ablation.md and ablation.json; a run that is there already is not trained again. AP is COCO's, mAP50 the area under the
precision-recall curve at IoU 0.5, both of best.safetensors on the split that --split names.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import command, folder_name, machine

from singleshot.errors import SingleshotError
from singleshot.training.recipes import Recipe, load_recipe, unused_keys

BUILT_IN: dict[str, dict[str, Any]] = {
    "base": {},
    "atss": {"matching": "atss"},
    "task-aligned": {"matching": "task-aligned"},
    "simota": {"matching": "simota"},
    "giou x2": {"box_loss": "giou", "alpha": 2.0},
    "diou x2": {"box_loss": "diou", "alpha": 2.0},
    "ciou x2": {"box_loss": "ciou", "alpha": 2.0},
    "focal": {"loss": "focal"},
    "quality-focal": {"loss": "quality-focal"},
    "varifocal": {"loss": "varifocal"},
    "focal, atss": {"loss": "focal", "matching": "atss"},
    "quality-focal, atss, giou x2": {"loss": "quality-focal", "matching": "atss", "box_loss": "giou", "alpha": 2.0},
    "quality-focal, task-aligned, giou x2": {
        "loss": "quality-focal", "matching": "task-aligned", "box_loss": "giou", "alpha": 2.0,
    },
    "varifocal, simota, giou x2": {"loss": "varifocal", "matching": "simota", "box_loss": "giou", "alpha": 2.0},
    "repeat": {"sampling": "repeat", "repeat_threshold": 0.5},
}  # fmt: skip
MEASURED = ("ap", "map50", "seconds", "images", "steps")


@dataclass(frozen=True)
class Row:
    """One variant. keys: of the recipe, in place of the base's; options: further words for `singleshot train`."""

    name: str
    keys: Mapping[str, Any]
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """What its runs' folders are called, without the seed."""
        return folder_name(self.name)

    def recipe(self, base: Recipe) -> Recipe:
        """The base with this row's keys; those of the base that say nothing under its rules have their defaults."""
        whole = {**base.to_dict(), **self.keys}
        unused = unused_keys(whole["matching"], whole["loss"])
        return Recipe(**{key: value for key, value in whole.items() if key in self.keys or key not in unused})


@dataclass(frozen=True)
class Result:
    """One run: its row and seed; what was measured, None where it was not; error: why it ended, "" where it did not."""

    row: str
    seed: int
    ap: float | None = None
    map50: float | None = None
    seconds: float | None = None
    images: int | None = None
    steps: int | None = None
    error: str = ""


def read_rows(path: Path | None) -> list[Row]:
    """The rows of a file, or the built-in ones."""
    tables = BUILT_IN if path is None else tomllib.loads(path.read_text())
    if not all(isinstance(table, dict) for table in tables.values()):
        sys.exit(f'{path}: want a table for each row, such as ["atss"] and below it matching = "atss"')
    rows = [
        Row(name, {k: v for k, v in table.items() if k != "options"}, tuple(map(str, table.get("options", ()))))
        for name, table in tables.items()
    ]
    folders = [row.folder for row in rows]
    if len(set(folders)) < len(folders) or not all(folders):
        sys.exit(f"rows {', '.join(row.name for row in rows)}: want names that differ in letters or digits")
    return rows


def to_toml(values: Mapping[str, Any], table: str = "") -> str:
    """Plain values as TOML, tables last; None is left out, which a recipe takes as its default."""
    lines = [f"[{table}]"] if table else []
    tables = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            tables.append(to_toml(value, f"{table}.{json.dumps(key)}" if table else json.dumps(key)))
        elif value is not None:
            lines.append(f"{json.dumps(key)} = {json.dumps(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def run(row: Row, seed: int, recipe: Recipe, args: argparse.Namespace) -> Result:
    """Train and evaluate, or read what an earlier call did."""
    folder = args.out / f"{row.folder}-{seed}"
    kept = args.out / f"{row.folder}-{seed}.json"
    asked = {
        "recipe": json.loads(json.dumps(recipe.to_dict())), "options": list(row.options), "length": args.length,
        "data": args.data, "split": args.split,
    }  # fmt: skip
    if kept.is_file() and (known := json.loads(kept.read_text()))["asked"] == asked:
        return Result(**known["result"])
    if folder.exists():
        return Result(row.name, seed, error=f"{folder} is of another variant, or was stopped; remove it")
    recipe_file = args.out / f"{row.folder}.toml"
    recipe_file.write_text(to_toml(recipe.to_dict()))
    try:
        words = ["--recipe", recipe_file, *args.length, "--seed", seed, "--out", folder, "--no-tensorboard", "--quiet"]
        trained = command("train", args.data, *words, *row.options)
        batch = json.loads((folder / "run.json").read_text())["options"]["batch"] or recipe.batch
        scores = [
            command(
                "eval",
                trained["best"] or folder / "last.safetensors",
                args.data,
                "--split",
                args.split,
                "--metric",
                metric,
            )["mean_ap"]
            for metric in ("coco", "voc")
        ]
    except RuntimeError as error:
        return Result(row.name, seed, error=str(error))
    steps = trained["steps"]
    result = Result(row.name, seed, *scores, trained["seconds"], steps * batch, steps)
    kept.write_text(json.dumps({"asked": asked, "result": asdict(result)}, indent=2))
    return result


def summarise(rows: Sequence[Row], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row of the table for each variant: means over its seeds, None where nothing was measured; `ap_spread` is the
    standard deviation (None for one seed), `ap_difference` the mean over the seeds that the first row has too."""
    first = {one.seed: one.ap for one in results if one.row == rows[0].name}
    table = []
    for row in rows:
        own = [one for one in results if one.row == row.name]
        means: dict[str, Any] = {"row": row.name, "seeds": [one.seed for one in own if not one.error]}
        for name in MEASURED:
            values = [value for one in own if (value := getattr(one, name)) is not None]
            means[name] = statistics.fmean(values) if values else None
        aps = {one.seed: one.ap for one in own if one.ap is not None}
        gains = [ap - base for seed, ap in aps.items() if (base := first.get(seed)) is not None]
        means["ap_spread"] = statistics.stdev(aps.values()) if len(aps) > 1 else None
        means["ap_difference"] = statistics.fmean(gains) if gains else None
        means["errors"] = [one.error for one in own if one.error]
        table.append(means)
    return table


def to_markdown(table: Sequence[Mapping[str, Any]], head: str) -> str:
    """The table, for a page."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = [head, "", "| variant | seeds | AP | +- | difference | mAP50 | seconds | images seen | steps |"]
    lines.append("|" + "---|" * 9)
    for one in table:
        numbers = [shown(one["ap"], ".4f"), shown(one["ap_spread"], ".4f"), shown(one["ap_difference"], "+.4f")]
        numbers += [shown(one["map50"], ".4f"), *(shown(one[name], ".0f") for name in ("seconds", "images", "steps"))]
        failed = f" (failed: {'; '.join(one['errors'])})" if one["errors"] else ""
        lines.append(f"| {one['row']}{failed} | {len(one['seeds'])} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--time", help="train each variant for this long, such as 10m")
    length.add_argument("--epochs", type=int, help="or for so many epochs")
    parser.add_argument("--rows", type=Path, help="TOML file of variants; default: the built-in ones")
    parser.add_argument("--only", help="names of rows, a comma-separated list; names with commas take their folder's")
    parser.add_argument("--recipe", default="scratch", help="what the rows change: a recipe's name or file")
    parser.add_argument("--seeds", default="0", help="a comma-separated list; default: 0")
    parser.add_argument("--split", default="val", help="split to evaluate on; default: val")
    parser.add_argument("--options", default="", help='further words for every training: --options "--model NAME"')
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    args = parser.parse_args()
    args.length = ["--time", args.time] if args.time else ["--epochs", str(args.epochs)]
    return args


def main() -> None:
    args = parse()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows = read_rows(args.rows)
    if args.only:
        wanted = args.only.split(",")
        if unknown := [name for name in wanted if name not in [n for row in rows for n in (row.name, row.folder)]]:
            sys.exit(f"--only {', '.join(unknown)}: want some of {', '.join(row.folder for row in rows)}")
        rows = [row for row in rows if row.name in wanted or row.folder in wanted]
    rows = [replace(row, options=(*args.options.split(), *row.options)) for row in rows]
    try:  # a wrong row ends it before the first training
        base = load_recipe(args.recipe)
        recipes = [row.recipe(base) for row in rows]
    except (SingleshotError, ValueError) as error:
        sys.exit(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    head = f"{Path(args.data).name}, {args.split}, {' '.join(args.length)} each, recipe {args.recipe}; {machine()}"
    results: list[Result] = []
    for seed in seeds:
        for row, recipe in zip(rows, recipes, strict=True):
            print(f"{row.name}, seed {seed} ...", file=sys.stderr, flush=True)
            results.append(run(row, seed, recipe, args))
            if results[-1].error:
                print(f"{row.name}, seed {seed}: {results[-1].error}", file=sys.stderr, flush=True)
            table = summarise(rows, results)
            (args.out / "ablation.md").write_text(to_markdown(table, head))
            whole = {"about": head, "table": table, "runs": [asdict(one) for one in results]}
            (args.out / "ablation.json").write_text(json.dumps(whole, indent=2))
    print((args.out / ("ablation.json" if args.json else "ablation.md")).read_text(), end="")
    sys.exit(1 if any(one.error for one in results) else 0)


if __name__ == "__main__":
    main()
