"""TensorFlow's Object Detection API: networks computed again in plain torch, layer by layer, from their variables."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.errors import CheckpointError
from singleshot.weights.class_names import coco_by_number
from singleshot.weights.importing import import_checkpoint, import_foreign

Arrays = dict[str, np.ndarray]
V1, V2, INC = "FeatureExtractor/MobilenetV1", "FeatureExtractor/MobilenetV2", "FeatureExtractor/InceptionV2"
V1_BLOCKS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)] + [(1, 512)] * 5 + [(2, 1024), (1, 1024)]
V2_BLOCKS = [(1, 16), (2, 24), (1, 24), (2, 32), (1, 32), (1, 32), (2, 64), (1, 64), (1, 64), (1, 64), (1, 96), (1, 96),
             (1, 96), (2, 160), (1, 160), (1, 160), (1, 320)]  # fmt: skip
# inception_v2.py: outputs of each branch's layers in turn; two modules halve the map in their last layers.
MIXED = {
    "3b": [(64,), (64, 64), (64, 96, 96), (32,)], "3c": [(64,), (64, 96), (64, 96, 96), (64,)],
    "4a": [(128, 160), (64, 96, 96)], "4b": [(224,), (64, 96), (96, 128, 128), (128,)],
    "4c": [(192,), (96, 128), (96, 128, 128), (128,)], "4d": [(160,), (128, 160), (128, 160, 160), (96,)],
    "4e": [(96,), (128, 192), (160, 192, 192), (96,)], "5a": [(128, 192), (192, 256, 256)],
    "5b": [(352,), (192, 320), (160, 224, 224), (128,)], "5c": [(352,), (192, 320), (192, 224, 224), (128,)],
}  # fmt: skip
EXTRAS = [(2, 512), (3, 256), (4, 256), (5, 128)]


# ------------------------------------------------------------------------------------------- variables of a network


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


def mobilenet_v1(classes: int = 3, multiplier: float = 0.25, boxes: int = 3) -> dict[str, tuple[int, ...]]:
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
    return fill(mobilenet_v1())


@pytest.fixture(scope="session")
def v2(fill) -> Arrays:
    return fill(mobilenet_v2())


@pytest.fixture(scope="session")
def inception(fill) -> Arrays:
    return fill(inception_v2())


@pytest.fixture(scope="session")
def lite(fill) -> Arrays:
    return fill(mobilenet_v2(lite=True))


# --------------------------------------------------------------------------------------- the network, computed again


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


def anchors(sides: list[int], lowest: bool = True, third: float = 0.3333) -> np.ndarray:
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


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("v1", "TensorFlow Object Detection API SSD on MobileNet v1"),
            ("v2", "TensorFlow Object Detection API SSD on MobileNet v2"),
            ("lite", "TensorFlow Object Detection API SSDLite on MobileNet v2"),
            ("inception", "TensorFlow Object Detection API SSD on Inception v2"),
        ],
    )
    def test_gives_the_outputs_of_the_network(self, request, same, name, source):
        variables = request.getfixturevalue(name)
        foreign = import_foreign(variables)
        same(foreign.model, variables)
        assert foreign.source == source
        assert foreign.model.num_classes == 3
        assert foreign.class_names is None
        assert "no pipeline.config" in foreign.notes[0]
        assert np.abs(foreign.model.priors.numpy() - anchors([19, 10, 5, 3, 2, 1])).max() < 1e-6
        assert foreign.model.prior_spec.variances == (0.1, 0.2)
        found = foreign.thresholds
        assert (found.score_min, found.nms_iou, found.per_class, found.keep) == (1e-8, 0.6, 100, 100)
        assert found.activation == "sigmoid"

    def test_anchors_are_those_of_a_published_model(self, shared, v1):
        """Rounded to 8 bits in that file, which holds nothing over 1.6455."""
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        model = interpreter.Interpreter(str(shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite"))
        row = next(t for t in model.get_tensor_details() if t["name"] == "anchors")
        scale, zero = row["quantization"]
        wanted = (model.get_tensor(row["index"]).astype(np.float64) - zero) * scale
        mine = import_checkpoint(v1).priors.numpy()[:, [1, 0, 3, 2]]
        assert mine.shape == wanted.shape == (1917, 4)
        assert np.abs(np.minimum(mine, 255 * scale) - wanted).max() < 0.51 * scale

    def test_six_boxes_on_the_first_map_as_well(self, fill):
        model = import_checkpoint(fill(mobilenet_v1(classes=1, boxes=6)))
        assert np.abs(model.priors.numpy() - anchors([19, 10, 5, 3, 2, 1], lowest=False)).max() < 1e-6

    def test_ninety_classes_are_coco_s(self, fill):
        assert import_foreign(fill(mobilenet_v1(classes=90))).class_names == coco_by_number()

    def test_without_gamma_where_no_layer_of_a_part_has_one(self, v1, same):
        less = {k: v for k, v in v1.items() if not ("_Conv2d_" in k and k.endswith("gamma"))}
        same(import_checkpoint(less), less)

    @pytest.mark.parametrize("rewrite", ["{}:0", "doubled", "training"])
    def test_names_as_they_are_also_written(self, v1, rewrite):
        plain = import_checkpoint(v1).state_dict()
        if rewrite == "training":
            more = {f"{k}/RMSProp_1": v for k, v in v1.items()} | {
                f"{k}/ExponentialMovingAverage": v for k, v in v1.items()
            }
            foreign = import_foreign(
                {**v1, **more, "global_step": np.array(7), f"{V1}/Conv2d_0/act_quant/min": np.float32(0)}
            )
            assert [note.split(" ")[0] for note in foreign.notes] == ["its", "trained", "no"]
            model = foreign.model
        else:
            named = {k.replace(V1, f"{V1}/MobilenetV1") if rewrite == "doubled" else f"{k}:0": v for k, v in v1.items()}
            model = import_checkpoint(named)
        assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items())


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("FirstStageFeatureExtractor/resnet_v1_101/conv1/weights", "two-stage detector"),
            ("FeatureExtractor/resnet_v1_50/conv1/weights", "SSD on ResNet with a feature pyramid"),
            ("WeightSharedConvolutionalBoxPredictor/BoxPredictor/weights", "one predictor for all maps"),
            ("FeatureExtractor/MobilenetV3/Conv/weights", "MobileNet v3"),
            ("FeatureExtractor/InceptionV3/Conv2d_2b_1x1/weights", "SSD on Inception v3"),
            (
                "FeatureExtractor/Unheard/Conv/weights",
                r"no SSD on MobileNet v1, v2 or Inception v2 .* \(it holds FeatureExtractor/Unheard",
            ),
        ],
    )
    def test_other_networks_are_named(self, name, match):
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint({name: np.zeros((3, 3, 3, 8), np.float32)})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({f"{V1}/Conv2d_4_pointwise/weights": None}, r"\(1 missing: .*Conv2d_4_pointwise/weights\)"),
            ({f"{V1}/Conv2d_4_depthwise/BatchNorm/gamma": None}, r"\(1 missing: .*depthwise/BatchNorm/gamma\)"),
            ({f"{V1}/surplus": np.zeros(3, np.float32)}, r"\(1 unexpected: .*/surplus\)"),
            (
                {f"{V1}/Conv2d_4_pointwise/weights": np.zeros((1, 1, 5, 64), np.float32)},
                r"\(1 misshapen: .* is 1x1x5x64",
            ),
            (
                {"BoxPredictor_2/ClassPredictor/biases": np.zeros(25, np.float32)},
                "BoxPredictor_2 has 24 values for boxes",
            ),
            (
                {"BoxPredictor_3/BoxEncodingPredictor/biases": None},
                "1 missing: BoxPredictor_3/BoxEncodingPredictor/biases",
            ),
            ({f"{V1}/Conv2d_0/weights": np.full((3, 3, 3, 16), np.nan, np.float32)}, "NaN"),
        ],
    )
    def test_what_does_not_fit(self, v1, change, match):
        changed = {k: v for k, v in {**v1, **change}.items() if v is not None}
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(changed)
        assert "\n" not in str(caught.value)

    def test_names_of_no_such_network(self):
        with pytest.raises(CheckpointError, match="no SSD on MobileNet"):
            import_checkpoint({"x": np.zeros(3, np.float32)}, source="tf-object-detection")

    def test_without_predictors(self, v1):
        with pytest.raises(CheckpointError, match="no BoxPredictor_0/BoxEncodingPredictor"):
            import_checkpoint({k: v for k, v in v1.items() if not k.startswith("BoxPredictor")})

    def test_boxes_that_no_default_explains(self, fill):
        with pytest.raises(CheckpointError, match=r"\[4, 6, .* put its pipeline.config beside it"):
            import_checkpoint(fill(mobilenet_v1(boxes=4)))


# -------------------------------------------------------------------------------------------------- files of graphs


class GraphWriter:
    """GraphDef, byte by byte. proto: number(field, value) and message(field, content)."""

    def __init__(self, proto: SimpleNamespace) -> None:
        self.proto, self.data = proto, b""

    def node(self, name: str, op: str, *inputs: str, **attrs: bytes) -> str:
        message = self.proto.message
        body = message(1, name.encode()) + message(2, op.encode()) + b"".join(message(3, i.encode()) for i in inputs)
        for key, value in attrs.items():
            body += message(5, message(1, key.encode()) + message(2, value))
        self.data += message(1, body)
        return name

    def tensor(self, value: np.ndarray, **given) -> bytes:
        """given: dims, content in place of the array's own."""
        dtype = {"float32": 1, "int32": 3, "float16": 19}[value.dtype.name]
        dims = b"".join(self.proto.message(2, self.proto.number(1, n)) for n in given.get("dims", value.shape))
        content = given.get("content", self.proto.message(4, value.tobytes()))
        return self.proto.message(8, self.proto.number(1, dtype) + self.proto.message(2, dims) + content)

    def const(self, name: str, value, **given) -> str:
        value = np.asarray(value)
        value = value.astype({"f": np.float32, "i": np.int32}[value.dtype.kind]) if value.dtype.itemsize == 8 else value
        return self.node(name, "Const", value=self.tensor(value, **given))

    def real(self, value: float) -> bytes:
        return b"\x25" + struct.pack("<f", value)


