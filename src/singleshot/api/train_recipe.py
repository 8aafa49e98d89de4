"""The recipe of a training, and of a run that goes on."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from singleshot.api.train_options import RUN_FILE, TrainOptions, read_recipe, saved_run
from singleshot.datasets.dataset import Dataset
from singleshot.errors import CheckpointError, ConfigError, printable

if TYPE_CHECKING:
    from singleshot.inputs import InputSpec
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)

# A tenth of the objects may be smaller: two cells of the finest map.
SMALLEST_PX = 16


def recipe_of(options: TrainOptions) -> Recipe:
    """The recipe that is asked for, its learning rate by --lr. Raises ConfigError, CheckpointError."""
    from singleshot.training.recipes import Recipe, first_problem, load_recipe

    assert options.recipe is not None
    recipe = _own_recipe(options) if options.resume else load_recipe(options.recipe)
    for name in ("lr", "freeze"):
        value = getattr(options, name)
        if value is None:
            continue
        try:
            recipe = Recipe.model_validate({**dict(recipe), name: value})
        except ValueError as error:
            raise ConfigError(f"--{name} {value}: {first_problem(error)}") from error
    return recipe


def fit_phases(recipe: Recipe, options: TrainOptions, data: Dataset | ShardStream, inputs: InputSpec) -> Recipe:
    """Without the phases of progressive resizing that do not suit: where a tenth of the objects would be under
    SMALLEST_PX pixels, where objects are not known ahead (shards), and where the length is no time. A recipe of the
    user's own is honoured.

    Raises DataError for an image that cannot be measured, unless `skip_broken`.
    """
    from singleshot.api.train_priors import boxes_in_inputs
    from singleshot.training.recipes import recipe_names

    if not recipe.progressive or options.resume or options.recipe not in recipe_names():
        return recipe
    phases: tuple[tuple[float, float], ...] = ()
    if options.time and isinstance(data, Dataset):
        boxes = boxes_in_inputs(options, data, inputs)
        if len(boxes):
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * math.prod(inputs.sides)
            smallest = math.sqrt(float(np.quantile(areas, 0.1)))
            phases = tuple(phase for phase in recipe.progressive if phase[1] * smallest >= SMALLEST_PX)
    return recipe.model_copy(update={"progressive": phases})


def _own_recipe(options: TrainOptions) -> Recipe:
    """The recipe of a run that goes on: its file as it is now, which is compared with what the run had, where there is
    one and something to compare with."""
    from singleshot.training.checkpoints import has_state
    from singleshot.training.recipes import first_problem, load_recipe, recipe_names

    folder, name = Path(str(options.out)), str(options.recipe)
    saved = saved_run(folder)
    try:
        own = read_recipe(saved.recipe)
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        where = printable(folder / RUN_FILE)
        raise CheckpointError(f"{where}: its recipe cannot be read ({printable(first_problem(error))})") from error
    if name in recipe_names():
        return own if name == saved.options.recipe else load_recipe(name)
    if not has_state(folder):
        return own
    if not Path(name).is_file():
        log.warning("%s: is not there any more; the run keeps its recipe", printable(name))
        return own
    return load_recipe(name)
