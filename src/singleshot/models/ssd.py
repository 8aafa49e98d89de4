"""The assembled detector: backbone, extras and heads. It returns raw outputs in every mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.priors import PriorSpec, make_priors
from singleshot.records import RawOutput


class SSD(nn.Module):
    """Single Shot MultiBox Detector.

    backbone: [B, 3, S, S] normalised -> list of source maps; norms: one module per source (L2Norm or Identity);
    extras: each makes a further map from the last one; heads: one per map. `name` is the preset it was built from,
    or "custom". Buffers: priors [P, 4] cx cy w h (not saved, made from the spec), mean and std [3, 1, 1].
    """

    priors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        norms: Sequence[nn.Module],
        extras: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        prior_spec: PriorSpec,
        input_spec: InputSpec,
        num_classes: int,
        name: str = "custom",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.norms = nn.ModuleList(norms)
        self.extras = nn.ModuleList(extras)
        self.heads = nn.ModuleList(heads)
        self.prior_spec, self.input_spec = prior_spec, input_spec
        self.num_classes, self.name = num_classes, name
        self.register_buffer("priors", make_priors(prior_spec), persistent=False)
        self.register_buffer("mean", torch.tensor(input_spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input_spec.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> RawOutput:
        """images: RGB [B, 3, S, S], uint8 or float with values 0..255."""
        return self.predict(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Every map that a head looks at, largest first."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.input_spec.colour_order == "bgr":
            x = x.flip(1)
        sources = as_list(self.backbone(x))
        last = sources[-1]
        maps = [norm(source) for norm, source in zip(self.norms, sources, strict=True)]
        for extra in self.extras:
            last = extra(last)
            maps.append(last)
        return maps

    def predict(self, maps: list[Tensor]) -> RawOutput:
        """Heads over the maps."""
        outputs = [head(x) for head, x in zip(self.heads, maps, strict=True)]
        return RawOutput(
            torch.cat([offsets for offsets, _ in outputs], dim=1),
            torch.cat([logits for _, logits in outputs], dim=1),
        )


def as_list(sources: object) -> list[Tensor]:
    """A backbone's maps as a list: it may return a tensor, a list, a tuple or a dict of them."""
    if isinstance(sources, Tensor):
        return [sources]
    if isinstance(sources, dict):
        return list(sources.values())
    assert isinstance(sources, (list, tuple)), type(sources)
    return list(sources)
