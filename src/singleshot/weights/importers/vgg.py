"""What all SSD300 and SSD512 on VGG16 have in common, whatever their checkpoints call it: Caffe's names -> ours."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec
from singleshot.models import SSD, build
from singleshot.priors import PriorSpec
from singleshot.weights.foreign_state import ForeignState

VGG_CONVS = tuple(f"conv{s}_{i}" for s, n in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for i in range(1, n + 1))
# Where they are in torchvision's `features` and in every list of layers that follows it; fc6, fc7 in the ports'.
VGG_INDEX = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_LAYERS = dict(zip((*VGG_CONVS, "fc6", "fc7"), (*VGG_INDEX, 31, 33), strict=True))

# name of a layer in Caffe ("conv1_1", "fc6", "conv6_1", ...), or ("loc" | "conf", map), or "l2norm", and "weight" or
# "bias" -> its tensor [outputs, inputs, kh, kw] or [outputs]; `shape` is what it must have.
Find = Callable[[str | tuple[str, int], str, tuple[int, ...]], Tensor]


def extra_names(maps: int) -> tuple[str, ...]:
    """conv6_1 .. conv9_2 for six maps, .. conv10_2 for seven."""
    return tuple(f"conv{i}_{k}" for i in range(6, 4 + maps) for k in (1, 2))


def find_ported(tensors: ForeignState, maps: int, prefix: str, norm: str, location: str, classes: str) -> Find:
    """A `Find` for the PyTorch ports that keep VGG and the extra layers as lists: {prefix}vgg.N, {prefix}extras.N.

    maps: how many the heads look at; norm: the L2 normalisation's name; location, classes: the lists of heads.
    """
    places = {name: f"{prefix}vgg.{index}" for name, index in VGG_LAYERS.items()}
    places |= {name: f"{prefix}extras.{i}" for i, name in enumerate(extra_names(maps))}
    heads = {"loc": location, "conf": classes}

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            return tensors.take(f"{heads[layer[0]]}.{layer[1]}.{part}", *shape)
        where = norm if layer == "l2norm" else places[layer]
        return tensors.take(f"{where}.{part}", *shape)

    return find


def vgg_model(find: Find, num_classes: int, priors: PriorSpec, input_spec: InputSpec, name: str = "") -> SSD:
    """SSD300 (six maps) or SSD512 (seven) filled by `find`, in eval mode. name: a preset, if not the plain one."""
    name = name or ("ssd300-vgg16" if len(priors.maps) == 6 else "ssd512-vgg16")
    model = build(name, num_classes, priors, input_spec)
    state = model.state_dict()
    for key in state:
        layer, part = caffe_name(key)
        state[key] = find(layer, part, tuple(state[key].shape))
    model.load_state_dict(state)
    return model.eval()


def caffe_name(key: str) -> tuple[str | tuple[str, int], str]:
    """Name, as `Find` takes it, and part of one of our tensors: backbone.layers.conv1_1.weight -> conv1_1, weight."""
    parts = key.split(".")
    if parts[0] == "norms":
        return "l2norm", parts[-1]
    if parts[0] == "heads":
        return ("loc" if parts[2] == "location" else "conf", int(parts[1])), parts[-1]
    return parts[2], parts[-1]


def count_classes(tensors: ForeignState, key: str, boxes: int, axis: int = 0) -> int:
    """Real classes by the length of a confidence head's bias, or of that axis of its weight, for so many boxes a cell.
    Raises CheckpointError."""
    shape, where = tensors.shape(key), tensors.where
    outputs = shape[axis] if shape else 0
    if outputs % boxes or outputs // boxes < 2:
        raise CheckpointError(f"{where}: {key} has {outputs or 'no'} outputs, want a multiple of {boxes}")
    return outputs // boxes - 1
