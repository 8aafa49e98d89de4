"""Building a preset by its name."""

from __future__ import annotations

import functools
import importlib

import torch

from singleshot.errors import ConfigError, did_you_mean, printable
from singleshot.inputs import InputSpec
from singleshot.models.dry_run import dry_run, priors_on
from singleshot.models.ssd import SSD
from singleshot.presets import MODELS, Preset
from singleshot.priors import PRIORS, PriorSpec

MAX_CLASSES = 10_000


def build(name: str, num_classes: int, priors: PriorSpec | None = None, input_spec: InputSpec | None = None) -> SSD:
    """A freshly initialised model (torch's global generator decides the weights).

    Args:
        name: a key of `singleshot.presets.MODELS`.
        num_classes: real classes, without background.
        priors: in place of the preset's own; their feature maps must be those of the network on that input.
        input_spec: in place of the preset's own; on another size the preset's priors are scaled (see `priors_on`).

    Raises:
        ConfigError: no preset of that name, or classes, priors or an input that it cannot have.
    """
    preset = _preset(name)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"number of classes {num_classes}: want 1 to {MAX_CLASSES}")
    own = PRIORS[preset.priors]
    inputs = input_spec or preset.input_spec
    spec = priors or usual_priors(name, inputs.sides)
    if len(spec.maps) != len(own.maps):
        raise ConfigError(f"model {name}: priors for {len(spec.maps)} feature maps, want {len(own.maps)}")

    def make() -> SSD:
        return _network(preset, spec, inputs, num_classes, name)

    if (inputs.shape, spec.grids) != (preset.input_spec.shape, own.grids):
        dry_run(make, f"model {name}, input {inputs.height} x {inputs.width}")
    return make()


@functools.lru_cache(maxsize=64)
def usual_priors(name: str, sides: tuple[int, int]) -> PriorSpec:
    """A preset's default boxes on an input of these sides, scaled where it is not its own. Raises ConfigError."""
    own = PRIORS[_preset(name).priors]
    return own if sides == own.image else priors_on(outline(name), sides, f"model {name}")


def outline(name: str) -> SSD:
    """A preset on its own input, without values and for one class: to ask what its network can do. ConfigError."""
    preset = _preset(name)
    with torch.device("meta"):
        return _network(preset, PRIORS[preset.priors], preset.input_spec, 1, name).eval()


def _network(preset: Preset, priors: PriorSpec, inputs: InputSpec, num_classes: int, name: str) -> SSD:
    module = importlib.import_module(f"singleshot.models.{preset.network}")
    model: SSD = module.build_network(priors, inputs, num_classes, name, **preset.options)
    return model


def _preset(name: str) -> Preset:
    if name not in MODELS:
        longer = (f"; did you mean {key}?" for key in MODELS if key.startswith(name))
        hint = next(longer, "") or did_you_mean(name, MODELS)
        raise ConfigError(f"model {printable(name, 60)!r}: want one of {', '.join(MODELS)}{hint}")
    return MODELS[name]
