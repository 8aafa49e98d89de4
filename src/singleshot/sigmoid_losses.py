"""Losses of detectors that give each class a probability of its own, by a sigmoid: all priors count, nothing is mined.

Logits keep a column for the background, as those of imported networks with sigmoids do: nothing here trains it, and
`thresholds.first_column` leaves it out of detection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from singleshot.errors import ConfigError
from singleshot.losses import BoxLoss
from singleshot.records import Losses, RawOutput, Targets

# Lin et al., ICCV 2017, section 4.1: what each class's probability is before training.
PRIOR_PROBABILITY = 0.01
# The same, section 5.1; GFL (Li et al., NeurIPS 2020) has the same exponent, VarifocalNet .75 and 2.
_ALPHA, _GAMMA, _VARIFOCAL_ALPHA = 0.25, 2.0, 0.75


def prior_bias(probability: float = PRIOR_PROBABILITY) -> float:
    """The logit whose sigmoid is that probability."""
    return -math.log((1.0 - probability) / probability)


def sigmoid_loss(
    raw: RawOutput,
    targets: Targets,
    box_loss: BoxLoss,
    rule: str = "focal",
    alpha: float | int = 1.0,
    batch_matches: Tensor | None = None,
    class_weights: Float[Tensor, "C"] | None = None,
) -> Losses:
    """Confidence and location loss of a batch, in float32.

    total = confidence + alpha * location. Confidence is summed over the real classes of all priors that are not
    ignored, location over the matched ones; both are divided by the number of matches of the batch, at least 1. With p
    the probability of a class and q the IoU of a matched prior's predicted box with its object:

    - "focal": -.25 (1 - p)^2 log p of a matched prior's class, -.75 p^2 log(1 - p) of every other (RetinaNet).
    - "quality-focal": (q - p)^2 times the binary cross entropy of p and q, where q = 0 for every other (GFL).
    - "varifocal": q times the binary cross entropy of p and q, -.75 p^2 log(1 - p) of every other (VarifocalNet).

    Nothing here waits for an accelerator.

    Args:
        raw: offsets [B, P, 4], logits [B, P, C + 1], of which the first column has no part.
        targets: labels [B, P] (-1 takes no part), offsets [B, P, 4], from `match`.
        box_loss: the location loss; also what q is computed by.
        rule: a key of SIGMOID_RULES.
        alpha: weight of the location loss.
        batch_matches: as in `losses.multibox_loss`.
        class_weights: factors on the loss of each real class at the priors matched to it.

    Raises:
        ConfigError: an unknown rule.
    """
    if rule not in SIGMOID_RULES:
        raise ConfigError(f"loss rule {rule!r}: want one of {', '.join(SIGMOID_RULES)}")
    chosen, labels = SIGMOID_RULES[rule], targets.labels
    logits, offsets = raw.logits[..., 1:].float(), raw.offsets.float()
    positive = labels > 0
    own = (labels - 1).clamp(min=0)
    own_logit = logits.gather(-1, own.unsqueeze(-1)).squeeze(-1)
    # Every class of every prior as a negative, then a matched prior's own in place of its part of that sum.
    others = chosen.negative_factor * _negative(logits).sum(dim=-1)
    quality = box_loss.quality(offsets, targets.offsets, positive) if chosen.by_quality else torch.ones_like(own_logit)
    cost = chosen.positive(own_logit, quality)
    if class_weights is not None:
        cost = class_weights[own] * cost
    cost = torch.where(positive, others - chosen.negative_factor * _negative(own_logit) + cost, others)
    matches = positive.sum()
    divisor = (matches if batch_matches is None else batch_matches).float().clamp(min=1.0)
    confidence = torch.where(labels >= 0, cost, 0.0).sum() / divisor
    distance = box_loss(offsets, targets.offsets, positive)
    location = torch.where(positive, distance, 0.0).sum() / divisor
    return Losses(confidence + alpha * location, location, confidence, matches)


def _negative(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-p^gamma log(1 - p)."""
    return logits.sigmoid().pow(_GAMMA) * F.softplus(logits)


def _focal(logits: Float[Tensor, "*n"], quality: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return _ALPHA * (1.0 - logits.sigmoid()).pow(_GAMMA) * F.softplus(-logits)


def _quality_focal(logits: Float[Tensor, "*n"], quality: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return (quality - logits.sigmoid()).pow(_GAMMA) * _entropy(logits, quality)


def _varifocal(logits: Float[Tensor, "*n"], quality: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return quality * _entropy(logits, quality)


def _entropy(logits: Float[Tensor, "*n"], quality: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


class SigmoidRule(NamedTuple):
    """One rule.

    source: where it comes from. negative_factor: on the loss of classes that a prior is not of. positive: the loss of a
    matched prior's own class, from its logit and quality. by_quality: whether that looks at the quality.
    """

    source: str
    negative_factor: float
    positive: Callable[[Tensor, Tensor], Tensor]
    by_quality: bool = True


SIGMOID_RULES: dict[str, SigmoidRule] = {
    "focal": SigmoidRule("Lin et al., ICCV 2017, equation 5", 1.0 - _ALPHA, _focal, by_quality=False),
    "quality-focal": SigmoidRule("Li et al., NeurIPS 2020, equation 2", 1.0, _quality_focal),
    "varifocal": SigmoidRule("Zhang et al., CVPR 2021, equation 2", _VARIFOCAL_ALPHA, _varifocal),
}
