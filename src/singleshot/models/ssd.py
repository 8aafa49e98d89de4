"""The assembled detector: backbone, neck and heads. It returns raw outputs in every mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from singleshot.inputs import InputSpec
from singleshot.pretrained import PretrainedWeights
from singleshot.priors import PriorSpec, make_priors
from singleshot.records import RawOutput


class PlainNeck(nn.Module):
    """SSD's own (paper section 2.1): the backbone's maps, some of them normalised, then one more by each extra layer.

    Args:
        norms: for the first maps, one module each; further maps pass as they are.
        extras: each makes a smaller map from the one before; the first from the backbone's last, not normalised.
    """

    def __init__(self, norms: Sequence[nn.Module] = (), extras: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.extras = nn.ModuleList(extras)

    def forward(self, sources: list[Tensor]) -> list[Tensor]:
        """Maps [B, C, H, W], largest first -> those and the extra ones."""
        maps, last = list(sources), sources[-1]
        for i, norm in enumerate(self.norms):
            maps[i] = norm(maps[i])
        for extra in self.extras:
            last = extra(last)
            maps.append(last)
        return maps


class SSD(nn.Module):
    """Single Shot MultiBox Detector.

    Args:
        backbone: normalised images [B, C, H, W] -> its maps, largest first: a tensor, or a list, tuple or dict of them.
        neck: list of the backbone's maps -> list of the maps that the heads look at (`PlainNeck`, or another).
        heads: one for each map: map -> offsets and logits, location-major (see `heads.Head`).
        prior_spec: the default boxes, of the same maps.
        input_spec: how the model wants its images.
        num_classes: real classes, without background.
        name: the preset it was built from, or "custom".

    pretrained: the weights that its training started from; None where it started from scratch or that is not known.

    Buffers: priors [P, 4] cx cy w h (not saved, made from the spec), mean and std [C, 1, 1].
    """

    priors: Tensor
    mean: Tensor
    std: Tensor
    pretrained: PretrainedWeights | None = None

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        heads: Sequence[nn.Module],
        prior_spec: PriorSpec,
        input_spec: InputSpec,
        num_classes: int,
        name: str = "custom",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.heads = nn.ModuleList(heads)
        self.prior_spec, self.input_spec = prior_spec, input_spec
        self.num_classes, self.name = num_classes, name
        self.register_buffer("priors", make_priors(prior_spec), persistent=False)
        self.register_buffer("mean", torch.tensor(input_spec.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input_spec.std).view(-1, 1, 1), persistent=False)
        if isinstance(neck, PlainNeck):
            self.register_state_dict_post_hook(_leave_neck_out)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_put_neck_in)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> RawOutput:
        """images: RGB [B, C, H, W], uint8 or float with values 0..255."""
        return self.predict(self.feature_maps(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Every map that a head looks at, largest first."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        if self.input_spec.colour_order == "bgr":
            x = torch.cat(torch.split(x, 1, dim=1)[::-1], dim=1)  # flip(1), which OpenCV does not take from an export
        maps: list[Tensor] = self.neck(as_list(self.backbone(x)))
        return maps

    def predict(self, maps: list[Tensor]) -> RawOutput:
        """What the heads make of the maps."""
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


# In files a plain neck's tensors are norms.0.weight and extras.0.conv.weight, without the name of the neck.


def _leave_neck_out(model: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Rename in a state dict that was just made, in place and in order."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + key.removeprefix(prefix).removeprefix("neck.")] = state.pop(key)


def _put_neck_in(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Inverse of `_leave_neck_out`, before loading."""
    for key in [key for key in state if key.startswith((f"{prefix}norms.", f"{prefix}extras."))]:
        state[f"{prefix}neck.{key.removeprefix(prefix)}"] = state.pop(key)
