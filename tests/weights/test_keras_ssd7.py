"""ssd_keras' SSD7, of which images may be of any proportions: computed again in plain torch from the same arrays."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.errors import CheckpointError
from singleshot.prior_boxes import from_shapes
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign

WIDTHS = (3, 4, 5, 6, 6, 5, 5, 4)
SCALES = (0.08, 0.16, 0.32, 0.64, 0.96)
CLASSES = 5


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(7)

    def conv(name, kernel, inputs, outputs):
        weight = rng.normal(0, 1.3 / np.sqrt(kernel**2 * inputs), (kernel, kernel, inputs, outputs))
        return {f"{name}/kernel": weight, f"{name}/bias": rng.normal(0, 0.2, outputs)}

    found = {}
    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS), 1):
        found |= conv(f"conv{i}", 5 if i == 1 else 3, inputs, outputs)
        found |= {f"bn{i}/{part}": rng.normal(0, 0.2, outputs) for part in ("beta", "moving_mean")}
        found |= {f"bn{i}/{part}": rng.uniform(0.5, 1.5, outputs) for part in ("gamma", "moving_variance")}
        if i >= 4:
            found |= conv(f"boxes{i}", 3, outputs, 16) | conv(f"classes{i}", 3, outputs, 4 * (CLASSES + 1))
    return {key: value.astype(np.float32) for key, value in found.items()}


def reference(arrays, image, border="same"):
    """models/keras_ssd7.py -> offsets [P, 4], scores [P, classes + 1]."""
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].double() - 127.5) / 127.5
    value = {key: torch.from_numpy(array).double() for key, array in arrays.items()}

    def conv(name, x, padding="same"):
        return F.conv2d(x, value[f"{name}/kernel"].permute(3, 2, 0, 1), value[f"{name}/bias"], padding=padding)

    ends = {"boxes": [], "classes": []}
    for i in range(1, 1 + sum(key.startswith("conv") for key in arrays) // 2):
        x = F.max_pool2d(x, 2) if i > 1 else x
        norm = [value[f"bn{i}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
        x = F.batch_norm(conv(f"conv{i}", x), *norm, eps=0.001)
        x = torch.where(x > 0, x, x.exp() - 1)
        for name, rows in ends.items() if i >= 4 else ():
            columns = 4 if name == "boxes" else CLASSES + 1
            rows.append(conv(f"{name}{i}", x, border)[0].permute(1, 2, 0).reshape(-1, columns))
    return torch.cat(ends["boxes"]).numpy(), torch.cat(ends["classes"]).softmax(-1).numpy()


def anchors(height, width, scales=SCALES):
    """keras_layers/keras_layer_AnchorBoxes.py for ratios .5, 1 and 2: cx cy w h in 0..1."""
    rows, short = [], min(height, width)
    for level, (scale, following) in enumerate(pairwise(scales), 3):
        high, wide = height // 2**level, width // 2**level
        shapes = [(scale * 0.5**0.5, scale / 0.5**0.5), (scale, scale), *[((scale * following) ** 0.5,) * 2]]
        shapes.append((scale * 2**0.5, scale / 2**0.5))
        for y in range(high):
            for x in range(wide):
                rows += [((x + 0.5) / wide, (y + 0.5) / high, w * short / width, h * short / height) for w, h in shapes]
    return np.array(rows)


def config(height, width, **changes):
    """What `model.save` writes of such a network's layers."""
    layers = [{"name": "input_1", "batch_input_shape": [None, height, width, 3]}]
    for part in ("mean", "stddev"):
        layers.append({"name": f"input_{part}_normalization", "function": ["4wEAAA code", None, [127.5]]})
    for i, (scale, following) in enumerate(pairwise(SCALES), 4):
        told = {"img_height": height, "img_width": width, "this_scale": scale, "next_scale": following}
        told |= {
            "aspect_ratios": [0.5, 1.0, 2.0],
            "two_boxes_for_ar1": True,
            "clip_boxes": False,
            "coords": "centroids",
        }
        told |= {"variances": [1.0, 1.0, 1.0, 1.0], "normalize_coords": False}
        layers.append({"name": f"anchors{i}", **told, **changes})
    return {"class_name": "Model", "config": {"layers": [{"config": layer} for layer in layers]}}


def write(path, arrays, described=None):
    with h5py.File(path, "w") as file:
        root = file if described is None else file.create_group("model_weights")
        for key, value in arrays.items():
            layer, part = key.split("/")
            root.create_dataset(f"{layer}/{layer}/{part}:0", data=value)
        if described is not None:
            file.attrs["model_config"] = json.dumps(described).encode()
    return path


def agrees(model, arrays, border="same"):
    image = np.random.default_rng(0).integers(0, 256, (*model.input_spec.sides, 3)).astype(np.uint8)
    with torch.inference_mode():
        raw = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    offsets, scores = reference(arrays, image, border)
    assert scores.std() > 0.01
    assert np.abs(raw.offsets[0].numpy() - offsets).max() < 1e-4
    assert np.abs(raw.logits[0].softmax(-1).numpy() - scores).max() < 1e-5


def test_weights_alone_are_those_of_the_tutorial(tmp_path, arrays):
    foreign = import_foreign(write(tmp_path / "ssd7.h5", arrays))
    model = foreign.model
    assert (model.input_spec.sides, model.num_classes, foreign.class_names) == ((300, 480), CLASSES, None)
    assert np.abs(model.priors.numpy() - anchors(300, 480)).max() < 1e-6
    assert model.prior_spec.variances == (1.0, 1.0)
    assert "assumed: input 300 x 480" in foreign.notes[0]
    agrees(model, arrays)


