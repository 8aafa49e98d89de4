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
        ["eval", "MODEL", "DATA", "--split", "val", "--out", "OUT"],
        ["eval", "MODEL", "DATA", "--split", "val", "--save", "OUT"],
        ["detect", "MODEL", "IMAGES", "--out", "OUT", "--score-min", "0"],
        ["export", "MODEL", "--out", "OUT.onnx"],
        ["export", "MODEL", "--to", "torchvision", "--out", "OUT.pth"],
        ["data", "convert", "DATA", "--to", "coco", "--out", "OUT"],
        ["data", "shard", "DATA", "--out", "OUT"],
        ["data", "check", "DATA", "--fix", "OUT"],
        [
            "train",
            "DATA",
            "--backbone-weights",
            "none",
            "--batch",
            "8",
            "--workers",
            "0",
            "--epochs",
            "1",
            "--out",
            "OUT",
        ],
    ],
    ids=lambda words: " ".join(words[:3]) if words[0] in ("data", "export") else " ".join(words[0::6]),
)
def test_a_full_disk_is_one_line(words: list[str], model: Path, scenes: Path, run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    places = {"MODEL": model, "DATA": scenes, "IMAGES": scenes / "JPEGImages", "OUT": out}
    filled = [
        str(places.get(word.partition(".")[0], word)) + word[len("OUT") :] * word.startswith("OUT.") for word in words
    ]
    done = run("-c", _LIMITED.format(limit=9000, words=filled))
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("singleshot: ")]
    assert "File too large" in lines[-1] or "disk is full" in lines[-1], done.stderr
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".lock", "run.json", "log.csv", "clock.json", "error.txt", "unfinished.jsonl"}
