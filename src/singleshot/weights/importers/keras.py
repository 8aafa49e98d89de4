"""pierluigiferrari/ssd_keras: SSD300 and SSD512 on VGG16 (models/keras_ssd300.py, models/keras_ssd512.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from singleshot.conventions import SSD_KERAS, data_of
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.importable import importable
from singleshot.inputs import InputSpec
from singleshot.priors import PriorSpec, Shapes, cell_shapes
from singleshot.weights.class_names import usual_names
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.imported_model import ImportedModel, Importer
from singleshot.weights.importers.vgg import count_classes, extra_names, vgg_model

_GAMMA = "conv4_3_norm/conv4_3_norm_gamma"


def short_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Layer and part ("conv1_1/kernel") -> the name in the file, which adds scopes and the number of an output, as in
    "model_weights/conv1_1/conv1_1_1/kernel:0"."""
    short: dict[str, str] = {}
    for name in names:
        parts = name.removeprefix("model_weights/").partition(":")[0].split("/")
        # Versions of Keras differ in what they call the only weight of a layer that is not its own.
        key = _GAMMA if parts[0] == "conv4_3_norm" else f"{parts[0]}/{parts[-1]}"
        short.setdefault(key, name)
    return short


def _matches(tensors: ForeignState) -> bool:
    names = short_names(tensors)
    return all(name in names for name in importable()["keras"].signature)


def _convert(tensors: ForeignState) -> ImportedModel:
    names = short_names(tensors)
    maps = 7 if "conv10_2/kernel" in names else 6
    side = 300 if maps == 6 else 512
    sources = ["conv4_3_norm", "fc7", *extra_names(maps)[1::2]]
    whole = tensors.kind == "keras" and tensors.structure is not None
    network = KerasNetwork(tensors.structure, tensors.where) if whole else None
    key = "conv4_3_norm_mbox_conf/bias"
    num_classes = count_classes(tensors, names.get(key, key), _boxes_per_cell(tensors, names))
    priors, spec = SSD_KERAS.prior_spec(f"ssd{side}-{data_of(num_classes)}"), SSD_KERAS.inputs[f"ssd{side}"]
    notes: tuple[str, ...] = ()
    if network is not None:
        priors, spec = network.priors(priors, [f"{source}_mbox_priorbox" for source in sources]), network.input(spec)
    elif num_classes not in (20, 80):
        notes = ("a file of weights alone says nothing of its default boxes; those of its VOC models were taken",)

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if layer == "l2norm":
            return tensors.take(names.get(_GAMMA, _GAMMA), *shape)
        where = layer if isinstance(layer, str) else f"{sources[layer[1]]}_mbox_{layer[0]}"
        if part == "bias":
            return tensors.take(names.get(f"{where}/bias", f"{where}/bias"), *shape)
        outputs, inputs, height, width = shape
        kernel = tensors.take(names.get(f"{where}/kernel", f"{where}/kernel"), height, width, inputs, outputs)
        return kernel.permute(3, 2, 0, 1).contiguous()

    model = vgg_model(find, num_classes, priors, spec)
    tensors.finish(f"pierluigiferrari/ssd_keras SSD{side}")
    source = f"pierluigiferrari/ssd_keras SSD{side} on VGG16"
    rule, fixed = SSD_KERAS.detection["ssd_keras"], () if network is None else ("size", "priors")
    return ImportedModel(model, source, usual_names(num_classes), rule, notes, fixed)


def _boxes_per_cell(tensors: ForeignState, names: Mapping[str, str]) -> int:
    """Of the first map: 4 unless the model was built with other ratios."""
    key = names.get("conv4_3_norm_mbox_loc/bias", "conv4_3_norm_mbox_loc/bias")
    shape = tensors.shape(key)
    if len(shape) != 1 or shape[0] % 4 or not shape[0]:
        raise CheckpointError(f"{tensors.where}: {printable(key, 80)} is not four outputs for each box")
    return shape[0] // 4


