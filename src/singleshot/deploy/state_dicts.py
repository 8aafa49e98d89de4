"""A model of ours -> the state dict of another project, whose own code then finds the same objects.

What is fixed in that project's code (how it normalises images, its default boxes) is folded into the first
convolution and the location heads, where that can be done exactly; otherwise ConfigError says in one line why not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from singleshot.conventions import AMDEGROOT, TORCHVISION
from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_write
from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.models.graph import GraphNet, key_of
from singleshot.models.vgg import VGG16
from singleshot.priors import PRIORS, PriorSpec, make_priors
from singleshot.weights.graph_builder import folded
from singleshot.weights.importers import torchvision as tv
from singleshot.weights.importers.amdegroot import priors_of
from singleshot.weights.importers.vgg import VGG_LAYERS, caffe_name, extra_names

# (layer in Caffe's names, or ("loc" | "conf", map), or "l2norm"; "weight" or "bias") -> tensor
Layers = dict[tuple[str | tuple[str, int], str], Tensor]

# Of 255. A mean that differs by so little moves no output by more than rounding; torchvision's .48235 * 255 is 122.999.
_SAME_MEAN = 0.01
# Priors are float32; centres and shapes that should be equal differ by less.
_SAME_PRIOR = 1e-5
_BN_PARTS = ("weight", "bias", "running_mean", "running_var")
_BN_EPS = 1e-5  # torch.nn.BatchNorm2d's, as models/blocks.py builds it


def to_torchvision(model: SSD) -> dict[str, Tensor]:
    """State dict for torchvision's ssd300_vgg16(num_classes=C + 1), from any SSD300 on VGG16 of ours; or for its
    ssdlite320_mobilenet_v3_large, from a model that was imported from it.

    Raises:
        ConfigError: The model has another form, or something that cannot be folded into the weights exactly.
    """
    if isinstance(model.backbone, GraphNet) and model.backbone.graph.layers[0].name == "backbone.features.0.0.0":
        return _to_ssdlite(model)
    layers = _fitted(model, "torchvision", TORCHVISION.inputs["ssd300"], TORCHVISION.prior_spec("ssd300"))
    return {_torchvision_name(layer, part): value for (layer, part), value in layers.items()}


def to_amdegroot(model: SSD, clip: bool = True) -> dict[str, Tensor]:
    """State dict for amdegroot/ssd.pytorch's build_ssd("test", 300, C + 1), from any SSD300 on VGG16 of ours.

    Args:
        model: What to export.
        clip: Whether its data/config.py has 'clip': True, as published. That moves the centres of 114 default boxes, so
            only models trained with the same can be exported for it.

    Raises:
        ConfigError: The model has another form, or something that cannot be folded into the weights exactly.
    """
    priors = priors_of(model.num_classes)
    project = "amdegroot/ssd.pytorch"
    if not clip:
        priors, project = replace(priors, clip="none"), f"{project} with 'clip': False"
    layers = _fitted(model, project, AMDEGROOT.inputs["ssd300"], priors)
    extras = {name: f"extras.{i}" for i, name in enumerate(extra_names(6))}

    def name_of(layer: str | tuple[str, int], part: str) -> str:
        if isinstance(layer, tuple):
            return f"{layer[0]}.{layer[1]}.{part}"
        return "L2Norm.weight" if layer == "l2norm" else f"{extras.get(layer) or f'vgg.{VGG_LAYERS[layer]}'}.{part}"

    return {name_of(layer, part): value for (layer, part), value in layers.items()}


TARGETS: dict[str, Callable[[SSD], dict[str, Tensor]]] = {
    "torchvision": to_torchvision,
    "amdegroot": to_amdegroot,
    "amdegroot-unclipped": partial(to_amdegroot, clip=False),
}


def save_state_dict(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by name as a .pth file, whole or not at all. Raises ConfigError where that cannot be done."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with atomic_write(path) as temporary:
        torch.save(tensors, temporary)


# ---------------------------------------------------------------------------------------------------- SSD300 on VGG16


def _torchvision_name(layer: str | tuple[str, int], part: str) -> str:
    if isinstance(layer, tuple):
        return f"{tv.LOCATION if layer[0] == 'loc' else tv.CONFIDENCE}.{layer[1]}.{part}"
    return tv.SCALE if layer == "l2norm" else f"{tv.VGG_NAMES[layer]}.{part}"


def _fitted(model: SSD, project: str, spec: InputSpec, priors: PriorSpec) -> Layers:
    """The layers of an SSD300 on VGG16 for code that normalises by `spec` and has those default boxes."""
    shape = model.input_spec.shape
    if not isinstance(model.backbone, VGG16) or len(model.prior_spec.maps) != 6 or shape != (300, 300, 3):
        raise ConfigError(
            f"model {printable(model.name, 60)} of {model.input_spec.size_text}: {project} takes SSD300 on VGG16 alone"
        )
    layers = _folded_layers(model)
    weight, bias = layers["conv1_1", "weight"], layers["conv1_1", "bias"]
    layers["conv1_1", "weight"], layers["conv1_1", "bias"] = _renormalised(
        weight, bias, model.input_spec, spec, project
    )
    _fit_priors(layers, model, priors, project)
    return layers


def _folded_layers(model: SSD) -> Layers:
    """The network's tensors, batch normalisations taken into their convolutions."""
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    layers: Layers = {}
    for key in state:
        path, _, part = key.rpartition(".")
        parent, _, own = path.rpartition(".")
        if part != "weight" or own.startswith("bn"):
            continue
        bn = f"{parent}.{own.replace('conv', 'bn') if own.startswith('conv') else f'bn_{own}'}"
        named = caffe_name(f"{parent}.{part}" if own == "conv" else key)[0]  # a normalised head is conv and bn
        if f"{bn}.running_mean" in state:
            gamma, beta, mean, variance = (state[f"{bn}.{name}"] for name in _BN_PARTS)
            weight, bias = folded(state[key], state.get(f"{path}.bias"), gamma, beta, mean, variance, _BN_EPS)
            layers[named, "weight"], layers[named, "bias"] = weight, bias
            continue
        layers[named, "weight"] = state[key]
        if f"{path}.bias" in state:
            layers[named, "bias"] = state[f"{path}.bias"]
    return layers


