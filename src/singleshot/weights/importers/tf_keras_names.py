"""Checkpoints of TensorFlow 2's Object Detection API, whose variables are called by where they are in Python's objects
-> the names that TensorFlow 1's have, so that one importer reads both.

Order of the objects: object_detection/models/ssd_*_keras_feature_extractor.py, feature_map_generators.py and
predictors/convolutional_keras_box_predictor.py; of the layers under classification_backbone, keras.applications.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from singleshot.errors import CheckpointError
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.mobilenet_blocks import V1_STRIDES, V2_STRIDES

V1, V2, INCEPTION = "FeatureExtractor/MobilenetV1", "FeatureExtractor/MobilenetV2", "FeatureExtractor/InceptionV2"
RESNET = "FeatureExtractor/resnet_v1_"
SHARED = "WeightSharedConvolutionalBoxPredictor"
# Units of each block of ResNet (He et al. 2015, table 1), by the number of its layers.
RESNET_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

_VARIABLE = re.compile(r"model/(.*)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE")
_KERNELS = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}
_BACKBONE = "_feature_extractor/classification_backbone/layer_with_weights-"


def is_keras(names: Iterable[str]) -> bool:
    """Whether these are the variables of such a checkpoint, of an SSD or of another model."""
    return any(name.startswith(("model/_feature_extractor/", "_model/_feature_extractor/")) for name in names)


def keras_names(tensors: ForeignState) -> dict[str, str]:
    """Name in TensorFlow 1 -> name in the file. What is not the model's is ignored; CheckpointError for a backbone that
    is not known."""
    if not any(name.startswith(f"model/{_BACKBONE}") for name in tensors):
        raise CheckpointError(
            f"{tensors.where}: no checkpoint of an SSD (a SavedModel has its variables by number, which is not read);"
            " want checkpoint/ckpt-0.index of the same model"
        )
    objects: dict[str, dict[str, str]] = {}
    for name in tensors:
        if (match := _VARIABLE.fullmatch(name)) is None or "/.OPTIMIZER_SLOT/" in name:
            tensors.ignore(name)
        else:
            objects.setdefault(match[1], {})[match[2]] = name
    network, scopes = _backbone(objects, tensors.where)
    places = _Places(network, objects)
    found: dict[str, str] = {}
    for key, parts in objects.items():
        scope = scopes.get(key) or places.scope(key)
        for part, name in parts.items():
            if scope is None:
                found[name] = name  # no layer takes it: it is left over
            elif part in _KERNELS:
                found[f"{scope}/{_KERNELS[part]}"] = name
            else:
                found[f"{scope}/{part}" if "/BatchNorm/" in scope else f"{scope}/BatchNorm/{part}"] = name
    return found


def _backbone(objects: Mapping[str, Mapping[str, str]], where: str) -> tuple[str, dict[str, str]]:
    """-> name of the network, and object -> scope of its layers: convolutions and normalisations in the same order."""
    numbers = sorted(int(key.removeprefix(_BACKBONE)) for key in objects if re.fullmatch(rf"{_BACKBONE}\d+", key))
    keys = [f"{_BACKBONE}{number}" for number in numbers]
    convs = [key for key in keys if set(objects[key]) & set(_KERNELS)]
    norms = [key for key in keys if key not in convs]
    deep = sum("depthwise_kernel" in objects[key] for key in convs)
    layers = {53: 50, 104: 101, 155: 152}.get(len(convs), 0)
    if deep == 13:
        network, order = V1, _v1()
    elif deep == 17:
        network, order = V2, _v2()
    elif not deep and layers:
        network, order = f"{RESNET}{layers}", _resnet(RESNET_UNITS[layers])
    else:
        raise CheckpointError(
            f"{where}: a backbone of {len(convs)} convolutions: want MobileNet v1 or v2, or ResNet v1 50, 101 or 152"
        )
    scopes = [f"{network}/{layer}" for layer in order]
    return network, dict(zip(convs, scopes, strict=False)) | dict(zip(norms, scopes, strict=False))


def _v1() -> Iterator[str]:
    yield "Conv2d_0"
    for i in range(1, len(V1_STRIDES) + 1):
        yield from (f"Conv2d_{i}_depthwise", f"Conv2d_{i}_pointwise")


def _v2() -> Iterator[str]:
    yield "Conv"
    for i in range(len(V2_STRIDES)):
        block = "expanded_conv" + (f"_{i}" if i else "")
        yield from (f"{block}/{part}" for part in ("expand", "depthwise", "project")[0 if i else 1 :])
    yield "Conv_1"


def _resnet(units: tuple[int, ...]) -> Iterator[str]:
    """Keras sorts by depth: the shortcut, which a block's first unit has, stands before the last convolution."""
    yield "conv1"
    for block, count in enumerate(units, 1):
        for unit in range(1, count + 1):
            scope = f"block{block}/unit_{unit}/bottleneck_v1"
            yield from (f"{scope}/{part}" for part in ("conv1", "conv2", *(["shortcut"] if unit == 1 else []), "conv3"))


