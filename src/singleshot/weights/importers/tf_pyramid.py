"""TensorFlow's Object Detection API: SSD on a feature pyramid (FPN), one predictor for all levels.

Structure: research/object_detection/models/ssd_*_fpn_*feature_extractor.py, feature_map_generators.py
(fpn_top_down_feature_maps), predictors/convolutional_box_predictor.py (WeightSharedConvolutionalBoxPredictor).
"""

from __future__ import annotations

import re
from dataclasses import replace

from singleshot.conventions import RESNET_MEAN
from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.weights.graph_builder import swap_xy, widened
from singleshot.weights.imported_model import classes_of
from singleshot.weights.importers.tf_detection_settings import Block
from singleshot.weights.importers.tf_keras_names import RESNET, RESNET_UNITS, SHARED, V1, V2
from singleshot.weights.importers.tf_networks import Builder, mobilenet_v1, mobilenet_v2_pyramid, resnet_v1

PYRAMID_SIZE = 640  # samples/configs/ssd_*_fpn_shared_box_predictor_640x640_coco14_sync.config
_TOP_LEVEL = 5  # of the backbones: a stride of 32


def has_pyramid(build: Builder) -> bool:
    """Whether its maps go through a feature pyramid, or share their predictor."""
    return any("/fpn/" in name or name.startswith(f"{SHARED}/") for name in build.names)


def pyramid_model(build: Builder) -> tuple[SSD, str]:
    """-> the model, and what it is. Raises CheckpointError."""
    where = build.tensors.where
    network, title, maps = _backbone(build)
    lite = build.has(f"{network}/fpn/smoothing_1/pointwise_weights")
    source = f"TensorFlow Object Detection API SSD on {title} with FPN{'-lite' if lite else ''}"
    maps = _pyramid(build, f"{network}/fpn", maps)
    pyramid = build.settings.pyramid
    pyramid = replace(pyramid, min_level=_TOP_LEVEL + 1 - _levels(build, f"{network}/fpn"))
    boxes = len(pyramid.ratios) * pyramid.scales_per_octave
    outputs, scores = (build.width(f"{SHARED}/{name}", ("biases",)) or 0 for name in ("BoxPredictor", "ClassPredictor"))
    if outputs != 4 * boxes or scores % boxes:
        raise CheckpointError(
            f"{where}: {outputs} values for boxes and {scores} for classes of {boxes} anchors a cell; put its"
            " pipeline.config next to it, which says how these were made"
        )
    columns = scores // boxes
    for level, x in enumerate(maps):
        _head(build, level, x, boxes, columns)
    if pyramid.min_level != build.settings.pyramid.min_level and build.settings.num_classes:
        raise CheckpointError(
            f"{where}: anchors from level {build.settings.pyramid.min_level}, maps from {pyramid.min_level}"
        )
    resnet = network.startswith(RESNET)
    mean, std = (RESNET_MEAN, (1.0,) * 3) if resnet else ((127.5,) * 3, (127.5,) * 3)
    input_spec = InputSpec(build.settings.size, mean=mean, std=std)
    priors = pyramid.priors(build.settings.size, [build.sides[x] for x in maps], build.settings.variances)
    name = f"tf-ssd-{title.replace(' ', '').lower()}-fpn{'lite' if lite else ''}"
    return build.net.build(classes_of(columns, where), priors, input_spec, name), source


def _backbone(build: Builder) -> tuple[str, str, list[str]]:
    """-> scope of the network, its name, and its maps of stride 4 to 32."""
    scopes = {match[0] for name in build.names if (match := re.match(r"FeatureExtractor/[^/]+(?=/fpn/)", name))}
    network = scopes.pop() if len(scopes) == 1 else ""
    if network == V1:
        return network, "MobileNet v1", mobilenet_v1(build, (3, 5, 11, 13))[1]
    if network == V2:
        return network, "MobileNet v2", mobilenet_v2_pyramid(build)
    layers = network.removeprefix(RESNET)
    if layers.isdigit() and int(layers) in RESNET_UNITS:
        return network, f"ResNet{layers}", resnet_v1(build, int(layers))
    what = (
        f"an SSD on {network.partition('/')[2]} with" if network else "an SSD with one predictor for all maps, without"
    )
    raise CheckpointError(f"{build.tensors.where}: {what} a feature pyramid, which is not read")


def _levels(build: Builder, scope: str) -> int:
    """How many maps of the backbone enter the pyramid."""
    return len({name.split("/")[-2] for name in build.names if re.match(rf"{scope}/projection_\d/weights$", name)})


def _pyramid(build: Builder, scope: str, maps: list[str]) -> list[str]:
    """From the smallest map of the backbone up, and from it down by convolutions of stride 2."""
    block, count = build.settings.extras, _levels(build, scope)
    maps = maps[-count:]
    x = build.conv(f"{scope}/projection_{count}", maps[-1], block, active=False)
    found = [x]
    for level in range(count - 1, 0, -1):
        up = build.upsample(f"{scope}/up_{level}", x)
        side = build.conv(f"{scope}/projection_{level}", maps[level - 1], block, active=False)
        if build.sides[up] != build.sides[side]:
            raise CheckpointError(
                f"{build.tensors.where}: a pyramid on images of {build.settings.size} pixels: want a multiple of 32"
            )
        x = build.follow(side, build.net.add(f"{scope}/add_{level}", "add", up, side))
        found.insert(0, _unit(build, f"{scope}/smoothing_{level}", x, block, 1))
        x = found[0] if build.keras else x  # TensorFlow 1's goes on from the sum, which is not smoothed
    coarse = {match[0] for name in build.names if (match := re.match(rf"{scope}/bottom_up_\w*\d+(?=/)", name))}
    for name in sorted(coarse, key=lambda name: int(re.findall(r"\d+$", name)[0])):
        found.append(_unit(build, name, found[-1], block, 2))
    return found


def _unit(build: Builder, scope: str, x: str, block: Block, stride: int) -> str:
    if build.has(f"{scope}/pointwise_weights"):
        return build.separable(scope, x, block, stride)
    return build.conv(scope, x, block, stride)


def _head(build: Builder, level: int, x: str, boxes: int, columns: int) -> None:
    """A tower of convolutions for boxes and one for classes, or one for both; the last convolutions."""
    # TensorFlow 1's predictor has its own activation (tf.nn.relu6).
    block = build.settings.predictor if build.keras else replace(build.settings.predictor, activation="relu6")
    ends = []
    towers: dict[str, str] = {}
    for head, outputs in (("Box", 4 * boxes), ("Class", columns * boxes)):
        tower = f"{SHARED}/PredictionTower"
        if not build.has(f"{tower}/conv2d_0/weights") and not build.has(f"{tower}/conv2d_0/pointwise_weights"):
            tower = f"{SHARED}/{head}PredictionTower"
        if tower not in towers:
            towers[tower], i = x, 0
            while any(build.has(f"{tower}/conv2d_{i}/{part}") for part in ("weights", "pointwise_weights")):
                towers[tower] = build.tower_layer(f"{tower}/conv2d_{i}", towers[tower], level, block)
                i += 1
        scope = f"{SHARED}/{head}Predictor"
        ends.append(build.end(scope, towers[tower], f"{scope}/feature_{level}", outputs))
    side = max(weight.shape[-1] for _, weight, _ in ends)
    (seen, location, shift), (looked, confidence, bias) = ((y, widened(w, side), b) for y, w, b in ends)
    build.net.head(seen, looked, swap_xy(location, boxes), swap_xy(shift, boxes), confidence, bias)