def _renormalised(
    weight: Tensor, bias: Tensor, ours: InputSpec, theirs: InputSpec, project: str
) -> tuple[Tensor, Tensor]:
    """A first convolution [O, 3, kh, kw] and its bias for images normalised by `theirs`: RGB, mean and std of 0..255.

    Scale and order of the channels are exact. A mean is not: zeros around the image stand for another colour then.
    """
    if ours.resize != "stretch":
        raise ConfigError(f"{project} stretches images to a square; this model wants them {ours.resize}ed")
    shift = [t - o for t, o in zip(theirs.mean, ours.mean, strict=True)]
    if max(map(abs, shift)) > _SAME_MEAN:
        own, other = (", ".join(f"{m:g}" for m in spec.mean) for spec in (ours, theirs))
        raise ConfigError(
            f"{project} subtracts the mean ({other}), this model ({own}): that cannot be folded into its weights,"
            " since the zeros around an image would be another colour"
        )
    if (ours.colour_order, ours.std, shift) == ("rgb", theirs.std, [0.0] * 3):
        return weight, bias
    rgb = weight.double().flip(1) if ours.colour_order == "bgr" else weight.double()
    std = torch.tensor(ours.std, dtype=torch.float64).view(1, 3, 1, 1)
    # ours = (theirs * their std + their mean - our mean) / our std
    moved = (rgb * torch.tensor(shift, dtype=torch.float64).view(1, 3, 1, 1) / std).sum(dim=(1, 2, 3))
    scaled = rgb * torch.tensor(theirs.std, dtype=torch.float64).view(1, 3, 1, 1) / std
    return scaled.float(), (bias.double() + moved).float()


