"""Networks with random weights that behave like trained ones: as many scores pass, so NMS has as much to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from singleshot.models import SSD

# Pairs of prior and class whose score passes the limit in an image: what a trained SSD has on a street or a table.
CANDIDATES = 50
_LOGIT_STD, _OFFSET_STD = 2.0, 1.0


def settle(model: SSD, squares: np.ndarray, score_min: float) -> None:
    """Give an SSD with random weights the behaviour of a trained one, in place; see `settle_heads`.

    Args:
        model: In any mode; in eval mode afterwards.
        squares: uint8 [N, H, W, C], from which its normalisations take their statistics.
        score_min: The limit of scores.
    """
    images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
    confidence = [last_conv(head.confidence) for head in model.heads]  # type: ignore[arg-type]
    location = [last_conv(head.location) for head in model.heads]  # type: ignore[arg-type]
    settle_heads(model, lambda: model(images).logits, confidence, location, score_min)


def settle_heads(
    model: nn.Module,
    run: Callable[[], Tensor],
    confidence: Sequence[nn.Conv2d],
    location: Sequence[nn.Conv2d],
    score_min: float,
) -> None:
    """Spread scores and offsets, and make nearly all priors background, in place.

    CANDIDATES pairs of prior and class an image pass score_min then. Without that every prior passes for every class,
    and NMS is what is measured.

    Args:
        model: In any mode; in eval mode afterwards.
        run: Sends images through it -> logits [N, P, C + 1].
        confidence, location: The last convolutions of its heads.
        score_min: The limit of scores.
    """
    _take_statistics(model, run)
    _spread(run, {**dict.fromkeys(confidence, _LOGIT_STD), **dict.fromkeys(location, _OFFSET_STD)})
    with torch.inference_mode():
        logits = run()
    low, high = -50.0, 50.0
    for _ in range(40):
        bias = (low + high) / 2
        raised = logits.clone()
        raised[..., 0] += bias
        passing = int((raised.softmax(-1)[..., 1:] > score_min).sum()) / len(logits)
        low, high = (bias, high) if passing > CANDIDATES else (low, bias)
    lift_background(confidence, logits.shape[-1], (low + high) / 2)


def last_conv(module: nn.Module) -> nn.Conv2d:
    """The convolution that a head ends with."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]


def lift_background(confidence: Sequence[nn.Conv2d], columns: int, bias: float) -> None:
    """Add to the background's biases, in place. columns: C + 1, of which the first is background."""
    with torch.no_grad():
        for layer in confidence:
            assert layer.bias is not None
            layer.bias.view(-1, columns)[:, 0] += bias


def _take_statistics(model: nn.Module, run: Callable[[], object]) -> None:
    """Batch norms get the statistics of what `run` sends through."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _spread(run: Callable[[], object], wanted: dict[nn.Conv2d, float]) -> None:
    """Give the layers' outputs that standard deviation, and no bias."""
    found: dict[nn.Module, float] = {}

    def hook(layer: nn.Module, _: object, output: Tensor) -> None:
        found[layer] = float(output.std())

    handles = [layer.register_forward_hook(hook) for layer in wanted]
    with torch.no_grad():
        run()
        for handle in handles:
            handle.remove()
        for layer, std in wanted.items():
            layer.weight *= std / max(found[layer], 1e-12)
            if layer.bias is not None:
                layer.bias.zero_()
