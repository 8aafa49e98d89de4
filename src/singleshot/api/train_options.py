"""What a training is asked for, and what of it a run that goes on takes from its start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.api.class_names import read_groups
from singleshot.api.options import Options, check_range
from singleshot.class_selection import Classes, ClassSelection, select_classes
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.extras import needs, require

RUN_FILE = "run.json"
# Where and how a run is done on this machine: what is not kept in run.json.
_NOT_KEPT = ("out", "resume", "device", "compile", "workers", "tensorboard", "update_ratios")
# What a resumed run keeps: another value is refused.
_FIXED = ("classes", "model", "recipe", "batch", "lr", "backbone_weights", "start", "resize", "sixteen_bit", "seed")
# What may change in a run where it is given again; its length besides.
_MAY_CHANGE = (
    "data",
    "split",
    "val_split",
    "val_every",
    "precision",
    "clip_boxes",
    "follow_links",
    "score_min",
    "cache",
    "cache_size",
)
# What stands for an option that is not given, where that is one value.
DEFAULTS: dict[str, Any] = {
    "split": "train", "val_split": "val", "val_every": 1, "seed": 0, "precision": "auto", "cache": "auto",
    "cache_size": "4G", "backbone_weights": "auto",
}  # fmt: skip


@dataclass(frozen=True)
class TrainOptions(Options):
    """What a training is asked for, by the names of the command's options; see `train`. None: not given."""

    data: str = ""
    model: str | None = None
    out: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    time: str | float | None = None
    batch: int | None = None
    lr: float | None = None
    backbone_weights: str | None = None
    start: str | None = None
    resize: str | None = None
    sixteen_bit: str | None = None
    split: str | None = None
    val_split: str | None = None
    val_every: int | None = None
    resume: bool = False
    seed: int | None = None
    device: str | None = "auto"
    precision: str | None = None
    compile: bool = False
    workers: int | None = None
    tensorboard: bool = True
    update_ratios: bool = False
    clip_boxes: bool = False
    follow_links: bool = False
    score_min: float | None = None
    cache: str | None = None
    cache_size: str | int | None = None
    classes: Classes | None = None

    def __post_init__(self) -> None:
        check_range("--epochs", self.epochs, 1, 10**9)
        check_range("--batch", self.batch, 1, 4096)
        check_range("--val-every", self.val_every, 1, 10**9)
        check_range("--score-min", self.score_min, 0, 1)
        check_range("--seed", self.seed, 0, 2**31 - 1)

    def kept(self) -> dict[str, Any]:
        """What run.json keeps, for a resume."""
        return {name: value for name, value in self.to_dict().items() if name not in _NOT_KEPT}

    def filled(self) -> TrainOptions:
        """With DEFAULTS for what is not given."""
        return replace(self, **{name: value for name, value in DEFAULTS.items() if getattr(self, name) is None})


class SavedRun(NamedTuple):
    """What run.json says: the options of the run, all that were decided filled in, and its recipe as plain values."""

    options: TrainOptions
    recipe: Mapping[str, Any]


def resolve(given: TrainOptions) -> TrainOptions:
    """The options of a run: of one that goes on those that it was started with, and what is given anew.

    Raises:
        ConfigError, CheckpointError: An option is wrong or cannot be honoured, or the run cannot be read.
        MissingExtraError: PyTorch is not installed.
    """
    require("train", "training", "torch")
    if given.classes is not None:
        given = replace(given, classes=read_groups(given.classes))
    if given.time and given.epochs:
        raise ConfigError("--time and --epochs exclude each other: a budget of time decides the epochs")
    if given.start and given.backbone_weights and not given.resume:
        raise ConfigError("--start and --backbone-weights exclude each other: --start brings the backbone's too")
    if given.resume:
        return _resumed(given)
    if not given.data:
        raise ConfigError("train: which data? Give a folder of labelled images: singleshot train DATA")
    _check_val_every(given, given)
    return given


def _check_val_every(given: TrainOptions, whole: TrainOptions) -> None:
    """Raise ConfigError for a --val-every that could do nothing in a run of the options `whole`."""
    if given.val_every and whole.time:
        raise ConfigError("--time and --val-every exclude each other: a budget of time validates as time allows")
    if given.val_every and whole.val_split == "none":
        raise ConfigError("--val-every: there is no validation with --val-split none; leave one of them out")


def saved_run(folder: str | Path) -> SavedRun:
    """What the run in that folder was started with. Raises CheckpointError."""
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise CheckpointError(f"{printable(folder)}: no {RUN_FILE} there; --resume wants a folder that train wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values, recipe = content["options"], content["recipe"]
        if isinstance(values, dict):
            values = {"sixteen_bit": "scale", **values}  # which older runs do not say
        if not isinstance(values, dict) or set(values) != set(TrainOptions().kept()) or not isinstance(recipe, dict):
            raise ValueError("other options than this version's")
        return SavedRun(TrainOptions.from_dict(values), recipe)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error)})") from error


def _resumed(given: TrainOptions) -> TrainOptions:
    """The options that the run was started with, with what may change in a run as it is given now."""
    if given.out is None:
        raise ConfigError("--resume: which run? Give its folder with --out")
    saved, recipe = saved_run(given.out)
    _refuse_changes(given, saved, recipe)
    changes = {name: getattr(given, name) for name in _NOT_KEPT}
    changes |= {name: getattr(given, name) for name in _MAY_CHANGE if getattr(given, name)}
    if given.epochs is not None or given.time is not None:
        changes |= {"epochs": given.epochs, "time": given.time}
    whole = replace(saved, **changes)
    _check_val_every(given, whole)
    return whole


def _refuse_changes(given: TrainOptions, saved: TrainOptions, recipe: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that has another value than the run, and cannot change in it."""
    for name in _FIXED:
        wanted, has = getattr(given, name), getattr(saved, name)
        if has is None:
            has = {"batch": recipe.get("batch"), "lr": recipe.get("lr"), **DEFAULTS}.get(name)
        if wanted is None or wanted == has or (name == "recipe" and _same_recipe(wanted, recipe)):
            continue
        if name == "classes":
            if has is not None and _same_classes(wanted, has):
                continue
            has = None if has is None else ClassSelection.from_dict(has).summary()
            wanted = ", ".join(wanted)
        shown = "none" if has is None else printable(has, 60)
        raise ConfigError(
            f"--resume: --{name.replace('_', '-')} cannot change in a run (it has {shown}, given is"
            f" {printable(wanted, 60)}); leave it out, or start a new run with another --out"
        )
    if given.recipe is not None and not _same_recipe(given.recipe, recipe):
        raise ConfigError(
            f"--resume: --recipe {printable(given.recipe)}: is not what it was when the run started; leave it out (the"
            " run keeps its own), or start a new run with another --out"
        )


def _same_classes(wanted: Classes, has: Classes) -> bool:
    """Whether what is asked for is what the run has, in the same order."""
    run = ClassSelection.from_dict(has)
    try:
        return select_classes(wanted, run.members, "the run") == run
    except ConfigError:
        return False


def _same_recipe(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe of that name or file is the run's, the learning rate aside, which has an option of its own."""
    with needs("train", "training"):
        from singleshot.training.recipes import Recipe, load_recipe

    # As they stand in a file, lists for tuples; a key that is newer than the run has its default in it.
    now, new_keys = (json.loads(json.dumps(one.to_dict())) for one in (load_recipe(name), Recipe(**{})))
    return {**now, "lr": recipe.get("lr")} == {**new_keys, **recipe}
