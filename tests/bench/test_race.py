"""Measuring: workers, failures, medians, settled random networks, the network cut out of exported files."""

from __future__ import annotations

import copy
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

from singleshot.bench import race as bench
from singleshot.bench.candidates import candidates_of, peers
from singleshot.bench.images import BenchImages, find_images
from singleshot.bench.model_files import Model, ModelFile, find_model, with_network
from singleshot.bench.options import BenchOptions
from singleshot.bench.records import Candidate, Job, Measured, Task
from singleshot.deploy import onnx_file
from singleshot.deploy.onnx_file import attach_postprocess
from singleshot.deploy.onnx_network import network_model
from singleshot.errors import CheckpointError, ConfigError, DataError
from singleshot.models import SSD
from singleshot.runtime.engines.table import EngineOptions
from singleshot.runtime.load import open_detector
from singleshot.weights.checkpoint import ModelInfo


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def images(place: Path) -> BenchImages:
    return find_images(None, place / "images")


@pytest.fixture(scope="module")
def model(place: Path, images) -> Model:
    """A preset with random weights, its checkpoint and its files; raw.onnx is its network without detections."""
    torch.set_num_threads(1)

    def remember(network: SSD) -> onnx.ModelProto:
        proto = network_model(network)
        raw = attach_postprocess(copy.deepcopy(proto), network, ModelInfo.of(network, ("a", "b", "c")), raw=True)
        (place / "raw.onnx").write_bytes(raw.SerializeToString())
        return proto

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnx_file, "network_model", remember)
        return find_model("ssd320-mini", place, images, BenchOptions(classes=3))


@pytest.fixture
def ours(model) -> Candidate:
    """OpenVINO, one thread, two tasks."""
    (one,), _ = candidates_of(model, BenchOptions(("openvino",), ("float32",), threads=1))
    return replace(one, name="ours", tasks=(Task("network", 1), Task("files", 2)))


def measured(seconds: dict, images: dict, name: str = "a") -> Measured:
    candidate = Candidate(name, "openvino", "float32", "x", "nobody:nothing", tasks=tuple(images))
    return Measured(candidate, seconds, images)


# ---------------------------------------------------------------------------------------------- figures


def test_percentiles_are_over_all_calls_and_the_rate_is_the_median_of_the_rounds() -> None:
    task = Task("detect", 4)
    one = measured({task: [[0.1, 0.1, 0.3], [0.2, 0.2], [0.4]]}, {task: 4})
    found = bench.task_summary(one, task)
    assert found is not None
    milliseconds = np.array([100, 100, 300, 200, 200, 400])
    assert found["p50_ms"] == pytest.approx(np.percentile(milliseconds, 50))
    assert found["p99_ms"] == pytest.approx(np.percentile(milliseconds, 99))
    assert found["images_per_s"] == pytest.approx(4 / 0.2)  # rounds: 40, 20, 10
    assert found["calls"] == 6
    assert bench.task_summary(one, Task("memory", 4)) is None


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    task = Task("memory", 1)
    fast = measured({task: [[0.1], [0.1], [0.4]]}, {task: 1}, "fast")
    slow = measured({task: [[0.2], [0.5], [0.8]]}, {task: 1}, "slow")
    assert bench.ratios([fast, slow], "slow", task) == {"fast": pytest.approx(2.0)}  # of 2, 5, 2
    assert bench.ratios([fast, slow], "nobody", task) == {}


def test_the_best_batch_is_the_one_with_most_images_a_second() -> None:
    tasks = {Task("detect", 1): 1, Task("detect", 8): 8}
    one = measured({Task("detect", 1): [[0.1]], Task("detect", 8): [[0.4]]}, tasks)
    found = bench.summary(one)
    assert found["best_batch"] == {"detect": 8}
    assert found["tasks"]["detect"]["8"]["images_per_s"] == pytest.approx(20)
    json.dumps(found)


# ---------------------------------------------------------------------------------------------- processes


def test_candidates_take_turns_and_one_that_fails_does_not_stop_the_others(ours, images, place) -> None:
    broken = place / "broken.onnx"
    broken.write_bytes(b"no model at all")
    candidates = [
        replace(ours, name="broken", file=str(broken)),
        ours,
        replace(ours, name="half", network=str(broken), tasks=(Task("network", 1), Task("detect", 1))),
    ]
    turns = []
    bad, good, half = bench.race(candidates, images.paths, 2, 0.01, on_step=lambda: turns.append(1))
    assert "broken.onnx" in bad.failures[None]
    assert not bad.seconds
    assert not good.failures
    assert {task: len(rounds) for task, rounds in good.seconds.items()} == {Task("network", 1): 2, Task("files", 2): 2}
    assert good.images == {Task("network", 1): 1, Task("files", 2): 4}
    assert all(0 < value < 60 for rounds in good.seconds.values() for calls in rounds for value in calls)
    assert set(half.failures) == {Task("network", 1)}
    assert len(half.seconds["detect", 1]) == 2
    assert len(turns) == bench.steps(candidates, 2)


