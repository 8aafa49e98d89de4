"""The parts of a training, built from model, data, recipe and settings."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from singleshot.datasets.dataset import Dataset, read_as
from singleshot.datasets.measure import measured
from singleshot.devices import pick_precision, place_model
from singleshot.errors import ConfigError, printable
from singleshot.inputs import Size
from singleshot.loading.cache import PixelCache, open_cache
from singleshot.loading.loader import EvalLoader, TrainLoader
from singleshot.loading.sampling import repeat_factors
from singleshot.loading.shard_stream import ShardStream
from singleshot.loading.workers import pick_workers
from singleshot.memory import keep_freed_memory
from singleshot.models import SSD
from singleshot.thresholds import Thresholds
from singleshot.tiling import Tiling
from singleshot.training.checkpoints import Checkpoints, SilentCheckpoints
from singleshot.training.evaluator import Evaluator
from singleshot.training.fingerprint import Fingerprint
from singleshot.training.freezing import freeze_backbone
from singleshot.training.progressive import Phase, phases_of
from singleshot.training.recipes import Recipe
from singleshot.training.schedule import Budget
from singleshot.training.settings import Settings
from singleshot.training.single_values import use_running_statistics
from singleshot.training.step import Stepper
from singleshot.training.synced_norm import synchronise_norms

log = logging.getLogger(__name__)

_ROOM = 2  # detections for each object of the fullest image: a threshold of scores wants some to choose from
MOST_KEPT = 3800  # what TensorRT sorts out, rounded down


class Parts(NamedTuple):
    """What a Trainer strings together; cache and evaluator are None where there is none."""

    stepper: Stepper
    cache: PixelCache | None
    loader: TrainLoader
    evaluator: Evaluator | None
    checkpoints: Checkpoints
    budget: Budget


def build_parts(
    model: SSD, train_set: Dataset | ShardStream, val_set: Dataset | None, recipe: Recipe, settings: Settings
) -> Parts:
    """Place the model on its device and make all that a training needs; no worker starts and no file is written.

    Raises:
        ConfigError: A setting is out of range, or the cache's file cannot be made.
        DataError: A data set has no images, or one that the cache cannot measure.
    """
    device, spec = settings.device, model.input_spec
    train_set, val_set = read_as(train_set, spec.sixteen_bit), read_as(val_set, spec.sixteen_bit)
    if device.type == "cpu":
        keep_freed_memory()
    place_model(model, device)
    freeze_backbone(model, recipe)
    world = settings.world
    if world is not None:
        if settings.compiled:
            raise ConfigError("--compile: is for one process, and several train together; leave it out")
        synchronise_norms(model, world)
    use_running_statistics(model, settings.batch)
    dtype = pick_precision(settings.precision, device)
    names = train_set.class_names
    phases = () if settings.seconds is None else _phases(model, recipe, settings)
    stepper = Stepper(model, recipe, settings.batch, device, dtype, settings.compiled, world, names, phases)
    stepper.thresholds = roomy(stepper.thresholds, train_set)
    cache = None
    if isinstance(train_set, Dataset):
        cache_bytes = settings.cache_bytes if world is None else settings.cache_bytes // world.local_size
        tile = None if settings.tiling is None else settings.tiling.sides(spec.sides)
        cache = open_cache(train_set, spec.sides, settings.cache, cache_bytes, tile, settings.skip_broken)
    fingerprint = Fingerprint.of(train_set, val_set, recipe, settings, dtype)
    pinned = device.type == "cuda"
    batch, shard = (
        (settings.batch, (0, 1)) if world is None else (world.share(settings.batch), (world.rank, world.size))
    )
    workers = settings.workers
    if world is not None and workers is None:  # the processes of a machine share its cores
        workers = max(1, pick_workers(None, batch, spec.sides) // world.local_size)
    options = batch, settings.seed, workers
    loader = TrainLoader(
        cache or train_set,
        recipe.augment,
        spec,
        *options,
        shard=shard,
        pin_memory=pinned,
        skip_broken=settings.skip_broken,
        repeats=_repeats(train_set, recipe, settings, spec.sides),
        tiling=settings.tiling,
    )
    evaluator = None
    if val_set is not None:
        tiling = settings.tiling
        val_loader = EvalLoader(val_set, spec, settings.batch, workers, shard=shard, pin_memory=pinned, tiling=tiling)
        evaluator = Evaluator(stepper, val_set, val_loader, settings, fingerprint.files["val"])
    # Model files are handed on: they name the data, not where it lies on this machine.
    source = re.split(r"[\\/]", train_set.source)[-1]
    about = {"seed": settings.seed, "batch": settings.batch, "data": source, "recipe": recipe.to_dict()}
    ids = train_set.ids if isinstance(train_set, Dataset) else None
    category_ids = None if ids is None else ids.categories
    kind = Checkpoints if world is None or world.leads else SilentCheckpoints
    checkpoints = kind(settings.out, stepper, fingerprint, about, train_set.selection, category_ids, settings.tiling)
    total = None if settings.seconds is not None else settings.epochs * len(loader)
    return Parts(stepper, cache, loader, evaluator, checkpoints, Budget(total, settings.seconds))


def _phases(model: SSD, recipe: Recipe, settings: Settings) -> tuple[Phase, ...]:
    """Those of the recipe that can be, of a training of a given time; the log says which, and why others cannot."""
    if not recipe.progressive:
        return ()
    if settings.batch == 1 or settings.compiled:
        why = "--compile compiles for each size" if settings.compiled else "--batch 1 leaves a value a channel"
        log.info("no smaller inputs to begin with (progressive resizing): %s", why)
        return ()
    phases = phases_of(model, recipe.progressive)
    for phase in phases:
        until = 100 * phase.until
        log.info("inputs of %d x %d px until %.0f %% of the time (progressive resizing)", *phase.sides, until)
    if len(phases) < len(recipe.progressive):
        log.info(
            "progressive resizing: of %d sizes %d can be, for %s", len(recipe.progressive), len(phases), model.name
        )
    return phases


def roomy(rules: Thresholds, data: Dataset | ShardStream) -> Thresholds:
    """The rules with limits on the number of detections that leave room for twice the objects of the fullest image,
    where those of `rules` do not; the log says so. Of shards, whose labels are not read ahead, `rules`."""
    if not isinstance(data, Dataset) or not len(data):
        return rules
    most = int(np.bincount(data.image_of[~data.crowd], minlength=1).max())
    keep = min(math.ceil(_ROOM * most / 100) * 100, MOST_KEPT)
    if keep <= rules.keep:
        return rules
    log.info("an image has %d objects: the model keeps up to %d detections of an image, not %d", most, keep, rules.keep)
    return replace(rules, keep=keep, per_class=max(rules.per_class, min(2 * keep, MOST_KEPT)))


def _repeats(train_set: Dataset | ShardStream, recipe: Recipe, settings: Settings, shape: Size) -> np.ndarray | None:
    """How often each image is shown in an epoch; None for once: as many tiles as cover it, and rare classes as the
    recipe says. Raises ConfigError where images or labels are not known ahead."""
    tiling = settings.tiling
    if recipe.sampling == "uniform" and tiling is None:
        return None
    if isinstance(train_set, ShardStream):
        where = printable(train_set.source)
        if tiling is not None:
            raise ConfigError(
                f"--tile: {where} is shards, whose images are not measured ahead; train on the folder that they were"
                " made of, or without --tile"
            )
        raise ConfigError(
            f'sampling = "repeat": {where} is shards, whose labels are not read ahead; train on'
            ' the folder that they were made of, or with sampling = "uniform"'
        )
    tiles = np.ones(len(train_set))
    if tiling is not None:
        sizes = measured(train_set, skip_broken=settings.skip_broken).sizes
        tiles = tiles_to_cover(sizes, tiling, shape).clip(1)  # one that cannot be measured is met and counted, too
    return tiles if recipe.sampling == "uniform" else tiles * _class_repeats(train_set, recipe)


def tiles_to_cover(sizes: np.ndarray, tiling: Tiling, shape: Size) -> np.ndarray:
    """float64 [n]: how many tiles next to each other cover images of these sizes [n, 2], width and height: what an
    epoch shows of each. shape: of the model's input."""
    tall, wide = tiling.sides(shape)
    tiles: np.ndarray = np.ceil(sizes / (wide, tall)).prod(axis=1)
    return tiles


def _class_repeats(train_set: Dataset, recipe: Recipe) -> np.ndarray:
    teaches = ~train_set.crowd
    of = train_set.labels[teaches], train_set.image_of[teaches], len(train_set)
    factors = repeat_factors(*of, recipe.repeat_threshold)
    if (factors == 1.0).all():
        log.warning(
            'sampling = "repeat" changes nothing: every class is in %g of the images or more; a higher repeat_threshold'
            " shows more of them more often",
            recipe.repeat_threshold,
        )
    return factors
