"""What may be drawn for each training image: AugmentSpec, and the presets that recipes name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from singleshot.errors import ConfigError, printable

CROP_RULES = ("none", "caffe")
INTERPOLATION_RULES = ("linear", "random")


def _check_number(key: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"augmentation: {key} {printable(value)}: want a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class AugmentSpec:
    """What is drawn for each training image; the default draws nothing.

    photometric: 0 (off) to 1 (Caffe's ranges); expand_p, expand_max: probability and largest ratio of a
    mean-filled border; crop: "caffe" (seven samplers) or "none"; mirror_p, flip_vertical_p: probabilities;
    zoom: smallest and largest magnification; shift: how far the window's centre moves, in parts of its side;
    aspect: largest change of the aspect ratio, at least 1; interpolation: "random" (one of OpenCV's five, as
    Caffe) or "linear"; mosaic_p: probability that four images share the input, each zoomed and shifted as above.
    """

    photometric: float = 0.0
    expand_p: float = 0.0
    expand_max: float = 4.0
    crop: str = "none"
    mirror_p: float = 0.0
    flip_vertical_p: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    aspect: float = 1.0
    interpolation: str = "linear"
    mosaic_p: float = 0.0

    def __post_init__(self) -> None:
        for key, low, high in (
            ("photometric", 0.0, 1.0),
            ("expand_p", 0.0, 1.0),
            ("expand_max", 1.0, 16.0),
            ("mirror_p", 0.0, 1.0),
            ("flip_vertical_p", 0.0, 1.0),
            ("mosaic_p", 0.0, 1.0),
            ("shift", 0.0, 1.0),
            ("aspect", 1.0, 4.0),
        ):
            _check_number(key, getattr(self, key), low, high)
        if not isinstance(self.zoom, tuple) or len(self.zoom) != 2:
            raise ConfigError(f"augmentation: zoom {printable(self.zoom)}: want two numbers, smallest and largest")
        for value in self.zoom:
            _check_number("zoom", value, 0.1, 10.0)
        if self.zoom[0] > self.zoom[1]:
            raise ConfigError(f"augmentation: zoom {self.zoom[0]}, {self.zoom[1]}: want the smaller one first")
        for key, rules in (("crop", CROP_RULES), ("interpolation", INTERPOLATION_RULES)):
            if getattr(self, key) not in rules:
                came = printable(getattr(self, key))
                raise ConfigError(f"augmentation: {key} {came!r}: want one of {', '.join(rules)}")

    @property
    def zooms(self) -> bool:
        """Whether windows are magnified, moved or stretched."""
        return self.zoom != (1.0, 1.0) or self.shift > 0 or self.aspect > 1

    @property
    def draws_nothing(self) -> bool:
        """Whether every image comes out as evaluation sees it."""
        p_sum = self.photometric + self.expand_p + self.mirror_p + self.flip_vertical_p + self.mosaic_p
        return p_sum == 0 and self.crop == "none" and not self.zooms and self.interpolation == "linear"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AugmentSpec:
        """Inverse of `to_dict`; unknown keys and values out of range raise ConfigError."""
        unknown = sorted(str(key) for key in set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"augmentation: unknown key {printable(', '.join(unknown))}; want some of {known}")
        values = dict(values)
        if isinstance(values.get("zoom"), list):
            values["zoom"] = tuple(values["zoom"])
        return cls(**values)


AUGMENTS = {
    # examples/ssd/ssd_pascal.py: what the published figures were trained with.
    "caffe": AugmentSpec(
        photometric=1.0, expand_p=0.5, expand_max=4.0, crop="caffe", mirror_p=0.5, interpolation="random"
    ),
    # Training from scratch on a small set, where up and down and the exact scale carry no meaning.
    "light": AugmentSpec(photometric=0.5, mirror_p=0.5, flip_vertical_p=0.5, zoom=(0.7, 1.4), shift=0.15, aspect=1.15),
    "none": AugmentSpec(),
}
