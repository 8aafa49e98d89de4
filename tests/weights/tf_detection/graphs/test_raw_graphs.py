"""Networks that no importer knows by name, as frozen graphs and as whole Keras models: read node by node."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from singleshot.errors import CheckpointError
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_files import write_priors
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_foreign

EPS = 1.001e-5  # what TensorFlow makes of Keras' 1e-5
SIDES = (240, 320)  # maps of 8 x 10 and 4 x 5 cells, with 2 and 3 boxes: the last two of Ultra-Light
HEADS = (("reg_0", 8, 8), ("cls_0", 8, 4), ("reg_1", 8, 12), ("cls_1", 8, 6))


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random, found = np.random.default_rng(0), {}
    found["first/kernel"] = random.normal(0, 0.3, (3, 3, 3, 6)) / 50
    found["deep/depthwise_kernel"] = random.normal(0, 0.4, (3, 3, 6, 1))
    found["wide/kernel"] = random.normal(0, 0.4, (1, 1, 6, 8))
    for norm, channels in (("norm_0", 6), ("norm_1", 8)):
        one, two, three, four = random.normal(0, 1, (4, channels))
        found[f"{norm}/gamma"], found[f"{norm}/beta"] = 1 + 0.1 * one, 0.1 * two
        # Of nearly nothing: the least epsilon shows.
        found[f"{norm}/moving_mean"], found[f"{norm}/moving_variance"] = (
            0.1 * three,
            1e-5 + 0.2 * abs(four) * (four > 0),
        )
    for name, inputs, outputs in HEADS:
        found[f"{name}/kernel"] = random.normal(0, 0.3, (1, 1, inputs, outputs))
        found[f"{name}/bias"] = random.normal(0, 0.3, outputs)
    return {name: value.astype(np.float32) for name, value in found.items()}


def _theirs(arrays: dict[str, np.ndarray], images: Tensor) -> tuple[Tensor, Tensor]:
    """The network in plain torch, in the dtype of the images: offsets [N, 4] and logits [N, 2]."""
    found = {name: torch.from_numpy(values).to(images.dtype) for name, values in arrays.items()}

    def conv(x: Tensor, name: str, **options) -> Tensor:
        return F.conv2d(x, found[f"{name}/kernel"].permute(3, 2, 0, 1), found.get(f"{name}/bias"), **options)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        return F.batch_norm(x, *(found[f"{name}/{part}"] for part in parts), eps=EPS)

    x = F.relu(norm(conv(F.pad(images, (1, 1, 1, 1)), "first", stride=2), "norm_0"))
    x = F.pad(F.max_pool2d(x, 8), (1, 1, 1, 1))
    weight = found["deep/depthwise_kernel"].permute(2, 3, 0, 1)
    x = F.relu6(norm(conv(F.conv2d(x, weight, stride=2, groups=6), "wide"), "norm_1"))
    maps = (x, F.max_pool2d(x, 2))
    flat = lambda y, columns: y.permute(0, 2, 3, 1).reshape(-1, columns)  # noqa: E731
    rows = [[flat(conv(x, f"{kind}_{i}"), n) for i, x in enumerate(maps)] for kind, n in (("reg", 4), ("cls", 2))]
    return torch.cat(rows[0]), torch.cat(rows[1])


def _frozen(graph, arrays: dict[str, np.ndarray], tables) -> None:
    message, number = tables.message, tables.number
    pads = graph.const("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    values = {name: graph.node(f"{graph.const(name, value)}/read", "Identity", name) for name, value in arrays.items()}

    def windows(name: str, op: str, *inputs: str, step: int = 1, side: int = 0) -> str:
        four = lambda n: message(1, b"".join(number(3, k) for k in (1, n, n, 1)))  # noqa: E731
        more = {"ksize": four(side)} if side else {}
        return graph.node(name, op, *inputs, strides=four(step), padding=message(2, b"VALID"), **more)

    def norm(x: str, name: str) -> str:
        parts = [values[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        return graph.node(f"{name}/FusedBatchNorm", "FusedBatchNorm", x, *parts, epsilon=graph.real(EPS))

    dims = b"".join(message(2, number(1, n)) for n in (1, *SIDES, 3))
    graph.node("input_1", "Placeholder", shape=message(7, dims))
    x = windows("first/Conv2D", "Conv2D", graph.node("pad_0", "Pad", "input_1", pads), values["first/kernel"], step=2)
    x = windows("pool_0", "MaxPool", graph.node("relu_0", "Relu", norm(x, "norm_0")), step=8, side=8)
    deep = values["deep/depthwise_kernel"]
    x = windows("deep/depthwise", "DepthwiseConv2dNative", graph.node("pad_1", "Pad", x, pads), deep, step=2)
    x = graph.node("relu_1", "Relu6", norm(windows("wide/Conv2D", "Conv2D", x, values["wide/kernel"]), "norm_1"))
    maps = (x, windows("pool_1", "MaxPool", x, step=2, side=2))
    for name, _, _ in HEADS:
        y = windows(f"{name}/Conv2D", "Conv2D", maps[int(name[-1])], values[f"{name}/kernel"])
        graph.node(f"{name}/BiasAdd", "BiasAdd", y, values[f"{name}/bias"])


def _keras(path, arrays: dict[str, np.ndarray], sides=SIDES, three: bool = False) -> None:
    """three: as Keras 3 writes it."""
    layers = []

    def layer(kind: str, name: str, *inputs: str, **config) -> str:
        nodes = [[[i, 0, 0, {}] for i in inputs]] if inputs else []
        if three and inputs:
            nodes = [{"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [inputs[0], 0, 0]}}]}]
        layers.append({"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes})
        return name

    conv = {"padding": "valid", "data_format": "channels_last", "activation": "linear", "use_bias": False}
    layer("InputLayer", "input_1", **{"batch_shape" if three else "batch_input_shape": [None, *sides, 3]})
    x = layer("ZeroPadding2D", "pad_0", "input_1", padding=[[1, 1], [1, 1]])
    x = layer("Conv2D", "first", x, strides=[2, 2], **conv)
    x = layer("BatchNormalization", "norm_0", x, epsilon=1e-5)
    x = layer("Activation", "relu_0", x, activation="relu")
    x = layer("MaxPooling2D", "pool_0", x, pool_size=[8, 8], strides=[8, 8], padding="valid")
    x = layer("ZeroPadding2D", "pad_1", x, padding=[[1, 1], [1, 1]])
    x = layer("DepthwiseConv2D", "deep", x, strides=[2, 2], **conv)
    x = layer("Conv2D", "wide", x, strides=[1, 1], **conv)
    x = layer("BatchNormalizationV1", "norm_1", x, epsilon=1e-5)
    x = layer("ReLU", "relu_1", x, max_value=6.0)
    maps = (x, layer("MaxPooling2D", "pool_1", x, pool_size=[2, 2], strides=None, padding="valid"))
    for name, _, outputs in HEADS:
        y = layer("Conv2D", name, maps[int(name[-1])], strides=[1, 1], **{**conv, "use_bias": True})
        y = layer("Reshape", f"{name}_rows", y, target_shape=[-1, outputs])
        layer("Softmax", f"{name}_scores", y)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": layers}})
        group = file.create_group("model_weights")
        for name, value in arrays.items():
            scope, part = name.split("/")
            group[f"{scope}/{scope}/{part.removeprefix('depthwise_') if three else part}:0"] = value


@pytest.mark.parametrize("kind", ["frozen", "keras", "keras 3"])
def test_raw_graph(kind, graph, arrays, tables, tmp_path):
    path = tmp_path / ("face.pb" if kind == "frozen" else "face.h5")
    if kind == "frozen":
        _frozen(graph, arrays, tables)
        path.write_bytes(graph.data)
    else:
        _keras(path, arrays, three=kind == "keras 3")
    found = import_foreign(path)
    spec = found.model.input_spec
    # In float32 a variance of nearly nothing makes the last bits, in which processors differ, hundreds of times larger.
    images = torch.rand(1, 3, *SIDES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        raw = found.model.double()(images)
    offsets, logits = _theirs(arrays, (images - 127) / 128)
    torch.testing.assert_close(raw.offsets[0], offsets, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw.logits[0], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.model.priors.float(), torch.from_numpy(_ultralight()), rtol=0, atol=1e-6)
    assert (spec.mean, spec.std, spec.colour_order) == ((127.0,) * 3, (128.0,) * 3, "rgb")
    assert found.class_names == ("face",)
    assert any("no default boxes" in note for note in found.notes)
    assert any("since the file does not say (--mean" in note for note in found.notes)


def _ultralight() -> np.ndarray:
    """The default boxes of its last two maps [220, 4], as a loop."""
    rows = []
    for (down, across), sides in (((8, 10), (64, 96)), ((4, 5), (128, 192, 256))):
        for y in range(down):
            for x in range(across):
                rows += [((x + 0.5) / across, (y + 0.5) / down, side / 320, min(side / 240, 1)) for side in sides]
    return np.array(rows, np.float32)


def test_what_is_done_with_pixels_first_is_noted(arrays, tmp_path):
    path = tmp_path / "face.h5"
    _keras(path, arrays)
    with h5py.File(path, "r+") as file:
        text = json.loads(file.attrs["model_config"])
        image, pad, *rest = text["config"]["layers"]
        scaled = {"class_name": "Rescaling", "name": "half", "config": {"name": "half", "scale": 0.5, "offset": -1.0}}
        layers = [image, {**scaled, "inbound_nodes": pad["inbound_nodes"]}, pad, *rest]
        pad["inbound_nodes"] = [[["half", 0, 0, {}]]]
        text["config"]["layers"] = layers
        file.attrs["model_config"] = json.dumps(text)
    notes = import_foreign(path).notes
    assert any("does with them first is not read (Rescaling) (--mean" in note for note in notes)


def test_other_sizes_ask_for_default_boxes(arrays, tmp_path):
    path = tmp_path / "face.h5"
    _keras(path, arrays, sides=(256, 256))
    with pytest.raises(CheckpointError, match=r"8x8 cells of 2, 4x4 cells of 3, image 256 x 256\): give --priors"):
        import_foreign(path)
    shapes = (((20.0, 20.0),) * 2, ((60.0, 90.0),) * 3)
    table = PriorSpec(256, (8, 4), (), (), (), shapes=shapes, variances=(0.1, 0.2))
    write_priors(tmp_path / "own.json", table, "own", "test")
    found = import_foreign(path, settings=ImportSettings(priors=str(tmp_path / "own.json")))
    assert found.model.prior_spec == table
    assert found.model.num_classes == 1


def test_pairs_that_do_not_fit(graph, tables, imported):
    random = np.random.default_rng(0)
    dims = b"".join(tables.message(2, tables.number(1, n)) for n in (1, 32, 32, 3))
    graph.node("image", "Placeholder", shape=tables.message(7, dims))
    for name, outputs in (("a", 5), ("b", 7)):
        kernel = graph.const(f"{name}/weights", random.normal(0, 1, (1, 1, 3, outputs)).astype(np.float32))
        graph.node(name, "Conv2D", "image", kernel)
    with pytest.raises(CheckpointError, match="no pairs of boxes and scores"):
        imported(graph)


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Node", "config": {"name": "pool_1"}},
        {"config": {}},
        {"config": {"name": "pool_1", "pool_size": "ab", "padding": "valid"}},
        {"config": {"name": "pool_0", "pool_size": [2, 2], "padding": "valid"}},
        {"inbound_nodes": [{"args": 3}]},
        {"config": {"name": "pool_1", "pool_size": [2, float("inf")], "padding": "valid"}},
        {"class_name": "ZeroPadding2D", "config": {"name": "pool_1", "padding": [[0, 10**30], [0, 0]]}},
    ],
)
def test_layers_that_cannot_be_followed_are_refused_in_one_line(layer, arrays, tmp_path):
    path = _changed(tmp_path, arrays, "pool_1", lambda one: {**one, **layer})
    with pytest.raises(CheckpointError) as caught:
        import_foreign(path)
    assert "\n" not in str(caught.value)


def test_a_norm_along_another_axis_is_refused(arrays, tmp_path):
    path = _changed(tmp_path, arrays, "norm_0", lambda one: {**one, "config": {**one["config"], "axis": 1}})
    with pytest.raises(CheckpointError):
        import_foreign(path)


def _changed(folder, arrays, name, change):
    """A whole Keras model with another description of a layer."""
    path = folder / "face.h5"
    _keras(path, arrays)
    with h5py.File(path, "r+") as file:
        text = json.loads(file.attrs["model_config"])
        text["config"]["layers"] = [change(one) if one["name"] == name else one for one in text["config"]["layers"]]
        file.attrs["model_config"] = json.dumps(text)
    return path