def layers_of(v: Arrays) -> Iterator[tuple[str, str]]:
    """(scope, the part that is its kernel) of every convolution."""
    for name in v:
        if name.endswith("weights"):
            yield tuple(name.rsplit("/", 1))


def write_network(graph: GraphWriter, v: Arrays, eps: float = 0.001, folded: str = "") -> None:
    """Every layer as freeze_graph leaves it; folded: as fold_batch_norms ("bias") or constant folding ("arithmetic")
    of TensorFlow's tools leave it."""
    for scope, part in layers_of(v):
        op = scope.replace(V1, f"{V1}/MobilenetV1") if "_Conv2d_" not in scope else scope
        kind = "DepthwiseConv2dNative" if part == "depthwise_weights" else "Conv2D"
        conv = f"{op}/{'depthwise' if kind[0] == 'D' else 'Conv2D'}"
        norms = [f"{scope}/BatchNorm/{p}" for p in ("gamma", "beta", "moving_mean", "moving_variance")]
        if folded and norms[1] in v:
            gamma, beta, mean, variance = (v[name].astype(np.float64) for name in norms)
            factor = gamma / np.sqrt(variance + eps)
            shape = (-1, 1) if kind[0] == "D" else (-1,)
            if folded == "bias":
                graph.const(f"{conv}_weights", (v[f"{scope}/{part}"] * factor.reshape(shape)).astype(np.float32))
                graph.node(conv, kind, "image_tensor", f"{conv}_weights")
                graph.const(f"{conv}_bn_offset", (beta - mean * factor).astype(np.float32))
                last = graph.node(f"{op}/BatchNorm/batchnorm/add_1", "BiasAdd", conv, f"{conv}_bn_offset")
            else:
                graph.const(f"{scope}/{part}", v[f"{scope}/{part}"])
                graph.node(conv, kind, "image_tensor", f"{scope}/{part}")
                graph.const(f"{op}/BatchNorm/batchnorm/mul", factor.astype(np.float32))
                graph.const(f"{op}/BatchNorm/batchnorm/sub", (beta - mean * factor).astype(np.float32))
                last = graph.node(f"{op}/BatchNorm/batchnorm/mul_1", "Mul", conv, f"{op}/BatchNorm/batchnorm/mul")
                last = graph.node(f"{op}/BatchNorm/batchnorm/add_1", "Add", last, f"{op}/BatchNorm/batchnorm/sub")
            graph.node(f"{op}/Relu6", "Relu6", last)
            continue
        for name in (f"{scope}/{part}", f"{scope}/biases", *norms):
            if name in v:
                graph.node(f"{graph.const(name, v[name])}/read", "Identity", name)
        graph.node(conv, kind, "image_tensor", f"{scope}/{part}/read")
        if norms[1] in v:
            reads = [f"{name}/read" for name in norms]
            last = graph.node(f"{op}/BatchNorm/FusedBatchNorm", "FusedBatchNorm", conv, *reads, epsilon=graph.real(eps))
            graph.node(f"{op}/Relu6", "Relu6", last)
        else:
            graph.node(f"{op}/BiasAdd", "BiasAdd", conv, f"{scope}/biases/read")


