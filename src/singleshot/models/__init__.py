"""Backbones, extras, heads, the assembled SSD, and the presets by name."""

from singleshot.models.generic import build_on
from singleshot.models.ssd import SSD
from singleshot.models.zoo import MODELS, build

__all__ = ["MODELS", "SSD", "build", "build_on"]
