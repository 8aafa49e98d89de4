"""Exported networks whose input is not square, or grey, give the model's boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import singleshot
from singleshot.deploy.check_images import check_pictures
from singleshot.deploy.export import Form, export_model
from singleshot.deploy.parity import compare, compare_raw
from singleshot.deploy.state_dicts import to_amdegroot, to_torchvision
from singleshot.errors import ConfigError
from singleshot.evaluation.torch_engine import TorchEngine
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build, build_on
from singleshot.priors import PRIORS
from singleshot.runtime.detector import Detector
from singleshot.scenes.scenes import make_scene
from singleshot.weights.checkpoint import ModelInfo

CLASSES = ("cross", "leaf")
WIDE = InputSpec(height=96, width=160, std=(58.0,) * 3)


class Tiny(nn.Module):
    """Maps at strides 8 and 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(channels, 16, 8, 8), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(16, 24, 2, 2), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        low = self.low(x)
        return [low, self.high(low)]


def net(spec: InputSpec) -> tuple[SSD, ModelInfo]:
    torch.manual_seed(1)
    model = build_on(Tiny(spec.channels), len(CLASSES), spec, lite=False, extra_channels=(32,)).eval()
    return model, ModelInfo.of(model, CLASSES)


@pytest.mark.parametrize(
    ("spec", "to"),
    [
        (WIDE, "onnx"),
        (WIDE, "openvino"),
        (InputSpec(height=160, width=96, resize="letterbox", channels=1, std=(58.0,)), "onnx"),
    ],
    ids=["wide", "wide for openvino", "tall and grey"],
)
def test_engines_agree_with_pytorch(spec: InputSpec, to: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    model, info = net(spec)
    images = check_pictures(None, model)[:3]
    assert images.shape == (3, *spec.shape)
    out = tmp_path / ("m.onnx" if to == "onnx" else "m.xml")
    exported = export_model(model, info, out, images, Form(to=to))
    found = {row.speed.engine: row.agreement for row in exported.rows[1:]}
    assert "openvino" in found
    for agreement in found.values():
        assert agreement.good()
        assert agreement.boxes > 0
        assert agreement.box_px < 0.01
    if to == "onnx":  # normalised before the turn to channels first, whatever the shape
        nodes = onnx.load(out).graph.node
        assert [node.op_type for node in nodes if "images" in node.input] == ["Cast"]
    # The whole way, in pixels of an image.
    image = make_scene(0, "test", 1)[0][:, :200]
    engine = TorchEngine(model, info.thresholds, torch.device("cpu"))
    ours = Detector(engine, spec, CLASSES, score_min=0.0).detect(image)
    theirs = singleshot.load(out, engine="openvino").detect(image, score_min=0.0)
    assert len(ours.boxes) == len(theirs.boxes) > 0
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=-1).min(axis=1).max() < 0.05


def test_differences_are_measured_along_each_side() -> None:
    model, info = net(WIDE)
    images = check_pictures(None, model)[:1]
    engine = TorchEngine(model, info.thresholds, torch.device("cpu"))
    for x, y in ((0.4, 0.4), (0.6, 0.0), (0.0, 0.6)):
        step = np.array([x / 160, y / 96] * 2, np.float32)
        found = compare(
            model, info, lambda some, step=step: [r._replace(boxes=r.boxes + step) for r in engine(some)], images
        )
        assert found.good() == (max(x, y) < 0.5)

    def raw(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = engine.forward(torch.from_numpy(some).permute(0, 3, 1, 2))
        wide = model.priors[:, 2] * model.prior_spec.variances[0]
        found.offsets[..., 0] += 0.6 / 160 / wide  # every box 0.6 px to the right
        return found.offsets.detach().numpy(), found.logits.detach().numpy()

    with torch.inference_mode():
        assert compare_raw(model, info, raw, images).box_px == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("export", [to_torchvision, to_amdegroot])
@pytest.mark.parametrize(
    ("change", "says"),
    [({"height": 300, "width": 332}, r"of 300 x 332 px: .* SSD300"), ({"channels": 1}, r"of 300 px, grey: .* SSD300")],
)
def test_other_projects_take_squares_in_colour(export, change: dict[str, int], says: str) -> None:
    spec = InputSpec(**change)
    priors = PRIORS["ssd300-voc"]
    if spec.width != 300:
        priors = replace(priors, image_size=spec.sides, maps=((38, 42), (19, 21), (10, 11), (5, 6), (3, 4), (1, 2)))
    with torch.device("meta"):
        model = build("ssd300-vgg16", 2, priors, spec)
    with pytest.raises(ConfigError, match=says) as caught:
        export(model)
    assert "\n" not in str(caught.value)
