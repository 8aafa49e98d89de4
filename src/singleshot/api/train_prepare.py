"""What a training is made of: its data, its model and everything that is decided before the first step."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from singleshot.api.options import parse_bytes, parse_duration
from singleshot.api.train_choice import Choice, choose_model, choose_recipe
from singleshot.api.train_input import hint_small, with_sizes
from singleshot.api.train_model import first_model
from singleshot.api.train_options import TrainOptions, read_recipe
from singleshot.api.train_tiles import check_tiles, tile_of_run, tiling_of
from singleshot.api.train_together import on_each, on_first
from singleshot.errors import ConfigError, printable
from singleshot.input_shape import size_words

if TYPE_CHECKING:
    import torch

    from singleshot.datasets.dataset import Dataset
    from singleshot.inputs import Size
    from singleshot.loading.shard_stream import ShardStream
    from singleshot.models import SSD
    from singleshot.tiling import Tiling
    from singleshot.training.distributed import World
    from singleshot.training.loop import Settings, Trainer
    from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)


class Decided(NamedTuple):
    """The model with its initial weights, the recipe, the options with what was still open decided, words about the
    weights, and what was chosen where nothing was asked for."""

    model: SSD
    recipe: Recipe
    options: TrainOptions
    initial: str
    chosen: dict[str, Choice]


def prepare(options: TrainOptions, world: World | None = None) -> tuple[Trainer, TrainOptions, str]:
    """Open the data, build the model; gives the trainer, the options with what was still open decided, and words about
    the initial weights. Writes nothing. world: the processes that train together, the first of which decides."""
    from singleshot.api.run_folder import check_folder
    from singleshot.api.train_data import open_sets
    from singleshot.devices import pick_device
    from singleshot.training import loop
    from singleshot.training.checkpoints import has_state
    from singleshot.training.loggers import open_loggers

    options = replace(filled := options.filled(), tile=tile_of_run(filled))
    folder = Path(str(options.out))
    on_first(world, lambda: check_folder(folder, bool(options.resume)))
    going_on = on_first(world, lambda: bool(options.resume) and has_state(folder))
    if options.resume and not going_on:
        log.warning("%s: no state to go on from, so the run starts again", printable(folder))

    place = on_each(world, lambda: pick_device(options.device))

    train_set, val_set = on_each(world, lambda: open_sets(options))
    decided = _decide(options, train_set) if world is None else _decide_together(options, train_set, world)
    model, recipe, options, initial, chosen = decided
    settings = on_each(world, lambda: _settings(options, recipe, place, world))

    def build() -> Trainer:
        loggers = open_loggers(options.log) if world is None or world.leads else ()
        return loop.Trainer(model, train_set, val_set, recipe, settings, loggers)

    trainer = on_each(world, build)
    if world is not None:
        world.same(trainer.checkpoints.fingerprint.shared(place.type))
    if going_on:
        trainer.resume(options.accept_changes)
        if options.resume != "auto":
            on_each(world, lambda: _refuse_if_over(trainer, options))
    for name, choice in chosen.items():  # once all the input has been checked: a mistake is one line
        log.info("%s %s: %s; --%s chooses another", name, choice.value, choice.reason, name)
    return trainer, options, initial


def _decide(options: TrainOptions, train_set: Dataset | ShardStream, alone: bool = True) -> Decided:
    """Build the model, and decide what the options leave open. alone: no other process trains with this one."""
    import torch

    from singleshot.api.train_recipe import fit_phases, recipe_of
    from singleshot.loading.few_greys import warn_of_few_greys
    from singleshot.models.prior_probability import set_class_bias
    from singleshot.sigmoid_losses import prior_bias

    torch.manual_seed(options.seed or 0)
    chosen: dict[str, Choice] = {}
    if not (options.model or options.start or options.resume):
        chosen["model"] = choose_model(options.backbone_weights)
        options = replace(options, model=chosen["model"].value)
    sized = with_sizes(options, train_set)
    model, initial, pretrained, fitted = first_model(options, train_set, sized)
    if model.input_spec.sixteen_bit == "scale" and not options.resume and not options.sixteen_bit:
        warn_of_few_greys(train_set)
    tiling = tiling_of(options.tile)
    if options.recipe is None:
        # Tiles are many times as many; other batches, which several processes divide, were not measured.
        images = len(train_set) if alone and tiling is None and options.batch is None else None
        chosen["recipe"] = choose_recipe(model, pretrained, images)
        options = replace(options, recipe=chosen["recipe"].value)
    recipe = fit_phases(recipe_of(options), options, sized, model.input_spec)
    if pretrained == "nothing" and (recipe.freeze or (recipe.freeze is None and recipe.freeze_stride)):
        raise ConfigError(
            f"recipe {printable(options.recipe, 60)}: keeps parts of the backbone as they are, and this one starts from"
            " scratch; give weights (--start, --backbone-weights), --freeze 0, or --recipe scratch"
        )
    if recipe.activation == "sigmoid" and not options.start:
        set_class_bias(model, prior_bias())  # a resume puts its own weights back
    check_tiles(tiling, train_set, model.input_spec.sides, options.skip_broken)
    if tiling is None:
        hint_small(options, sized, model.input_spec)
    cache_bytes = parse_bytes(options.cache_size or "", "--cache-size")
    options = replace(
        options,
        model=model.name,
        classes=None if train_set.selection is None else train_set.selection.to_dict(),
        size=size_words(model.input_spec.sides),
        grey=model.input_spec.channels == 1,
        resize=model.input_spec.resize,
        sixteen_bit=model.input_spec.sixteen_bit,
        cache=_cache(options, train_set, model.input_spec.sides, cache_bytes, tiling),
        fit_priors=True if fitted else options.fit_priors,
    )
    return Decided(model, recipe, options, initial, chosen)


def _decide_together(options: TrainOptions, train_set: Dataset | ShardStream, world: World) -> Decided:
    """As `_decide`, by the first process: the others take its model, with the weights, and its decisions."""
    import torch

    from singleshot.training.distributed import Message
    from singleshot.weights.checkpoint import ModelInfo, build_model

    found: list[Decided] = []

    def decide() -> Message:
        found.append(decided := _decide(options, train_set, alone=False))
        info = ModelInfo.of(decided.model, train_set.class_names)
        values = {"options": decided.options.to_dict(), "recipe": decided.recipe.to_dict(), "info": info.to_json()}
        return Message({**values, "initial": decided.initial}, decided.model.state_dict())

    values, tensors = world.from_first(decide)
    if not found:
        own = replace(TrainOptions.from_dict(values["options"]), device=options.device)
        model = build_model(ModelInfo.from_json(values["info"], "process 0"))
        model.load_state_dict(tensors)
        found.append(Decided(model, read_recipe(values["recipe"]), own, values["initial"], {}))
    torch.manual_seed(options.seed or 0)  # the same here as there, however much building a model drew
    return found[0]


def _settings(options: TrainOptions, recipe: Recipe, place: torch.device, world: World | None) -> Settings:
    from singleshot.training import loop

    return loop.Settings(
        out=Path(str(options.out)),
        epochs=options.epochs or recipe.epochs,
        batch=options.batch or recipe.batch,
        seconds=parse_duration(options.time) if options.time else None,
        seed=options.seed or 0,
        device=place,
        precision=options.precision or "auto",
        compiled=options.compile,
        workers=options.workers,
        val_every=options.val_every or 1,
        validate_start=bool(options.start),
        update_ratios=options.update_ratios,
        cache=options.cache or "none",
        cache_bytes=parse_bytes(options.cache_size or "", "--cache-size"),
        split=options.split or "train",
        val_split=options.val_split or "val",
        skip_broken=options.skip_broken,
        world=world,
        tiling=tiling_of(options.tile),
    )


def _refuse_if_over(trainer: Trainer, options: TrainOptions) -> None:
    """Raise ConfigError for a run that has nothing left to do."""
    if not trainer.over:
        return
    progress, folder = trainer.progress, printable(trainer.settings.out)
    if trainer.settings.seconds is not None:
        raise ConfigError(
            f"{folder}: this run has trained for {progress.seconds:.0f} s already, which --time {options.time} leaves"
            " nothing of; go on with a longer --time, or with --epochs"
        )
    raise ConfigError(
        f"{folder}: this run is over, {progress.epoch} of {trainer.settings.epochs} epochs; go on with a higher"
        " --epochs, or with --time"
    )


def _cache(
    options: TrainOptions, train_set: Dataset | ShardStream, size: Size, most: int, tiling: Tiling | None
) -> str:
    """The cache, decided once: a resumed run must read the same pixels."""
    from singleshot.datasets.dataset import Dataset
    from singleshot.loading.cache import pick_cache

    wanted = options.cache or "auto"
    if wanted != "auto":
        return wanted  # of shards a folder, for the files of remote ones: see train_data
    if isinstance(train_set, Dataset):
        tile = None if tiling is None else tiling.sides(size)
        return pick_cache(train_set, size, most, tile, options.skip_broken)
    return "none"
