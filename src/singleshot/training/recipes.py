"""Recipes: everything about a training that is not the model and not the data, as a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from singleshot.conventions import convention
from singleshot.errors import ConfigError, did_you_mean, printable
from singleshot.loading.augment_spec import AUGMENTS, AugmentSpec
from singleshot.losses import BOX_LOSSES, LOSS_RULES
from singleshot.matching import RULES as MATCHING_RULES
from singleshot.sigmoid_losses import SIGMOID_RULES

MAX_BYTES = 1 << 20


# Rules by name, for each key that chooses one.
_RULES: dict[str, Mapping[str, object]] = {
    "matching": MATCHING_RULES,
    "loss": {**LOSS_RULES, **SIGMOID_RULES},
    "box_loss": BOX_LOSSES,
}


class Recipe(BaseModel):
    """A training recipe; every field has the published value (`paper`) as its default.

    lr is for a batch of `base_batch` images and scales in proportion with the real one. Milestones are fractions of the
    whole training. warmup is a fraction of the training but at most `warmup_steps` steps. matching and loss are names
    of matching.RULES and of losses.LOSS_RULES or sigmoid_losses.SIGMOID_RULES, box_loss is one of losses.BOX_LOSSES;
    decay_only says which parameters weight_decay pulls on (see
    optimizers.parameter_groups).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(1e-3, gt=0, le=10)
    base_batch: int = Field(32, ge=1)
    batch: int = Field(32, ge=1, le=4096)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, le=1)
    decay_only: Literal["convolutions", "all-but-biases", "everything"] = "convolutions"
    bias_lr_factor: float = Field(2.0, ge=0, le=100)
    backbone_lr_factor: float = Field(1.0, ge=0, le=100, description="the backbone's learning rate as a part of lr")
    freeze: int | None = Field(None, ge=0, le=1000, description="first parts of the backbone that stay as they are")
    freeze_stride: int = Field(0, ge=0, le=32, description="without freeze: parts whose maps have that stride at most")
    freeze_norms: bool = Field(False, description="the backbone's running statistics stay as they are")
    epochs: int = Field(232, ge=1, le=100_000)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = (2 / 3, 5 / 6)
    gamma: float = Field(0.1, gt=0, le=1)
    final_lr: float = Field(0.0, ge=0, le=1, description="cosine: last learning rate as a part of lr")
    warmup: float = Field(0.02, ge=0, le=0.5)
    warmup_steps: int = Field(500, ge=0)
    ema: float = Field(0.0, ge=0, lt=1, description="weight averaging: decay per step, 0 for none")
    clip_norm: float = Field(0.0, ge=0, description="gradient norm is cut to this, 0 for never")
    matching: str = "caffe"
    iou_min: float = Field(0.5, gt=0, lt=1)
    ignore_from: float | None = Field(None, gt=0, lt=1, description="unmatched priors from this IoU on count for none")
    loss: str = "caffe"
    negative_ratio: float = Field(3.0, gt=0, le=1000)
    min_negatives: int = Field(0, ge=0, le=10_000)
    alpha: float = Field(1.0, ge=0, le=1000)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    box_voting: float | None = Field(
        None, ge=0, lt=1, description="detections: IoU from which removed boxes move the one that stays"
    )
    box_loss: str = "smooth-l1"
    class_weights: dict[str, float] = Field(default={}, description="factors on classes' confidence loss, by name")
    progressive: tuple[tuple[float, float], ...] = Field(
        (),
        max_length=8,
        description="--time: (until, part); until that part of it inputs have that part of a side",
    )
    sampling: Literal["uniform", "repeat"] = "uniform"
    repeat_threshold: float = Field(
        0.001, gt=0, le=1, description="repeat: classes in a smaller part of the images are shown more often"
    )
    augment: AugmentSpec = AUGMENTS["caffe"]

    @model_validator(mode="before")
    @classmethod
    def _augment_by_name(cls, values: Any) -> Any:
        """augment = "light", or a table whose `preset` is changed by its other keys."""
        augment = values.get("augment") if isinstance(values, dict) else None
        if isinstance(augment, str):
            return {**values, "augment": _preset(augment)}
        if isinstance(augment, dict):
            changes = dict(augment)
            start = _preset(changes.pop("preset", "caffe")).to_dict()
            return {**values, "augment": AugmentSpec.from_dict({**start, **changes})}
        return values

    @model_validator(mode="before")
    @classmethod
    def _of_a_convention(cls, values: Any) -> Any:
        """convention = "bubbliiiing": matching, loss and weight decay of that codebase, changed by the other keys."""
        if not isinstance(values, dict) or "convention" not in values:
            return values
        own = {key: value for key, value in values.items() if key != "convention"}
        whole = {**convention(str(values["convention"])).recipe(), **own}
        unused = unused_keys(whole.get("matching"), whole.get("loss"))
        return {key: value for key, value in whole.items() if key in own or key not in unused}

    @field_validator(*_RULES)
    @classmethod
    def _known_rule(cls, name: str, info: ValidationInfo) -> str:
        rules = _RULES[str(info.field_name)]
        if name not in rules:
            raise ConfigError(
                f"{info.field_name} {printable(name)!r}: want one of {', '.join(rules)}{did_you_mean(name, rules)}"
            )
        return name

    @field_validator("class_weights")
    @classmethod
    def _weights_are_factors(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 < weight <= 1000:
                raise ValueError(f"want numbers above 0 and up to 1000, {printable(name, 40)} has {weight:g}")
        return weights

    @model_validator(mode="after")
    def _every_key_says_something(self) -> Recipe:
        """A key that the chosen rules do not look at must not be another than its default."""
        unused = unused_keys(self.matching, self.loss)
        if self.sampling == "uniform":
            unused["repeat_threshold"] = 'sampling = "uniform"'
        for key, rule in unused.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ConfigError(f"{key}: says nothing with {rule}; leave it out")
        return self

    @model_validator(mode="after")
    def _phases_rise(self) -> Recipe:
        ends = [until for until, _ in self.progressive]
        if ends != sorted(set(ends)) or not all(0 < end <= 1 and 0.2 <= part < 1 for end, part in self.progressive):
            raise ValueError(
                "progressive: want pairs (until, part of the side), the former rising and up to 1, the latter from 0.2"
                " to less than 1"
            )
        return self

    @model_validator(mode="after")
    def _milestones_rise(self) -> Recipe:
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError("milestones must rise between 0 and 1")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML; `Recipe(**values)` is equal."""
        return {**self.model_dump(mode="json", exclude={"augment"}), "augment": self.augment.to_dict()}

    @property
    def activation(self) -> str:
        """What makes probabilities of the logits of a model that is trained so."""
        return "sigmoid" if self.loss in SIGMOID_RULES else "softmax"

    def learning_rate(self, batch: int) -> float:
        """lr for a batch of that many images (Goyal et al. 2017: in proportion)."""
        return self.lr * batch / self.base_batch


def unused_keys(matching: object, loss: object) -> dict[str, str]:
    """Keys that say nothing under these rules, and under which of them."""
    rule = MATCHING_RULES.get(str(matching))
    unused = {} if rule is None or rule.by_iou_min else {"iou_min": f'matching = "{matching}"'}
    if loss in SIGMOID_RULES:
        unused |= dict.fromkeys(("negative_ratio", "min_negatives", "label_smoothing"), f'loss = "{loss}"')
    return unused


def _preset(name: object) -> AugmentSpec:
    if name not in AUGMENTS:
        raise ConfigError(f"augment {printable(name)!r}: want one of {', '.join(AUGMENTS)}, or a table")
    return AUGMENTS[str(name)]


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("singleshot.training") / "recipes"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_recipe(name: str) -> Recipe:
    """A recipe by name or from a TOML file. Raises ConfigError with the file, the key and what it wants."""
    if name in recipe_names():
        text = (resources.files("singleshot.training") / "recipes" / f"{name}.toml").read_text()
    elif Path(name).is_file():
        if Path(name).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{printable(name)}: larger than 1 MB, want a recipe in TOML")
        text = Path(name).read_text(errors="replace")
    else:
        names = recipe_names()
        raise ConfigError(
            f"recipe {printable(name)!r}: want one of {', '.join(names)}, or a TOML file{did_you_mean(name, names)}"
        )
    try:
        return Recipe(**tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{printable(name)}: not TOML ({printable(error)})") from error
    except (ValidationError, ConfigError) as error:
        raise ConfigError(f"recipe {printable(name)}: {first_problem(error)}") from error


# pydantic's words for a type -> plain ones.
_PLAIN = {"a valid string": "a text", "a valid number": "a number", "a valid integer": "a whole number",
          "a valid boolean": "true or false"}  # fmt: skip


def first_problem(error: Exception) -> str:
    """One line of what pydantic complains about first."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        return f"{printable(key, 60)}: no such key{did_you_mean(key, Recipe.model_fields)}"
    came = f", came {printable(repr(first['input']), 60)}" if first["loc"] else ""
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "want").partition(", unable to")[0]
    for words, plain in _PLAIN.items():
        said = said.replace(words, plain)
    return f"{key}: {said}{came}"
