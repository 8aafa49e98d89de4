"""The network of a training with the weights that it starts from."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from singleshot.api.options import DEFAULT_MODEL
from singleshot.api.train_choice import Pretrained, pretrained_by_start
from singleshot.api.train_options import TrainOptions
from singleshot.errors import CheckpointError
from singleshot.hub import local_model

if TYPE_CHECKING:
    from singleshot.datasets.dataset import Dataset
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.models import SSD

log = logging.getLogger(__name__)


class FirstModel(NamedTuple):
    """A model with its initial weights, words about where they come from, what of it is pretrained, and whether its
    default boxes are fitted to the data."""

    model: SSD
    initial: str
    pretrained: Pretrained
    fitted: bool


def first_model(options: TrainOptions, train_set: Dataset | ShardStream, sized: Dataset | ShardStream) -> FirstModel:
    """The model of a training, as its folder has it or with the weights that it starts from. sized: of `with_sizes`."""
    from singleshot.api.train_input import choose_input
    from singleshot.api.train_priors import PriorChoice
    from singleshot.api.train_recipe import recipe_of
    from singleshot.models import build
    from singleshot.models.zoo import outline, usual_priors
    from singleshot.presets import MODELS
    from singleshot.sigmoid_losses import prior_bias
    from singleshot.training.checkpoints import BEST, LAST, has_state
    from singleshot.weights.checkpoint import build_model, read_info
    from singleshot.weights.initial_weights import start_from_checkpoint, start_model

    going_on = options.resume and has_state(Path(str(options.out)))
    for path in (Path(str(options.out)) / name for name in (LAST, BEST)):
        # The network as it is: what it was started from may have been moved since.
        if going_on and path.is_file():
            try:
                return FirstModel(build_model(read_info(path)), "resumed", "detector", False)
            except CheckpointError as error:
                log.warning("%s; it is written again", error)
    class_names = train_set.class_names
    # Where none is named, those that may be chosen agree in what is asked of it here.
    recipe = recipe_of(replace(options, recipe=options.recipe or "adapt"))
    choose_priors = PriorChoice(options, sized, recipe.iou_min)
    choose = functools.partial(choose_input, options, train_set)
    if options.start:
        class_bias = prior_bias() if recipe.activation == "sigmoid" else None
        rules = options.resize, options.sixteen_bit, choose, choose_priors, class_bias
        selection = train_set.selection
        wanted = class_names if selection is None else selection.to_dict()
        model, initial, kept = start_from_checkpoint(str(local_model(options.start)), wanted, options.model, *rules)
        return FirstModel(model, initial, pretrained_by_start(kept, len(class_names)), choose_priors.fitted)
    name = options.model or DEFAULT_MODEL
    inputs = table = None
    if name in MODELS:
        inputs = MODELS[name].input_spec
        rule = options.sixteen_bit or inputs.sixteen_bit
        inputs = replace(inputs, resize=options.resize or inputs.resize, sixteen_bit=rule)
        inputs = choose(inputs, lambda: outline(name))
        table = choose_priors(usual_priors(name, inputs.sides), inputs)
    model = build(name, len(class_names), table, inputs)
    initial, pretrained = start_model(model, options.backbone_weights or "auto", fresh=not going_on)
    return FirstModel(model, initial, "backbone" if pretrained else "nothing", choose_priors.fitted)