class KerasNetwork:
    """What a file that `model.save` wrote says of its layers (model_config). Every reading raises CheckpointError."""

    def __init__(self, structure: Any, where: str) -> None:
        self.where = where
        try:
            layers = structure["config"]["layers"]
            self.layers = {str(layer["config"]["name"]): dict(layer["config"]) for layer in layers}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: its model_config is not a Keras model's") from error

    def sides(self) -> tuple[int, int] | None:
        """Height and width of its input; None where it does not say."""
        for layer in self.layers.values():
            shape = layer.get("batch_input_shape", layer.get("batch_shape"))
            if isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) for side in shape[1:3]):
                return shape[1], shape[2]
        return None

    def same(self, option: str, value: str, names: list[str]) -> bool:
        """Whether that option of all these layers has that value. Raises CheckpointError where only some have it."""
        found = {self.layers[name].get(option) == value for name in names if name in self.layers}
        if len(found) > 1:
            raise CheckpointError(f"{self.where}: {option} {value} in some of {printable(', '.join(names), 160)} alone")
        return found == {True}

    def priors(self, usual: PriorSpec, names: list[str]) -> PriorSpec:
        """Its AnchorBoxes layers of these names as a spec: `usual` where they are the same."""
        rows = [self.layers.get(name) for name in names]
        if None in rows:
            return usual
        try:
            read = [_anchors(row, usual.image) for row in rows if row is not None]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{self.where}: its AnchorBoxes layers cannot be read") from error
        except ConfigError as error:
            raise CheckpointError(f"{self.where}: {error}") from error
        shapes = tuple(row[0] for row in read)
        if len({row[1:] for row in read}) > 1:
            raise CheckpointError(f"{self.where}: its maps differ in clipping or variances")
        clip, variances = read[0][1:]
        try:
            spec = replace(usual, clip=clip, variances=variances)
            if not _same(shapes, spec):
                spec = replace(spec, min_sizes=(), max_sizes=(), ratios=(), shapes=shapes)
        except ConfigError as error:
            raise CheckpointError(f"{self.where}: {error}") from error
        return spec

    def input(self, usual: InputSpec) -> InputSpec:
        """Mean, deviation and colour order from its Lambda layers, which exist only where they do something."""
        mean, std, order = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb"
        if "input_mean_normalization" in self.layers:
            r, g, b = usual.mean
            mean = self._three("input_mean_normalization", (r, g, b))
        if "input_stddev_normalization" in self.layers:
            std = self._three("input_stddev_normalization", None)
        if "input_channel_swap" in self.layers:
            swap = self._three("input_channel_swap", (2.0, 1.0, 0.0))
            if swap not in ((0.0, 1.0, 2.0), (2.0, 1.0, 0.0)):
                raise CheckpointError(f"{self.where}: channels in the order {swap}, want RGB or BGR")
            order = "rgb" if swap[0] == 0 else "bgr"
        try:
            return replace(usual, mean=mean, std=std, colour_order=order)
        except ConfigError as error:
            raise CheckpointError(f"{self.where}: {error}") from error

    def _three(self, name: str, usual: tuple[float, float, float] | None) -> tuple[float, float, float]:
        """The three numbers of a Lambda layer: Keras writes them next to its code, which is not looked at."""
        try:
            numbers = self.layers[name]["function"][2][0]
            a, b, c = (float(value) for value in (numbers if isinstance(numbers, list) else [numbers] * 3))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if usual is None:
                raise CheckpointError(f"{self.where}: the numbers of its layer {name} cannot be read") from error
            return usual
        if not all(map(math.isfinite, (a, b, c))):
            raise CheckpointError(f"{self.where}: its layer {name} has no numbers")
        return a, b, c


def _anchors(config: Mapping[str, Any], image: tuple[int, int]) -> tuple[Shapes, str, tuple[float, float]]:
    """Sizes in pixels, clip and variances of one AnchorBoxes layer (keras_layer_AnchorBoxes.py: call).

    Whether it normalises coordinates does not matter: the offsets are in sides of the anchors.
    """
    size = int(config["img_height"]), int(config["img_width"])
    if size != image:
        raise ConfigError(f"made for images of {size[1]} x {size[0]}, want {image[1]} x {image[0]}")
    if config["coords"] != "centroids":
        raise ConfigError("boxes are not centre, width and height, which is all that is read")
    side = min(image)
    ratios, scale = [float(ratio) for ratio in config["aspect_ratios"]], float(config["this_scale"])
    if len(ratios) > 100 or min(ratios, default=0.0) <= 0:
        raise ConfigError("aspect ratios that are none")
    shapes = []
    for ratio in ratios:
        width, height = scale * side * math.sqrt(ratio), scale * side / math.sqrt(ratio)
        shapes.append((width, height))
        if ratio == 1 and config["two_boxes_for_ar1"]:
            between = math.sqrt(scale * float(config["next_scale"])) * side
            shapes.append((between, between))
    if not all(math.isfinite(side) for shape in shapes for side in shape):
        raise ConfigError(f"boxes of scale {scale} are none")
    x, y, w, h = (float(value) for value in config["variances"])
    if x != y or w != h or not math.isfinite(x + w):
        raise ConfigError(f"variances {x:g}, {y:g}, {w:g}, {h:g}: want the same for both axes")
    clip = config["clip_boxes"] if "clip_boxes" in config else config["limit_boxes"]  # its first versions
    return tuple(shapes), "corners" if clip else "none", (x, w)


def _same(shapes: tuple[Shapes, ...], spec: PriorSpec) -> bool:
    """Whether the spec's sizes and ratios give these shapes, to a thousandth of a pixel."""
    usual = [cell_shapes(spec, i) for i in range(len(spec.maps))]
    return all(
        len(row) == len(other) and np.allclose(row, other, rtol=0.0, atol=1e-3)
        for row, other in zip(shapes, usual, strict=True)
    )


IMPORTERS = (Importer("keras", _convert, "keras", _matches),)
