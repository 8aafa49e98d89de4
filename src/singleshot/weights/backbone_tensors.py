"""Taking tensors over into a backbone: checked, and for an input as ours is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.inputs import InputSpec
from singleshot.weights.foreign_state import ForeignState


def adapted(weight: Tensor, theirs: InputSpec, ours: InputSpec) -> Tensor:
    """A first convolution [O, C, kh, kw] for our channel order and std; the means are taken for the same.

    One channel of ours has the sum over the three of theirs: what they see in a grey picture.
    """
    seen = in_colour(ours) if theirs.channels == 3 else ours
    scale = [o / t for o, t in zip(seen.std, theirs.std, strict=True)]
    rgb = weight.flip(1) if theirs.colour_order == "bgr" else weight
    rgb = rgb * torch.tensor(scale).view(1, -1, 1, 1)
    if ours.channels < theirs.channels:
        return rgb.sum(dim=1, keepdim=True)
    return rgb.flip(1) if ours.colour_order == "bgr" else rgb


def in_colour(spec: InputSpec) -> InputSpec:
    """What three equal channels are seen with where one is seen with `spec`."""
    return spec if spec.channels == 3 else replace(spec, channels=3, mean=spec.mean * 3, std=spec.std * 3)


def need(tensors: ForeignState, about: str, key: str, *shape: int) -> Tensor:
    """The tensor of that name; CheckpointError if it is missing, misshapen or not finite."""
    if key not in tensors:
        raise CheckpointError(f"{tensors.where}: {about}, but {printable(key, 80)} is missing")
    value = tensors[key]
    if shape and value.shape != shape:
        raise CheckpointError(f"{tensors.where}: {printable(key, 80)} has shape {tuple(value.shape)}, want {shape}")
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{tensors.where}: {printable(key, 80)} holds NaN or infinity; the file is damaged")
    return value


def assign(own: dict[str, Tensor], new: Mapping[str, Tensor], where: str) -> None:
    """Put the new tensors into a state dict, in place; CheckpointError for a name or a shape that it does not have."""
    for key, value in new.items():
        if key not in own or own[key].shape != value.shape:
            want = tuple(own[key].shape) if key in own else "nothing of that name"
            raise CheckpointError(f"{where}: {key} has shape {tuple(value.shape)}, want {want}")
        own[key] = value