def test_a_whole_model_says_its_size_and_boxes(tmp_path, arrays):
    foreign = import_foreign(write(tmp_path / "ssd7.h5", arrays, config(144, 208)))
    assert foreign.model.input_spec.sides == (144, 208)
    assert np.abs(foreign.model.priors.numpy() - anchors(144, 208)).max() < 1e-6
    assert foreign.notes == ()
    agrees(foreign.model, arrays)


def first_version(height, width, heads):
    """Its first versions: one Lambda for the normalisation, and heads that do not see the border of their maps."""
    described = config(height, width)
    layers = [layer for layer in described["config"]["layers"] if "normalization" not in layer["config"]["name"]]
    layers.append({"config": {"name": "lambda1", "function": ["4wEAAA code", None, None]}})
    layers += [{"config": {"name": name, "padding": padding}} for name, padding in heads.items()]
    return {"class_name": "Model", "config": {"layers": layers}}


def test_heads_that_do_not_see_the_border(tmp_path, arrays):
    heads = {f"{part}{i}": "valid" for part in ("boxes", "classes") for i in (4, 5, 6, 7)}
    foreign = import_foreign(write(tmp_path / "ssd7.h5", arrays, first_version(240, 320, heads)))
    assert foreign.model.prior_spec.grids == ((28, 38), (13, 18), (5, 8), (1, 3))
    assert "lambda1 is code, which is not looked at: taken to bring pixels to -1..1" in foreign.notes[0]
    agrees(foreign.model, arrays, "valid")
    mixed = first_version(240, 320, {**heads, "boxes5": "same"})
    with pytest.raises(CheckpointError, match=r"padding valid in some of boxes4, boxes5"):
        import_foreign(write(tmp_path / "mixed.h5", arrays, mixed))


@pytest.mark.parametrize(
    ("layer", "border"), [("idendity_layer", "valid"), ("lambda1", "valid"), ("identity_layer", "same")]
)
def test_a_layer_without_weights_tells_the_version_of_weights_alone(tmp_path, arrays, layer, border):
    path = write(tmp_path / "ssd7.h5", arrays)
    with h5py.File(path, "a") as file:
        file.create_group(layer)
    foreign = import_foreign(path)
    assert foreign.model.prior_spec.grids[0] == ((35, 58) if border == "valid" else (37, 60))
    assert any("lambda1 is code" in note for note in foreign.notes) == (layer == "lambda1")
    agrees(foreign.model, arrays, border)


def test_the_description_may_lie_next_to_weights_alone(tmp_path, arrays):
    (tmp_path / "ssd7.json").write_text(json.dumps(config(144, 208)))
    assert import_foreign(write(tmp_path / "ssd7.h5", arrays)).model.input_spec.sides == (144, 208)
    (tmp_path / "ssd7.json").write_text('{"images": []}')
    assert import_foreign(tmp_path / "ssd7.h5").model.input_spec.sides == (300, 480)


@pytest.mark.parametrize(
    ("described", "match"),
    [
        (config(48, 208), "SSD7 on images of 48 x 208: too small for its last map"),
        (config(144, 208, coords="corners"), "want|which is all that is read"),
        (config(144, 208, aspect_ratios=[1.0]), "16, want 8"),
    ],
)
def test_what_does_not_fit(tmp_path, arrays, described, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        import_foreign(write(tmp_path / "ssd7.h5", arrays, described))
    assert "\n" not in str(caught.value)


def test_a_copy_with_more_maps_is_read_with_its_boxes(tmp_path, arrays):
    """off99555/ssd_keras: an eighth convolution and a fifth map, at 256 x 144."""
    more = {key.replace("7/", "8/"): value for key, value in arrays.items() if "7/" in key}
    more["conv8/kernel"] = np.repeat(more["conv8/kernel"][:, :, :1], WIDTHS[-1], axis=2)
    arrays = arrays | more
    path = write(tmp_path / "ssd7_weights.h5", arrays)
    with pytest.raises(CheckpointError, match=r"SSD7 with 5 maps, not 4: a changed copy, .* --priors FILE"):
        import_foreign(path)
    scales = (0.08, 0.16, 0.32, 0.64, 0.8, 0.96)
    cells = [tuple((w * 256, h * 144) for _, _, w, h in anchors(144, 256, pair)[:4]) for pair in pairwise(scales)]
    spec = from_shapes((144, 256), [(144 // 2**i, 256 // 2**i) for i in range(3, 8)], cells)
    given = tmp_path / "boxes.json"
    given.write_text(json.dumps(replace(spec, variances=(1.0, 1.0)).to_dict()))
    model = import_foreign(path, settings=ImportSettings(priors=str(given))).model
    image = np.random.default_rng(1).integers(0, 256, (144, 256, 3), np.uint8)
    offsets, scores = reference(arrays, image)
    with torch.inference_mode():
        raw = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert np.abs(raw.offsets[0].numpy() - offsets).max() < 1e-4
    assert np.abs(raw.logits[0].softmax(-1).numpy() - scores).max() < 1e-4
    assert np.abs(model.priors.numpy() - anchors(144, 256, scales)).max() < 1e-6