def write_surroundings(graph: GraphWriter, size=(300, 300), iou=0.6, score=1e-8, per_class=100, total=100) -> None:
    """What the API's graph does before and after the network."""
    graph.node("image_tensor", "Placeholder")
    resize = "Preprocessor/map/while/ResizeImage"
    graph.const(f"{resize}/size", np.array(size, np.int32))
    graph.node(f"{resize}/ResizeBilinear", "ResizeBilinear", "image_tensor", f"{resize}/size")
    make = "MultipleGridAnchorGenerator"
    for i, row in enumerate([[(0.1, 1.0), (0.25, 2.0), (0.25, 0.5)], *[[(0.3 + 0.1 * k, 1.0)] * 6 for k in range(5)]]):
        end = f"_{i}" if i else ""
        graph.const(f"{make}/Sqrt{end}/x", np.array([ratio for _, ratio in row], np.float32))
        graph.node(f"{make}/Sqrt{end}", "Sqrt", f"{make}/Sqrt{end}/x")
        graph.const(f"{make}/truediv{end}/x", np.array([scale for scale, _ in row], np.float32))
        graph.node(f"{make}/truediv{end}", "RealDiv", f"{make}/truediv{end}/x", f"{make}/Sqrt{end}")
    graph.node("Postprocessor/Decode/unstack", "Unpack", "image_tensor")
    for i, scale in enumerate((8.0, 8.0, 4.0, 4.0, 2.0, 2.0)):  # the last two halve a size
        end, what = f"_{i}" if i else "", "image_tensor" if i > 3 else f"Postprocessor/Decode/unstack:{i}"
        graph.const(f"Postprocessor/Decode/truediv{end}/y", np.float32(scale))
        graph.node(f"Postprocessor/Decode/truediv{end}", "RealDiv", what, f"Postprocessor/Decode/truediv{end}/y")
    graph.node("Postprocessor/convert_scores", "Sigmoid", "image_tensor")
    nms = "Postprocessor/BatchMultiClassNonMaxSuppression/map/while/MultiClassNonMaxSuppression"
    graph.const(f"{nms}/FilterGreaterThan/Greater/y", np.float32(score))
    graph.node(f"{nms}/FilterGreaterThan/Greater", "Greater", "image_tensor", f"{nms}/FilterGreaterThan/Greater/y")
    for i, count in enumerate((per_class, total)):
        graph.const(f"{nms}/Minimum_{i}/x", np.int32(count))
        graph.node(f"{nms}/Minimum_{i}", "Minimum", f"{nms}/Minimum_{i}/x", "image_tensor")
    graph.const(f"{nms}/iou_threshold", np.float32(iou))
    graph.node(
        f"{nms}/NonMaxSuppressionV2", "NonMaxSuppressionV2", "a", "b", f"{nms}/Minimum_0", f"{nms}/iou_threshold"
    )