def test_a_process_that_dies_or_hangs_is_reported(ours, images, monkeypatch) -> None:
    with bench.Worker(ours, images.paths) as worker:
        worker._process.kill()
        with pytest.raises(bench.CandidateError, match="its process ended"):
            worker.start()
    monkeypatch.setattr(bench, "ANSWER_S", 0.05)
    with bench.Worker(ours, images.paths) as worker:
        started = time.perf_counter()
        with pytest.raises(bench.CandidateError, match="ended"):
            worker.start()
        assert time.perf_counter() - started < 20


def test_leaving_the_race_ends_every_process(ours, images, monkeypatch) -> None:
    processes = []
    start = bench.Worker.start

    def remember(self, *args):
        processes.append(self._process)
        return start(self, *args)

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.Worker, "start", remember)
    with pytest.raises(KeyboardInterrupt):
        bench.race([ours, replace(ours, name="other")], images.paths, 1, 0.01, on_step=stop)
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


def test_a_fresh_process_has_no_torch_and_tells_start_and_memory(ours, images) -> None:
    result = Measured(ours)
    bench.probe(result, images.paths, 2)
    assert not result.failures
    assert len(result.start_s) == 2
    assert all(0.05 < value < 60 for value in result.start_s)
    # torch alone is more than that.
    assert all(30 < value < 450 for value in result.peak_mb)
    code = "import sys, singleshot.bench.worker; assert not {'torch', 'cv2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_libraries_print_does_not_get_between_the_answers(tmp_path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os\n"
        "from types import SimpleNamespace\n"
        "def runner(job):\n"
        "    print('hello from a library', flush=True)\n"
        "    os.write(1, b'and from C\\n')\n"
        "    return SimpleNamespace(files=lambda paths, batch: print(paths, flush=True))\n"
    )
    task = Task("files", 1)
    candidate = Candidate("loud", "another", "float32", "x", f"{tmp_path / 'loud.py'}:runner", tasks=(task,))
    job = Job(candidate, ["a", "b"], False).to_dict()
    turn = {"task": task, "seconds": 0.0, "calls": 3}
    lines = "".join(json.dumps(line) + "\n" for line in (job, turn))
    worker = [sys.executable, "-m", "singleshot.bench.worker"]
    done = subprocess.run(worker, input=lines, capture_output=True, text=True, check=True)
    ready, answer = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    assert len(answer["seconds"]) == 3
    assert "hello from a library" in done.stderr
    assert "['b']" in done.stderr


@pytest.mark.slow
def test_checkpoints_and_torchvision_run_too(model, images) -> None:
    (ours,), _ = candidates_of(model, BenchOptions(("torch",), ("float32",), "cpu", threads=1))
    _, peer = peers(model, BenchOptions(device="cpu", threads=1))
    assert peer.file == "ssdlite320_mobilenet_v3_large"
    ours = replace(ours, tasks=(Task("network", 1), Task("detect", 2)))
    peer = replace(peer, tasks=(Task("memory", 1),))
    for result in bench.race([ours, peer], images.paths, 1, 0.01):
        assert not result.failures
        assert set(result.seconds) == set(result.candidate.tasks)


# ---------------------------------------------------------------------------------------------- the model


