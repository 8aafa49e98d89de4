"""Frozen graphs of networks that no table knows: what leads from the image to the predictors is read node by node."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.errors import CheckpointError
from singleshot.weights.importers.graphdef_network import heads_of
from singleshot.weights.readers.graphdef import GraphDef

V3 = "FeatureExtractor/MobilenetV3"
CLASSES, SIDE = 2, 64


def _same(x, kernel, stride, value=0.0):
    """TensorFlow's SAME: the odd pixel behind."""
    before, after = [], []
    for side in x.shape[2:]:
        total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
        before.append(total // 2)
        after.append(total - total // 2)
    return F.pad(x, (before[1], after[1], before[0], after[0]), value=value)


class Both:
    """Writes a network's nodes, and computes it: every method takes and gives (name of a node, map)."""

    def __init__(self, graph, seed=0, folded=False):
        self.graph, self.random, self.count, self.folded = graph, np.random.default_rng(seed), 0, folded
        self.words = graph.proto.message

    def name(self, what):
        self.count += 1
        return f"{V3}/n{self.count}/{what}"

    def node(self, op, *inputs, **attrs):
        return self.graph.node(self.name(op), op, *inputs, **attrs)

    def numbers(self, *values):
        return self.words(1, self.words(3, bytes(values)))

    def text(self, value):
        return self.words(2, value)

    def conv(self, x, outputs, kernel=1, stride=1, depthwise=False, norm=True, scope="", padding="SAME"):
        scope = scope or self.name("layer")
        inputs = x[1].shape[1]
        shape = (kernel, kernel, inputs, 1 if depthwise else outputs)
        weight = self.random.normal(0, (2 / (kernel**2 * (1 if depthwise else inputs))) ** 0.5, shape)
        weight = weight.astype(np.float32)
        read = self.graph.const(f"{scope}/{'depthwise_weights' if depthwise else 'weights'}", weight)
        read = self.graph.node(f"{read}/read", "Identity", read)
        parts = [self.random.normal(1, 0.2, outputs or inputs), *self.random.normal(0, 0.2, (2, outputs or inputs)),
                 self.random.uniform(0.5, 2, outputs or inputs)]  # fmt: skip
        parts = [part.astype(np.float32) for part in parts]
        kinds = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ()
        names = [self.graph.const(f"{scope}/BatchNorm/{n}", p) for n, p in zip(kinds, parts, strict=False)]
        if norm and self.folded:
            read, bias = self.fold(read, names, depthwise)
        op = "DepthwiseConv2dNative" if depthwise else "Conv2D"
        attrs = {"strides": self.numbers(1, stride, stride, 1), "padding": self.text(padding.encode())}
        name = self.graph.node(f"{scope}/{op}", op, x[0], read, **attrs)
        kernels = torch.from_numpy(weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(3, 2, 0, 1))
        padded = _same(x[1], kernel, stride) if padding == "SAME" else x[1]
        y = F.conv2d(padded, kernels, stride=stride, groups=inputs if depthwise else 1)
        channels = y.shape[1]
        if not norm:
            bias = self.random.normal(0, 0.1, channels).astype(np.float32)
            name = self.graph.node(f"{scope}/BiasAdd", "BiasAdd", name, self.graph.const(f"{scope}/biases", bias))
            return name, y + torch.from_numpy(bias).view(-1, 1, 1)
        gamma, beta, mean, variance = map(torch.from_numpy, parts)
        y = F.batch_norm(y, mean, variance, gamma, beta, eps=0.001)
        if self.folded:
            return self.graph.node(f"{scope}/add_fold", "Add", name, bias), y
        name = self.graph.node(f"{scope}/BatchNorm/FusedBatchNormV3", "FusedBatchNormV3", name, *names,
                               epsilon=self.graph.real(0.001))  # fmt: skip
        return name, y

    def fold(self, weights, names, depthwise):
        """A normalisation in the weights, as training for 8 bits leaves it: their new name, and that of the bias."""
        gamma, beta, mean, variance = names
        scale = self.node("Mul", self.node("Rsqrt", self.node("Add", variance, self.scalar(0.001))), gamma)
        bias = self.node("Sub", beta, self.node("Mul", mean, scale))
        if depthwise:
            scale = self.node("Reshape", scale, self.graph.const(self.name("shape"), np.array([-1, 1], np.int32)))
        limits = [self.scalar(-6), self.scalar(6)]
        return self.node("FakeQuantWithMinMaxVars", self.node("Mul", weights, scale), *limits), bias

    def norm(self, x, scope):
        """A normalisation alone."""
        channels = x[1].shape[1]
        parts = [self.random.normal(1, 0.2, channels), *self.random.normal(0, 0.2, (2, channels)),
                 self.random.uniform(0.5, 2, channels)]  # fmt: skip
        parts = [part.astype(np.float32) for part in parts]
        names = [self.graph.const(f"{scope}/{n}", p) for n, p in zip(("gamma", "beta", "mean", "std"), parts,
                                                                    strict=True)]  # fmt: skip
        name = self.graph.node(f"{scope}/FusedBatchNorm", "FusedBatchNorm", x[0], *names, epsilon=self.graph.real(1e-5))
        gamma, beta, mean, variance = map(torch.from_numpy, parts)
        return name, F.batch_norm(x[1], mean, variance, gamma, beta, eps=1e-5)

    def dilated(self, x, outputs):
        """3x3 with steps of 2, as TensorFlow 1 writes it, on a map of an odd side."""
        inputs = x[1].shape[1]
        weight = self.random.normal(0, (2 / (9 * inputs)) ** 0.5, (3, 3, inputs, outputs)).astype(np.float32)
        const = lambda name, value: self.graph.const(self.name(name), np.array(value, np.int32))  # noqa: E731
        odd = x[1].shape[-1] % 2
        y = self.node("SpaceToBatchND", x[0], const("block", [2, 2]), const("pads", [[2, 2 + odd]] * 2))
        y = self.node("Conv2D", y, self.graph.const(self.name("weights"), weight),
                      strides=self.numbers(1, 1, 1, 1), padding=self.text(b"VALID"))  # fmt: skip
        y = self.node("BatchToSpaceND", y, const("block", [2, 2]), const("crops", [[0, odd]] * 2))
        return y, F.conv2d(x[1], torch.from_numpy(weight.transpose(3, 2, 0, 1)), padding=2, dilation=2)

    def of_length_one(self, x):
        axis = self.graph.const(self.name("axis"), np.int32(3))
        y = self.node("Sum", self.node("Square", x[0]), axis, keep_dims=self.graph.proto.number(5, 1))
        y = self.node("Mul", x[0], self.node("Rsqrt", self.node("Maximum", y, self.scalar(1e-10))))
        scale = self.random.uniform(5, 20, x[1].shape[1]).astype(np.float32)
        y = self.node("Mul", y, self.graph.const(self.name("mul"), scale))
        return y, F.normalize(x[1], dim=1) * torch.from_numpy(scale).view(-1, 1, 1)

    def joined(self, *maps):
        axis = self.graph.const(self.name("axis"), np.int32(3))
        return self.node("ConcatV2", *(m[0] for m in maps), axis), torch.cat([m[1] for m in maps], 1)

    def scalar(self, value):
        return self.graph.const(self.name("y"), np.float32(value))

    def relu(self, x):
        return self.node("Relu", x[0]), x[1].relu()

    def hard_swish(self, x, factor_first=False):
        above = self.node("Relu6", self.node("AddV2", x[0], self.scalar(3)))
        if factor_first:
            name = self.node("Mul", x[0], self.node("Mul", above, self.scalar(1 / 6)))
        else:
            name = self.node("Mul", self.node("Mul", x[0], above), self.scalar(0.16667))
        return name, F.hardswish(x[1])

    def gated(self, x, pooled):
        side = x[1].shape[-1]
        if pooled:
            windows = {"ksize": self.numbers(1, side, side, 1), "strides": self.numbers(1, 1, 1, 1)}
            name = self.node("AvgPool", x[0], padding=self.text(b"VALID"), **windows)
        else:
            axes = self.graph.const(self.name("axes"), np.array([1, 2], np.int32))
            name = self.node("Mean", x[0], axes, keep_dims=self.graph.proto.number(5, 1))
        y = self.relu(self.conv((name, x[1].mean((2, 3), keepdim=True)), 8, norm=False))
        y = self.conv(y, x[1].shape[1], norm=False)
        gate = self.node("RealDiv", self.node("Relu6", self.node("Add", y[0], self.scalar(3))), self.scalar(6))
        return self.node("Mul", x[0], gate), x[1] * F.hardsigmoid(y[1])

    def block(self, x, wide, outputs, stride, pooled, factor_first):
        y = self.hard_swish(self.conv(x, wide), factor_first)
        y = self.hard_swish(self.conv(y, wide, 5, stride, depthwise=True), factor_first)
        y = self.conv(self.gated(y, pooled), outputs)
        if stride == 1:
            y = self.node("AddV2", y[0], x[0]), y[1] + x[1]
        return y

    def crelu(self, x):
        axis = self.graph.const(self.name("axis"), np.int32(3))
        both = self.node("ConcatV2", x[0], self.node("Neg", x[0]), axis)
        return self.node("Relu", both), torch.cat([x[1], -x[1]], 1).relu()

    def pool(self, x, stride=2):
        windows = {"ksize": self.numbers(1, 3, 3, 1), "strides": self.numbers(1, stride, stride, 1)}
        y = _same(x[1], 3, stride, -torch.inf)
        return self.node("MaxPool", x[0], padding=self.text(b"SAME"), **windows), F.max_pool2d(y, 3, stride)

    def padded(self, x):
        amounts = self.graph.const(self.name("paddings"), np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        return self.node("Pad", x[0], amounts), F.pad(x[1], (1, 1, 1, 1))

    def head(self, i, x, boxes):
        ends = []
        for part, outputs in (("BoxEncodingPredictor", 4 * boxes), ("ClassPredictor", (CLASSES + 1) * boxes)):
            scope = f"BoxPredictor_{i}/{part}"
            y = self.conv(x, 0, 3, depthwise=True, scope=f"{scope}_depthwise")
            y = self.conv((self.node("Relu6", y[0]), y[1].clamp(0, 6)), outputs, norm=False, scope=scope)
            ends.append(y[1][0].permute(1, 2, 0).reshape(-1, outputs // boxes))
        return ends


def _network(graph, image, explicit=False, folded=False):
    """An SSDLite of two maps; -> what its predictors give: [P, 4] of dy dx dh dw, [P, C + 1]."""
    graph.node("image_tensor", "Placeholder")
    resize = "Preprocessor/map/while/ResizeImage"
    graph.const(f"{resize}/size", np.array((SIDE, SIDE), np.int32))
    graph.node(f"{resize}/ResizeBilinear", "ResizeBilinear", "image_tensor", f"{resize}/size")
    net = Both(graph, folded=folded)
    x = (graph.node("Preprocessor/sub", "Sub", f"{resize}/ResizeBilinear", net.scalar(1)), image.float() / 127.5 - 1)
    x = net.conv(net.padded(x), 8, 3, 2, padding="VALID") if explicit else net.conv(x, 8, 3, 2)
    x = net.pool(net.crelu(x))
    x = net.block(x, 24, 16, 2, True, False)
    one = net.block(x, 32, 16, 1, False, True)
    two = net.block(one, 32, 16, 2, True, True)
    rows = zip(net.head(0, one, 3), net.head(1, two, 6), strict=True)
    return [torch.cat(pair) for pair in rows]


@pytest.mark.parametrize(("explicit", "folded"), [(False, False), (True, False), (False, True)])
def test_a_network_that_no_table_has(graph, imported, explicit, folded):
    image = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    moves, logits = _network(graph, image, explicit, folded)
    foreign = imported(graph)
    assert foreign.source == "TensorFlow Object Detection API SSDLite on MobileNet v3"
    model = foreign.model
    assert model.prior_spec.maps == (8, 4)
    with torch.inference_mode():
        raw = model(image.to(torch.uint8))
    assert moves.std() > 0.1
    assert torch.allclose(raw.offsets[0], moves[:, [1, 0, 3, 2]], atol=1e-4)
    assert torch.allclose(raw.logits[0], logits, atol=1e-4 * max(1, logits.std()))
    kinds = {type(layer).__name__ for layer in model.modules()}
    assert "Hardswish" in kinds  # relu6(x + 3) / 6 times x is one layer


def test_a_node_that_is_not_understood_is_named(graph, imported):
    image = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    _network(graph, image)
    name = next(n for n in (f"{V3}/n{i}/MaxPool" for i in range(99)) if n.encode() in graph.data)
    graph.data = graph.data.replace(b"MaxPool\x12\x07MaxPool", b"MaxPool\x12\x07Unknown")
    with pytest.raises(CheckpointError, match=rf"{name} \(Unknown\) stands in its network and is not understood"):
        imported(graph)


# ----------------------------------------------------------------------------------------------------- face detectors


def _rows(maps, columns):
    return torch.cat([m[1][0].permute(1, 2, 0).reshape(-1, columns) for m in maps])


def _agrees(model, image, moves, logits):
    with torch.inference_mode():
        raw = model(image.to(torch.uint8))
    assert moves.std() > 0.1
    assert torch.allclose(raw.offsets[0], moves, atol=1e-4 * max(1, moves.std()))
    assert torch.allclose(raw.logits[0], logits, atol=1e-4 * max(1, logits.std()))


def test_faceboxes_of_tensorflow(graph, imported):
    """TropComplique/FaceBoxes-tensorflow, src/network.py, detector.py and anchor_generator.py, with few channels."""
    image = torch.randint(0, 256, (1, 3, 1024, 1024), generator=torch.Generator().manual_seed(0))
    net = Both(graph)
    x = graph.node("standardize_input/sub", "Sub", "image_tensor", net.scalar(1)), image.float() / 127.5 - 1
    x = net.pool(net.crelu(net.conv(x, 4, 7, 4, scope="conv1")))
    x = net.pool(net.crelu(net.conv(x, 6, 5, 2, scope="conv2")))
    unit = lambda x, kernel, scope, stride=1: net.relu(net.conv(x, 8, kernel, stride, scope=scope))  # noqa: E731
    for i in (1, 2, 3):
        three = unit(unit(x, 1, f"inception{i}/conv_1x1_path3"), 3, f"inception{i}/conv_3x3_path3")
        four = unit(unit(x, 1, f"inception{i}/conv_1x1_path4"), 3, f"inception{i}/conv_3x3_path4")
        four = unit(four, 3, f"inception{i}/conv_3x3_second_path4")
        two = unit(net.pool(x, 1), 1, f"inception{i}/conv_1x1_path2")
        x = net.joined(unit(x, 1, f"inception{i}/conv_1x1_path1"), two, three, four)
    maps = [x]
    for i in (3, 4):
        maps.append(unit(unit(maps[-1], 1, f"conv{i}_1"), 3, f"conv{i}_2", 2))
    ends = {"box_encoding": [], "class": []}
    for i, (x, boxes) in enumerate(zip(maps, (21, 1, 1), strict=True)):
        for part, columns in (("box_encoding", 4), ("class", 2)):
            scope = f"prediction_layers/{part}_predictor_{i}"
            ends[part].append(net.conv(x, boxes * columns, 3, norm=False, scope=scope))
    foreign = imported(graph)
    assert foreign.source == "TropComplique/FaceBoxes-tensorflow"
    assert foreign.class_names == ("face",)
    _agrees(foreign.model, image, _rows(ends["box_encoding"], 4)[:, [1, 0, 3, 2]], _rows(ends["class"], 2))
    rows = []
    for step, specs in ((32, ((32, 4), (64, 2), (128, 1))), (64, ((256, 1),)), (128, ((512, 1),))):
        for row, column in itertools.product(range(1024 // step), repeat=2):
            for size, n in specs:
                start = [(k + 0.5) * step - size / 2 for k in (row, column)]
                for i, j in itertools.product(range(n), repeat=2):  # x outside, y within
                    y, x = start[0] + (j + 0.5) * size / n, start[1] + (i + 0.5) * size / n
                    corners = np.clip([x - size / 2, y - size / 2, x + size / 2, y + size / 2], 0, 1024)
                    rows.append([*(corners[:2] + corners[2:]) / 2, *(corners[2:] - corners[:2])])
    assert np.abs(foreign.model.priors.numpy() - np.array(rows) / 1024).max() < 1e-6


def test_opencvs_face_detector_as_a_graph(graph, imported):
    """The layers of opencv_face_detector_uint8.pb of each kind, with few channels: a normalised image, an L2Norm, a
    dilated convolution, and maps that stay at five cells."""
    image = torch.randint(0, 256, (1, 3, 300, 300), generator=torch.Generator().manual_seed(0))
    net = Both(graph)
    pixels = image.flip(1).float() - torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
    x = net.padded(net.norm((graph.node("data", "Placeholder"), pixels / 1), "data_bn"))
    x = net.pool(net.relu(net.conv(x, 6, 3, 2, padding="VALID", norm=False, scope="conv1_h")))
    first = net.relu(net.conv(x, 8, 3, 2))
    x = net.relu(net.dilated(net.relu(net.conv(first, 8, 3, 2)), 8))
    maps = [net.of_length_one(first), net.relu(net.norm(x, "last_bn_h"))]
    for i, stride in ((6, 2), (7, 2), (8, 1), (9, 1)):
        maps.append(net.relu(net.conv(maps[-1], 8, 3, stride, norm=False, scope=f"conv{i}_2_h")))
    names = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2")
    ends = {"loc": [], "conf": []}
    for name, x, boxes in zip(names, maps, (4, 6, 6, 6, 4, 4), strict=True):
        for part, columns in (("loc", 4), ("conf", 2)):
            ends[part].append(net.conv(x, boxes * columns, 3, norm=False, scope=f"{name}_mbox_{part}"))
    foreign = imported(graph)
    assert foreign.source == "OpenCV's ResNet-10 face detector, frozen graph"
    assert "104, 117, 123 is assumed" in foreign.notes[0]
    assert foreign.model.prior_spec.maps == (38, 19, 10, 5, 5, 5)
    _agrees(foreign.model, image, _rows(ends["loc"], 4), _rows(ends["conf"], 2))


def test_nodes_in_a_circle_are_refused():
    nodes = [SimpleNamespace(name=a, op="Relu", input=(b,), attr=[]) for a, b in (("one", "two"), ("two", "one"))]
    graph = GraphDef(SimpleNamespace(node=nodes), "graph.pb")
    with pytest.raises(CheckpointError, match=r"^graph\.pb: its nodes do not fit together .* is damaged$"):
        heads_of(graph, SIDE, ["one"])