@pytest.fixture
def graph(tables) -> GraphWriter:
    return GraphWriter(tables)


@pytest.fixture
def imported(tmp_path) -> Callable[..., object]:
    """Writes a graph and imports it."""

    def load(graph: GraphWriter, **options):
        path = tmp_path / "frozen_inference_graph.pb"
        path.write_bytes(graph.data)
        return import_foreign(path, **options)

    return load


class TestFrozenGraphs:
    @pytest.mark.parametrize("name", ["v1", "lite"])
    def test_gives_the_model_that_the_checkpoint_gives(self, request, graph, imported, tmp_path, bundle_writer, name):
        variables = request.getfixturevalue(name)
        write_network(graph, variables)
        frozen = imported(graph).model
        saved = import_checkpoint(bundle_writer(tmp_path / "model.ckpt", variables))
        assert frozen.prior_spec == saved.prior_spec
        assert frozen.input_spec == saved.input_spec
        assert frozen.name == saved.name
        wanted = saved.state_dict()
        assert frozen.state_dict().keys() == wanted.keys()
        assert all(torch.equal(value, wanted[key]) for key, value in frozen.state_dict().items())
        epsilons = [m.eps for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert epsilons
        assert np.allclose(epsilons, 0.001)

    def test_what_the_graph_says_is_kept_to(self, v1, graph, imported, same):
        write_surroundings(graph, size=(256, 256), iou=0.5, score=0.25, per_class=40, total=70)
        write_network(graph, v1, eps=0.01)
        foreign = imported(graph)
        same(foreign.model, v1, eps=0.01)
        assert foreign.model.input_spec.size == 256
        found = foreign.thresholds
        assert (found.score_min, found.nms_iou, found.per_class, found.keep) == (0.25, 0.5, 40, 70)
        assert foreign.model.prior_spec.variances == (0.125, 0.25)
        assert foreign.model.prior_spec.maps == (16, 8, 4, 2, 1, 1)
        first = foreign.model.priors[:3, 2:].numpy()
        root = math.sqrt(2)
        assert np.allclose(first, [[0.1, 0.1], [0.25 * root, 0.25 / root], [0.25 / root, 0.25 * root]], atol=1e-6)
        assert np.allclose(foreign.model.priors[-1, 2:].numpy(), 0.7, atol=1e-6)
        assert foreign.notes == ()

    @pytest.mark.parametrize("folded", ["bias", "arithmetic"])
    def test_batch_normalisation_that_a_tool_has_folded(self, v1, graph, imported, same, folded):
        write_network(graph, v1, folded=folded)
        same(imported(graph).model, v1, tolerance=5e-4)

    def test_explicit_padding(self, v1, graph, imported, same):
        write_network(graph, v1)
        valid = graph.proto.message(2, b"VALID")
        strides = graph.proto.message(1, graph.proto.message(3, bytes([1, 2, 2, 1])))
        graph.node("FeatureExtractor/padded/Conv2D", "Conv2D", "image_tensor", padding=valid, strides=strides)
        same(imported(graph).model, v1, explicit=True)

    def test_a_graph_for_tflite(self, v1, graph, imported):
        dims = b"".join(graph.proto.message(2, graph.proto.number(1, n)) for n in (1, 300, 300, 3))
        graph.node("normalized_input_image_tensor", "Placeholder", shape=graph.proto.message(7, dims))
        write_network(graph, v1)
        table = anchors([19, 10, 5, 3, 2, 1], third=0.25)[:, [1, 0, 3, 2]].astype(np.float32)
        graph.const("anchors", table)
        reals = {f"{side}_scale": graph.real(value) for side, value in zip("yxhw", (10, 10, 5, 5), strict=True)}
        graph.node(
            "TFLite_Detection_PostProcess", "TFLite_Detection_PostProcess", "a", "b", "anchors",
            nms_iou_threshold=graph.real(0.55), nms_score_threshold=graph.real(0.1),
            max_detections=graph.proto.number(3, 20), **reals,
        )  # fmt: skip
        foreign = imported(graph)
        assert np.abs(foreign.model.priors.numpy()[:, [1, 0, 3, 2]] - table).max() < 1e-6
        assert (foreign.thresholds.keep, foreign.thresholds.nms_iou, foreign.thresholds.score_min) == (20, 0.55, 0.1)

    def test_a_saved_model_with_its_constants(self, v1, graph, tables, tmp_path):
        write_network(graph, v1)
        path = tmp_path / "saved_model.pb"
        path.write_bytes(tables.number(1, 1) + tables.message(2, tables.message(2, graph.data)))
        assert import_checkpoint(path).num_classes == 3

    def test_values_that_go_on_to_the_end(self, v1, graph, imported):
        """A constant of one value is written once, whatever its shape; none at all are zeros."""
        name, other = f"{V1}/Conv2d_0/BatchNorm/gamma", f"{V1}/Conv2d_0/BatchNorm/beta"
        rest = {k: v for k, v in v1.items() if k not in (name, other)}
        rest[f"{V1}/Conv2d_0/weights"] = v1[f"{V1}/Conv2d_0/weights"].astype(np.float16)
        graph.const(name, v1[name], content=b"\x2d" + struct.pack("<f", 1.5))
        graph.const(other, v1[other], content=b"")
        write_network(graph, rest)
        state = imported(graph).model.state_dict()
        norm = next(key for key in state if "Conv2d_0_norm.weight" in key)
        assert torch.equal(state[norm], torch.full((16,), 1.5))
        assert torch.equal(state[norm.replace("weight", "bias")], torch.zeros(16))

    def test_a_quantised_graph(self, v1, graph, imported, same):
        """Trained for 8 bits: kernels pass a node that rounds them, ranges lie beside the variables."""
        write_network(graph, {k: v for k, v in v1.items() if "Conv2d_0/" not in k})
        scope = f"{V1}/Conv2d_0"
        for name, value in v1.items():
            if name.startswith(f"{scope}/"):
                graph.node(f"{graph.const(name, value)}/read", "Identity", name)
        for end in ("min", "max"):
            graph.node(f"{graph.const(f'{scope}/weights_quant/{end}', np.float32(1))}/read", "Identity")
        graph.node(f"{scope}/mul_fold", "Mul", f"{scope}/weights/read", "correction")
        graph.node(f"{scope}/weights_quant/Fake", "FakeQuantWithMinMaxVars", f"{scope}/mul_fold")
        graph.node(f"{scope}/Conv2D_Fold", "Conv2D", "image_tensor", f"{scope}/weights_quant/Fake")
        same(imported(graph).model, v1)


class TestDamagedGraphs:
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.9999])
    def test_cut_off(self, v1, graph, tmp_path, kept):
        write_network(graph, v1)
        path = tmp_path / "frozen.pb"
        path.write_bytes(graph.data[: int(len(graph.data) * kept)])
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(
        ("dims", "content", "match"),
        [
            ((2**20, 2**20, 3, 2**20), b"", "more than is read"),
            ((2**14, 2**14, 1, 2), b"\x2d\0\0\0\0", "more than is read"),
            ((3, 3, 3, 2**64 - 5), b"", "more than is read"),
            ((3, 3, 3, 8), b"\x22\x04\0\0\0\0", "1 values for shape"),
            ((1,), b"\x22\x08" + bytes(8), "2 values for shape"),
        ],
    )
    def test_declared_shapes_that_lie(self, graph, imported, dims, content, match):
        graph.const(f"{V1}/Conv2d_0/weights", np.zeros(1, np.float32), dims=dims, content=content)
        with pytest.raises(CheckpointError, match=match):
            imported(graph)

    def test_many_constants_that_are_large_together(self, graph, imported):
        for i in range(5):
            graph.const(f"{V1}/Conv2d_{i}/weights", np.zeros(1, np.float32), dims=(2**13, 2**13), content=b"")
        with pytest.raises(CheckpointError, match="values together"):
            imported(graph)

    def test_cycles(self, v1, graph, imported):
        graph.node("a", "Identity", "b")
        graph.node("b", "Identity", "a")
        graph.node("c", "Conv2D", "c", "a")
        graph.node(f"{V1}/again/Conv2D", "Conv2D", f"{V1}/again/BiasAdd", f"{V1}/Conv2d_0/weights")
        graph.node(f"{V1}/again/BiasAdd", "BiasAdd", f"{V1}/again/Conv2D", f"{V1}/again/BiasAdd")
        write_network(graph, v1)
        assert imported(graph).model.num_classes == 3

    def test_a_node_twice_or_without_a_value(self, graph, imported):
        graph.node("x", "Const")
        graph.node("x", "Const")
        with pytest.raises(CheckpointError, match="'x' has no name or is there twice"):
            imported(graph)

    def test_a_graph_without_weights(self, graph, imported):
        graph.node("x", "VariableV2")
        with pytest.raises(CheckpointError, match=r"1 nodes without weights; want a frozen one"):
            imported(graph)

    @pytest.mark.parametrize(("size", "match"), [((300, 400), "want a square"), ((8, 8), "want a square of 32")])
    def test_input_sizes_that_are_not_taken(self, v1, graph, imported, size, match):
        write_surroundings(graph, size=size)
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match=match):
            imported(graph)

    def test_images_resized_to_no_fixed_size(self, v1, graph, imported):
        graph.node("Preprocessor/ResizeBilinear", "ResizeBilinear", "image_tensor", "Preprocessor/computed")
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match="not resized to one fixed size"):
            imported(graph)


