"""Small files that ask for gigabytes or minutes: read, or refused in a line, within 5 s and 1 GB each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("bombs.py")
SECONDS, MEGABYTES = 5.0, 1024
# Within the limits, so that they are read as the images that they are.
READ = ("deep-interlaced.png", "progressive.jpg", "full-colour.jpg", "wide.webp", "wide.tif", "heavy.gif", "wide.bmp")
# Data sets that end with an error at once rather than with findings.
DOORS = ("aliases", "deep-yaml", "long-yaml", "entities-cvat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bombs") / "all"


@pytest.fixture(scope="module", params=["quick", pytest.param("all", marks=pytest.mark.slow)])
def told(folder, request) -> list[dict[str, Any]]:
    # Memory as a user's process takes it, not one that is told to keep what it frees (see the Makefile).
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, request.param], capture_output=True, text=True, check=False, env=own
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_ends_in_time_and_memory(told):
    assert len(told) >= 45
    for row in told:
        # Of a machine with more to do than this, only the processor's time says something.
        assert min(row["seconds"], row["cpu"]) <= SECONDS, row
        assert row["megabytes"] <= MEGABYTES, row
        assert "Traceback" not in row["said"], row
        assert "\n" not in row["said"], row


def test_each_is_refused_or_read(told):
    said = {(row["name"], row["way"]): row["said"] for row in told}
    for (name, way), words in said.items():
        if way == "read":
            assert words.startswith("(" if name in READ else "refused: "), (name, words)
        elif way == "look":
            assert (words == "") == (name in READ), (name, words)
        else:
            assert words.startswith("refused: ") == (name in DOORS), (name, words)
            assert name in words, words  # the file is named
    assert {"progressive.jpg", "heavy.gif", "wide.bmp", "pixels.png"} <= {name for name, way in said if way == "read"}


@pytest.mark.slow
def test_the_command_names_them_all(told, folder):
    command = [sys.executable, "-m", "singleshot", "data", "check", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    bad = {Path(f["file"]).name for f in json.loads(done.stdout)["findings"] if f["kind"] == "image-corrupt"}
    assert bad == {row["name"] for row in told if row["way"] == "read"} - set(READ)
