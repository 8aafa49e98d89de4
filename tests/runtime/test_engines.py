"""Every engine finds what PyTorch finds, whatever the batch, and says what it cannot do."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.devices import cores, has_bfloat16, processor_name
from singleshot.errors import CheckpointError, ConfigError, MissingExtraError
from singleshot.runtime import Detections
from singleshot.runtime.engines import openvino
from singleshot.runtime.engines.onnx_runtime import OnnxRuntimeEngine
from singleshot.runtime.engines.openvino import OpenVINOEngine
from singleshot.runtime.engines.table import EngineOptions

FILES = [
    ("openvino", "model.onnx"),
    ("openvino", "raw.onnx"),
    ("openvino", "model.xml"),
    ("openvino", "raw.xml"),
    ("onnxruntime", "model.onnx"),
    ("onnxruntime", "raw.onnx"),
]


def same(a: Detections, b: Detections, px: float = 0.05, score: float = 1e-3) -> None:
    assert a.names == b.names
    np.testing.assert_allclose(a.scores, b.scores, atol=score)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=px)


@pytest.mark.parametrize(("engine", "name"), FILES)
def test_boxes_are_those_of_pytorch(engine: str, name: str, exported, scene) -> None:
    detector = singleshot.load(exported(name), engine=engine)
    assert detector.engine.name == engine
    torch = singleshot.load(exported("model.safetensors"), device="cpu")
    assert detector.class_names == torch.class_names
    assert detector.score_min == torch.score_min
    wanted = torch.detect(scene(), score_min=0.0)
    assert 40 < len(wanted) <= 50
    same(detector.detect(scene(), score_min=0.0), wanted)
    assert len(detector.detect(scene())) == len(torch.detect(scene()))


@pytest.mark.parametrize(("engine", "name"), FILES[:1] + FILES[1:2] + FILES[4:5])
def test_any_batch_in_any_order(engine: str, name: str, exported, scene) -> None:
    detector = singleshot.load(exported(name), engine=engine, threads=1)
    pictures = [scene(seed) for seed in range(7)]
    alone = [detector.detect(picture, score_min=0.0) for picture in pictures]
    assert len({one.boxes.tobytes() for one in alone}) == len(alone)
    # The last batch is smaller, and OpenVINO compiles for many images only when there are many.
    for batch in (7, 7, 7, 3, 1, 5):
        together = detector.detect(pictures, score_min=0.0, batch_size=batch)
        for one, other in zip(together, alone, strict=True):
            same(one, other, px=1e-2, score=1e-5)


def test_outputs_by_name(exported) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    found = [make(exported("raw.onnx")).outputs(images) for make in (OpenVINOEngine, OnnxRuntimeEngine)]
    for name in ("offsets", "logits"):
        assert found[0][name].shape[0] == 3
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-3)


@pytest.mark.parametrize("make", [OpenVINOEngine, OnnxRuntimeEngine])
@pytest.mark.parametrize("batch", [1, 2])
def test_files_for_a_fixed_batch(make, batch: int, exported, scene, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("raw.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    engine = make(path)
    assert engine.input_shape[0] == batch
    images = np.stack([np.resize(scene(seed), (160, 160, 3)) for seed in range(5)])
    wanted = OnnxRuntimeEngine(exported("raw.onnx")).outputs(images)["logits"]
    np.testing.assert_allclose(engine.outputs(images)["logits"], wanted, atol=1e-3)


def test_several_threads_share_an_engine(exported, scene) -> None:
    detector = singleshot.load(exported("model.onnx"), engine="openvino", threads=1)
    pictures = [scene(seed) for seed in range(4)]
    wanted = [detector.detect(picture) for picture in pictures]
    wrong: list[object] = []

    def work(index: int) -> None:
        for _ in range(5):
            found = detector.detect(pictures[index])
            if found.boxes.tolist() != wanted[index].boxes.tolist():
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_an_error_between_images_leaves_the_engine_usable(exported, scene) -> None:
    detector = singleshot.load(exported("model.onnx"), engine="openvino", batch=4)
    wanted = detector.detect(scene())
    decode = detector.engine.decode

    def fails(outputs):
        raise CheckpointError("no")

    detector.engine.decode = fails
    with pytest.raises(CheckpointError, match="no"):
        detector.detect([scene(seed) for seed in range(6)])
    detector.engine.decode = decode
    assert detector.detect(scene()).boxes.tolist() == wanted.boxes.tolist()


def test_precision(exported, scene) -> None:
    plain = singleshot.load(exported("model.onnx"), engine="openvino")
    assert plain.engine.precision == "float32"
    fastest = singleshot.load(exported("model.onnx"), engine="openvino", precision="fastest")
    wanted = "bfloat16" if has_bfloat16() else "float32"
    if sys.platform == "linux" and fastest.engine.precision != "float16":
        assert fastest.engine.precision == wanted
    a, b = plain.detect(scene(), 0.0), fastest.detect(scene(), 0.0)
    assert abs(float(a.scores[0]) - float(b.scores[0])) < 0.05
    if fastest.engine.precision != "float32":
        assert a.scores.tolist() != b.scores.tolist()
    assert singleshot.load(exported("model.onnx"), engine="onnxruntime", precision="fastest").engine.precision
    for engine, precision, message in (
        ("openvino", "float8", "want one of float32, bfloat16, float16, fastest"),
        ("onnxruntime", "bfloat16", "ONNX Runtime computes in the file's own"),
        ("onnxruntime", "int4", "precision int4"),
    ):
        with pytest.raises(ConfigError, match=message):
            singleshot.load(exported("model.onnx"), engine=engine, precision=precision)


def test_precision_of_the_torch_engine(exported, scene) -> None:
    plain = singleshot.load(exported("model.safetensors"), device="cpu").detect(scene(), 0.0)
    rough = singleshot.load(exported("model.safetensors"), device="cpu", precision="bfloat16").detect(scene(), 0.0)
    assert plain.scores.tolist() != rough.scores.tolist()
    assert abs(float(plain.scores[0]) - float(rough.scores[0])) < 0.05
    with pytest.raises(ConfigError, match="precision int8: want one of"):
        singleshot.load(exported("model.safetensors"), precision="int8")


@pytest.mark.parametrize(
    ("engine", "device", "message"),
    [
        ("openvino", "cuda", "OpenVINO has cpu.* here; for cuda take engine onnxruntime"),
        ("openvino", "npu9", "device npu9"),
        ("onnxruntime", "tpu", "device tpu: this ONNX Runtime has"),
        ("onnxruntime", "cuda:x", "device cuda:x"),
        (None, "cuda:999", "device cuda:999"),
        (None, "tensorrt:999", "device tensorrt:999"),
    ],
)
def test_devices_that_are_not_there(engine: str | None, device: str, message: str, exported) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        singleshot.load(exported("model.onnx"), device, engine=engine)
    assert "\n" not in str(caught.value)


def test_engines_that_are_not_installed(exported, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match="pip install openvino"):
        singleshot.load(exported("model.onnx"), engine="openvino")
    with pytest.raises(MissingExtraError, match="pip install openvino"):
        singleshot.load(exported("model.xml"))
    assert singleshot.load(exported("model.onnx")).engine.name == "onnxruntime"  # the other one
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="pip install onnxruntime"):
        singleshot.load(exported("model.onnx"), engine="onnxruntime")
    for engine in (None, "auto"):
        with pytest.raises(MissingExtraError, match="no engine to run it: pip install openvino or pip install onnx"):
            singleshot.load(exported("model.onnx"), engine=engine)


@pytest.mark.parametrize("make", [OpenVINOEngine, OnnxRuntimeEngine])
def test_a_graph_that_cannot_run(make, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    node = helper.make_node("Telepathy", ["images"], ["boxes"])
    ends = [helper.make_tensor_value_info(n, TensorProto.UINT8, ["N", 32, 32, 3]) for n in ("images", "boxes")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=r"m\.onnx: O.* cannot run it \(.*\)") as caught:
        make(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_compiled_networks_are_kept_where_asked(exported, scene, tmp_path) -> None:
    first = singleshot.load(exported("model.onnx"), engine="openvino", cache=tmp_path / "kept").detect(scene())
    assert list((tmp_path / "kept").iterdir())
    again = singleshot.load(exported("model.onnx"), engine="openvino", cache=tmp_path / "kept").detect(scene())
    assert again.boxes.tolist() == first.boxes.tolist()


SIGNAL = """
import os, signal, sys
import singleshot
caught = []
signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
engines = [singleshot.load(sys.argv[1], engine="openvino") for _ in range(3)]
while engines:
    del engines[0]
os.kill(os.getpid(), signal.SIGUSR1)
assert caught == [signal.SIGUSR1]
"""


def test_threads_of_a_part_of_the_cores_are_bound_to_none(exported, monkeypatch) -> None:
    """Several processes would otherwise compute on the same first cores."""
    monkeypatch.setattr(openvino, "cores", lambda: 2)
    engine = OpenVINOEngine(exported("model.onnx"), EngineOptions(threads=1))
    for many in (False, True):
        compiled = engine._prepared(many)[0].get_compiled_model()
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
    every = OpenVINOEngine(exported("model.onnx"), EngineOptions(threads=2))
    assert "ENABLE_CPU_PINNING" not in every._settings  # as is usual there


def test_signals_are_survived_after_engines_are_gone(exported) -> None:
    # OpenVINO would leave the process a signal stack that is unmapped.
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL, str(exported("model.onnx"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_processor() -> None:
    assert processor_name()
    assert cores() >= 1