# ---------------------------------------------------------------------------------------------- files beside a model

CONFIG = """
model {
  ssd {
    num_classes: 3
    image_resizer { fixed_shape_resizer { height: 224  width: 224 } }
    box_coder { faster_rcnn_box_coder { y_scale: 4.0 x_scale: 4.0 height_scale: 2.0 width_scale: 2.0 } }
    feature_extractor { type: 'ssd_mobilenet_v1' min_depth: 16 conv_hyperparams {
      activation: RELU_6, batch_norm { epsilon: 0.001, decay: 0.9997 } } }
    anchor_generator { ssd_anchor_generator { num_layers: 6 min_scale: 0.15 max_scale: 0.9
      aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5 aspect_ratios: 3.0 aspect_ratios: 0.25 } }
    post_processing { batch_non_max_suppression { score_threshold: 0.3 iou_threshold: 0.45 max_detections_per_class: 7
      max_total_detections: 9 } score_converter: SOFTMAX }
  }
}
train_config: { batch_size: 24 data_augmentation_options { random_horizontal_flip { } } }
"""
LABELS = """
# numbers from 1
item { name: '/m/1' id: 1 display_name: "red cell" }
item {
  id: 3
  name: 'platelet'
}
"""


class TestFilesBesideIt:
    def test_a_configuration(self, v1, tmp_path, bundle_writer):
        (tmp_path / "pipeline.config").write_text(CONFIG)
        foreign = import_foreign(bundle_writer(tmp_path / "model.ckpt", v1))
        assert foreign.model.input_spec.size == 224
        assert foreign.model.prior_spec.variances == (0.25, 0.5)
        assert np.allclose(foreign.model.priors[1, 2:].numpy(), [0.15 * math.sqrt(2), 0.15 / math.sqrt(2)], atol=1e-6)
        found = foreign.thresholds
        assert (found.score_min, found.nms_iou, found.per_class, found.keep) == (0.3, 0.45, 7, 9)
        assert found.activation == "softmax"
        assert foreign.notes == ()

    @pytest.mark.parametrize(
        ("old", "new", "match"),
        [
            ("num_classes: 3", "num_classes: 4", "3 classes, but pipeline.config says 4"),
            (
                "fixed_shape_resizer { height: 224  width: 224 }",
                "keep_aspect_ratio_resizer { }",
                "want fixed_shape_resizer",
            ),
            ("aspect_ratios: 3.0", "", r"but anchors for \[3, 5, 5"),
            ("num_layers: 6", "num_layers: 5", r"but anchors for \[3, 6, 6, 6, 6\]"),
            ("num_layers: 6", "num_layers: 2000000000", "anchors for 2000000000 maps"),
            ("min_scale: 0.15", "min_scale: 0", "want positive numbers"),
            ("num_layers: 6", "num_layers: 6 height_stride: 16", "of their own base, strides"),
            ("x_scale: 4.0", "x_scale: 5.0", "want the same for x and y"),
            ("model {", "model { }}", "cannot be read as protobuf text"),
            ("model {\n  ssd {", "model {\n  faster_rcnn {", "describes no SSD"),
        ],
    )
    def test_configurations_that_do_not_fit(self, v1, tmp_path, bundle_writer, old, new, match):
        assert old in CONFIG
        (tmp_path / "pipeline.config").write_text(CONFIG.replace(old, new))
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(bundle_writer(tmp_path / "model.ckpt", v1))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("given", [True, False])
    def test_a_label_map(self, v1, graph, imported, tmp_path, given):
        path = tmp_path / ("elsewhere" if given else ".") / "label_map.pbtxt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(LABELS)
        write_network(graph, v1)
        assert imported(graph, companion=path if given else None).class_names == ("red cell", "unused 2", "platelet")

    def test_two_label_maps_tell_nothing_unless_one_is_given(self, v1, graph, imported, tmp_path):
        (tmp_path / "a.pbtxt").write_text(LABELS)
        (tmp_path / "b.pbtxt").write_text(LABELS.replace("red", "white"))
        write_network(graph, v1)
        assert imported(graph).class_names is None
        names = imported(graph, companion=tmp_path / "b.pbtxt").class_names
        assert names is not None
        assert names[0] == "white cell"

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            (LABELS.replace("id: 3", "id: 4"), "3 classes, but the label map numbers 1 to 4"),
            (LABELS.replace("id: 3", "id: 1"), "two items with id 1"),
            (LABELS.replace("id: 3", "id: three"), "cannot be read as protobuf text"),
            ("person\ncar\n", "neither a label map"),
            ("item {" * 5000, "brackets nested too deep"),
        ],
    )
    def test_label_maps_that_do_not_fit(self, v1, graph, imported, tmp_path, text, match):
        path = tmp_path / "labels.txt"
        path.write_text(text)
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match=match) as caught:
            imported(graph, companion=path)
        assert "\n" not in str(caught.value)