class _Places:
    """Scopes of the objects behind the backbone."""

    def __init__(self, network: str, objects: Mapping[str, Mapping[str, str]]) -> None:
        self.network, self.objects = network, objects
        self.levels = 1 + len({match[1] for key in objects if (match := _RESIDUAL.fullmatch(key)) is not None})
        self.shared = any("_head_scope_conv_layers/PredictionTower/" in key for key in objects)

    def scope(self, key: str) -> str | None:
        """None for an object that no SSD has."""
        for pattern, make in _PLACES:
            if (match := pattern.fullmatch(key)) is not None:
                scope: str = make(self, *match.groups())
                return scope
        return None

    def top(self) -> str:
        """1x1 on the smallest map of the backbone."""
        return f"{self.network}/fpn/projection_{self.levels}"

    def level(self, what: str, index: str) -> str:
        """1x1 on a map of the backbone, or 3x3 on the sum. Keras' lists begin with the smallest map."""
        name = "projection" if what == "residual_blocks" else "smoothing"
        return f"{self.network}/fpn/{name}_{self.levels - 1 - int(index)}"

    def coarse(self, index: str) -> str:
        """3x3 at stride 2 behind the smallest map."""
        return f"{self.network}/fpn/bottom_up_{index}"

    def extra(self, index: str, place: str) -> str:
        """Of SSD without a pyramid: 1x1, then 3x3 at stride 2, or a depthwise one and 1x1; each normalised."""
        prefix = f"{self.network}/{'Conv2d_13_pointwise' if self.network == V1 else 'layer_19'}"
        if int(place) < 3:
            return f"{prefix}_1_Conv2d_{index}_1x1_0"
        end = re.compile(rf"_feature_extractor/_?feature_map_generator/convolutions/{index}/6")
        lite = int(place) < 6 and any(end.fullmatch(key) for key in self.objects)
        return f"{prefix}_2_Conv2d_{index}_3x3_s2_0" + ("_depthwise" if lite else "")

    def tower(self, head: str, level: str, place: str) -> str:
        """Layers of a tower come in threes: convolution (which all levels share), normalisation, activation."""
        name = "" if self.shared else {"box_encodings": "Box"}.get(head, "Class")
        return f"{SHARED}/{name}PredictionTower/conv2d_{int(place) // 3}/BatchNorm/feature_{level}"

    def end(self, head: str, level: str, place: str) -> str:
        """A map's own last convolution, or what stands before it in SSDLite."""
        name = "BoxEncodingPredictor" if head == "box_encodings" else "ClassPredictor"
        layers = "_box_encoder_layers" if head == "box_encodings" else "_class_predictor_layers"
        lite = int(place) < 2 and f"_box_predictor/_prediction_heads/{head}/{level}/{layers}/3" in self.objects
        return f"BoxPredictor_{level}/{name}" + ("_depthwise" if lite else "")


_RESIDUAL = re.compile(r"_feature_extractor/_fpn_features_generator/residual_blocks/(\d+)/\d+")
_PLACES: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = tuple(
    (re.compile(pattern), make)
    for pattern, make in (
        (r"_feature_extractor/_fpn_features_generator/top_layers/\d+", _Places.top),
        (r"_feature_extractor/_fpn_features_generator/(residual_blocks|conv_layers)/(\d+)/\d+", _Places.level),
        (r"_feature_extractor/_coarse_feature_layers/(\d+)/\d+", _Places.coarse),
        (r"_feature_extractor/_?feature_map_generator/convolutions/(\d+)/(\d+)", _Places.extra),
        (
            r"_box_predictor/_head_scope_conv_layers/(\w*PredictionTower)/(\d+)",
            lambda _, tower, place: f"{SHARED}/{tower}/conv2d_{place}",
        ),
        (r"_box_predictor/_base_tower_layers_for_heads/(\w+)/(\d+)/(\d+)", _Places.tower),
        (
            r"_box_predictor/_box_prediction_head/_box_encoder_layers/\d+",
            lambda _: f"{SHARED}/BoxPredictor",
        ),
        (
            r"_box_predictor/_prediction_heads/class_predictions_with_background/_class_predictor_layers/\d+",
            lambda _: f"{SHARED}/ClassPredictor",
        ),
        (r"_box_predictor/_prediction_heads/(\w+)/(\d+)/_(?:box_encoder|class_predictor)_layers/(\d+)", _Places.end),
    )
)
