"""The counterfactuals of an explanation: a scene with one of its decisions changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from singleshot.explaining import Scene
from singleshot.records import RawOutput
from singleshot.thresholds import Thresholds

_RULES = {field.name for field in fields(Thresholds)}


def changed(scene: Scene, change: Mapping[str, Any]) -> Scene:
    """The scene with a counterfactual's change.

    {"add_prior": cx cy w h, "logits_of": prior}: one more prior, whose offsets are 0 and whose logits are those of that
    prior. {"prior": number, "offsets": four}: that prior's offsets. {"prior": number, "swap": two labels}: the logits
    of two classes change places at that prior. Anything else, also with one of these: fields of Thresholds (show_min:
    of the scene).
    """
    rules = replace(scene.rules, **{name: value for name, value in change.items() if name in _RULES})
    scene = scene._replace(rules=rules, show_min=change.get("show_min", scene.show_min))
    offsets, logits = scene.raw
    if "add_prior" in change:
        prior = scene.priors.new_tensor([change["add_prior"]])
        offsets = torch.cat([offsets, offsets.new_zeros(1, 1, 4)], dim=1)
        logits = torch.cat([logits, logits[:, [change["logits_of"]]]], dim=1)
        return scene._replace(raw=RawOutput(offsets, logits), priors=torch.cat([scene.priors, prior]))
    if "offsets" in change:
        offsets = offsets.clone()
        offsets[0, change["prior"]] = offsets.new_tensor(change["offsets"])
        return scene._replace(raw=RawOutput(offsets, logits))
    if "swap" in change:
        a, b = (label + 1 for label in change["swap"])
        logits = logits.clone()
        logits[0, change["prior"], [a, b]] = scene.raw.logits[0, change["prior"], [b, a]]
        return scene._replace(raw=RawOutput(offsets, logits))
    return scene
