"""Presets: a new one is a module and a row; files written before a model had a neck load as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import singleshot.models
from singleshot.inputs import InputSpec
from singleshot.losses import multibox_loss
from singleshot.matching import match
from singleshot.models import MODELS, SSD, build
from singleshot.presets import Preset
from singleshot.priors import PRIORS
from singleshot.weights.checkpoint import KEY, ModelInfo, load_checkpoint, save_checkpoint

CLASSES = ("cat", "dog", "emu")
# Of every preset's state dict before the plain neck was a module: "layer: part part ..".
NAMES: dict[str, list[str]] = json.loads((Path(__file__).parent / "state_dict_names.json").read_text())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy backbone as if its file lay in `singleshot/models` and its row stood in MODELS."""
    monkeypatch.setattr(singleshot.models, "__path__", [*singleshot.models.__path__, str(Path(__file__).parent)])
    monkeypatch.setitem(MODELS, "toy", Preset("for the test", "ssdlite320", InputSpec(320), "toy_backbone"))
    yield "toy"
    sys.modules.pop("singleshot.models.toy_backbone", None)


def names(preset: str) -> list[str]:
    rows = [row.partition(": ") for row in NAMES[preset]]
    return [f"{layer}.{part}" for layer, _, parts in rows for part in parts.split()]


def outputs(model: SSD, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(model.eval()(images))


def test_a_new_backbone_is_a_module_and_a_row(toy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(toy, len(CLASSES))
    images = torch.randint(0, 256, (2, 3, 320, 320), dtype=torch.uint8)
    # It trains,
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.6]], [[0.4, 0.3, 0.9, 0.9]]])
    targets = match(model.priors, boxes, torch.tensor([[0], [2]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = multibox_loss(model(images), targets).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    # is saved and loaded by its name,
    info = ModelInfo.of(model, CLASSES)
    save_checkpoint(tmp_path / "toy.safetensors", model.state_dict(), info)
    again, found = load_checkpoint(tmp_path / "toy.safetensors")
    assert (again.name, found.model, found.class_names) == ("toy", "toy", CLASSES)
    wanted = outputs(model, images)
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, images), wanted, strict=True))
    # and exported.
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    from singleshot.deploy.onnx_file import detector_model

    proto = detector_model(again, found, raw=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(["offsets", "logits"], {"images": images.permute(0, 2, 3, 1).numpy()})
    for a, b in zip(got, wanted, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-5 * float(b.abs().max())


def test_every_row_names_a_module_and_a_table() -> None:
    for name, preset in MODELS.items():
        assert (Path(singleshot.models.__path__[0]) / f"{preset.network}.py").is_file(), name
        assert PRIORS[preset.priors].image == preset.input_spec.sides, name


@pytest.mark.parametrize("name", list(NAMES))
def test_state_dicts_keep_the_names_of_earlier_files(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3)
    assert list(model.state_dict()) == names(name)
    # Inside, the same tensors in the same order: an optimizer's state goes by it.
    inside = [key.removeprefix("neck.") for key, _ in model.named_parameters()]
    assert inside == [key for key in model.state_dict() if key in set(inside)]


@pytest.mark.parametrize("name", ["ssd300-vgg16", "ssd300-mobilenetv2", "ssd320-mini"])
def test_an_earlier_file_gives_what_it_gave(name: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = build(name, 3).eval()
    earlier = set(names(name))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(state) == earlier
    save_file(state, tmp_path / "m.safetensors", metadata={KEY: ModelInfo.of(model, CLASSES).to_json()})
    again, _ = load_checkpoint(tmp_path / "m.safetensors")
    images = torch.randint(0, 256, (1, 3, *model.input_spec.sides), dtype=torch.uint8)
    with torch.inference_mode():
        # As SSD.feature_maps was when norms and extras were its own.
        maps = list(again.backbone((images.float() - again.mean) / again.std))
        last = maps[-1]
        for i, norm in enumerate(again.neck.norms):
            maps[i] = norm(maps[i])
        for extra in again.neck.extras:
            last = extra(last)
            maps.append(last)
        wanted = again.predict(maps)
    for other in (model, again):
        assert all(torch.equal(a, b) for a, b in zip(outputs(other, images), wanted, strict=True))


def test_files_have_the_names_of_earlier_files_too(tmp_path: Path) -> None:
    model = build("ssdlite320-mobilenetv2", 3)
    save_checkpoint(tmp_path / "m.safetensors", model.state_dict(), ModelInfo.of(model, CLASSES))
    assert not [key for key in load_file(tmp_path / "m.safetensors") if key.startswith("neck")]


def test_a_neck_of_ones_own_keeps_its_name() -> None:
    class TopDown(torch.nn.Module):
        """Adds each map, enlarged, to the one before it."""

        def __init__(self, widths: list[int]) -> None:
            super().__init__()
            self.lateral = torch.nn.ModuleList(torch.nn.Conv2d(width, 32, 1) for width in widths)

        def forward(self, sources: list[torch.Tensor]) -> list[torch.Tensor]:
            maps = [conv(source) for conv, source in zip(self.lateral, sources, strict=True)]
            for i in range(len(maps) - 2, -1, -1):
                maps[i] = maps[i] + torch.nn.functional.interpolate(maps[i + 1], size=maps[i].shape[-2:])
            return maps

    from singleshot.models.heads import make_heads
    from singleshot.models.mini import MiniNet
    from singleshot.priors import sized_for

    spec = sized_for([40, 20, 10], 320)
    heads = make_heads([32] * 3, spec, 3, ["conv"] * 3)
    model = SSD(MiniNet(), TopDown([96, 192, 256]), heads, spec, InputSpec(320), 3).eval()
    assert "neck.lateral.0.weight" in model.state_dict()
    model.load_state_dict(model.state_dict())
    assert outputs(model, torch.zeros(1, 3, 320, 320))[0].shape == (1, spec.count, 4)
