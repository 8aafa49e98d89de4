"""Backbones, necks, heads, the assembled SSD, and building it by name or on any backbone."""

from singleshot.models.generic import build_on
from singleshot.models.ssd import SSD
from singleshot.models.zoo import build
from singleshot.presets import MODELS

__all__ = ["MODELS", "SSD", "build", "build_on"]
