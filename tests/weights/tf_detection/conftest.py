"""Networks of TensorFlow's Object Detection API: their variables, and what they compute, in plain torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

Arrays = dict[str, np.ndarray]
V1, V2, INC = "FeatureExtractor/MobilenetV1", "FeatureExtractor/MobilenetV2", "FeatureExtractor/InceptionV2"
V1_BLOCKS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)] + [(1, 512)] * 5 + [(2, 1024), (1, 1024)]
V2_BLOCKS = [
    (1, 16),
    (2, 24),
    (1, 24),
    (2, 32),
    (1, 32),
    (1, 32),
    (2, 64),
    (1, 64),
    (1, 64),
    (1, 64),
    (1, 96),
    (1, 96),
    (1, 96),
    (2, 160),
    (1, 160),
    (1, 160),
    (1, 320),
]
# inception_v2.py: outputs of each branch's layers in turn; two modules halve the map in their last layers.
MIXED = {
    "3b": [(64,), (64, 64), (64, 96, 96), (32,)],
    "3c": [(64,), (64, 96), (64, 96, 96), (64,)],
    "4a": [(128, 160), (64, 96, 96)],
    "4b": [(224,), (64, 96), (96, 128, 128), (128,)],
    "4c": [(192,), (96, 128), (96, 128, 128), (128,)],
    "4d": [(160,), (128, 160), (128, 160, 160), (96,)],
    "4e": [(96,), (128, 192), (160, 192, 192), (96,)],
    "5a": [(128, 192), (192, 256, 256)],
    "5b": [(352,), (192, 320), (160, 224, 224), (128,)],
    "5c": [(352,), (192, 320), (192, 224, 224), (128,)],
}
EXTRAS = [(2, 512), (3, 256), (4, 256), (5, 128)]


class Names:
    """Names and shapes as the API's graph makes its variables."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def conv(self, scope: str, kernel: int, inputs: int, outputs: int, norm: bool = True) -> int:
        self.shapes[f"{scope}/weights"] = (kernel, kernel, inputs, outputs)
        return self._after(scope, outputs, norm)

    def depthwise(self, scope: str, channels: int) -> int:
        self.shapes[f"{scope}/depthwise_weights"] = (3, 3, channels, 1)
        return self._after(scope, channels, True)

    def _after(self, scope: str, outputs: int, norm: bool) -> int:
        for part in ("BatchNorm/gamma", "BatchNorm/beta", "BatchNorm/moving_mean", "BatchNorm/moving_variance"):
            if norm:
                self.shapes[f"{scope}/{part}"] = (outputs,)
        if not norm:
            self.shapes[f"{scope}/biases"] = (outputs,)
        return outputs

    def extras(self, prefix: str, width: int, depth: Callable[[int], int], lite: bool) -> list[int]:
        widths = []
        for i, nominal in EXTRAS:
            half, full = depth(nominal // 2), depth(nominal)
            width = self.conv(f"{prefix}_1_Conv2d_{i}_1x1_{half}", 1, width, half)
            last = f"{prefix}_2_Conv2d_{i}_3x3_s2_{full}"
            if lite:
                self.depthwise(f"{last}_depthwise", width)
            width = self.conv(last, 1 if lite else 3, width, full)
            widths.append(width)
        return widths

    def heads(self, widths: list[int], columns: int, kernel: int, lite: bool, boxes: int = 3) -> None:
        for i, width in enumerate(widths):
            count = boxes if i == 0 else 6
            for name, outputs in (("BoxEncodingPredictor", 4 * count), ("ClassPredictor", columns * count)):
                if lite:
                    self.depthwise(f"BoxPredictor_{i}/{name}_depthwise", width)
                self.conv(f"BoxPredictor_{i}/{name}", 1 if lite else kernel, width, outputs, norm=False)


def _mobilenet_v1(classes: int = 3, multiplier: float = 0.25, boxes: int = 3) -> dict[str, tuple[int, ...]]:
    names = Names()

    def depth(nominal: int) -> int:
        return max(int(nominal * multiplier), 16)

    width, widths = names.conv(f"{V1}/Conv2d_0", 3, 3, depth(32)), []
    for i, (_, nominal) in enumerate(V1_BLOCKS, start=1):
        names.depthwise(f"{V1}/Conv2d_{i}_depthwise", width)
        width = names.conv(f"{V1}/Conv2d_{i}_pointwise", 1, width, depth(nominal))
        if i in (11, 13):
            widths.append(width)
    widths += names.extras(f"{V1}/Conv2d_13_pointwise", width, depth, lite=False)
    names.heads(widths, classes + 1, 1, lite=False, boxes=boxes)
    return names.shapes


def mobilenet_v2(classes: int = 3, multiplier: float = 0.35, lite: bool = False) -> dict[str, tuple[int, ...]]:
    names = Names()

    def depth(nominal: int) -> int:  # slim's _make_divisible by 8
        wide = nominal * multiplier
        even = max(8, int(wide + 4) // 8 * 8)
        return even + 8 if even < 0.9 * wide else even

    width, widths = names.conv(f"{V2}/Conv", 3, 3, depth(32)), []
    for i, (_, nominal) in enumerate(V2_BLOCKS):
        scope = f"{V2}/expanded_conv" + (f"_{i}" if i else "")
        wide = names.conv(f"{scope}/expand", 1, width, 6 * width) if i else width
        if i == 13:
            widths.append(wide)
        names.depthwise(f"{scope}/depthwise", wide)
        width = names.conv(f"{scope}/project", 1, wide, depth(nominal))
    widths.append(names.conv(f"{V2}/Conv_1", 1, width, depth(1280)))
    widths += names.extras(f"{V2}/layer_19", widths[-1], depth, lite=lite)
    names.heads(widths, classes + 1, 3, lite=lite)
    return names.shapes


def branch_layers(module: str, branch: int) -> list[tuple[str, int, int]]:
    """(name, kernel, stride) of the convolutions of one branch."""
    if module in ("4a", "5a"):
        layers = [("Conv2d_0a_1x1", 1, 1), ("Conv2d_0b_3x3", 3, 1), ("Conv2d_1a_3x3", 3, 2)]
        return layers if branch else [layers[0], layers[2]]
    if branch == 3:
        return [("Conv2d_0b_1x1", 1, 1)]
    return [("Conv2d_0a_1x1", 1, 1), ("Conv2d_0b_3x3", 3, 1), ("Conv2d_0c_3x3", 3, 1)][: branch + 1]


def inception_v2(classes: int = 3, multiplier: float = 0.25) -> dict[str, tuple[int, ...]]:
    names = Names()

    def depth(nominal: int) -> int:
        return max(int(nominal * multiplier), 16)

    first, many = f"{INC}/Conv2d_1a_7x7", min(int(depth(64) / 3), 8)
    names.shapes[f"{first}/depthwise_weights"] = (7, 7, 3, many)
    names.shapes[f"{first}/pointwise_weights"] = (1, 1, 3 * many, depth(64))
    width = names._after(first, depth(64), True)
    width = names.conv(f"{INC}/Conv2d_2b_1x1", 1, width, depth(64))
    width, widths = names.conv(f"{INC}/Conv2d_2c_3x3", 3, width, depth(192)), []
    for module, branches in MIXED.items():
        ends = []
        for i, outputs in enumerate(branches):
            last = width
            for (name, kernel, _), nominal in zip(branch_layers(module, i), outputs, strict=True):
                last = names.conv(f"{INC}/Mixed_{module}/Branch_{i}/{name}", kernel, last, depth(nominal))
            ends.append(last)
        width = sum(ends) + (width if module in ("4a", "5a") else 0)
        if module in ("4c", "5c"):
            widths.append(width)
    widths += names.extras(f"{INC}/Mixed_5c", width, depth, lite=False)
    names.heads(widths, classes + 1, 3, lite=False)
    return names.shapes


KINDS = {
    "biases": "bias",
    "gamma": "bn_gamma",
    "beta": "bn_beta",
    "moving_mean": "bn_mean",
    "moving_variance": "bn_var",
}


@pytest.fixture(scope="session")
def fill(golden_inputs) -> Callable[[dict[str, tuple[int, ...]]], Arrays]:
    def make(shapes: dict[str, tuple[int, ...]]) -> Arrays:
        arrays = {}
        for name, shape in shapes.items():
            fan_in = int(np.prod(shape[:2] if "depthwise_weights" in name else shape[:3]))
            arrays[name] = golden_inputs.fill(name, shape, KINDS.get(name.split("/")[-1], "conv"), fan_in)
        return arrays

    return make


@pytest.fixture(scope="session")
def v1(fill) -> Arrays:
    return fill(_mobilenet_v1())


@pytest.fixture(scope="session")
def v2(fill) -> Arrays:
    return fill(mobilenet_v2())


@pytest.fixture(scope="session")
def inception(fill) -> Arrays:
    return fill(inception_v2())


@pytest.fixture(scope="session")
def lite(fill) -> Arrays:
    return fill(mobilenet_v2(lite=True))


class Reference:
    """slim's layers in torch's functions. v: the variables; explicit: padded as use_explicit_padding does."""

    def __init__(self, v: Arrays, explicit: bool = False, eps: float = 0.001) -> None:
        self.v, self.explicit, self.eps = (
            {key: torch.from_numpy(value).double() for key, value in v.items()},
            explicit,
            eps,
        )

    def conv(self, scope: str, x: torch.Tensor, stride: int = 1, activation: bool = True) -> torch.Tensor:
        depthwise = f"{scope}/depthwise_weights" in self.v
        kernel = self.v[f"{scope}/depthwise_weights" if depthwise else f"{scope}/weights"]
        k, size = kernel.shape[0], x.shape[-1]
        needed = max((math.ceil(size / stride) - 1) * stride + k - size, 0)
        before, after = needed // 2, needed - needed // 2
        if self.explicit and k == 3 and stride == 2:
            before = after = 1
        x = F.pad(x, (before, after, before, after))
        if depthwise:
            x = F.conv2d(x, kernel.permute(2, 3, 0, 1), stride=stride, groups=kernel.shape[2])
        else:
            x = F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)
        if f"{scope}/biases" in self.v:
            return x + self.v[f"{scope}/biases"].view(1, -1, 1, 1)
        mean, variance, beta = (
            self.v[f"{scope}/BatchNorm/{part}"].view(1, -1, 1, 1) for part in ("moving_mean", "moving_variance", "beta")
        )
        gamma = self.v.get(f"{scope}/BatchNorm/gamma", torch.ones(mean.shape[1], dtype=torch.float64)).view(1, -1, 1, 1)
        x = gamma * (x - mean) / torch.sqrt(variance + self.eps) + beta
        return x.clamp(0, 6) if activation else x

    def mobilenet_v1(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, maps = self.conv(f"{V1}/Conv2d_0", x, 2), []
        for i, (stride, _) in enumerate(V1_BLOCKS, start=1):
            x = self.conv(f"{V1}/Conv2d_{i}_depthwise", x, stride)
            x = self.conv(f"{V1}/Conv2d_{i}_pointwise", x)
            if i in (11, 13):
                maps.append(x)
        return self.extras(f"{V1}/Conv2d_13_pointwise", maps)

    def mobilenet_v2(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, maps = self.conv(f"{V2}/Conv", x, 2), []
        for i, (stride, _) in enumerate(V2_BLOCKS):
            scope, before = f"{V2}/expanded_conv" + (f"_{i}" if i else ""), x
            if i:
                x = self.conv(f"{scope}/expand", x)
            if i == 13:
                maps.append(x)
            x = self.conv(f"{scope}/project", self.conv(f"{scope}/depthwise", x, stride), activation=False)
            if stride == 1 and x.shape == before.shape:
                x = x + before
        maps.append(self.conv(f"{V2}/Conv_1", x))
        return self.extras(f"{V2}/layer_19", maps)

    def inception_v2(self, x: torch.Tensor) -> list[torch.Tensor]:
        first, maps = f"{INC}/Conv2d_1a_7x7", []
        deep = self.v[f"{first}/depthwise_weights"]
        x = F.pad(x, (2, 3, 2, 3))  # 300 to 150 by 7 x 7
        # Output c * many + j is channel c under kernel j.
        rows = [
            F.conv2d(x[:, c : c + 1], deep[:, :, c, j][None, None], stride=2)
            for c in range(3)
            for j in range(deep.shape[3])
        ]
        self.v[f"{first}/weights"] = self.v[f"{first}/pointwise_weights"]
        del self.v[f"{first}/depthwise_weights"]
        x = self.pool(self.conv(first, torch.cat(rows, dim=1)))
        x = self.pool(self.conv(f"{INC}/Conv2d_2c_3x3", self.conv(f"{INC}/Conv2d_2b_1x1", x)))
        for module, branches in MIXED.items():
            ends = []
            for i in range(len(branches)):
                y = x
                if i == 3:
                    ones = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)
                    y = F.max_pool2d(x, 3, 1, 1) if module == "5c" else F.avg_pool2d(x, 3, 1, 1) / ones
                for name, _, stride in branch_layers(module, i):
                    y = self.conv(f"{INC}/Mixed_{module}/Branch_{i}/{name}", y, stride)
                ends.append(y)
            x = torch.cat([*ends, self.pool(x)] if module in ("4a", "5a") else ends, dim=1)
            if module in ("4c", "5c"):
                maps.append(x)
        return self.extras(f"{INC}/Mixed_5c", maps)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """3x3 maxima at stride 2 of values that are not negative."""
        odd = x.shape[-1] % 2
        return F.max_pool2d(F.pad(x, (odd, 1, odd, 1)), 3, 2)

    def extras(self, prefix: str, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        for i, _ in EXTRAS:
            first, last = (
                next(
                    n.rsplit("/", 1)[0]
                    for n in self.v
                    if n.startswith(f"{prefix}_{k}_Conv2d_{i}_") and n.endswith("/weights")
                )
                for k in (1, 2)
            )
            x = self.conv(first, maps[-1])
            if f"{last}_depthwise/depthwise_weights" in self.v:
                maps.append(self.conv(last, self.conv(f"{last}_depthwise", x, 2)))
            else:
                maps.append(self.conv(last, x, 2))
        return maps

    def __call__(self, image: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """-> box encodings [P, 4] ty tx th tw, class predictions [P, columns] with background."""
        x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] * (2.0 / 255.0) - 1.0
        makers = {V1: self.mobilenet_v1, V2: self.mobilenet_v2, INC: self.inception_v2}
        maps = next(make(x) for scope, make in makers.items() if any(n.startswith(scope) for n in self.v))
        found: dict[str, list[torch.Tensor]] = {"BoxEncodingPredictor": [], "ClassPredictor": []}
        for i, x in enumerate(maps):
            for name, width in (("BoxEncodingPredictor", 4), ("ClassPredictor", columns)):
                scope = f"BoxPredictor_{i}/{name}"
                y = self.conv(f"{scope}_depthwise", x) if f"{scope}_depthwise/depthwise_weights" in self.v else x
                found[name].append(self.conv(scope, y).permute(0, 2, 3, 1).reshape(-1, width))
        return torch.cat(found["BoxEncodingPredictor"]).numpy(), torch.cat(found["ClassPredictor"]).numpy()


@pytest.fixture(scope="session")
def same(golden_inputs) -> Callable[..., None]:
    """`same(model, variables)`: raw outputs are those of the network computed again."""

    def check(model, variables: Arrays, tolerance: float = 1e-6, **options) -> None:
        image = golden_inputs.image(model.input_spec.size)
        exact = copy.deepcopy(model).double()  # layers this deep lose half of float32's digits
        with torch.inference_mode():
            raw = exact(torch.from_numpy(image).permute(2, 0, 1)[None])
        boxes, scores = Reference(variables, **options)(image, model.num_classes + 1)
        assert boxes.std() > 0.01
        assert scores.std() > 0.01
        assert np.abs(raw.offsets[0].numpy() - boxes[:, [1, 0, 3, 2]]).max() < tolerance
        assert np.abs(raw.logits[0].numpy() - scores).max() < tolerance

    return check


def _anchors(sides: list[int], lowest: bool = True, third: float = 0.3333) -> np.ndarray:
    """create_ssd_anchors with the samples' numbers, box by box: [P, 4] cx cy w h."""
    rows = []
    scales = [0.2 + (0.95 - 0.2) * i / (len(sides) - 1) for i in range(len(sides))] + [1.0]
    for layer, side in enumerate(sides):
        boxes = [(scales[layer], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, third)]
        boxes.append((math.sqrt(scales[layer] * scales[layer + 1]), 1.0))
        if layer == 0 and lowest:
            boxes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        for y in range(side):
            for x in range(side):
                for scale, ratio in boxes:
                    height, width = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    rows.append(((x + 0.5) / side, (y + 0.5) / side, width, height))
    return np.array(rows)


@pytest.fixture(scope="session")
def mobilenet_v1() -> Callable[..., dict[str, tuple[int, ...]]]:
    """`mobilenet_v1(classes=3, multiplier=0.25, boxes=3)`: names and shapes of such a network's variables."""
    return _mobilenet_v1


@pytest.fixture(scope="session")
def anchors() -> Callable[..., np.ndarray]:
    """`anchors(sides)`: the API's default boxes for maps of these sides, cx cy w h."""
    return _anchors
