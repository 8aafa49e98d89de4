"""From a backbone's maps to those that the heads look at."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
