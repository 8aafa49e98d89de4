"""What a training is asked for, and what of it a run that goes on takes from its start."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot.api.class_names import read_groups
from singleshot.api.held_out import val_split_text
from singleshot.api.options import Options, check_range, parse_bytes, parse_duration
from singleshot.class_selection import Classes, ClassSelection, select_classes
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.extras import needs, require
from singleshot.hub import pinned_model
from singleshot.input_shape import AUTO, size_words
from singleshot.prior_files import read_priors
from singleshot.storage import is_remote
from singleshot.tiling import NONE, choose_tiling

if TYPE_CHECKING:
    from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
PRIORS_FILE = "priors.json"  # of a run whose default boxes are not its model's own
# Where and how a run is done on this machine: what is not kept in run.json.
_NOT_KEPT = ("out", "resume", "accept_changes", "device", "compile", "workers", "tensorboard", "log", "update_ratios")
# What a resumed run keeps: another value is refused.
_FIXED = (
    "classes",
    "model",
    "recipe",
    "batch",
    "lr",
    "freeze",
    "backbone_weights",
    "start",
    "size",
    "grey",
    "resize",
    "sixteen_bit",
    "tile",
    "seed",
)
# Of these, what --accept-changes takes all the same.
_ACCEPTED = ("recipe", "batch", "lr", "freeze", "seed")
# What may change in a run where it is given again; its length besides. Data that differs needs --accept-changes.
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
    "skip_broken",
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
    freeze: int | None = None
    backbone_weights: str | None = None
    start: str | None = None
    size: str | int | tuple[int, ...] | None = None
    grey: bool | None = None
    resize: str | None = None
    sixteen_bit: str | None = None
    tile: str | int | bool | None = None
    split: str | None = None
    val_split: str | None = None
    val_every: int | None = None
    resume: bool | str = False
    accept_changes: bool = False
    seed: int | None = None
    device: str | None = "auto"
    precision: str | None = None
    compile: bool = False
    workers: int | None = None
    tensorboard: bool = True
    log: tuple[str, ...] = ()
    update_ratios: bool = False
    clip_boxes: bool = False
    follow_links: bool = False
    score_min: float | None = None
    cache: str | None = None
    cache_size: str | int | None = None
    classes: Classes | None = None
    priors: str | None = None
    fit_priors: bool | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        check_range("--epochs", self.epochs, 1, 10**9)
        check_range("--batch", self.batch, 1, 4096)
        check_range("--val-every", self.val_every, 1, 10**9)
        check_range("--freeze", self.freeze, 0, 1000)
        check_range("--score-min", self.score_min, 0, 1)
        check_range("--seed", self.seed, 0, 2**31 - 1)
        if self.resume not in (True, False, "auto"):
            raise ConfigError(f"--resume {printable(self.resume, 60)}: want auto after it, or nothing")

    def kept(self) -> dict[str, Any]:
        """What run.json keeps, for a resume: paths of this machine as absolute ones."""
        return {name: _absolute(name, value) for name, value in self.to_dict().items() if name not in _NOT_KEPT}

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
    if given.size is not None:
        given = replace(given, size=size_words(given.size))
    given = replace(given, val_split=val_split_text(given.val_split))
    if given.tile is not None:
        given = replace(given, tile=_tile_text(given.tile))
        if given.tile != NONE and given.size == AUTO:
            raise ConfigError("--size auto goes by whole pictures, and --tile by parts of them: give --size by number")
    if given.time is not None:
        parse_duration(given.time)  # a mistake is said before anything is read
    if given.cache_size is not None:
        parse_bytes(given.cache_size, "--cache-size")
    if given.time and given.epochs:
        raise ConfigError("--time and --epochs exclude each other: a budget of time decides the epochs")
    if given.start and given.backbone_weights and not given.resume:
        raise ConfigError("--start and --backbone-weights exclude each other: --start brings the backbone's too")
    if given.priors and given.fit_priors:
        raise ConfigError("--priors and --fit-priors exclude each other: leave one of them out")
    if given.resume == "auto":
        if given.out is None:
            raise ConfigError("--resume auto: which run? Give its folder with --out")
        if not (Path(given.out) / RUN_FILE).is_file():
            given = replace(given, resume=False, accept_changes=False)
    if given.resume:
        return _resumed(given)
    if given.accept_changes:
        raise ConfigError("--accept-changes: goes with --resume, a new run has nothing to compare with; leave it out")
    if not given.data:
        raise ConfigError("train: which data? Give a folder of labelled images: singleshot train DATA")
    _check_val_every(given, given)
    if given.start is not None:
        given = replace(given, start=pinned_model(given.start))
    return given


def _tile_text(tile: str | int | bool) -> str:
    """As run.json keeps it. Raises ConfigError."""
    try:
        tiling = choose_tiling(None, tile)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    return NONE if tiling is None else tiling.text


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
        if not isinstance(values, dict) or not isinstance(recipe, dict) or not values.get("data"):
            raise ValueError("it says neither data nor recipe")
        # Of another version's options those that are known; what it did not have is as it was without.
        names = TrainOptions().kept()
        known = {name: value for name, value in values.items() if name in names}
        for name, value in known.items():
            if not isinstance(value, _types_of(name)):
                raise ValueError(f"{name} {value!r}: not a value that it may have")
        return SavedRun(TrainOptions.from_dict({"sixteen_bit": "scale", **known}), recipe)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error)})") from error


def _resumed(given: TrainOptions) -> TrainOptions:
    """The options that the run was started with, with what may change in a run as it is given now."""
    if given.out is None:
        raise ConfigError("--resume: which run? Give its folder with --out")
    saved, recipe = saved_run(given.out)
    _refuse_changes(given, saved, recipe)
    _refuse_other_priors(given, saved, Path(given.out) / PRIORS_FILE)
    changes = {name: getattr(given, name) for name in _NOT_KEPT}
    changes |= {name: getattr(given, name) for name in _MAY_CHANGE if getattr(given, name)}
    if given.epochs is not None or given.time is not None:
        changes |= {"epochs": given.epochs, "time": given.time}
    if given.accept_changes:
        changes |= {name: getattr(given, name) for name in _ACCEPTED if getattr(given, name) is not None}
    whole = replace(saved, **changes)
    _check_val_every(given, whole)
    return whole


def _refuse_changes(given: TrainOptions, saved: TrainOptions, recipe: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that has another value than the run, and cannot change in it."""
    for name in _FIXED:
        wanted, has = getattr(given, name), getattr(saved, name)
        if has is None:
            has = {
                "batch": recipe.get("batch"),
                "lr": recipe.get("lr"),
                "freeze": recipe.get("freeze"),
                "tile": NONE,
                **DEFAULTS,
            }.get(name)
        if wanted is None or has in (wanted, _absolute(name, wanted)):
            continue
        if name in _ACCEPTED and (given.accept_changes or (name == "recipe" and _same_recipe(wanted, recipe))):
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
            + (", or go on with the new value: --accept-changes" if name in _ACCEPTED else "")
        )


