"""Confidence outputs taken over by the name of their class, whatever its position."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from singleshot.errors import ConfigError
from singleshot.model_info import ModelInfo
from singleshot.models import build
from singleshot.presets import MODELS
from singleshot.thresholds import Thresholds
from singleshot.weights.checkpoint import save_checkpoint
from singleshot.weights.class_names import COCO, VOC
from singleshot.weights.class_rows import boxes_by_class_tensor, describe_match, match_classes
from singleshot.weights.initial_weights import start_from_checkpoint

OLD, NEW = ("bus", "car", "dog"), ("auto", "dog", "bus", "cat")


def saved(folder: Path, name: str, class_names: tuple[str, ...] = OLD) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(3)
    model = build(name, len(class_names)).eval()
    for key, value in model.state_dict().items():  # running statistics and biases that differ from fresh ones
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=torch.Generator().manual_seed(len(key))), alpha=0.01)
    path = folder / "old.safetensors"
    save_checkpoint(path, model.state_dict(), ModelInfo.of(model, class_names))
    return path, model


@pytest.mark.parametrize(
    "name", ["ssd320-mini", "ssdlite320-mobilenetv2", pytest.param("ssd300-vgg16", marks=pytest.mark.slow)]
)
def test_a_class_predicts_as_before_under_its_name_and_the_background_too(name: str, tmp_path: Path) -> None:
    path, old = saved(tmp_path, name)
    new, words, kept = start_from_checkpoint(str(path), NEW)
    images = torch.randint(0, 256, (1, 3, *old.input_spec.sides), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = old(images), new.eval()(images)
    assert torch.allclose(before.offsets, after.offsets, atol=1e-5)
    assert torch.allclose(before.logits[..., [0, 1, 3]], after.logits[..., [0, 3, 2]], atol=1e-5)
    for new_class in (1, 4):  # a hundredth of the background's probability, wherever that is
        assert torch.allclose(before.logits[..., 0] - math.log(100), after.logits[..., new_class], atol=1e-4)
    assert kept and "2 of 4 classes new" in words


def test_a_sigmoid_networks_scores_survive_under_the_softmax(tmp_path: Path) -> None:
    path, old = saved(tmp_path, "ssd320-mini")
    info = ModelInfo.of(old, OLD, Thresholds(activation="sigmoid"))
    save_checkpoint(path, old.state_dict(), info)
    new, *_ = start_from_checkpoint(str(path), OLD)
    images = torch.randint(0, 256, (1, 3, *old.input_spec.sides), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = old(images).logits, new.eval()(images).logits
    assert after[..., 0].abs().max() == 0 < before[..., 0].abs().max()
    assert torch.allclose(before[..., 1:], after[..., 1:], atol=1e-5)
    one = torch.tensor([0.0, 4.0, -9.0, -9.0])
    assert one.softmax(0)[1] == pytest.approx(float(one[1].sigmoid()), abs=1e-4)


def test_the_same_classes_in_another_order_lose_nothing(tmp_path: Path) -> None:
    path, old = saved(tmp_path, "ssd320-mini")
    new, words, kept = start_from_checkpoint(str(path), OLD[::-1])
    assert kept and words == f"from {path}"
    images = torch.zeros(1, 3, 320, 320, dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(old(images).logits[..., 1:], new.eval()(images).logits[..., 1:].flip(-1), atol=1e-5)


def test_without_a_class_in_common_the_confidence_is_all_fresh(tmp_path: Path) -> None:
    path, old = saved(tmp_path, "ssd320-mini")
    new, words, kept = start_from_checkpoint(str(path), ("x", "y", "z"))
    assert not kept and "3 of 3 classes new" in words
    state = new.state_dict()
    for key, value in old.state_dict().items():
        if "confidence" in key and value.ndim > 1:
            assert not torch.equal(value, state[key]), key
        elif "confidence" not in key:
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_which_tensors_go_by_class(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 3)
    found = boxes_by_class_tensor(ModelInfo.of(model, OLD))
    state = model.state_dict()
    assert found
    assert all("confidence" in key and len(state[key]) == boxes * 4 for key, boxes in found.items())
    assert set(found.values()) == set(model.prior_spec.per_cell)


def test_classes_meet_by_name() -> None:
    match = match_classes(OLD, NEW)
    assert match.pairs == ((2, 1), (0, 2))
    assert describe_match(match) == "kept dog, bus; new: auto, cat; left out: car"
    assert match_classes(("a", "a"), ("a",)).pairs == ((0, 0),)
    many = [f"c{i}" for i in range(30)]
    assert describe_match(match_classes([], many)).endswith("c19 and 10 more")


def test_names_of_voc_and_coco_meet_and_so_do_other_spellings() -> None:
    match = match_classes(COCO, VOC)
    assert len(match.kept) == 20 and not match.new
    assert match.renamed == {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    }  # fmt: skip
    assert all(match.renamed.get(VOC[b], VOC[b]) == COCO[a] for a, b in match.pairs)
    back = match_classes(VOC, COCO)
    assert sorted((b, a) for a, b in back.pairs) == sorted(match.pairs)
    assert match_classes(["Traffic_Light", "Car"], ["car", "traffic light"]).pairs == ((1, 0), (0, 1))
    # Exact names come first, and what is not single on both sides meets nobody.
    assert match_classes(["Car", "car"], ["car"]).pairs == ((1, 0),)
    assert match_classes(["Car", "CAR"], ["car"]).pairs == ()
    assert match_classes(["Car"], ["car", "c-ar"]).pairs == ()
    assert match_classes(["tv"], ["tv", "tvmonitor"]).pairs == ((0, 0),)
    renamed = match_classes(["ring", "b"], ["b", "circle", "c"], {"circle": ("x", "ring"), "c": ("b", "ring")})
    assert renamed.pairs == ((1, 0), (0, 1))
    assert describe_match(renamed) == "kept b, circle (its ring); new: c"
    assert describe_match(match_classes(["airplane"], ["aeroplane"])) == "kept aeroplane (its airplane); new: none"


def test_another_model_and_another_resize_rule(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "ssd320-mini")
    with pytest.raises(ConfigError, match="is a ssd320-mini; leave --model out"):
        start_from_checkpoint(str(path), OLD, "ssd300-vgg16")
    model, *_ = start_from_checkpoint(str(path), OLD, resize="letterbox")
    assert model.input_spec.resize == "letterbox"
    with pytest.raises(ConfigError, match="want one of stretch, letterbox"):
        start_from_checkpoint(str(path), OLD, resize="crop")
