"""Whether exported files give the model's boxes: every preset in three shapes of input, in two engines.

    python benchmarks/exported_shapes.py [MODEL ...] [--presets NAME,...] [--json]

Each preset is trained for a few steps on drawn scenes in its own shape, a quarter wider, and a quarter higher with one
channel; MODEL: checkpoints that are trained already. `export` compares its file with PyTorch on eight drawn scenes in
each engine, and writes none that differs by more than 0.5 px or 0.001 in a score; these differences are shown.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from common import command, tell

from singleshot.presets import MODELS
from singleshot.scenes.scenes import write_scenes

STEPS = ("--epochs", "1", "--batch", "4", "--workers", "0", "--backbone-weights", "none", "--no-fit-priors")


def compared(checkpoint: Path, out: Path) -> dict[str, str]:
    """Of each engine that ran the exported file, how far it is from PyTorch; what refused it where it was refused."""
    try:
        report = command("export", checkpoint, "--out", out)
    except RuntimeError as error:
        return {"refused": str(error)}
    rows = {row["engine"]: row["agreement"] for row in report["engines"] if row["agreement"] is not None}
    return {
        engine: f"{found['boxes']} boxes, {found['box_px']:.4f} px, {found['score']:.6f}, {found['lost']} lost"
        for engine, found in rows.items()
    }


def main() -> None:
    """Train, export, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--presets", default=",".join(MODELS), help="a comma-separated list; default: all")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        write_scenes(out / "scenes", train=8, test=2, val=2)
        for model in args.models:
            for engine, words in compared(model, out / f"{model.stem}.onnx").items():
                result[f"{model.name}, {engine}"] = words
        for name in filter(None, args.presets.split(",")):
            side = MODELS[name].input_spec.height
            long = side * 5 // 4
            for shape, options in (
                ("own shape", ()),
                (f"{side}x{long}", ("--size", f"{side}x{long}")),
                (f"{long}x{side} grey", ("--size", f"{long}x{side}", "--grey")),
            ):
                run = out / f"{name}-{shape}"
                words = ("--model", name, *STEPS, *options, "--out", run, "--no-tensorboard")
                command("train", out / "scenes", *words)
                for engine, found in compared(run / "last.safetensors", out / f"{name}-{shape}.onnx").items():
                    result[f"{name}, {shape}, {engine}"] = found
                    print(f"{name}, {shape}, {engine}: {found}", file=sys.stderr, flush=True)
                shutil.rmtree(run)
    tell("Exported files against PyTorch", result)


if __name__ == "__main__":
    main()
