"""Measuring: workers, failures, medians, settled random networks, the network cut out of exported files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from singleshot.bench import candidates as bench_plan
from singleshot.bench import model_files as bench_model
from singleshot.bench import race as bench
from singleshot.bench.candidates import BenchOptions, candidates_of, known
from singleshot.bench.model_files import ModelFile, cut_network, find_model, find_pictures
from singleshot.bench.race import Candidate, Measured
from singleshot.errors import CheckpointError, ConfigError, DataError
from singleshot.runtime.engines.table import EngineOptions
from singleshot.runtime.load import open_detector


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def pictures(place: Path) -> bench_model.Pictures:
    return find_pictures(None, place / "pictures")


@pytest.fixture(scope="module")
def model(place: Path, pictures) -> bench_model.Model:
    """A preset with random weights, its checkpoint and its files."""
    torch.set_num_threads(1)
    return find_model("ssd320-mini", place, pictures, classes=3)


@pytest.fixture
def ours(model) -> Candidate:
    """OpenVINO, one thread, two cells."""
    file = model.plain
    return Candidate("ours", "openvino", "float32", str(file.path), str(file.network), threads=1,
                     cells=(("network", 1), ("files", 2)))  # fmt: skip


def measured(seconds: dict, images: dict, name: str = "a") -> Measured:
    candidate = Candidate(name, "openvino", "float32", "x", cells=tuple(images))
    return Measured(candidate, seconds, images)


# ---------------------------------------------------------------------------------------------- figures


def test_percentiles_are_over_all_calls_and_the_rate_is_the_median_of_the_rounds() -> None:
    cell = ("detect", 4)
    one = measured({cell: [[0.1, 0.1, 0.3], [0.2, 0.2], [0.4]]}, {cell: 4})
    found = bench.cell_summary(one, cell)
    assert found is not None
    milliseconds = np.array([100, 100, 300, 200, 200, 400])
    assert found["p50_ms"] == pytest.approx(np.percentile(milliseconds, 50))
    assert found["p99_ms"] == pytest.approx(np.percentile(milliseconds, 99))
    assert found["images_per_s"] == pytest.approx(4 / 0.2)  # rounds: 40, 20, 10
    assert found["calls"] == 6
    assert bench.cell_summary(one, ("memory", 4)) is None


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    cell = ("memory", 1)
    fast = measured({cell: [[0.1], [0.1], [0.4]]}, {cell: 1}, "fast")
    slow = measured({cell: [[0.2], [0.5], [0.8]]}, {cell: 1}, "slow")
    assert bench.ratios([fast, slow], "slow", cell) == {"fast": pytest.approx(2.0)}  # of 2, 5, 2
    assert bench.ratios([fast, slow], "nobody", cell) == {}


def test_the_best_batch_is_the_one_with_most_images_a_second() -> None:
    cells = {("detect", 1): 1, ("detect", 8): 8}
    one = measured({("detect", 1): [[0.1]], ("detect", 8): [[0.4]]}, cells)
    said = bench.summary(one)
    assert said["best_batch"] == {"detect": 8}
    assert said["tasks"]["detect"]["8"]["images_per_s"] == pytest.approx(20)
    json.dumps(said)


# ---------------------------------------------------------------------------------------------- processes


def test_contenders_take_turns_and_one_that_fails_does_not_stop_the_others(ours, pictures, place) -> None:
    broken = place / "broken.onnx"
    broken.write_bytes(b"no model at all")
    candidates = [
        replace(ours, name="broken", file=str(broken)),
        ours,
        replace(ours, name="half", network=str(broken), cells=(("network", 1), ("detect", 1))),
    ]
    turns = []
    bad, good, half = bench.race(candidates, pictures.paths, 2, 0.01, on_step=lambda: turns.append(1))
    assert "broken.onnx" in bad.failures[None]
    assert not bad.seconds
    assert not good.failures
    assert {cell: len(rounds) for cell, rounds in good.seconds.items()} == {("network", 1): 2, ("files", 2): 2}
    assert good.images == {("network", 1): 1, ("files", 2): 4}
    assert all(0 < value < 60 for rounds in good.seconds.values() for calls in rounds for value in calls)
    assert set(half.failures) == {("network", 1)}
    assert len(half.seconds["detect", 1]) == 2
    assert len(turns) == bench.steps(candidates, 2)


def test_a_process_that_dies_or_hangs_is_reported(ours, pictures, monkeypatch) -> None:
    with bench.Worker(ours, pictures.paths) as worker:
        worker._process.kill()
        with pytest.raises(bench.CandidateError, match="its process ended"):
            worker.start()
    monkeypatch.setattr(bench, "ANSWER_S", 0.05)
    with bench.Worker(ours, pictures.paths) as worker:
        started = time.perf_counter()
        with pytest.raises(bench.CandidateError, match="ended"):
            worker.start()
        assert time.perf_counter() - started < 20


def test_leaving_the_race_ends_every_process(ours, pictures, monkeypatch) -> None:
    processes = []
    start = bench.Worker.start

    def remember(self, *args):
        processes.append(self._process)
        return start(self, *args)

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.Worker, "start", remember)
    with pytest.raises(KeyboardInterrupt):
        bench.race([ours, replace(ours, name="other")], pictures.paths, 1, 0.01, on_step=stop)
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


def test_a_fresh_process_has_no_torch_and_tells_start_and_memory(ours, pictures) -> None:
    result = Measured(ours)
    bench.probe(result, pictures.paths, 2)
    assert not result.failures
    assert len(result.start_s) == 2
    assert all(0.05 < value < 60 for value in result.start_s)
    # torch alone is more than that.
    assert all(30 < value < 450 for value in result.peak_mb)
    code = "import sys, singleshot.bench.worker; assert not {'torch', 'cv2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_libraries_print_does_not_get_between_the_answers() -> None:
    code = """
