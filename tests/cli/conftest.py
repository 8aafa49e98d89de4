"""The real command in a subprocess, drawn scenes, and one small trained model for all tests of the folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from singleshot.data.scenes import write_scenes

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run() -> Run:
    def call(*words: object, cwd: Path | None = None, stdin: bytes | None = None, timeout: float = 200):
        command = [sys.executable, "-m", "singleshot", *map(str, words)]
        done = subprocess.run(command, cwd=cwd, input=stdin or b"", capture_output=True, timeout=timeout, check=False)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=48, test=8, val=8)
    return folder


@pytest.fixture(scope="session")
def trained(scenes: Path, run: Run, tmp_path_factory) -> Path:
    """The folder of a short run."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run("train", scenes, "--model", "ssd320-mini", "--backbone-weights", "none", "--epochs", 2, "--batch", 8,
               "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def model(trained: Path) -> Path:
    return trained / "best.safetensors"


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one line; returns the line."""

    def call(*words: object, **options) -> str:
        done = run(*words, **options)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("singleshot: ")]
        assert len(lines) == 1, done.stderr
        return lines[0]

    return call