def _fit_priors(layers: Layers, model: SSD, theirs: PriorSpec, project: str) -> None:
    """Change the location heads for other default boxes, in place.

    Of box k of a map with our size w and theirs w', variances v and v': dx v w = dx' v' w', and
    log w + dw v = log w' + dw' v'. So weights are scaled and biases moved, if centres are the same and w / w' is
    so all over the map.
    """
    ours = model.prior_spec
    if ours.maps != theirs.maps or ours.per_cell != theirs.per_cell or ours.order != "location":
        raise ConfigError(
            f"{project} has default boxes on maps of {theirs.maps}, {theirs.per_cell} a cell; this model on"
            f" {ours.maps}, {ours.per_cell}; for such a file train with --no-fit-priors"
        )
    start = 0
    pair = make_priors(ours).double(), make_priors(theirs).double()
    for i, (count, boxes) in enumerate(zip(ours.per_map, ours.per_cell, strict=True)):
        rows = slice(start, start + count)
        start = rows.stop
        own, other = (table[rows].view(-1, boxes, 4) for table in pair)
        ratio = own[..., 2:] / other[..., 2:]
        moved = int(((own - other)[..., :2].abs() > _SAME_PRIOR).any(-1).sum())
        if moved or not torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=_SAME_PRIOR, atol=0.0):
            what = f"{moved} have other centres" if moved else "their sizes are not in proportion"
            raise ConfigError(
                f"{project} has other default boxes in its code than this model: on map {i + 1}, {what}, which cannot"
                " be folded into its weights; for such a file train with --no-fit-priors"
            )
        _fit_head(layers, ("loc", i), ratio[0], ours.variances, theirs.variances)


def _fit_head(
    layers: Layers, head: tuple[str, int], ratio: Tensor, ours: tuple[float, float], theirs: tuple[float, float]
) -> None:
    """One location head, in place. ratio: [boxes, 2], our sizes by theirs; ours, theirs: variances."""
    scale = torch.cat([ratio * ours[0] / theirs[0], torch.full_like(ratio, ours[1] / theirs[1])], dim=1)
    if torch.allclose(scale, torch.ones_like(scale), rtol=0.0, atol=1e-6):
        return
    moved = torch.cat([torch.zeros_like(ratio), ratio.log() / theirs[1]], dim=1)
    weight, bias = layers[head, "weight"].double(), layers[head, "bias"].double()
    layers[head, "weight"] = (weight * scale.view(-1, 1, 1, 1)).float()
    layers[head, "bias"] = (bias * scale.view(-1) + moved.view(-1)).float()


# ---------------------------------------------------------------------------------------------------------- SSDLite


def _to_ssdlite(model: SSD) -> dict[str, Tensor]:
    """The graph's layers have torchvision's names: weights/importers/torchvision.py gave them."""
    assert isinstance(model.backbone, GraphNet)
    if model.prior_spec != PRIORS["ssdlite320"] or model.input_spec != TORCHVISION.inputs["ssdlite320"]:
        raise ConfigError(
            "torchvision's SSDLite has its default boxes and its normalisation in its code; this model has others"
        )
    ours = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for i, layer in enumerate(model.backbone.graph.layers):
        prefix = f"backbone.layers.{key_of(i, layer.name)}."
        state |= {f"{layer.name}.{key[len(prefix) :]}": v for key, v in ours.items() if key.startswith(prefix)}
    for i in range(len(model.heads)):
        for which, name in (("location", tv.LOCATION), ("confidence", tv.CONFIDENCE)):
            state |= {f"{name}.{i}.1.{part}": ours[f"heads.{i}.{which}.{part}"] for part in ("weight", "bias")}
    return state
