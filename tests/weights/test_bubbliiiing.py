from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.conventions import DETECTION
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_foreign

PRIORS = {
    "bubbliiiing_vgg": "vgg300_corner",
    "bubbliiiing_mobilenetv2": "mobilenetv2_300_corner",
    "bubbliiiing_resnet50": "vgg300_corner",
}


@pytest.fixture(scope="module")
def imported(state):
    return {name: import_foreign(state(name)) for name in PRIORS}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_input_and_thresholds_are_those_of_the_source(name, imported, golden):
    foreign = imported[name]
    cxcywh = foreign.model.priors.numpy()
    corners = np.concatenate([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], axis=1)
    assert np.abs(corners - np.load(golden / "priors_bubbliiiing.npz")[PRIORS[name]]).max() < 1e-6
    assert foreign.model.input_spec.mean == (104.0, 117.0, 123.0)
    assert foreign.model.input_spec.resize == "stretch"
    assert (foreign.thresholds.score_min, foreign.thresholds.nms_iou) == (0.02, 0.5)
    assert foreign.thresholds == DETECTION["bubbliiiing"]
    assert foreign.thresholds.keep == NO_CAP
    assert any("reverse order" in note for note in foreign.notes)
    assert len(foreign.class_names) == foreign.model.num_classes == 20


@pytest.mark.parametrize("name", ["bubbliiiing_vgg", "bubbliiiing_mobilenetv2"])
def test_gives_the_outputs_of_the_source(name, imported, agrees):
    agrees(imported[name].model, name)


def resnet50_reference(state, image):
    """nets/ssd.py with backbone resnet50, line by line with functions alone: offsets and logits."""

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")))

    def block(x, name, stride):
        y = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
        y = F.relu(norm(F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn2"))
        y = norm(F.conv2d(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in state:
            x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        return F.relu(x + y)

    x = F.relu(norm(F.conv2d(image, state["resnet.0.weight"], stride=2, padding=3), "resnet.1"))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for i in range(3):
        x = block(x, f"resnet.4.{i}", 1)
    for i in range(4):
        x = block(x, f"resnet.5.{i}", 2 if i == 0 else 1)
    sources = [x / x.norm(dim=1, keepdim=True) * state["L2Norm.weight"].view(1, -1, 1, 1)]
    for i in range(6):
        x = block(x, f"resnet.6.{i}", 2 if i == 0 else 1)
    sources.append(x)
    for i, (stride, padding) in enumerate(((1, 0), (2, 1), (1, 0), (2, 1), (1, 0), (1, 0), (1, 0), (1, 0))):
        x = F.relu(F.conv2d(x, state[f"extras.{i}.weight"], state[f"extras.{i}.bias"], stride, padding))
        if i % 2:
            sources.append(x)
    rows = []
    for which, columns in (("loc", 4), ("conf", 21)):
        maps = [F.conv2d(s, state[f"{which}.{i}.weight"], state[f"{which}.{i}.bias"], padding=1)
                for i, s in enumerate(sources)]  # fmt: skip
        rows.append(torch.cat([m.permute(0, 2, 3, 1).reshape(-1, columns) for m in maps]).double().numpy())
    return rows


def test_resnet50_computes_what_its_source_does(imported, state, golden_inputs, outputs):
    image = torch.from_numpy(golden_inputs.image(300)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        wanted = resnet50_reference(
            state("bubbliiiing_resnet50"), image - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
        )
    for got, want in zip(outputs(imported["bubbliiiing_resnet50"].model), wanted, strict=True):
        assert got.shape == want.shape
        assert want.std() > 0.5
        assert np.abs(got - want).max() < 1e-4


def test_it_is_told_from_amdegroot_by_the_order_of_the_names(imported, state):
    assert "bubbliiiing" in imported["bubbliiiing_vgg"].source
    tensors = state("amdegroot_vgg300")
    assert "amdegroot" in import_foreign(tensors).source
    # Sorted, as some formats keep them, they are the same: then it must be said.
    assert "amdegroot" in import_foreign({key: tensors[key] for key in sorted(tensors)}).source
    assert "bubbliiiing" in import_foreign(tensors, source="bubbliiiing").source


@pytest.mark.parametrize("name", PRIORS)
def test_what_does_not_fit_is_named(name, state, says_what_does_not_fit):
    tensors = state(name)
    key = next(key for key in tensors if key.startswith("extras.2") and key.endswith("weight"))
    says_what_does_not_fit(tensors, key)
