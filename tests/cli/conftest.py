"""The real command in a subprocess, drawn scenes, and one small trained model for all tests of the folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from singleshot.cli import main
from singleshot.scenes.scenes import write_scenes

Run = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def starter(folder: Path, *absent: str) -> Iterator[Run]:
    """Runs commands in forks of a process that has imported everything already (see starter.py), or everything but
    the packages that are named."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("starter.py"), *absent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork waits for ever for more, which it does not have
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    def call(*words: object, cwd: Path | None = None, stdin: bytes | None = None, timeout: float = 200):
        command = [*([] if words[:1] == ("-c",) else ["singleshot"]), *map(str, words)]
        streams = [folder / name for name in ("in", "out", "err")]
        streams[0].write_bytes(stdin or b"")
        job = {"command": command, "cwd": str(cwd or Path.cwd()), "streams": list(map(str, streams)),
               "timeout": timeout, "environment": dict(os.environ)}  # fmt: skip
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        out, err = (stream.read_bytes().decode() for stream in streams[1:])
        return subprocess.CompletedProcess(command, code, out, err)

    yield call
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Iterator[Run]:
    """run("eval", model, data, cwd=, stdin=): the command in a process of its own; run("-c", code): as Python does it.

    That process is a fork of one that has imported everything already: starting Python and PyTorch anew for each of
    some 300 commands would take longer than all other tests. tests/cli/test_start.py starts them as a user does.
    """
    with starter(tmp_path_factory.mktemp("starter")) as call:
        yield call


@pytest.fixture(scope="session")
def run_without(tmp_path_factory) -> Iterator[Callable[..., Run]]:
    """run_without("torch", ...): as `run`, where these packages are not installed."""
    with contextlib.ExitStack() as stack:
        yield lambda *absent: stack.enter_context(starter(tmp_path_factory.mktemp("starter"), *absent))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, train=48, test=8, val=8)
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """Fewer such scenes, for trainings of which one step says as much as ten."""
    folder = tmp_path_factory.mktemp("data") / "few"
    write_scenes(folder, train=16, test=4, val=4)
    return folder


@pytest.fixture(scope="session")
def trained(scenes: Path, run: Run, tmp_path_factory) -> Path:
    """The folder of a short run."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run("train", scenes, "--model", "ssd320-mini", "--backbone-weights", "none", "--size", 160,
               "--epochs", 2, "--batch", 8, "--out", out)  # fmt: skip
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
def refused(capsys, monkeypatch) -> Iterator[Callable[..., str]]:
    """refused("eval", model, cwd=): a command that must end with exit code 2 and one line; returns the line.

    It runs in this process, where everything is imported already.
    """
    ours = logging.getLogger("singleshot")
    kept = ours.handlers, ours.level

    def call(*words: object, cwd: Path | None = None) -> str:
        with monkeypatch.context() as changed, warnings.catch_warnings():
            warnings.simplefilter("default")  # as a user has them, not as errors
            changed.setattr(sys, "argv", ["singleshot", *map(str, words)])
            if cwd is not None:
                changed.chdir(cwd)
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, (ended.value.code, said)
        lines = [line for line in said.splitlines() if line.startswith("singleshot: ")]
        assert len(lines) == 1, said
        return lines[0]

    yield call
    ours.handlers, ours.level = kept
