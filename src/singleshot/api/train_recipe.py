"""The recipe of a training, and of a run that goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from singleshot.api.train_options import RUN_FILE, TrainOptions, read_recipe, saved_run
from singleshot.errors import CheckpointError, ConfigError, printable

if TYPE_CHECKING:
    from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)


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
