"""Disks that are full: each command that writes ends in one line, with nothing half-written under a final name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

# A limit on the size of a file stands for the full disk: the error comes from the same call, EFBIG for ENOSPC.
_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["singleshot", *{words!r}]
from singleshot.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        "eval MODEL DATA --split val --out OUT",
        "eval MODEL DATA --split val --save OUT",
        "detect MODEL IMAGES --score-min 0 --out OUT",
        "export MODEL --out OUT.onnx",
        "data convert DATA OUT --to coco",
        "data shard DATA OUT",
        "data check DATA --fix --out OUT",
        "train FEW --backbone-weights none --batch 8 --workers 0 --epochs 1 --no-tensorboard --out OUT",
    ],
)
def test_a_full_disk_is_one_line(words: str, model: Path, scenes: Path, few: Path, run, tmp_path: Path) -> None:
    places = {"MODEL": model, "DATA": scenes, "FEW": few, "IMAGES": scenes / "JPEGImages", "OUT": tmp_path / "out"}
    places["OUT.onnx"] = tmp_path / "out.onnx"
    filled = [str(places.get(word, word)) for word in words.split()]
    done = run("-c", _LIMITED.format(limit=9000, words=filled))
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("singleshot: ")]
    assert "File too large" in lines[-1] or "disk is full" in lines[-1], done.stderr
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".lock", "run.json", "log.csv", "clock.json", "error.txt", "unfinished.jsonl", "eval.json"}
