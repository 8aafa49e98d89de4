"""Earlier opsets and a fixed number of images: the same outputs, and OpenCV's dnn takes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from singleshot.api.export import ExportOptions
from singleshot.deploy import export
from singleshot.deploy.export import Form, export_model
from singleshot.deploy.onnx_file import attach_postprocess
from singleshot.deploy.onnx_network import network_model
from singleshot.deploy.onnx_opset import OPSETS, fix_batch, to_opset
from singleshot.deploy.parity import compare
from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build_on
from singleshot.models.blocks import L2Norm
from singleshot.runtime.engines.table import EngineOptions, open_engine
from singleshot.thresholds import NO_CAP, Thresholds
from singleshot.weights.checkpoint import ModelInfo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

CLASSES = ("cross", "leaf")


class Layers(nn.Module):
    """Two maps, by layers that the opsets write differently or that OpenCV might not take."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, 2, groups=16), nn.ReLU6(), nn.MaxPool2d(2, ceil_mode=True))
        self.norm = L2Norm(16)
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(16, 24, 3, padding=2, dilation=2), nn.SiLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        x = self.depth(nn.functional.pad(x * self.gate(x), (0, 1, 0, 1)))  # TensorFlow's SAME
        return [self.norm(x), self.last(x)]


class Net(NamedTuple):
    """A model, its raw network as ONNX (not to be changed), and images uint8 [3, H, W, 3]."""

    model: SSD
    info: ModelInfo
    network: Any
    images: np.ndarray

    def write(self, path: Path, opset: int, raw: bool = True, rules: Thresholds | None = None, **form: Any) -> Path:
        info = ModelInfo.of(self.model, CLASSES, thresholds=rules)
        proto = attach_postprocess(copy.deepcopy(self.network), self.model, info, raw, **form)
        to_opset(proto, opset)
        fix_batch(proto, 1)
        onnx.checker.check_model(proto, full_check=True)
        assert [(one.domain, one.version) for one in proto.opset_import] == [("", opset)]
        path.write_bytes(proto.SerializeToString())
        return path


def _net(height: int, width: int) -> Net:
    torch.manual_seed(1)
    spec = InputSpec(height=height, width=width, std=(58.0,) * 3, colour_order="bgr")
    model = build_on(Layers(), len(CLASSES), spec, extra_channels=(32,)).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, *spec.shape), np.uint8)
    return Net(model, ModelInfo.of(model, CLASSES), network_model(model), images)


@pytest.fixture(scope="module")
def nets() -> dict[str, Net]:
    return {"square": _net(64, 64), "wide": _net(48, 80)}


def raw_of(net: Net, images: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [values.numpy() for values in net.model(torch.from_numpy(images).permute(0, 3, 1, 2))]


def by_opencv(path: Path, images: np.ndarray, engine: int | None) -> list[np.ndarray]:
    network = cv2.dnn.readNetFromONNX(str(path), **({} if engine is None else {"engine": engine}))
    network.setInput(images, "images")
    return list(network.forward(["offsets", "logits"]))


# OpenCV 4's importer is the classic one of 5, which takes floats as well.
OPENCV = [None, "ENGINE_CLASSIC"] if hasattr(cv2.dnn, "ENGINE_CLASSIC") else [None]


@pytest.mark.parametrize("shape", ["square", "wide"])
@pytest.mark.parametrize("opset", [11, 12, 17])
def test_opencv_gives_the_raw_outputs(nets, opset: int, shape: str, tmp_path: Path) -> None:
    net = nets[shape]
    path, images = net.write(tmp_path / "m.onnx", opset), net.images[:1]
    wanted = raw_of(net, images)
    for name in OPENCV:
        engine = None if name is None else getattr(cv2.dnn, name)
        for given in (images, images.astype(np.float32)) if name or len(OPENCV) == 1 else (images,):
            for one, other in zip(by_opencv(path, given, engine), wanted, strict=True):
                assert one.shape == other.shape
                assert np.abs(one - other).max() < 1e-4
    assert max(np.abs(values).max() for values in wanted) > 0.1  # else it would say little


@pytest.mark.parametrize("opset", [12, 13, 14, 17])
def test_detections_in_earlier_opsets(nets, opset: int, tmp_path: Path) -> None:
    net = nets["square"]
    rules = {
        12: Thresholds(per_class=40, score_min=0.0001),
        13: Thresholds(class_agnostic=True),
        14: Thresholds(keep=NO_CAP, per_class=NO_CAP),
        17: Thresholds(candidates=60, score_min=0.0001),
    }[opset]
    engine = open_engine("onnxruntime", net.write(tmp_path / "m.onnx", opset, False, rules), EngineOptions(threads=1))
    agreement = compare(net.model, ModelInfo.of(net.model, CLASSES, rules), engine, net.images)
    assert agreement.good()
    assert agreement.boxes > 0


@pytest.mark.parametrize("opset", OPSETS)
def test_raw_outputs_in_every_opset(nets, opset: int, tmp_path: Path) -> None:
    net = nets["wide"]
    engine = open_engine("onnxruntime", net.write(tmp_path / "m.onnx", opset), EngineOptions(threads=1))
    assert engine.input_shape[0] == 1
    found = engine.outputs(net.images)  # one at a time
    for name, wanted in zip(("offsets", "logits"), raw_of(net, net.images), strict=True):
        assert np.abs(found[name] - wanted).max() < 1e-4


def test_the_whole_way(nets, tmp_path: Path, monkeypatch) -> None:
    net = nets["square"]
    monkeypatch.setattr(export, "network_model", lambda model: copy.deepcopy(net.network))
    done = export_model(net.model, net.info, tmp_path / "m.onnx", net.images, Form(opset=12, batch=2))
    assert all(row.agreement is not None and row.agreement.good() for row in done.rows[1:])
    proto = onnx.load(tmp_path / "m.onnx")
    assert (proto.opset_import[0].version, proto.ir_version) == (12, 7)
    assert {value.type.tensor_type.shape.dim[0].dim_value for value in (*proto.graph.input, *proto.graph.output)} == {2}
    export_model(net.model, net.info, tmp_path / "m.xml", net.images, Form("openvino", batch=2))
    assert open_engine("openvino", tmp_path / "m.xml").input_shape[0] == 2


def test_a_wrong_opset_or_batch_is_refused(nets, tmp_path: Path) -> None:
    for form, says in (
        (Form(opset=10, raw=True), "--opset 10: want 11 to 18"),
        (Form(opset=19), "--opset 19: want 11 to 18"),
        (Form(opset=11), "--opset 11: decoding and NMS want 12 or more; add --raw"),
        (Form("openvino", opset=12), "--opset: goes with --to onnx"),
        (Form("torch", raw=True, opset=12), "--opset: goes with --to onnx"),
    ):
        with pytest.raises(ConfigError, match=says):
            form.check()
    for options, says in (
        ({"opset": 12, "int8": "data"}, "--opset 12: weights in int8 by channel want 13 or more"),
        ({"opset": 12, "to": "torchvision"}, "--opset has no meaning"),
        ({"batch": 2, "to": "amdegroot"}, "--batch has no meaning"),
        ({"batch": 0}, "--batch"),
    ):
        with pytest.raises(ConfigError, match=says):
            ExportOptions("m.safetensors", **options)
    proto = copy.deepcopy(nets["wide"].network)
    proto.graph.node[-1].CopyFrom(onnx.helper.make_node("Mish", ["view_2"], ["logits"]))  # came with 18
    with pytest.raises(ConfigError, match=r"--opset 12: this network cannot be written in it \(.*Mish.*\); want 18"):
        to_opset(proto, 12)
