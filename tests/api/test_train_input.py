"""`train` with a size, a shape and one channel of its own, the whole way to exported files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import singleshot
from singleshot.errors import ConfigError
from singleshot.input_shape import as_grey, size_words
from singleshot.inputs import InputSpec
from singleshot.models import MODELS, build
from singleshot.weights.backbones import has_imagenet_weights, load_backbone
from singleshot.weights.checkpoint import ModelInfo, load_checkpoint, read_info, save_checkpoint
from singleshot.weights.initial_weights import start_from_checkpoint

FAST = {"batch": 4, "workers": 0, "tensorboard": False, "backbone_weights": "none", "precision": "float32"}


@pytest.fixture(scope="module")
def wide_grey(scenes: Path, tmp_path_factory) -> singleshot.Run:
    out = tmp_path_factory.mktemp("runs") / "wide"
    return singleshot.train(scenes, out=out, epochs=1, size=(96, 160), grey=True, **FAST)


def test_a_run_keeps_its_size_and_channel(wide_grey: singleshot.Run, tmp_path: Path) -> None:
    info = read_info(wide_grey.last)
    assert info.input_spec.shape == (96, 160, 1)
    assert info.input_spec == as_grey(info.input_spec)
    assert info.priors.grids == ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1))
    kept = json.loads((wide_grey.folder / "run.json").read_text())["options"]
    assert (kept["size"], kept["grey"]) == ("96x160", True)
    folder = tmp_path / "run"
    shutil.copytree(wide_grey.folder, folder)
    again = singleshot.train(out=folder, resume=True, epochs=2, size="96x160", grey=True, workers=0, tensorboard=False)
    assert read_info(again.last).input_spec == info.input_spec
    for changed in ({"size": 96}, {"size": "auto"}, {"grey": False}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changed))} cannot change in a run"):
            singleshot.train(out=folder, resume=True, **changed)


@pytest.mark.parametrize(
    "suffix", [".onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in (".xml", ".tflite"))]
)
def test_exported_files_find_what_the_checkpoint_finds(wide_grey: singleshot.Run, suffix: str, tmp_path: Path) -> None:
    to = {".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite"}[suffix]
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai_edge_litert"}[to])
    file = singleshot.export(wide_grey.last, out=tmp_path / f"m{suffix}", to=to)
    image = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    detector = singleshot.load(wide_grey.last, device="cpu")
    assert detector.engine.thresholds.box_voting is not None
    if to == "tflite":  # whose operator has none
        detector.engine.thresholds = replace(detector.engine.thresholds, box_voting=None)
    ours = detector.detect(image, score_min=0.02)
    for engine in ("openvino", "onnxruntime") if to == "onnx" else ("auto",):
        theirs = singleshot.load(file, engine=engine).detect(image, score_min=0.02)
        assert len(ours) > 0
        both = min(len(ours), len(theirs), 50)
        np.testing.assert_allclose(ours.scores[:both], theirs.scores[:both], atol=0.001)
        near = np.abs(ours.boxes[:both, None] - theirs.boxes[None]).max(axis=2).min(axis=1)
        assert near.max() < 0.5


def test_tiles_have_the_shape_of_the_input(wide_grey: singleshot.Run) -> None:
    detector = singleshot.load(wide_grey.last, device="cpu")
    seen: list[tuple[int, ...]] = []
    engine = detector.engine
    detector.engine = lambda squares, **given: seen.append(squares.shape) or engine(squares, **given)
    tiling = singleshot.Tiling(160, overlap=0.0)
    found = detector.detect(np.zeros((192, 320, 3), np.uint8), tile=tiling, score_min=0.0)
    assert seen == [(5, 96, 160, 1)]  # two by two, and the whole
    assert (found.boxes <= [320, 192, 320, 192]).all()
    assert tiling.windows(320, 192, shape=(96, 160))[1:] == [
        (0, 0, 160, 96), (160, 0, 320, 96), (0, 96, 160, 192), (160, 96, 320, 192),
    ]  # fmt: skip


def test_a_size_by_the_data(scenes: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="singleshot")
    run = singleshot.train(scenes, out=tmp_path / "run", epochs=1, size="auto", val_split="none", **FAST)
    (line,) = [message for message in caplog.messages if message.startswith("size auto")]
    sides = size_words(read_info(run.last).input_spec.sides)
    assert line.startswith(f"size auto: {sides} (height x width): ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": "200x400", "model": "ssd300-vgg16"}, "want 257 px or more each"),
        ({"size": 8}, "want 32 to 4096 pixels"),
        ({"size": "wide"}, "want 512, 288x512"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], says: str, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        singleshot.train(scenes, out=tmp_path / "run", epochs=1, **{**FAST, **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ weights to start from


def as_three(images: torch.Tensor) -> torch.Tensor:
    return images.expand(-1, 3, -1, -1)


def test_a_start_takes_another_shape_and_one_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat = InputSpec(96, mean=(110.0,) * 3, std=(58.0,) * 3, colour_order="bgr")  # equal, so that the sum is exact
    old = build("ssd320-mini", 2, input_spec=flat).eval()
    path = tmp_path / "old.safetensors"
    save_checkpoint(path, old.state_dict(), ModelInfo.of(old, ("a", "b")))

    def shaped(spec: InputSpec, network) -> InputSpec:
        assert network().prior_spec == old.prior_spec
        return InputSpec(height=64, width=160, channels=1, mean=(110.0,), std=(58.0,))

    new, *_ = start_from_checkpoint(str(path), ("a", "b"), choose_input=shaped)
    assert new.input_spec.shape == (64, 160, 1)
    assert new.prior_spec == build("ssd320-mini", 2, input_spec=new.input_spec).prior_spec
    images = torch.randint(0, 256, (2, 1, 64, 160), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        grey, colour = new.eval()(images), old(as_three(images))
    for a, b in zip(grey, colour, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_grey_start_stays_grey(wide_grey: singleshot.Run, scenes: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in FAST.items() if key != "backbone_weights"}
    started = {"start": wide_grey.last, "epochs": 1, "val_split": "none", **options}
    run = singleshot.train(scenes, out=tmp_path / "run", size=64, **started)
    assert read_info(run.last).input_spec.shape == (64, 64, 1)
    with pytest.raises(ConfigError, match="takes one channel"):
        singleshot.train(scenes, out=tmp_path / "other", grey=False, **started)


@pytest.mark.parametrize("name", ["ssd300-vgg16", "ssd300-vgg16-bn", "ssdlite320-mobilenetv2", "ssd320-lite0"])
def test_backbone_weights_for_colours_are_summed_for_one_channel(name: str, tmp_path: Path) -> None:
    """On a grey picture the backbone sees in one channel what it sees in three, but for the means of the colours."""
    own = MODELS[name].input_spec
    sides = {"height": 257, "width": 257} if "vgg" in name else {"height": 64, "width": 96}
    colour = InputSpec(**sides, mean=(117.0,) * 3, std=own.std)
    torch.manual_seed(0)
    source = build(name, 1, input_spec=colour)
    save_checkpoint(tmp_path / "m.safetensors", source.state_dict(), ModelInfo.of(source, ("a",)))
    grey = build(name, 1, input_spec=as_grey(colour))
    load_backbone(grey, tmp_path / "m.safetensors")
    images = torch.randint(0, 256, (1, 1, *colour.sides), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for model in (grey, source):
            model.eval()
        found, wanted = (m.backbone((x - m.mean) / m.std) for m, x in ((grey, images), (source, as_three(images))))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-3 * b.abs().max()
    assert has_imagenet_weights(grey) == has_imagenet_weights(source)


def test_colours_are_not_made_of_one_channel(tmp_path: Path) -> None:
    grey = build("ssdlite320-mobilenetv2", 1, input_spec=InputSpec(64, channels=1))
    save_checkpoint(tmp_path / "m.safetensors", grey.state_dict(), ModelInfo.of(grey, ("a",)))
    with pytest.raises(singleshot.errors.CheckpointError, match="sees 1 channels, not 3"):
        load_backbone(build("ssdlite320-mobilenetv2", 1), tmp_path / "m.safetensors")
    assert load_checkpoint(tmp_path / "m.safetensors")[0].input_spec.channels == 1


def test_torchvisions_file_fills_one_channel(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    theirs = mobilenet_v2(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "mobilenet_v2.pth")
    model = build("ssdlite320-mobilenetv2", 1, input_spec=InputSpec(64, channels=1, std=(1.0,)))
    load_backbone(model, tmp_path / "mobilenet_v2.pth")
    weight, wanted = model.backbone.features[0][0].weight, theirs.features[0][0].weight
    std = torch.tensor((58.395, 57.12, 57.375)).view(1, 3, 1, 1)
    assert torch.allclose(weight, (wanted / std).sum(1, keepdim=True), atol=1e-6)
