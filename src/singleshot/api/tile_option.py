"""The options --tile, --no-tile and --tiles-only of the commands that detect."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from singleshot.errors import ConfigError, printable
from singleshot.tiling import Tiling, choose_tiling

if TYPE_CHECKING:
    from singleshot.runtime.detector import Detector

log = logging.getLogger(__name__)


def chosen_tiling(
    detector: Detector | None, tile: str | int | bool | None, tiles_only: bool | None = None, model: str = ""
) -> Tiling | None:
    """What a model looks at, as `choose_tiling`; the log says so where nothing was asked for and it is its own.

    Raises ConfigError.
    """
    own = None if detector is None else detector.tiling
    try:
        tiling = choose_tiling(own, tile, tiles_only)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    if tile is None and tiling is not None:
        log.info("%s: looks at %s, as it was trained; --tile N or --no-tile for others", printable(model), tiling.words)
    return tiling
