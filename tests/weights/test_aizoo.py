"""AIZOO's FaceMaskDetection in the forms in which it was published, computed again in plain torch from its arrays."""

from __future__ import annotations

import json
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign

WIDTHS = (3, 4, 5, 5, 6, 7, 7, 4, 4)
SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))
PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture(scope="module")
def arrays():
    rng, found = np.random.default_rng(3), {}

    def conv(name, inputs, outputs, norm=True):
        found[f"{name}/kernel"] = rng.normal(0, 1.3 / np.sqrt(9 * inputs), (3, 3, inputs, outputs))
        if norm:
            found.update({f"{name}_bn/{part}": rng.uniform(0.5, 1.5, outputs) for part in PARTS})
        else:
            found[f"{name}/bias"] = rng.normal(0, 0.3, outputs)

    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        conv(f"conv2d_{i}", inputs, outputs)
    for i, inputs in enumerate(WIDTHS[4:]):
        for name, outputs in (("loc", 16), ("cls", 8)):
            conv(f"{name}_{i}_insert_conv2d", inputs, 5)
            conv(f"{name}_{i}_conv", 5, outputs, norm=False)
    return {key: value.astype(np.float32) for key, value in found.items()}


def reference(arrays, image):
    """models/face_mask_detection.json -> offsets [P, 4], scores of mask and no mask [P, 2]."""
    value = {key: torch.from_numpy(array).double() for key, array in arrays.items()}

    def conv(name, x, padding="same"):
        y = F.conv2d(x, value[f"{name}/kernel"].permute(3, 2, 0, 1), value.get(f"{name}/bias"), padding=padding)
        if f"{name}_bn/gamma" not in value:
            return y[0].permute(1, 2, 0)
        gamma, beta, mean, variance = (value[f"{name}_bn/{part}"].view(-1, 1, 1) for part in PARTS)
        return (gamma * (y - mean) / (variance + 0.001).sqrt() + beta).relu()

    x, boxes, scores = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255, [], []
    for i in range(8):
        x = F.max_pool2d(x, 2, ceil_mode=True) if 1 <= i <= 6 else x
        x = conv(f"conv2d_{i}", x, "valid" if i == 7 else "same")
        if i >= 3:
            for name, rows, columns in (("loc", boxes, 4), ("cls", scores, 2)):
                y = conv(f"{name}_{i - 3}_conv", conv(f"{name}_{i - 3}_insert_conv2d", x))
                rows.append(y.reshape(-1, columns))
    return torch.cat(boxes).numpy(), torch.cat(scores).sigmoid().numpy()


def anchors(sides):
    """utils/anchor_generator.py: cx cy w h."""
    rows = []
    for side, (small, large) in zip(sides, SIZES, strict=True):
        shapes = [(small, small), (large, large), *((small * r**0.5, small / r**0.5) for r in (0.62, 0.42))]
        rows += [((x + 0.5) / side, (y + 0.5) / side, *s) for y in range(side) for x in range(side) for s in shapes]
    return np.array(rows)


def folded(arrays):
    """Each convolution with its normalisation taken in, as Caffe's file has them."""
    found = {}
    for key, kernel in arrays.items():
        layer, part = key.split("/")
        if part != "kernel":
            continue
        bias = arrays.get(f"{layer}/bias")
        if bias is None:
            gamma, beta, mean, variance = (arrays[f"{layer}_bn/{name}"] for name in PARTS)
            factor = gamma / np.sqrt(variance + 0.001)
            found[layer] = kernel * factor, beta - mean * factor
        else:
            found[layer] = kernel, bias
    return found


def torch_names(arrays):
    new = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
    new |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for key, value in arrays.items():
        layer, part = key.split("/")
        found[f"{layer}.{new.get(part, part)}"] = value.transpose(3, 2, 0, 1) if part == "kernel" else value
        if part == "gamma":
            found[f"{layer}.num_batches_tracked"] = np.array(0)
    return found


FORMS = {
    "keras": lambda arrays: {f"{key.split('/')[0]}/{key}:0": value for key, value in arrays.items()},
    "graph": lambda arrays: (
        {f"{k.replace('/', '_1/')}": v for k, v in arrays.items() if "_bn" in k}
        | {
            f"{layer}_1/{part}": v
            for layer, two in folded(arrays).items()
            for part, v in zip(("weights", "biases"), two, strict=True)
        }
    ),
    "caffe": lambda arrays: {
        f"{layer}[{i}]": v if i else v.transpose(3, 2, 0, 1)
        for layer, two in folded(arrays).items()
        for i, v in enumerate(two)
    },
    "pytorch": torch_names,
}


@pytest.mark.parametrize("form", FORMS)
def test_gives_the_outputs_and_boxes_of_the_source(arrays, form):
    foreign = import_foreign(FORMS[form](arrays))
    model, image = foreign.model, np.random.default_rng(0).integers(0, 256, (260, 260, 3)).astype(np.uint8)
    with torch.inference_mode():
        raw = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    offsets, scores = reference(arrays, image)
    assert scores.std() > 0.01
    assert np.abs(raw.offsets[0].numpy() - offsets).max() < 1e-4
    assert np.abs(raw.logits[0].sigmoid().numpy()[:, 1:] - scores).max() < 1e-5
    assert raw.logits[..., 0].max() < -19
    assert np.abs(model.priors.numpy() - anchors((33, 17, 9, 5, 3))).max() < 1e-6
    assert (foreign.class_names, foreign.thresholds) == (("mask", "no mask"), DETECTION["aizoo"])
    assert "assumed: input 260" in foreign.notes[0]
    assert import_foreign(FORMS[form](arrays), settings=ImportSettings(size=360)).model.prior_spec.maps[0] == 45


@pytest.mark.parametrize(("side", "maps"), [(360, (45, 23, 12, 6, 4)), (260, (33, 17, 9, 5, 3)), (300, None)])
def test_the_description_next_to_keras_weights_says_the_side(tmp_path, arrays, side, maps):
    layer = {"name": "data", "batch_input_shape": [None, side, side, 3]}
    (tmp_path / "model.json").write_text(json.dumps({"class_name": "Model", "config": {"layers": [{"config": layer}]}}))
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        for key, value in FORMS["keras"](arrays).items():
            file.create_dataset(key, data=value)
    if maps is None:
        with pytest.raises(CheckpointError, match="FaceMaskDetection of 300 pixels: want 260 or 360"):
            import_foreign(tmp_path / "model.hdf5")
        return
    model = import_foreign(tmp_path / "model.hdf5").model
    assert np.abs(model.priors.numpy() - anchors(maps)).max() < 1e-6


def test_what_is_missing_is_named(arrays):
    less = {key: value for key, value in arrays.items() if key != "conv2d_5_bn/gamma"}
    with pytest.raises(CheckpointError, match=r"FaceMaskDetection, but does not fit \(1 missing: conv2d_5_bn/gamma"):
        import_foreign(less)