def test_a_settled_random_network_has_a_usual_number_of_candidates(model, images) -> None:
    from singleshot.images.decode import read_image
    from singleshot.inputs import to_square
    from singleshot.weights.checkpoint import load_checkpoint

    network, info = load_checkpoint(model.checkpoint)
    squares = np.stack([to_square(read_image(path), model.input_spec)[0] for path in images.paths[:8]])
    with torch.inference_mode():
        raw = network(torch.from_numpy(squares).permute(0, 3, 1, 2))
    passing = (raw.logits.softmax(-1)[..., 1:] > info.thresholds.score_min).sum().item() / 8
    assert 40 <= passing <= 60
    assert raw.offsets.std() == pytest.approx(1, abs=0.5)
    engine = open_detector(model.floating.path, "openvino", EngineOptions(threads=1)).engine
    found = sum(len(one.scores) for one in engine(squares)) / 8
    assert 1 <= found <= passing


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_the_network_is_cut_out_of_an_exported_file(model, place, tmp_path, suffix) -> None:
    import openvino

    from singleshot.weights.checkpoint import load_checkpoint

    whole = model.floating.path
    if suffix == ".xml":
        whole = tmp_path / "model.xml"
        openvino.save_model(openvino.Core().read_model(str(model.floating.path)), str(whole), compress_to_fp16=False)
    notes: list[str] = []
    cut = with_network(whole, tmp_path, notes).network
    assert not notes
    assert cut is not None
    image = np.random.default_rng(0).integers(0, 256, (1, 320, 320, 3), np.uint8)

    def outputs(path: Path) -> dict[str, np.ndarray]:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {port.get_any_name(): value for port, value in compiled(image).items()}

    network, _ = load_checkpoint(model.checkpoint)
    with torch.inference_mode():
        by_torch = network(torch.from_numpy(image).permute(0, 3, 1, 2))
    made, wanted = outputs(cut), outputs(place / "raw.onnx")
    assert set(made) >= {"offsets", "logits"}
    for name in ("offsets", "logits"):
        np.testing.assert_allclose(made[name], wanted[name], atol=1e-4)
        np.testing.assert_allclose(made[name], getattr(by_torch, name), atol=1e-2)
    assert with_network(cut, tmp_path, notes).network == cut  # raw already


def test_a_file_that_cannot_be_cut_is_measured_without_its_network(tmp_path, model, images) -> None:
    proto = onnx.load(model.floating.path)
    for node in proto.graph.node:
        node.output[:] = [name.replace("offsets", "elsewhere") for name in node.output]
        node.input[:] = [name.replace("offsets", "elsewhere") for name in node.input]
    onnx.save(proto, tmp_path / "other.onnx")
    notes: list[str] = []
    assert with_network(tmp_path / "other.onnx", tmp_path, notes).network is None
    assert "not measured" in notes[0]
    options = BenchOptions(engines=("openvino",), precisions=("float32",), batches=(1,))
    made, _ = candidates_of(find_model(str(tmp_path / "other.onnx"), tmp_path, images, options), options)
    assert [task for one in made for task in one.tasks] == [Task("detect", 1), Task("memory", 1), Task("files", 1)]


# ---------------------------------------------------------------------------------------------- what is measured


def test_every_engine_and_precision_that_runs_here(model) -> None:
    made, notes = candidates_of(model, BenchOptions(device="cpu"))
    names = {one.name for one in made}
    assert {"torch float32", "onnxruntime float32", "openvino float32"} <= names
    assert not {name for name in names if "int8" in name}
    assert all(len(one.tasks) == 8 for one in made)
    assert not notes
    both = replace(model, int8=ModelFile(model.floating.path, None))
    made, _ = candidates_of(both, BenchOptions(precisions=("int8",), batches=(1,), device="cpu"))
    assert [one.name for one in made] == ["onnxruntime int8", "openvino int8"]
    assert all(Task("network", 1) not in one.tasks for one in made)


def test_options_that_nobody_can_meet_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="no int8 file"):
        candidates_of(model, BenchOptions(precisions=("int8",)))
    with pytest.raises(ConfigError, match="no engine that is asked for computes in it"):
        candidates_of(model, BenchOptions(engines=("onnxruntime",), precisions=("bfloat16",)))
    with pytest.raises(ConfigError, match="did you mean openvino"):
        BenchOptions(engines=("opnvino",))
    with pytest.raises(ConfigError, match="no engine here runs it on device cuda"):
        candidates_of(model, BenchOptions(engines=("openvino",), device="cuda"))
    for batches, rounds, threads in (((0,), 1, None), ((), 1, None), ((1,), 0, None), ((1,), 1, 0)):
        with pytest.raises(ConfigError, match="want"):
            BenchOptions(batches=batches, rounds=rounds, threads=threads)


def test_models_and_images_that_are_not_there_are_refused(tmp_path, images, model) -> None:
    with pytest.raises(CheckpointError, match="did you mean ssd300-vgg16"):
        find_model("ssd300-vgg", tmp_path, images, BenchOptions())
    with pytest.raises(CheckpointError, match="no such file"):
        find_model(str(tmp_path / "none.onnx"), tmp_path, images, BenchOptions())
    with pytest.raises(ConfigError, match="is not quantised"):
        find_model(str(model.checkpoint), tmp_path, images, BenchOptions(int8=str(model.floating.path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        find_images(str(tmp_path / "empty"), tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(DataError, match="none of its 1 images can be read"):
        find_images(str(tmp_path / "bad"), tmp_path)
    (tmp_path / "bad" / "b.jpg").write_bytes(Path(images.paths[0]).read_bytes())
    found = find_images(str(tmp_path / "bad"), tmp_path)
    assert (len(found.paths), found.skipped) == (1, 1)
