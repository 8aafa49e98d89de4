"""SSD on feature pyramids: names of TensorFlow 1 and 2, computed again in plain torch from the same variables."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint, import_foreign

SIZE, CLASSES, DEPTH, LEVELS = 192, 2, 6, 5
V1, V2, RESNET = "FeatureExtractor/MobilenetV1", "FeatureExtractor/MobilenetV2", "FeatureExtractor/resnet_v1_50"
SHARED = "WeightSharedConvolutionalBoxPredictor"
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V2_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
UNITS = (3, 4, 6, 3)
CONFIG = """model {{ ssd {{
  num_classes: {classes}
  image_resizer {{ fixed_shape_resizer {{ height: {size} width: {size} }} }}
  feature_extractor {{ type: "any" override_base_feature_extractor_hyperparams: true
    conv_hyperparams {{ activation: RELU_6 batch_norm {{ epsilon: 0.001 }} }} fpn {{ min_level: 3 }} }}
  box_predictor {{ weight_shared_convolutional_box_predictor {{
    depth: 6 conv_hyperparams {{ activation: RELU_6 batch_norm {{ epsilon: 0.001 }} }} }} }}
  anchor_generator {{ multiscale_anchor_generator {{ anchor_scale: {scale}
    aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5 }} }}
  post_processing {{ score_converter: SIGMOID batch_non_max_suppression {{ score_threshold: 0.01 }} }}
}} }}"""


class Made:
    """Variables of a network by TensorFlow 1's names, made as they are first asked for, and its outputs."""

    def __init__(self, lite: bool, shared: bool, keras: bool) -> None:
        self.lite, self.shared, self.keras, self.v, self.rng = lite, shared, keras, {}, np.random.default_rng(5)

    def get(self, name, shape, low=None):
        if name not in self.v:
            spread = 1.3 / np.sqrt(np.prod(shape[:3] if "depthwise" not in name else shape[:2]))
            made = self.rng.normal(0, spread if len(shape) == 4 else 0.2, shape) if low is None else None
            self.v[name] = (self.rng.uniform(low, 1.5, shape) if made is None else made).astype(np.float32)
        return torch.from_numpy(self.v[name]).double()

    def norm(self, key, x):
        count = x.shape[1]
        gamma, variance = (self.get(f"{key}/{n}", (count,), 0.5) for n in ("gamma", "moving_variance"))
        beta, mean = (self.get(f"{key}/{n}", (count,)) for n in ("beta", "moving_mean"))
        return F.batch_norm(
            x,
            mean,
            variance,
            gamma,
            beta,
            eps=1e-5 if RESNET in key and "/fpn/" not in key and not self.keras else 0.001,
        )

    def kernel(self, scope, x, outputs, size, stride, kind="weights", pads=None):
        inputs = x.shape[1]
        weight = self.get(f"{scope}/{kind}", (size, size, inputs, 1 if kind[0] == "d" else outputs))
        total = max((-(-x.shape[2] // stride) - 1) * stride + size - x.shape[2], 0)
        before, after = pads or (total // 2, total - total // 2)
        x = F.pad(x, (before, after) * 2)
        if kind[0] == "d":
            return F.conv2d(x, weight.permute(2, 3, 0, 1), stride=stride, groups=inputs)
        return F.conv2d(x, weight.permute(3, 2, 0, 1), stride=stride)

    def conv(self, scope, x, outputs, size=3, stride=1, kind="weights", active=True, pads=None):
        x = self.norm(f"{scope}/BatchNorm", self.kernel(scope, x, outputs, size, stride, kind, pads))
        return x.clamp(0, 6) if active else x

    def biased(self, scope, x, outputs, size):
        if self.lite and size > 1:
            x, size = self.kernel(scope, x, 0, size, 1, "depthwise_weights"), 1
        kind = "pointwise_weights" if f"{scope}/depthwise_weights" in self.v else "weights"
        return self.kernel(scope, x, outputs, size, 1, kind) + self.get(f"{scope}/biases", (outputs,)).view(-1, 1, 1)

    def unit(self, scope, x, stride):
        if not self.lite:
            return self.conv(scope, x, DEPTH, 3, stride)
        x = self.kernel(scope, x, 0, 3, stride, "depthwise_weights")
        return self.conv(scope, x, DEPTH, 1, kind="pointwise_weights")

    def v1(self, x):
        x, maps = self.conv(f"{V1}/Conv2d_0", x, 4, 3, 2), []
        for i, stride in enumerate(V1_STRIDES, 1):
            x = self.conv(f"{V1}/Conv2d_{i}_depthwise", x, 0, 3, stride, "depthwise_weights")
            x = self.conv(f"{V1}/Conv2d_{i}_pointwise", x, 4 + i % 3, 1)
            maps += [x] if i in (5, 11, 13) else []
        return V1, maps

    def v2(self, x):
        x, maps = self.conv(f"{V2}/Conv", x, 32, 3, 2), []
        for i, (stride, width) in enumerate(zip(V2_STRIDES, self.widths(), strict=True)):
            scope, before = f"{V2}/expanded_conv" + (f"_{i}" if i else ""), x
            x = self.conv(f"{scope}/expand", x, 9, 1) if i else x
            x = self.conv(f"{scope}/depthwise", x, 0, 3, stride, "depthwise_weights")
            x = self.conv(f"{scope}/project", x, width, 1, active=False)
            x = x + before if x.shape == before.shape else x
            maps += [x] if i in (5, 12) else []
        return V2, [*maps, self.conv(f"{V2}/Conv_1", x, 9, 1)]

    @staticmethod
    def widths():
        return (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)

    def resnet(self, x):
        x, maps = self.conv(f"{RESNET}/conv1", x, 4, 7, 2, pads=(3, 3)), []
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        for block, count in enumerate(UNITS, 1):
            for unit in range(1, count + 1):
                scope, stride = f"{RESNET}/block{block}/unit_{unit}/bottleneck_v1", 2 if unit == 1 < block else 1
                side = self.conv(f"{scope}/shortcut", x, 8, 1, stride, active=False) if unit == 1 else x
                x = self.conv(f"{scope}/conv2", self.conv(f"{scope}/conv1", x, 5, 1, stride), 5)
                x = (self.conv(f"{scope}/conv3", x, 8, 1, active=False) + side).clamp(0, 6 if self.keras else np.inf)
            maps.append(x)
        return RESNET, maps[1:]

    def __call__(self, network, image):
        """-> box encodings ty tx th tw and class predictions, background first."""
        x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        mean = torch.tensor([123.68, 116.779, 103.939]).view(-1, 1, 1)
        scope, maps = getattr(self, network)(x - mean if network == "resnet" else x * 2 / 255 - 1)
        top = self.biased(f"{scope}/fpn/projection_3", maps[2], DEPTH, 1)
        levels = [top]
        rest = top
        for i in (2, 1):
            up = (levels[0] if self.keras else rest).repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = rest = up + self.biased(f"{scope}/fpn/projection_{i}", maps[i - 1], DEPTH, 1)
            levels.insert(0, self.unit(f"{scope}/fpn/smoothing_{i}", x, 1))
        for name in (
            ("bottom_up_block5", "bottom_up_block6")
            if network == "resnet"
            else ("bottom_up_Conv2d_14", "bottom_up_Conv2d_15")
        ):
            levels.append(self.unit(f"{scope}/fpn/{name}", levels[-1], 2))
        found = {"Box": [], "Class": []}
        for level, x in enumerate(levels):
            for head, columns in (("Box", 4), ("Class", CLASSES + 1)):
                y, tower = x, f"{SHARED}/{'' if self.shared else head}PredictionTower"
                for i in range(2):
                    if self.lite:
                        y = self.kernel(f"{tower}/conv2d_{i}", y, 0, 3, 1, "depthwise_weights")
                    kind, size = ("pointwise_weights", 1) if self.lite else ("weights", 3)
                    y = self.kernel(f"{tower}/conv2d_{i}", y, DEPTH, size, 1, kind)
                    y = self.norm(f"{tower}/conv2d_{i}/BatchNorm/feature_{level}", y).clamp(0, 6)
                y = self.biased(f"{SHARED}/{head}Predictor", y, 6 * columns, 3)
                found[head].append(y[0].permute(1, 2, 0).reshape(-1, columns))
        return torch.cat(found["Box"]).numpy(), torch.cat(found["Class"]).numpy()


def anchors(scale=4.0):
    """multiscale_grid_anchor_generator.py and grid_anchor_generator.py: cx cy w h."""
    rows = []
    for level in range(3, 3 + LEVELS):
        stride = 2**level
        side, begin = -(-SIZE // stride), 0 if SIZE % stride else stride / 2
        shapes = [(scale * stride * octave, ratio**0.5) for ratio in (1.0, 2.0, 0.5) for octave in (1, 2**0.5)]
        for y in range(side):
            for x in range(side):
                rows += [(begin + x * stride, begin + y * stride, size * r, size / r) for size, r in shapes]
    return np.array(rows) / SIZE


def keras_order(name):
    """Layers of the backbone as Keras counts them: ResNet's shortcut stands before the last convolution."""
    numbers = [int(n) for n in re.findall(r"_(\d+)|block(\d+)", name.replace("resnet_v1_50", "")) for n in n if n]
    last = re.search(r"(expand|depthwise|conv1|conv2|shortcut|project|pointwise|conv3)$", name)
    parts = ("expand", "depthwise", "conv1", "conv2", "shortcut", "project", "pointwise", "conv3")
    first = re.search(r"(Conv|Conv2d_0|resnet_v1_50/conv1)$", name)
    end = name.endswith("Conv_1")
    return (0 if first else 2 if end else 1, numbers if not end else [], parts.index(last[1]) if last else 0)


def to_keras(variables, shared):
    """TensorFlow 1's names -> TensorFlow 2's."""
    kinds = {"weights": "kernel", "biases": "bias", "depthwise_weights": "depthwise_kernel"}
    kinds["pointwise_weights"] = "pointwise_kernel"
    backbone = {
        re.sub(r"/(BatchNorm/)?\w+$", "", n) for n in variables if "/fpn/" not in n and not n.startswith(SHARED)
    }
    # Within a unit convolutions and normalisations may be mixed, but each kind keeps its order.
    places = {scope: i for i, scope in enumerate(sorted(backbone, key=keras_order))}
    found = {}
    for name, value in variables.items():
        scope, norm, part = re.fullmatch(r"(.*?)/(BatchNorm/)?(?:feature_\d+/)?(\w+)", name).groups()
        part = kinds.get(part, part)
        if scope in places:
            keras = (
                kinds.get("depthwise_weights") if "/depthwise" in scope or scope.endswith("_depthwise") else "kernel"
            )
            key = f"_feature_extractor/classification_backbone/layer_with_weights-{2 * places[scope] + bool(norm)}"
            part = part if norm else keras
        elif "/fpn/" in scope:
            kind, index = re.search(r"fpn/(projection|smoothing|bottom_up)\w*?_?(?:block)?(\d+)$", scope).groups()
            if kind == "bottom_up":
                at = int(index) - (14 if int(index) > 9 else 5)
                key = f"_feature_extractor/_coarse_feature_layers/{at}"
            else:
                lists = {"projection": "residual_blocks", "smoothing": "conv_layers"}
                at = "top_layers" if index == "3" else f"{lists[kind]}/{2 - int(index)}"
                key = f"_feature_extractor/_fpn_features_generator/{at}"
            key += f"/{int(bool(norm))}"
        elif norm:
            tower, i, level = re.search(r"/(\w*)PredictionTower/conv2d_(\d)/BatchNorm/feature_(\d)", name).groups()
            head = "class_predictions_with_background" if tower == "Class" else "box_encodings"
            key = f"_box_predictor/_base_tower_layers_for_heads/{head}/{level}/{3 * int(i) + 1}"
        elif "PredictionTower" in scope:
            tower, i = re.search(r"/(\w*PredictionTower)/conv2d_(\d)", scope).groups()
            key = f"_box_predictor/_head_scope_conv_layers/{tower}/{i}"
        elif scope.endswith("BoxPredictor"):
            key = "_box_predictor/_box_prediction_head/_box_encoder_layers/0"
        else:
            key = "_box_predictor/_prediction_heads/class_predictions_with_background/_class_predictor_layers/0"
        found[f"model/{key}/{part}/.ATTRIBUTES/VARIABLE_VALUE"] = value
    found["save_counter/.ATTRIBUTES/VARIABLE_VALUE"] = np.array(1)
    slot = next(iter(found)).replace("/.ATTRIBUTES", "/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES")
    return found | {slot: np.zeros(3, np.float32)}


KINDS = [("v1", False, False), ("v2", True, True), ("resnet", False, False)]


@pytest.fixture(scope="module", params=KINDS, ids=[kind[0] for kind in KINDS])
def made(request):
    name, lite, shared = request.param
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    found = {}
    for keras in (False, True):
        network = Made(lite, shared, keras)
        found[keras] = network.v, network(name, image)
    return name, lite, shared, image, found


@pytest.mark.parametrize("keras", [False, True], ids=["tensorflow 1", "tensorflow 2"])
def test_gives_the_outputs_and_anchors_of_the_network(made, keras, tmp_path, bundle_writer):
    name, lite, shared, image, found = made
    variables, (boxes, scores) = found[keras]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path if keras else folder).joinpath("pipeline.config").write_text(
        CONFIG.format(classes=CLASSES, size=SIZE, scale=3.0)
    )
    path = bundle_writer(folder / "ckpt-0", to_keras(variables, shared) if keras else variables)
    foreign = import_foreign(path)
    with torch.inference_mode():
        raw = foreign.model.double()(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert scores.std() > 0.01
    assert np.abs(raw.offsets[0].numpy() - boxes[:, [1, 0, 3, 2]]).max() < 1e-5
    assert np.abs(raw.logits[0].numpy() - scores).max() < 1e-5
    assert np.abs(foreign.model.priors.numpy() - anchors(3.0)).max() < 1e-6
    titles = {"v1": "MobileNet v1", "v2": "MobileNet v2", "resnet": "ResNet50"}
    assert foreign.source == f"TensorFlow Object Detection API SSD on {titles[name]} with FPN{'-lite' if lite else ''}"
    assert (foreign.thresholds.activation, foreign.thresholds.score_min) == ("sigmoid", 0.01)
    assert foreign.notes == ()


def test_without_a_configuration_it_is_the_samples(made):
    variables = made[4][False][0]
    foreign = import_foreign(variables)
    assert foreign.model.input_spec.size == 640
    assert foreign.model.prior_spec.steps == (8.0, 16.0, 32.0, 64.0, 128.0)
    assert "no pipeline.config" in foreign.notes[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda v: {k: x for k, x in v.items() if not k.endswith("conv2d_1/BatchNorm/feature_3/beta")},
            "missing: .*feature_3/beta",
        ),
        (lambda v: {k: x[..., :7] if "BoxPredictor/biases" in k else x for k, x in v.items()}, "7 values for boxes"),
        (lambda v: v | {f"{SHARED}/odd/weights": np.zeros(3, np.float32)}, "1 unexpected"),
    ],
)
def test_what_does_not_fit(made, change, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        import_checkpoint(change(made[4][False][0]))
    assert "\n" not in str(caught.value)
