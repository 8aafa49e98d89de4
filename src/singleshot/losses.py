"""The MultiBox loss and hard negative mining (paper section 2.2; Caffe multibox_loss_layer.cpp)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from singleshot.errors import ConfigError
from singleshot.records import Losses, RawOutput, Targets

LOSS_RULES = ("caffe",)


def multibox_loss(
    raw: RawOutput,
    targets: Targets,
    rule: str = "caffe",
    negative_ratio: float = 3.0,
    alpha: float = 1.0,
    min_negatives: int = 0,
) -> Losses:
    """Confidence and location loss of a batch, in float32.

    raw: offsets [B, P, 4], logits [B, P, C + 1]; targets: labels [B, P], offsets [B, P, 4] from `match`.
    Rule "caffe": softmax cross entropy over the matched priors and the hardest negatives of each image
    (`negative_ratio` per matched prior, at least `min_negatives`, which Caffe leaves at 0), smooth L1 over the
    matched ones, both summed over the batch and divided by its number of matched priors, at least 1.
    total = confidence + alpha * location. Nothing here waits for an accelerator.
    Raises ConfigError for an unknown rule.
    """
    if rule not in LOSS_RULES:
        raise ConfigError(f"loss rule {rule!r}: want one of {', '.join(LOSS_RULES)}")
    logits, labels = raw.logits.float(), targets.labels
    positive = labels > 0
    log_total = logits.logsumexp(dim=-1)
    with torch.no_grad():
        hardness = log_total - logits[..., 0]  # -log p(background)
        wanted = (positive.sum(dim=1) * negative_ratio).long().clamp(min=min_negatives)
        negative = hard_negatives(hardness, labels == 0, wanted)
    chosen_logit = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    # where(), not a product: an infinite loss of a prior that does not count must not turn into NaN.
    per_prior = torch.where(positive | negative, log_total - chosen_logit, 0.0)
    distance = F.smooth_l1_loss(raw.offsets.float(), targets.offsets, reduction="none").sum(dim=-1)
    matches = positive.sum()
    normaliser = matches.clamp(min=1).float()
    confidence = per_prior.sum() / normaliser
    location = torch.where(positive, distance, 0.0).sum() / normaliser
    return Losses(confidence + alpha * location, location, confidence, matches)


def hard_negatives(
    hardness: Float[Tensor, "B P"], candidate: Bool[Tensor, "B P"], wanted: Int[Tensor, "B"]
) -> Bool[Tensor, "B P"]:
    """The `wanted` candidates of each image with the greatest hardness (fewer where there are fewer)."""
    hardness = torch.where(candidate, hardness, -torch.inf)
    order = hardness.argsort(dim=1, descending=True)
    first = torch.arange(hardness.shape[1], device=hardness.device) < wanted.unsqueeze(1)
    return torch.zeros_like(candidate).scatter_(1, order, first) & candidate
