"""Whether a network, its input and its priors fit together: shapes alone are run, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from singleshot.errors import ConfigError, printable
from singleshot.models.ssd import SSD

MAX_VALUES = 2**28  # of one map: a gigabyte


def dry_run(make: Callable[[], SSD], what: str) -> None:
    """Make a model on the "meta" device, which holds no values, and run an image's shape through it.

    Args:
        make: gives the model.
        what: starts the message of every error.

    Raises:
        ConfigError: a layer cannot take its input, a map is larger than a gigabyte, or the maps are not those of the
            priors.
    """
    with torch.device("meta"):
        model = make().eval()
        image = torch.zeros(1, model.input_spec.channels, *model.input_spec.sides)

    def bounded(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.numel() > MAX_VALUES:
            raise ConfigError(f"{what}: a map of {tuple(output.shape)}: larger than a gigabyte")

    for module in model.modules():
        module.register_forward_hook(bounded)
    try:
        maps = model.feature_maps(image)
        raw = model.predict(maps)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{what}: its layers do not fit together ({printable(reason, 120)})") from error
    grids = [grid_of(m) for m in maps]
    spec = model.prior_spec
    if tuple(grids) != spec.grids or raw.offsets.shape[1] != spec.count:
        raise ConfigError(f"{what}: maps of {shown(grids)} cells, but priors for {shown(spec.grids)}")


def shown(grids: Iterable[tuple[int, int]]) -> str:
    """Rows and columns of maps for people: "38 x 38, 19 x 19"."""
    return ", ".join(f"{rows} x {columns}" for rows, columns in grids)


def grid_of(maps: Tensor | tuple[Tensor, ...]) -> tuple[int, int]:
    """Rows and columns of what a head looks at, which may be several maps of one size; (0, 0) where they differ."""
    sizes = {(m.shape[-2], m.shape[-1]) for m in ((maps,) if isinstance(maps, Tensor) else maps)}
    return sizes.pop() if len(sizes) == 1 else (0, 0)
