"""The weights that a training starts from: a backbone's, another checkpoint's, or none."""

from __future__ import annotations

import logging

from singleshot.errors import CheckpointError, ConfigError
from singleshot.models import SSD
from singleshot.weights.backbones import has_imagenet_weights, load_backbone
from singleshot.weights.checkpoint import build_model
from singleshot.weights.open_model import open_model

log = logging.getLogger(__name__)


def start_model(model: SSD, backbone_weights: str, fresh: bool = True) -> tuple[str, bool]:
    """Fill the backbone of a new model.

    Args:
        model: changed in place.
        backbone_weights: "none", "imagenet", a file, or "auto" (ImageNet if it can be had).
        fresh: False when a resume will overwrite every weight anyway.

    Returns:
        Words about the start, and whether the backbone is pretrained.

    Raises:
        CheckpointError: weights that were asked for by name cannot be had.
        ConfigError: there are none for this backbone.
    """
    scratch = "from scratch", False
    if backbone_weights == "none":
        return scratch
    if not fresh:
        return "resumed", True
    if backbone_weights != "auto":
        return f"backbone: {load_backbone(model, backbone_weights)}", True
    if not has_imagenet_weights(model):
        return scratch
    try:
        return f"backbone: {load_backbone(model, 'imagenet')}", True
    except CheckpointError as error:
        log.warning("%s; training from scratch", str(error).split(";")[0])
        return scratch


def start_from_checkpoint(path: str, num_classes: int, name: str | None) -> tuple[SSD, str]:
    """A checkpoint's network, ours or another project's, for `num_classes` classes: every tensor that fits is kept.

    Only the last layers of the confidence heads depend on the classes. Raises ConfigError when `name` is another
    preset.
    """
    old, info = open_model(path)
    if name is not None and name != info.model:
        raise ConfigError(f"--model {name}: {path} is a {info.model}; leave --model out")
    model = build_model(info, num_classes)
    state = model.state_dict()
    kept = {key: value for key, value in old.state_dict().items() if state[key].shape == value.shape}
    model.load_state_dict({**state, **kept})
    fresh = len(state) - len(kept)
    return model, f"from {path}" + (f", {fresh} tensors fresh for other classes" if fresh else "")
