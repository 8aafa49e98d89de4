"""`singleshot bench`: its table, picture and JSON, what it refuses, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

KINDS = ("network", "detect", "memory", "files")
QUICK = ("--batch", "1", "--rounds", "1", "--threads", "1", "--quiet")


@pytest.mark.slow
def test_a_table_a_picture_and_json(run, model, scenes, tmp_path) -> None:
    out = tmp_path / "speed"
    images, engines = tmp_path / "images", ("--engines", "torch,openvino", "--precisions", "float32")
    images.mkdir()
    for photo in sorted((scenes / "JPEGImages").iterdir())[:6]:
        shutil.copy(photo, images)
    done = run("bench", model, "--images", images, *engines, "--out", out, *QUICK)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    report = json.loads((out / "bench.json").read_text())
    assert [one["name"] for one in report["candidates"]] == ["torch float32", "openvino float32"]
    for one in report["candidates"]:
        assert not one["failures"]
        assert set(one["tasks"]) == set(KINDS)
        for by in one["tasks"].values():
            assert set(by) == {"1"}
            assert 0 < by["1"]["p50_ms"] <= by["1"]["p90_ms"] <= by["1"]["p99_ms"]
        assert one["start_s"] > 0
        assert one["peak_mb"] > 0
        assert one["name"] in done.stdout
    torch, openvino = report["candidates"]
    assert openvino["peak_mb"] < torch["peak_mb"]
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.png"]
    picture = cv2.imread(str(out / "bench.png"))
    assert picture.shape[1] > 1000
    assert picture.std() > 5
    assert "torch" in report["machine"]["versions"]
    assert str(images) in report["pictures"]


@pytest.mark.slow
def test_an_exported_file_is_measured_in_batches(run, exported, tmp_path) -> None:
    done = run("bench", exported, "--engines", "onnxruntime", "--json", "--batch", "2,1", "--rounds", 1, "--threads", 1)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["candidates"]] == ["onnxruntime float32"]
    tasks = report["candidates"][0]["tasks"]
    assert {task: set(by) for task, by in tasks.items()} == {task: {"1", "2"} for task in KINDS}
    assert "PyTorch is left out" in done.stderr
    assert not list(tmp_path.iterdir())


# What `pip install singleshot[openvino]` does not bring.
HIDDEN = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = {"torch", "torchvision", "jaxtyping", "onnx", "onnxscript", "onnxruntime", "nncf", "matplotlib"}
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.mark.slow
def test_with_openvino_alone_an_exported_file_is_measured(exported, tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    def bench(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "singleshot", "bench", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = bench(exported, "--precisions", "float32", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["name"] for one in report["candidates"]] == ["openvino float32"]
    assert set(report["candidates"][0]["tasks"]) == {"detect", "memory", "files"}
    assert any("needs onnx" in note for note in report["notes"])
    for words, extra in (
        (["ssd320-mini"], "singleshot[train]"),
        ([tmp_path / "best.safetensors"], "singleshot[train]"),
        ([exported, "--versus", "torchvision", *QUICK], "singleshot[train]"),
        ([exported, "--engines", "onnxruntime"], "pip install onnxruntime"),
        ([exported, "--out", tmp_path / "speed"], "singleshot[train]"),
    ):
        done = bench(*words)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()[-1:]
        assert line.startswith("singleshot: ")
        assert extra in line
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "speed").exists()


def test_what_it_refuses(refused, exported, model, tmp_path) -> None:
    assert "did you mean openvino?" in refused("bench", exported, "--engines", "openvin")
    assert "did you mean bfloat16?" in refused("bench", exported, "--precisions", "bflot16")
    assert "--rounds 0" in refused("bench", exported, "--rounds", 0)
    assert "--batch 'many'" in refused("bench", exported, "--batch", "many")
    assert "no such file" in refused("bench", tmp_path / "none.safetensors")
    assert "did you mean ssd320-mini?" in refused("bench", "ssd320-min")
    assert "--int8" in refused("bench", exported, "--precisions", "int8", *QUICK)
    (tmp_path / "empty").mkdir()
    assert "no image" in refused("bench", exported, "--images", tmp_path / "empty", *QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "--out" in refused("bench", exported, "--out", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="counts processes by /proc")
def test_ctrl_c_ends_all_workers(exported, tmp_path) -> None:
    out = tmp_path / "speed"
    command = [sys.executable, "-m", "singleshot", "bench", exported, "--rounds", "500", "--out", out]
    # TMPDIR: whether the folder for pictures goes too.
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        end = time.monotonic() + 60
        while len(workers := children(process.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert len(workers) >= 2
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "singleshot: stopped"
    assert "Traceback" not in said
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not out.exists()
    assert not list((tmp_path / "temporary").glob("singleshot-*"))


def children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