def _refuse_other_priors(given: TrainOptions, saved: TrainOptions, own: Path) -> None:
    """Raise ConfigError for default boxes that are not the run's, which are in the file `own` if not its model's."""
    if given.fit_priors is not None and given.fit_priors != bool(saved.fit_priors):
        option = "--fit-priors" if given.fit_priors else "--no-fit-priors"
        has = "its model's own default boxes" if saved.priors is None else f"those of {printable(saved.priors, 60)}"
        has = "default boxes that are fitted to its data" if saved.fit_priors else has
        raise ConfigError(
            f"--resume: {option} cannot change in a run (it has {has}); leave it out, or start a new run with another"
            " --out"
        )
    if given.priors is not None and not (own.is_file() and read_priors(given.priors) == read_priors(str(own))):
        raise ConfigError(
            f"--resume: --priors {printable(given.priors, 60)}: are not the default boxes of this run; leave it out"
            " (the run keeps its own), or start a new run with another --out"
        )


def _same_classes(wanted: Classes, has: Classes) -> bool:
    """Whether what is asked for is what the run has, in the same order."""
    run = ClassSelection.from_dict(has)
    try:
        return select_classes(wanted, run.members, "the run") == run
    except ConfigError:
        return False


def _same_recipe(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe of that name or file is the run's, but for what has an option of its own."""
    with needs("train", "training"):
        from singleshot.training.recipes import load_recipe

    own = read_recipe(recipe).to_dict()
    return {**load_recipe(name).to_dict(), "lr": own["lr"], "freeze": own["freeze"]} == own


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe in run.json; keys of other versions are left out, which the log says. Raises as Recipe does."""
    from singleshot.loading.augment_spec import AugmentSpec
    from singleshot.training.recipes import Recipe

    augment = values.get("augment", {})
    unknown = [key for key in values if key not in Recipe.model_fields]
    unknown += [f"augment.{key}" for key in augment if key not in AugmentSpec.__dataclass_fields__]
    if unknown:
        log.warning("the run's recipe: %s: not known to this version, left out", printable(", ".join(unknown)))
    augment = {key: value for key, value in augment.items() if f"augment.{key}" not in unknown}
    own = {key: value for key, value in values.items() if key not in unknown}
    return Recipe.model_validate({**own, "augment": {"preset": "none", **augment}})


def _absolute(name: str, value: Any) -> Any:
    """A path as an absolute one, where the option's value is one."""
    own_names = {"recipe": (), "backbone_weights": ("auto", "imagenet", "none"), "cache": ("auto", "ram", "none"),
                 "data": (), "start": ()}  # fmt: skip
    if not isinstance(value, str) or not value or name not in own_names or value in own_names[name]:
        return value
    is_path = name == "cache" or (not is_remote(value) and Path(value).exists())
    return os.path.abspath(value) if is_path else value  # noqa: PTH100 - links stay


def _types_of(name: str) -> tuple[type, ...]:
    """Of what kinds the value of an option may be, by its annotation."""
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (type(None),),
        "Classes": (object,), "tuple[int, ...]": (list, tuple),
    }  # fmt: skip
    return tuple(kind for word in TrainOptions.__dataclass_fields__[name].type.split(" | ") for kind in kinds[word])
