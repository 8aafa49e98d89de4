"""The real command in a subprocess, drawn scenes, and one small trained model for all tests of the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from singleshot.scenes.scenes import write_scenes

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Iterator[Run]:
    """run("eval", model, data, cwd=, stdin=): the command in a process of its own; run("-c", code): as Python does it.

    That process is a fork of one that has imported everything already: starting Python and PyTorch anew for each of
    some 300 commands would take longer than all other tests. tests/cli/test_start.py starts them as a user does.
    """
    folder = tmp_path_factory.mktemp("starter")
    starter = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("starter.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"

    def call(*words: object, cwd: Path | None = None, stdin: bytes | None = None, timeout: float = 200):
        command = [*([] if words[:1] == ("-c",) else ["singleshot"]), *map(str, words)]
        streams = [folder / name for name in ("in", "out", "err")]
        streams[0].write_bytes(stdin or b"")
        job = {"command": command, "cwd": str(cwd or Path.cwd()), "streams": list(map(str, streams)),
               "timeout": timeout, "environment": dict(os.environ)}  # fmt: skip
        starter.stdin.write(json.dumps(job) + "\n")
        starter.stdin.flush()
        code = int(starter.stdout.readline())
        out, err = (stream.read_bytes().decode() for stream in streams[1:])
        return subprocess.CompletedProcess(command, code, out, err)

    yield call
    starter.stdin.close()
    starter.wait(timeout=30)


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


@pytest.fixture(scope="session")
def export_report(model: Path, run: Run, tmp_path_factory) -> dict[str, Any]:
    """What `export --json` said of the trained model's ONNX file."""
    done = run("export", model, "--out", tmp_path_factory.mktemp("exported") / "model.onnx", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def exported(export_report: dict[str, Any]) -> Path:
    """The trained model's ONNX file."""
    return Path(export_report["files"][0])


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
