"""The records in which a codebase's conventions are stated; conventions.py has those of each. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from singleshot.inputs import InputSpec
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_tables import prior_spec
from singleshot.thresholds import Thresholds


@dataclass(frozen=True)
class Offsets:
    """How boxes are coded against their priors.

    variances: of centres and of log sizes. order: of the four numbers. background: the column of the class scores,
    "first" or "last". note: what else there is to know.
    """

    variances: tuple[float, float] = (0.1, 0.2)
    order: str = "x y w h"
    background: str = "first"
    note: str = ""


@dataclass(frozen=True)
class WeightDecay:
    """How weights are held small in training.

    value: as a recipe's `weight_decay` has it, None where the codebase has no value of its own. pulls_on: as a recipe's
    `decay_only`. bias_lr_factor: how many times the learning rate of biases is that of weights.
    """

    value: float | None
    pulls_on: str
    bias_lr_factor: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Convention:
    """One codebase.

    project: where it is. priors: network and data ("ssd300-voc") -> name of a table of prior_tables.PRIORS. inputs:
    network -> what its model does to an image first. detection: name, as `--rule` takes it -> thresholds. matching,
    loss: the rules of matching.RULES and losses.LOSS_RULES that it trains with. sources: part -> the file that says so.
    """

    project: str
    priors: Mapping[str, str]
    inputs: Mapping[str, InputSpec]
    detection: Mapping[str, Thresholds]
    matching: str = ""
    loss: str = ""
    decay: WeightDecay | None = None
    offsets: Offsets = Offsets()
    sources: Mapping[str, str] = field(default_factory=dict)

    def prior_spec(self, network: str) -> PriorSpec:
        """The default boxes of a network of this codebase: a key of `priors`."""
        return prior_spec(self.priors[network])

    def recipe(self) -> dict[str, str | float]:
        """How it trains, as keys of a recipe: what is known of matching, loss and weight decay."""
        values: dict[str, str | float | None] = {"matching": self.matching or None, "loss": self.loss or None}
        if self.decay is not None:
            values |= {"weight_decay": self.decay.value, "decay_only": self.decay.pulls_on}
            values["bias_lr_factor"] = self.decay.bias_lr_factor
        return {key: value for key, value in values.items() if value is not None}
