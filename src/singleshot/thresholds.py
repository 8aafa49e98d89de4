"""How raw outputs become detections, as a record that travels in model files.

What each value does is in postprocess.to_detections; which codebase has which values is in conventions.py. No torch
here: both halves read it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from singleshot.errors import ConfigError, printable

ACTIVATIONS = ("softmax", "sigmoid")
# A candidate votes for a box (see box_voting.py) that scores less than four times as much, and from that score on: of
# hundreds that enter non-maximum suppression few are looked at, and those boxes that are shown are the same whatever
# limit is set under a quarter of their score.
VOTE_SHARE, VOTE_LEAST = 0.25, 0.05
VOTE_REACH = 10.0  # sides of the input; what lies farther out counts as there
NO_CAP = 10**6  # for per_class and keep: more than any network here has priors


@dataclass(frozen=True)
class Thresholds:
    """Caffe's evaluation values unless given otherwise, and show_min, the score from which `detect` shows a box.

    Limits before non-maximum suppression: per_class, candidates; after it: keep_per_class, keep. box_voting: the IoU
    from which candidates move the box of a detection (see box_voting.py), None for boxes as the network gave them. A
    field that an older file does not have keeps its default, which is what that file meant. Raises ConfigError for a
    value that is out of range.
    """

    score_min: float = 0.01
    nms_iou: float = 0.45
    per_class: int = 400
    keep: int = 200
    class_agnostic: bool = False
    activation: str = "softmax"
    show_min: float = 0.4
    clip: bool = False
    candidates: int | None = None
    keep_per_class: int | None = None
    best_class: bool = False
    background_competes: bool = True
    box_voting: float | None = None

    def __post_init__(self) -> None:
        for name in ("score_min", "nms_iou", "show_min"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"threshold {name}: {printable(getattr(self, name), 40)}, want 0 to 1")
        voting = self.box_voting
        if voting is not None and (isinstance(voting, bool) or not 0.0 <= voting < 1.0):
            raise ConfigError(f"threshold box_voting: {printable(voting, 40)}, want 0 to less than 1, or none")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation {printable(self.activation, 40)}: want one of {', '.join(ACTIVATIONS)}")
        for name in ("per_class", "keep", "candidates", "keep_per_class"):
            value = getattr(self, name)
            if value is None and name not in ("per_class", "keep"):
                continue
            if not isinstance(value, int) or not 1 <= value <= NO_CAP:
                wanted = f"want a whole number from 1 to {NO_CAP}"
                raise ConfigError(f"threshold {name}: {printable(value, 40)}, {wanted}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Thresholds:
        """From a file's description; ConfigError for a key that this version does not know."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"thresholds: unknown key {printable(', '.join(sorted(unknown)), 80)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file; box_voting is named only where there is any."""
        values = asdict(self)
        if self.box_voting is None:
            del values["box_voting"]
        return values

    def under(self, rule: Thresholds) -> Thresholds:
        """That rule (see conventions.detection_rule) in place of these values, but for two of them.

        activation stays, which belongs to the network and not to the rule, and so does show_min.
        """
        return replace(rule, activation=self.activation, show_min=self.show_min)

    def for_postprocess(self) -> dict[str, Any]:
        """Keyword arguments of `to_detections`."""
        values = asdict(self)
        del values["show_min"]
        return values

    def summary(self) -> str:
        """One line for people."""
        across = " over all classes" if self.class_agnostic else ""
        of_class = f"{self.keep_per_class} of a class, " if self.keep_per_class and not across else ""
        kept = "all" if self.keep >= NO_CAP else str(self.keep)
        voting = "" if self.box_voting is None else f", box voting from IoU {self.box_voting:g}"
        return (
            f"{self.activation}, score over {self.score_min:g}, NMS at {self.nms_iou:g}{across}, {of_class}{kept} kept"
            f"{voting}"
        )

    @property
    def one_class_per_prior(self) -> bool:
        """Whether each prior speaks for its likeliest class alone."""
        return self.class_agnostic or self.best_class

    @property
    def first_column(self) -> int:
        """As the function `first_column`, for these values."""
        return first_column(self.class_agnostic, self.activation, self.background_competes)


def first_column(class_agnostic: bool, activation: str, background_competes: bool) -> int:
    """The first column of the scores that can be a prior's likeliest class: 0, the background's, or 1.

    The background takes part only where classes are suppressed together (`class_agnostic`), and only after a softmax:
    a network of sigmoids does not train that column.
    """
    return 0 if class_agnostic and background_competes and activation == "softmax" else 1
