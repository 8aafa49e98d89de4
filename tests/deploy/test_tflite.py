"""TensorFlow Lite files: LiteRT finds what PyTorch finds; in int8 nearly; what cannot be said is refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import singleshot
from singleshot.api.export import ExportOptions, run_export
from singleshot.deploy import export
from singleshot.deploy import tflite_int8 as q
from singleshot.deploy.export import Form, export_model
from singleshot.deploy.onnx_network import tail_model
from singleshot.deploy.parity import compare
from singleshot.deploy.tflite_file import QuantisedTFLite, tflite_file
from singleshot.deploy.tflite_tensors import Int8
from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec, to_square
from singleshot.models import SSD, build_on
from singleshot.models.blocks import L2Norm
from singleshot.pretrained import PretrainedWeights
from singleshot.runtime.engines.table import engines_of, open_engine
from singleshot.runtime.model_file import tflite_description
from singleshot.scenes.scenes import make_scene
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.checkpoint import ModelInfo
from singleshot.weights.open_model import open_model

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

CLASSES = ("cross", "leaf\nof a tree")


class Layers(nn.Module):
    """Two maps, by every layer that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, 2, groups=16), nn.ReLU6(), nn.MaxPool2d(2, ceil_mode=True))
        self.norm = L2Norm(16)
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(32, 24, 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        x = self.depth(nn.functional.pad(x * self.gate(x), (0, 1, 0, 1)))
        small = nn.functional.interpolate(nn.functional.max_pool2d(x, 2), scale_factor=2)
        x = torch.cat([x + small, self.wide(x)], dim=1)
        return [torch.cat([self.norm(small), x], dim=1), self.last(x)]


class Net(NamedTuple):
    """A model, what comes behind its normalisation as ONNX (not to be changed), and images uint8 [2, H, W, 3]."""

    model: SSD
    tail: Any
    images: np.ndarray

    def write(self, path: Path, rules: Thresholds, raw: bool = False, int8: Int8 | None = None) -> ModelInfo:
        info = ModelInfo.of(self.model, CLASSES, thresholds=rules)
        path.write_bytes(tflite_file(QuantisedTFLite(self.tail, int8), self.model, info, raw))
        return info


def _net(height: int, width: int, colours: str) -> Net:
    torch.manual_seed(1)
    spec = InputSpec(height=height, width=width, std=(58.0, 57.0, 59.0), colour_order=colours)
    model = build_on(Layers(), len(CLASSES), spec, extra_channels=(32,)).eval()
    images = np.stack([to_square(make_scene(0, "test", i)[0], spec)[0] for i in range(2)])
    return Net(model, tail_model(model), images)


@pytest.fixture(scope="module")
def square() -> Net:
    return _net(64, 64, "bgr")


@pytest.fixture(scope="module")
def wide() -> Net:
    return _net(64, 96, "rgb")


def raw_of(net: Net) -> list[np.ndarray]:
    with torch.inference_mode():
        return [values.numpy() for values in net.model(torch.from_numpy(net.images).permute(0, 3, 1, 2))]


RULES = {
    "caffe": Thresholds(),
    "cap of each class": Thresholds(per_class=40, score_min=0.0001),
    "kept of each class": Thresholds(keep_per_class=3, per_class=NO_CAP),
    "sigmoid": Thresholds(activation="sigmoid", keep=50),
    "over all classes": Thresholds(class_agnostic=True, background_competes=False),
    "no cap": Thresholds(per_class=NO_CAP, keep=NO_CAP, score_min=0.45),
    "nothing found": Thresholds(score_min=0.999),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_litert_finds_what_pytorch_finds(square, wide, rules: Thresholds, tmp_path: Path) -> None:
    for net in (square, wide) if rules.per_class == 40 else (wide,):
        info = net.write(tmp_path / "m.tflite", rules)
        found = compare(net.model, info, open_engine("litert", tmp_path / "m.tflite"), net.images)
        assert found.good()
        assert found.box_px < 1e-3
        assert found.score < 1e-4
        assert (found.boxes > 0) == (rules.score_min < 0.9)


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_raw_outputs(shape: str, request, tmp_path: Path) -> None:
    net = request.getfixturevalue(shape)
    net.write(tmp_path / "m.tflite", Thresholds(), raw=True)
    found = open_engine("litert", tmp_path / "m.tflite").outputs(net.images)
    for name, wanted in zip(("offsets", "logits"), raw_of(net), strict=True):
        assert np.abs(found[name] - wanted).max() < 1e-4


def test_names_and_description_are_in_the_file(square, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    info = square.write(path, Thresholds(keep=50))
    found = ModelInfo.from_json(str(tflite_description(path)), "m")
    assert (found.class_names, found.input_spec, found.outputs) == (CLASSES, info.input_spec, "detections")
    assert found.thresholds == info.thresholds
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.read("labelmap.txt").decode().splitlines() == ["cross", "leaf of a tree"]
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.schema_py_generated import Model

    outputs = [(o["name"], o["shape"].tolist()) for o in Interpreter(str(path)).get_output_details()]
    assert outputs == [("boxes", [1, 50, 4]), ("classes", [1, 50]), ("scores", [1, 50]), ("count", [1])]
    model = Model.GetRootAs(path.read_bytes())
    stored = {model.Metadata(i).Name().decode(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    assert set(stored) == {"singleshot", "TFLITE_METADATA"}
    metadata = model.Buffers(stored["TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert metadata[4:8] == b"M001"
    for words in (b"labelmap.txt", b"location", b"category", b"score", b"number of detections", b"image"):
        assert words in metadata
    # Constants lie at multiples of 16, as the schema wants.
    data = path.read_bytes()
    start, model = np.frombuffer(data, np.uint8).ctypes.data, Model.GetRootAs(data)
    places = [model.Buffers(i).DataAsNumpy() for i in range(1, model.BuffersLength())]
    assert {(values.ctypes.data - start) % 16 for values in places} == {0}


def test_a_detector_runs_the_file(wide, tmp_path: Path) -> None:
    info = wide.write(tmp_path / "m.tflite", Thresholds(keep=20))
    assert engines_of(tmp_path / "m.tflite") == ("litert",)
    image = make_scene(0, "test", 1)[0]
    found = singleshot.load(tmp_path / "m.tflite").detect(image, score_min=0.0)
    assert 0 < len(found.boxes) <= 20
    assert set(found.names) <= set(info.class_names)
    (tmp_path / "other.tflite").write_bytes(b"\x00\x00\x00\x00TFL3")
    assert engines_of(tmp_path / "other.tflite") == ("torch",)  # another project's: imported


@pytest.fixture(scope="module")
def grey() -> Net:
    torch.manual_seed(1)
    spec = InputSpec(height=64, width=96, std=(58.0,), channels=1)
    layers = nn.Sequential(nn.Conv2d(1, 16, 4, 4), nn.ReLU6(), L2Norm(16), nn.Conv2d(16, 16, 3, 2, 1), nn.Hardswish())
    model = build_on(layers, len(CLASSES), spec, lite=False, extra_channels=(24,)).eval()
    images = np.stack([to_square(make_scene(0, "test", i)[0], spec)[0] for i in range(2)])
    model.pretrained = PretrainedWeights("a backbone", "a package 1.0", "Apache-2.0")
    return Net(model, tail_model(model), images)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_import_reads_the_file_back(int8: bool, grey: Net, tmp_path: Path) -> None:
    net, spec = grey, grey.model.input_spec
    ranges = q.map_ranges(net.tail, list(net.images), spec)
    info = net.write(tmp_path / "m.tflite", Thresholds(per_class=40), int8=Int8(ranges) if int8 else None)
    found, read = open_model(tmp_path / "m.tflite")
    assert (read.class_names, read.thresholds, read.prior_spec) == (info.class_names, info.thresholds, info.prior_spec)
    assert (read.input_spec, read.pretrained) == (spec, net.model.pretrained)
    assert ("float" in read.training["imported"]) != int8
    for one, other in zip(raw_of(net._replace(model=found)), raw_of(net), strict=True):
        assert np.abs(one - other).max() < (0.3 if int8 else 1e-4) * other.std()


def test_a_damaged_description_is_none(square, tmp_path: Path) -> None:
    square.write(tmp_path / "m.tflite", Thresholds())
    data = bytearray((tmp_path / "m.tflite").read_bytes())
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        at = int(random.integers(0, 64))
        broken[at : at + 4] = struct.pack("<I", int(random.integers(0, 2**32)))
        (tmp_path / "m.tflite").write_bytes(broken)
        text = tflite_description(tmp_path / "m.tflite")
        assert text is None or isinstance(text, str)


# -------------------------------------------------------------------------------------------------------------- int8


def test_int8_is_near(square, wide, tmp_path: Path) -> None:
    """Of untrained networks: raw outputs differ by 3 % of their spread on average."""
    for net in (square, wide):
        ranges = q.map_ranges(net.tail, list(net.images), net.model.input_spec)
        layers = q.float_layers(net.tail)
        assert len(layers) > 20
        errors = []
        for floats in (frozenset(), frozenset(layers.values())):
            net.write(tmp_path / "m.tflite", Thresholds(), True, Int8(ranges, floats))
            found = open_engine("litert", tmp_path / "m.tflite").outputs(net.images)
            gaps = [
                np.abs(found[n] - w).mean() / w.std() for n, w in zip(("offsets", "logits"), raw_of(net), strict=True)
            ]
            errors.append(max(gaps))
        assert errors[0] < 0.03
        assert errors[1] < 0.3 * errors[0]  # the image itself is rounded always
    from ai_edge_litert.interpreter import Interpreter

    square.write(
        tmp_path / "m.tflite",
        Thresholds(),
        False,
        Int8(q.map_ranges(square.tail, list(square.images), square.model.input_spec)),
    )
    network = Interpreter(str(tmp_path / "m.tflite"))
    image = network.get_input_details()[0]
    assert image["dtype"] is np.uint8
    assert image["quantization"] == (1.0, 0)
    kinds = [one["dtype"] for one in network.get_tensor_details() if one["name"].endswith("/weight")]
    assert set(kinds) == {np.int8}
    assert json.loads(str(tflite_description(tmp_path / "m.tflite")))["precision"] == "int8"


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (Thresholds(clip=True), "clips boxes before NMS"),
        (Thresholds(candidates=60), "caps what enters NMS at 60"),
        (Thresholds(best_class=True), "best class alone"),
        (Thresholds(class_agnostic=True), "background win"),
    ],
)
def test_thresholds_that_the_operator_has_not(square, rules: Thresholds, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*export with --raw"):
        square.write(tmp_path / "m.tflite", rules)
    square.write(tmp_path / "m.tflite", rules, raw=True)


def test_box_voting_is_left_out_and_said(square, tmp_path: Path, monkeypatch) -> None:
    info, lines = ModelInfo.of(square.model, CLASSES, thresholds=Thresholds(box_voting=0.5)), list[str]()
    monkeypatch.setattr("singleshot.weights.open_model.open_model", lambda path: (square.model, info))
    done = run_export(ExportOptions("m.safetensors", to="tflite", out=str(tmp_path / "m.tflite")), lines.append)
    assert [line for line in lines if "box voting" in line]
    assert done.info.thresholds == Thresholds()
    written = ModelInfo.from_json(str(tflite_description(done.files[0])), "m")
    assert written.thresholds == Thresholds()


def test_other_layers_are_named(square, tmp_path: Path) -> None:
    import copy

    tail = copy.deepcopy(square.tail)
    next(node for node in tail.graph.node if node.op_type == "HardSwish").op_type = "Erf"
    with pytest.raises(ConfigError, match="the network has Erf, which is not written; want one of Add, "):
        square._replace(tail=tail).write(tmp_path / "m.tflite", Thresholds())


def test_the_whole_way_and_its_options(square, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(export, "tail_model", lambda model: square.tail)
    info = ModelInfo.of(square.model, CLASSES)
    done = export_model(square.model, info, tmp_path / "m.tflite", square.images, Form("tflite", batch=1))
    assert [row.speed.engine for row in done.rows] == ["pytorch", "litert"]
    assert done.rows[1].agreement is not None
    assert done.rows[1].agreement.good()
    for form, says in (
        (Form("tflite", batch=2), "takes one image"),
        (Form("tflite", opset=12), "--opset: goes with --to onnx"),
        (Form("tflite", half=True), "--half: goes with --to openvino"),
        (Form("tflite", tensorrt_compatible=True), "--tensorrt: goes with --to onnx"),
    ):
        with pytest.raises(ConfigError, match=says):
            form.check()
    assert ExportOptions("m.safetensors", to="tflite", int8="data").path == Path("m-int8.tflite")
