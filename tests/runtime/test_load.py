"""singleshot.load on exported files: which engine, what describes the file, what is refused and how it is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import singleshot
from singleshot.errors import CheckpointError, ConfigError, SingleshotError
from singleshot.inputs import InputSpec
from singleshot.runtime import engine_choice
from singleshot.runtime.model_file import onnx_description


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "singleshot" / "engines.json"


@pytest.fixture
def without_description(exported, tmp_path) -> Path:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("model.onnx"))
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    return path


def refused(*arguments, kind: type[SingleshotError] = CheckpointError, **options) -> str:
    with pytest.raises(kind) as caught:
        singleshot.load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


START = """
import sys, time
started = time.perf_counter()
import singleshot, numpy as np
detector = singleshot.load(sys.argv[1], engine=sys.argv[2])
found = detector.detect(np.zeros((48, 64, 3), np.uint8))
seconds = time.perf_counter() - started
heavy = {"torch", "torchvision", "onnx", "matplotlib", "rich", "typer", "pydantic", "jaxtyping"} & set(sys.modules)
assert not heavy, heavy
print(seconds)
"""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["model.onnx", "raw.onnx"])
def test_starts_fast_and_without_torch(engine: str, name: str, exported) -> None:
    command = [sys.executable, "-c", START, str(exported(name)), engine]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(f"{engine} {name}: {float(done.stdout):.2f} s, with the interpreter {time.perf_counter() - started:.2f} s")
    assert float(done.stdout) < 5


def test_importing_is_light() -> None:
    code = "import sys, singleshot; print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    heavy = ["numpy", "cv2", "torch", "openvino", "onnxruntime", "rich", "typer"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_checkpoint_detects_without_what_compiles_networks() -> None:
    """torch._dynamo, which torchvision and random values on "meta" load, would double the start."""
    path = Path(__file__).resolve().parents[2] / "models" / "bccd.safetensors"
    code = (
        "import sys, numpy, singleshot;"
        "singleshot.load(sys.argv[1], device='cpu').detect(numpy.zeros((8, 8, 3), numpy.uint8));"
        "assert not {'torchvision', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_the_default_engine(exported) -> None:
    assert singleshot.load(exported("model.onnx")).engine.name == "openvino"
    assert singleshot.load(exported("model.onnx"), "cpu").engine.name == "openvino"
    assert singleshot.load(str(exported("model.onnx")), "auto").engine.name == "openvino"
    assert singleshot.load(exported("model.safetensors"), "cpu").engine.name == "torch"
    assert singleshot.load(exported("model.onnx")).batch_size == 8
    assert singleshot.load(exported("model.onnx"), batch=3).batch_size == 3


def test_auto_measures_once_and_remembers(exported, cache, monkeypatch) -> None:
    measured = []

    def measure(runs, images):
        measured.append((tuple(runs), images.shape))
        return {"openvino": 2.0, "onnxruntime": 1.0}

    monkeypatch.setattr(engine_choice, "measure", measure)
    load = singleshot.load
    assert load(exported("model.onnx"), engine="auto").engine.name == "onnxruntime"
    assert load(exported("model.onnx"), engine="auto").engine.name == "onnxruntime"
    assert measured == [(("openvino", "onnxruntime"), (1, 160, 160, 3))]
    (choice,) = json.loads(cache.read_text())["choices"].values()
    assert choice == {"engine": "onnxruntime", "seconds": {"openvino": 2.0, "onnxruntime": 1.0}}
    load(exported("model.onnx"), engine="auto", threads=1)  # another question
    load(exported("raw.onnx"), engine="auto")  # another file
    assert len(measured) == 3
    # Only OpenVINO computes in it here, but that takes both to find out.
    if singleshot.load(exported("model.onnx"), precision="fastest").engine.precision == "bfloat16":
        assert load(exported("model.onnx"), engine="auto", precision="bfloat16").engine.name == "openvino"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": 1, "choices": []}', '{"format": 9, "choices": {}}', "\x00" * 99],
)
def test_a_broken_cache_is_measured_anew(text: str, exported, cache, monkeypatch) -> None:
    monkeypatch.setattr(engine_choice, "measure", lambda runs, images: {"openvino": 1.0, "onnxruntime": 2.0})
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert singleshot.load(exported("model.onnx"), engine="auto").engine.name == "openvino"
    assert len(json.loads(cache.read_text())["choices"]) == 1
    key = next(iter(json.loads(cache.read_text())["choices"]))
    for odd in ("nonsense", {"engine": "pytorch"}, {"engine": ["openvino"]}, {}):
        cache.write_text(json.dumps({"format": 1, "choices": {key: odd}}))
        assert engine_choice.remembered(key, ("openvino", "onnxruntime")) is None


def test_a_cache_that_cannot_be_written_is_no_error(exported, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(engine_choice, "measure", lambda runs, images: {"openvino": 1.0, "onnxruntime": 2.0})
    assert singleshot.load(exported("model.onnx"), engine="auto").engine.name == "openvino"


def test_the_measurement_itself() -> None:
    calls = []
    runs = {"slow": lambda images: time.sleep(0.02), "fast": lambda images: calls.append(len(images))}
    seconds = engine_choice.measure(runs, np.zeros((1, 2, 2, 3), np.uint8))
    assert seconds["fast"] < seconds["slow"]
    assert 0.02 <= seconds["slow"] < 1
    assert len(calls) == 6


def test_a_file_without_description(without_description, exported, scene) -> None:
    line = refused(without_description)
    for word in ("input_spec=", "class_names=", "foreign.json", "singleshot export"):
        assert word in line
    assert "input_spec=" in refused(without_description, class_names=["a", "b", "c"])
    ours = singleshot.load(exported("model.onnx"))
    for spec in (ours.input_spec, ours.input_spec.to_dict()):
        detector = singleshot.load(without_description, input_spec=spec, class_names=["x", "y", "z"])
        found, wanted = detector.detect(scene(), 0.5), ours.detect(scene(), 0.5)
        assert found.boxes.tolist() == wanted.boxes.tolist()
        assert set(found.names) <= set("xyz")
    few = singleshot.load(without_description, input_spec=ours.input_spec, class_names=["x"])
    with pytest.raises(CheckpointError, match="finds class 2, but 1 classes have a name"):
        few.detect(scene(), 0.0)


def test_the_description_in_a_file_beside_it(without_description, exported, scene) -> None:
    beside = without_description.with_suffix(".json")
    beside.write_text('{"somebody": "else"}')
    assert "has no description" in refused(without_description)
    beside.write_text(onnx_description(exported("model.onnx")))
    detector = singleshot.load(without_description)
    assert detector.class_names == ("ball", "box", "cone")
    values = json.loads(beside.read_text())
    beside.write_text(json.dumps({**values, "format": 5, "version": "3.0"}))
    line = refused(without_description)
    assert line.startswith(str(beside)) or str(beside)[-20:] in line
    assert "made by singleshot 3.0, which is newer" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorflow"}, "want one of openvino, onnxruntime, litert, torch, auto"),
        ({"engine": "torch"}, "torch runs checkpoints"),
        ({"threads": 0}, "threads 0"),
        ({"batch": 0}, "batch 0"),
        ({"precision": "double"}, "precision double"),
        ({"class_names": "abc"}, "want a list of names"),
        ({"class_names": []}, "want a list of names"),
        ({"input_spec": {"sides": 3}}, "unknown key sides"),
        ({"input_spec": 320}, "want an InputSpec"),
    ],
)
def test_wrong_options(options: dict, message: str, exported) -> None:
    assert message in refused(exported("model.onnx"), kind=ConfigError, **options)


def test_options_of_the_other_half(exported) -> None:
    checkpoint = exported("model.safetensors")
    assert "`singleshot export`" in refused(checkpoint, kind=ConfigError, engine="openvino")
    assert "for ONNX files" in refused(checkpoint, kind=ConfigError, class_names=["a"])
    assert "for ONNX files" in refused(checkpoint, kind=ConfigError, input_spec=InputSpec(160))
    assert "model.xml is for openvino" in refused(exported("model.xml"), kind=ConfigError, engine="onnxruntime")
    assert "an .onnx file" in refused(exported("model.xml"), "cuda", kind=ConfigError)
    assert "has its rule built in" in refused(exported("model.onnx"), kind=ConfigError, rule="caffe")


def test_files_that_are_not_there_or_not_models(exported, tmp_path) -> None:
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "no such file" in refused(tmp_path / "none.xml")
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.onnx")
    (tmp_path / "cut.onnx").write_bytes(exported("model.onnx").read_bytes()[:-2000])
    assert "cut short" in refused(tmp_path / "cut.onnx")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "' + "&a;" * 100 + '">]><net>' + "&b;" * 100 + "</net>"
    for number, text in enumerate(("", "<net>", "hello", bomb)):
        path = tmp_path / f"{number}.xml"
        path.write_text(text)
        assert "OpenVINO cannot run it" in refused(path)
    (tmp_path / "alone.xml").write_bytes(exported("model.xml").read_bytes())  # without its weights
    assert "OpenVINO cannot run it" in refused(tmp_path / "alone.xml")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("kind", "shape", "outputs", "message"),
    [
        ("FLOAT", ["N", 160, 160, 3], 4, r"takes .*want uint8 images \[N, 160, 160, 3\]"),
        ("UINT8", ["N", 3, 160, 160], 4, r"takes u8 \[\?, 3, 160, 160\], want uint8 images"),
        ("UINT8", ["N", 300, 300, 3], 4, r"takes u8 \[\?, 300, 300, 3\], want uint8 images \[N, 160"),
        ("UINT8", [160, 160, 3], 4, r"takes u8 \[160, 160, 3\], want uint8"),
        ("UINT8", ["N", 160, 160, 3], 2, "without labels, counts"),
    ],
)
def test_other_shapes(engine, kind, shape, outputs, message, exported, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    names = ["boxes", "scores", "labels", "counts"][:outputs]
    ends = [helper.make_tensor_value_info(n, getattr(TensorProto, kind), shape) for n in ("images", *names)]
    nodes = [helper.make_node("Identity", ["images"], [name]) for name in names]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = "singleshot", onnx_description(exported("model.onnx"))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=message) as caught:
        singleshot.load(tmp_path / "m.onnx", engine=engine)
    assert "\n" not in str(caught.value)


def test_a_raw_file_of_other_priors(exported, tmp_path, scene) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("raw.onnx"))
    values = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**values, "classes": ["one", "two"]})
    onnx.save(model, tmp_path / "m.onnx")
    detector = singleshot.load(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=r"gives offsets .* and logits .*, want .*3\]"):
        detector.detect(scene())


def test_names_of_any_letters(exported, tmp_path, scene) -> None:
    path = tmp_path / "mödel ✓ 模型.onnx"
    os.link(exported("model.onnx"), path)
    assert len(singleshot.load(path).detect(scene(), 0.0)) > 0
    assert len(singleshot.load(path, engine="onnxruntime").detect(scene(), 0.0)) > 0


def test_input_rule_of_the_caller(exported) -> None:
    spec = InputSpec(size=160, resize="letterbox")
    assert singleshot.load(exported("model.onnx"), input_spec=spec).input_spec.resize == "letterbox"
    assert "takes u8" in refused(exported("model.onnx"), input_spec=InputSpec(size=300))