import os
from types import SimpleNamespace
from singleshot.deploy import bench_worker

def engine(job):
    print("hello from a library", flush=True)
    os.write(1, b"and from C\\n")
    return SimpleNamespace(files=lambda paths, batch: print(paths, flush=True))

bench_worker._by_torch = engine
bench_worker.main()
"""
    job = {"engine": "torch", "only_first": False, "cells": [["files", 1]], "pictures": ["a", "b"]}
    turn = {"task": "files", "batch": 1, "seconds": 0.0, "calls": 3}
    lines = "".join(json.dumps(line) + "\n" for line in (job, turn))
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True)
    ready, answer = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    assert len(answer["seconds"]) == 3
    assert "hello from a library" in done.stderr
    assert "['b']" in done.stderr


def test_checkpoints_and_torchvision_run_too(model, pictures) -> None:
    ours = Candidate("torch", "torch", "float32", str(model.checkpoint), str(model.checkpoint), threads=1,
                     cells=(("network", 1), ("detect", 2)))  # fmt: skip
    peer = Candidate("peer", "torchvision", "float32", "ssdlite320_mobilenet_v3_large", threads=1, classes=3,
                     cells=(("memory", 1),))  # fmt: skip
    for result in bench.race([ours, peer], pictures.paths, 1, 0.01):
        assert not result.failures
        assert set(result.seconds) == set(result.candidate.cells)


# ---------------------------------------------------------------------------------------------- the model


def test_a_settled_random_network_has_a_usual_number_of_candidates(model, pictures) -> None:
    from singleshot.images.decode import read_image
    from singleshot.inputs import to_square
    from singleshot.weights.checkpoint import load_checkpoint

    network, info = load_checkpoint(model.checkpoint)
    squares = np.stack([to_square(read_image(path), model.input_spec)[0] for path in pictures.paths[:8]])
    with torch.inference_mode():
        raw = network(torch.from_numpy(squares).permute(0, 3, 1, 2))
    passing = (raw.logits.softmax(-1)[..., 1:] > info.thresholds.score_min).sum().item() / 8
    assert 40 <= passing <= 60
    assert raw.offsets.std() == pytest.approx(1, abs=0.5)
    engine = open_detector(model.plain.path, "openvino", EngineOptions(threads=1)).engine
    found = sum(len(one.scores) for one in engine(squares)) / 8
    assert 1 <= found <= passing


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_the_network_is_cut_out_of_an_exported_file(model, tmp_path, suffix) -> None:
    import openvino

    whole = model.plain.path
    if suffix == ".xml":
        whole = tmp_path / "model.xml"
        openvino.save_model(openvino.Core().read_model(str(model.plain.path)), str(whole), compress_to_fp16=False)
    notes: list[str] = []
    cut = cut_network(whole, tmp_path, notes)
    assert not notes
    assert cut is not None
    image = np.random.default_rng(0).integers(0, 256, (1, 320, 320, 3), np.uint8)

    def outputs(path: Path) -> dict[str, np.ndarray]:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {port.get_any_name(): value for port, value in compiled(image).items()}

    made, wanted = outputs(cut), outputs(model.plain.network)
    assert set(made) >= {"offsets", "logits"}
    for name in ("offsets", "logits"):
        np.testing.assert_allclose(made[name], wanted[name], atol=1e-4)
    assert cut_network(model.plain.network, tmp_path, notes) == model.plain.network  # raw already


def test_a_file_that_cannot_be_cut_is_measured_without_its_network(tmp_path, model) -> None:
    proto = onnx.load(model.plain.path)
    for node in proto.graph.node:
        node.output[:] = [name.replace("offsets", "elsewhere") for name in node.output]
        node.input[:] = [name.replace("offsets", "elsewhere") for name in node.input]
    onnx.save(proto, tmp_path / "other.onnx")
    notes: list[str] = []
    assert cut_network(tmp_path / "other.onnx", tmp_path, notes) is None
    assert "not measured" in notes[0]
    found = find_model(str(tmp_path / "other.onnx"), tmp_path, find_pictures(None, tmp_path / "pictures"))
    made, _ = candidates_of(found, BenchOptions(engines=("openvino",), precisions=("float32",), batches=(1,)))
    assert [cell for one in made for cell in one.cells] == [("detect", 1), ("memory", 1), ("files", 1)]


# ---------------------------------------------------------------------------------------------- what is measured


def test_every_engine_and_precision_that_runs_here(model) -> None:
    made, notes = candidates_of(model, BenchOptions(device="cpu"))
    names = {one.name for one in made}
    assert {"torch float32", "onnxruntime float32", "openvino float32"} <= names
    assert not {name for name in names if "int8" in name}
    assert all(len(one.cells) == 8 for one in made)
    assert not notes
    both = bench_model.Model(**{**vars(model), "int8": ModelFile(model.plain.path, None)})
    made, _ = candidates_of(both, BenchOptions(precisions=("int8",), batches=(1,), device="cpu"))
    assert [one.name for one in made] == ["onnxruntime int8", "openvino int8"]
    assert all(("network", 1) not in one.cells for one in made)


def test_wishes_that_nobody_can_meet_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="no int8 file"):
        candidates_of(model, BenchOptions(precisions=("int8",)))
    with pytest.raises(ConfigError, match="no engine that is asked for computes in it"):
        candidates_of(model, BenchOptions(engines=("onnxruntime",), precisions=("bfloat16",)))
    with pytest.raises(ConfigError, match="did you mean openvino"):
        known(["opnvino"], bench_plan.ENGINES, "--engines")
    with pytest.raises(ConfigError, match="no engine here runs it on device cuda"):
        candidates_of(model, BenchOptions(engines=("openvino",), device="cuda"))
    for batches, rounds, threads in (((0,), 1, None), ((), 1, None), ((1,), 0, None), ((1,), 1, 0)):
        with pytest.raises(ConfigError, match="want"):
            bench.check_numbers(batches, rounds, threads)


def test_models_and_pictures_that_are_not_there_are_refused(tmp_path, pictures, model) -> None:
    with pytest.raises(CheckpointError, match="did you mean ssd300-vgg16"):
        find_model("ssd300-vgg", tmp_path, pictures)
    with pytest.raises(CheckpointError, match="no such file"):
        find_model(str(tmp_path / "none.onnx"), tmp_path, pictures)
    with pytest.raises(ConfigError, match="is not quantised"):
        find_model(str(model.checkpoint), tmp_path, pictures, int8=str(model.plain.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        find_pictures(str(tmp_path / "empty"), tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(DataError, match="none of its 1 images can be read"):
        find_pictures(str(tmp_path / "bad"), tmp_path)
    (tmp_path / "bad" / "b.jpg").write_bytes(Path(pictures.paths[0]).read_bytes())
    found = find_pictures(str(tmp_path / "bad"), tmp_path)
    assert (len(found.paths), found.skipped) == (1, 1)
