"""The networks under SSD in TensorFlow's Object Detection API, layer by layer from variables of their names.

Structure: tensorflow/models, research/slim/nets (mobilenet_v1.py, mobilenet/mobilenet_v2.py, inception_v2.py), as far
as research/object_detection/models/ssd_*_feature_extractor.py take them.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder, same_padding
from singleshot.weights.importers.mobilenet_blocks import V1_STRIDES, V2_STRIDES, V2_WIDTHS
from singleshot.weights.importers.tf_detection_settings import RESNET_EPSILON, Block, Settings, scope_of
from singleshot.weights.importers.tf_keras_names import (
    INCEPTION,
    RESNET,
    RESNET_UNITS,
    SHARED,
    V1,
    V2,
    is_keras,
    keras_names,
)

_WIDTHS = ("BatchNorm/moving_mean", "BatchNorm/beta", "biases")


class Builder:
    """Adds layers by their scopes. An GraphBuilder, with the side of each of its maps."""

    def __init__(self, tensors: ForeignState, settings: Settings) -> None:
        self.net, self.tensors, self.settings = GraphBuilder(), tensors, settings
        self.sides = {GraphBuilder.image: settings.size}
        self.keras = is_keras(tensors)
        # A variable's own name by the layer's scope and what it is.
        self.names = keras_names(tensors) if self.keras else {scope_of_variable(name): name for name in tensors}
        self.scaled = {_part(name) for name in self.names if re.search(r"/BatchNorm/(feature_\d+/)?gamma$", name)}

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The variable of that name; see ForeignState.take."""
        return self.tensors.take(self.names.get(name, name), *shape)

    def has(self, name: str) -> bool:
        """Whether there is such a variable."""
        return name in self.names

    def width(self, scope: str, parts: tuple[str, ...]) -> int | None:
        """Outputs of a layer by the shape of what is added to them; None where nothing tells."""
        for part in parts:
            if (name := self.names.get(f"{scope}/{part}")) is not None:
                shape = tuple(self.tensors.shape(name))
                return shape[-1] if shape else None
        return None

    def conv(
        self, scope: str, x: str, block: Block, stride: int = 1, depthwise: bool = False, active: bool = True
    ) -> str:
        """Convolution, batch normalisation (or bias) and activation. Kernels are [kh, kw, inputs, outputs], or
        [kh, kw, channels, 1] when depthwise."""
        inputs = self.net.channels[x]
        if depthwise:
            weight = self.take(f"{scope}/depthwise_weights", None, None, inputs, 1).permute(2, 3, 0, 1)
            return self._finish(scope, x, weight, block, stride, inputs, active)
        outputs = self.width(scope, _WIDTHS)
        weight = self.take(f"{scope}/weights", None, None, inputs, outputs).permute(3, 2, 0, 1)
        return self._finish(scope, x, weight, block, stride, 1, active)

    def separable(self, scope: str, x: str, block: Block, stride: int) -> str:
        """Depthwise, each channel giving several, and at once 1x1 (slim's separable_conv2d): one normalisation."""
        x, weight = self.pointwise(scope, x, f"{scope}/depthwise", stride)
        return self._finish(scope, x, weight, block, 1, 1, True)

    def pointwise(self, scope: str, x: str, name: str, stride: int = 1) -> tuple[str, Tensor]:
        """The depthwise half of such a layer, called `name`, and the weight of the other one."""
        inputs = self.net.channels[x]
        deep = self.take(f"{scope}/depthwise_weights", None, None, inputs, None)
        wide = inputs * deep.shape[3]
        deep = deep.permute(2, 3, 0, 1).reshape(wide, 1, *deep.shape[:2])
        x = self._kernel(name, x, deep, None, stride, inputs)
        weight = self.take(f"{scope}/pointwise_weights", 1, 1, wide, self.width(scope, _WIDTHS)).permute(3, 2, 0, 1)
        return x, weight

    def tower_layer(self, scope: str, x: str, level: int, block: Block) -> str:
        """A convolution that all levels share, and the normalisation of this level's own."""
        name, norm = f"{scope}/feature_{level}", f"{scope}/BatchNorm/feature_{level}"
        if self.has(f"{scope}/pointwise_weights"):
            x, weight = self.pointwise(scope, x, f"{name}/depthwise")
        else:
            weight = self.take(f"{scope}/weights", None, None, self.net.channels[x], None).permute(3, 2, 0, 1)
        bias = self.take(f"{scope}/biases", len(weight)) if self.has(f"{scope}/biases") else None
        out = self._kernel(name, x, weight, bias, 1, 1)
        if bias is None or self.has(f"{norm}/moving_mean"):
            epsilon = self.settings.scopes.get(scope, block).epsilon
            out = self.follow(out, self._norm(norm, out, len(weight), epsilon))
        return self.follow(out, self.net.add(f"{name}/act", block.activation, out))

    def end(self, scope: str, x: str, name: str, outputs: int) -> tuple[str, Tensor, Tensor]:
        """A last convolution: what it sees, its weight and bias. name: of the depthwise half, where there is one."""
        if self.has(f"{scope}/pointwise_weights"):
            x, weight = self.pointwise(scope, x, name)
        else:
            weight = self.take(f"{scope}/weights", None, None, self.net.channels[x], outputs).permute(3, 2, 0, 1)
        return x, weight, self.take(f"{scope}/biases", outputs)

    def upsample(self, name: str, x: str) -> str:
        """Twice the side by the nearest cell."""
        out = self.net.add(name, "upsample", x, scale=2)
        self.sides[out] = 2 * self.sides[x]
        return out

    def _finish(self, scope: str, x: str, weight: Tensor, block: Block, stride: int, groups: int, active: bool) -> str:
        block, normalised = self.settings.scopes.get(scope, block), self._normalised(scope)
        bias = None if normalised else self.take(f"{scope}/biases", len(weight))
        out = self._kernel(scope, x, weight, bias, stride, groups)
        if normalised:
            out = self.follow(out, self._norm(f"{scope}/BatchNorm", out, len(weight), block.epsilon))
        return self.follow(out, self.net.add(f"{scope}/act", block.activation, out)) if active else out

    def _kernel(self, name: str, x: str, weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> str:
        kh, kw = weight.shape[2:]
        if kh != kw or kh > 7:
            raise CheckpointError(f"{self.tensors.where}: {printable(name, 80)}: a kernel of {kh} x {kw}")
        padding = self._padding(name, self.sides[x], kh, stride)
        out = self.net.conv(name, x, weight, bias, stride, padding, groups=groups)
        self.sides[out] = (self.sides[x] + padding[0] + padding[1] - kh) // stride + 1
        return out

    def _padding(self, name: str, side: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
        before, after = same_padding(side, kernel, stride)
        if name.startswith(RESNET):  # the first convolution is padded on its own (resnet_utils.conv2d_same)
            return (3, 3, 3, 3) if kernel == 7 else (before, after, before, after)
        # Inception's own layers have no such option.
        if self.settings.explicit_padding and stride > 1 and not (name.startswith(INCEPTION) and _part(name) == "base"):
            before, after = (kernel - 1) // 2, kernel // 2
        return before, after, before, after

    def pool(self, name: str, x: str, kind: str, stride: int) -> str:
        """kind: "maxpool" or "avgpool", 3x3, TensorFlow's SAME, whose average counts no padding."""
        before, after = same_padding(self.sides[x], 3, stride)
        padding = 1 if kind == "avgpool" else (before, after, before, after)
        out = self.net.add(name, kind, x, kernel=3, stride=stride, padding=padding)
        self.sides[out] = -(-self.sides[x] // stride)
        return out

    def concat(self, name: str, maps: list[str]) -> str:
        """Maps of one side, joined along channels."""
        out = self.net.add(name, "concat", *maps, channels=sum(self.net.channels[x] for x in maps))
        return self.follow(maps[0], out)

    def follow(self, before: str, name: str) -> str:
        """Note that layer `name` has the side of the layer before it; its name."""
        self.sides[name] = self.sides[before]
        return name

    def _normalised(self, scope: str) -> bool:
        norms = [self.has(f"{scope}/BatchNorm/{part}") for part in ("beta", "moving_mean", "moving_variance")]
        return any(norms) or not self.has(f"{scope}/biases")

    def _norm(self, key: str, x: str, channels: int, epsilon: float) -> str:
        """Without gamma where no layer of this part of the network has one (`scale: false`)."""
        gamma = self.take(f"{key}/gamma", channels) if _part(key) in self.scaled else torch.ones(channels)
        beta, mean, variance = (
            self.take(f"{key}/{name}", channels) for name in ("beta", "moving_mean", "moving_variance")
        )
        return self.net.norm(key.replace("/BatchNorm", "/norm"), x, gamma, beta, mean, variance, epsilon)


def _part(name: str) -> str:
    """Which of the three parts that are configured on their own a layer belongs to."""
    if name.startswith(("BoxPredictor", SHARED)):
        return "predictor"
    return "extras" if re.search(r"_[12]_Conv2d_\d|/fpn/", name) else "base"


def scope_of_variable(name: str) -> str:
    """One name for a variable, however it is written: "X/Y/weights:0" or "X/X/Y/weights/read"."""
    name = re.sub(r":0$", "", name)
    name = re.sub(r"/read$", "", name)
    head, _, part = name.rpartition("/BatchNorm/")
    return f"{scope_of(head)}/BatchNorm/{part}" if head else scope_of(name)


def mobilenet_v1(build: Builder, taken: tuple[int, ...] = (11, 13)) -> tuple[str, list[str]]:
    """-> how the names of the extra layers begin, and the maps so far: those behind the blocks `taken`."""
    block, maps = build.settings.base, []
    x = build.conv(f"{V1}/Conv2d_0", GraphBuilder.image, block, stride=2)
    for i, stride in enumerate(V1_STRIDES, start=1):
        x = build.conv(f"{V1}/Conv2d_{i}_depthwise", x, block, stride, depthwise=True)
        x = build.conv(f"{V1}/Conv2d_{i}_pointwise", x, block)
        if i in taken:
            maps.append(x)
    return f"{V1}/Conv2d_13_pointwise", maps


def mobilenet_v2(build: Builder) -> tuple[str, list[str]]:
    """As above. The first map is inside a block: what expanded_conv_13 (the API's layer_15) expands its input to."""
    block, maps = build.settings.base, []
    alpha = (build.width(f"{V2}/expanded_conv_16/project", _WIDTHS) or 320) / V2_WIDTHS[-1]

    def narrow(i: int) -> bool:
        """Whether Keras adds what enters block i: by its own width, which min_depth may have enlarged."""
        own = max(8, int(int(V2_WIDTHS[i] * alpha) + 4) // 8 * 8)
        own += 8 if own < 0.9 * int(V2_WIDTHS[i] * alpha) else 0
        return not build.keras or own == build.net.channels[x]

    x = build.conv(f"{V2}/Conv", GraphBuilder.image, block, stride=2)
    for i, stride in enumerate(V2_STRIDES):
        scope, before = f"{V2}/expanded_conv" + (f"_{i}" if i else ""), x
        if i or build.has(f"{scope}/expand/weights"):
            x = build.conv(f"{scope}/expand", x, block)
        if i == 13:
            maps.append(x)
        x = build.conv(f"{scope}/depthwise", x, block, stride, depthwise=True)
        x = build.conv(f"{scope}/project", x, block, active=False)
        if stride == 1 and build.net.channels[x] == build.net.channels[before] and narrow(i):
            x = build.follow(x, build.net.add(f"{scope}/add", "add", before, x))
    maps.append(build.conv(f"{V2}/Conv_1", x, block))
    return f"{V2}/layer_19", maps


def mobilenet_v2_pyramid(build: Builder) -> list[str]:
    """Maps of stride 4 to 32: layer_4, layer_7, layer_14 and layer_19 of ssd_mobilenet_v2_fpn_feature_extractor.py."""
    _, maps = mobilenet_v2(build)
    ends = {2: "", 5: "", 12: ""}
    for i in ends:
        scope = f"{V2}/expanded_conv_{i}"
        ends[i] = next(
            name for name in (f"{scope}/add", f"{scope}/project/norm", f"{scope}/project") if name in build.sides
        )
    return [*ends.values(), maps[-1]]


def resnet_v1(build: Builder, layers: int) -> list[str]:
    """slim/nets/resnet_v1.py with store_non_strided_activations: maps of stride 4 to 32. Keras' networks are the same
    but for the limit of 6 behind each unit, where the configuration has it."""
    network, block, maps = f"{RESNET}{layers}", build.settings.base, []
    if not build.keras:  # of which the configuration overrides the activation alone
        block = replace(block, epsilon=RESNET_EPSILON)
    x = build.conv(f"{network}/conv1", GraphBuilder.image, block, stride=2)
    x = build.pool(f"{network}/pool1", x, "maxpool", 2)
    for number, count in enumerate(RESNET_UNITS[layers], 1):
        for unit in range(1, count + 1):
            scope, before = f"{network}/block{number}/unit_{unit}/bottleneck_v1", x
            stride = 2 if unit == 1 and number > 1 else 1
            if unit == 1:
                before = build.conv(f"{scope}/shortcut", x, block, stride, active=False)
            x = build.conv(f"{scope}/conv1", x, block, stride)
            x = build.conv(f"{scope}/conv2", x, block)
            x = build.conv(f"{scope}/conv3", x, block, active=False)
            x = build.follow(x, build.net.add(f"{scope}/add", "add", before, x))
            x = build.follow(x, build.net.add(f"{scope}/out", block.activation if build.keras else "relu", x))
        maps.append(x)
    return maps


def inception_v2(build: Builder) -> tuple[str, list[str]]:
    """slim/nets/inception_v2.py up to Mixed_5c, as ssd_inception_v2_feature_extractor.py uses it."""
    block, maps = build.settings.base, []

    def branch(scope: str, x: str, *layers: str) -> str:
        for layer in layers:
            x = build.conv(f"{scope}/{layer}", x, block, stride=2 if "_1a_" in layer else 1)
        return x

    x = build.separable(f"{INCEPTION}/Conv2d_1a_7x7", GraphBuilder.image, block, stride=2)
    x = build.pool(f"{INCEPTION}/MaxPool_2a_3x3", x, "maxpool", 2)
    x = branch(INCEPTION, x, "Conv2d_2b_1x1", "Conv2d_2c_3x3")
    x = build.pool(f"{INCEPTION}/MaxPool_3a_3x3", x, "maxpool", 2)
    for name in ("3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c"):
        scope = f"{INCEPTION}/Mixed_{name}"
        if name in ("4a", "5a"):
            branches = [
                branch(f"{scope}/Branch_0", x, "Conv2d_0a_1x1", "Conv2d_1a_3x3"),
                branch(f"{scope}/Branch_1", x, "Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_3x3"),
                build.pool(f"{scope}/Branch_2", x, "maxpool", 2),
            ]
        else:
            pooled = build.pool(f"{scope}/Branch_3", x, "maxpool" if name == "5c" else "avgpool", 1)
            branches = [
                branch(f"{scope}/Branch_0", x, "Conv2d_0a_1x1"),
                branch(f"{scope}/Branch_1", x, "Conv2d_0a_1x1", "Conv2d_0b_3x3"),
                branch(f"{scope}/Branch_2", x, "Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3"),
                branch(f"{scope}/Branch_3", pooled, "Conv2d_0b_1x1"),
            ]
        x = build.concat(scope, branches)
        if name in ("4c", "5c"):
            maps.append(x)
    return f"{INCEPTION}/Mixed_5c", maps
