"""The rules of sources for other sizes of the input are all called alike."""

from __future__ import annotations

import pytest

from singleshot.weights.imported_model import SizedPriors
from singleshot.weights.importers.faces import _same_pixels
from singleshot.weights.importers.qfgaohao import _BY_RESOLUTION
from singleshot.weights.importers.ultraface import _sides, _sized

SQUARES = ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1))


@pytest.mark.parametrize(
    ("rule", "grids", "image"),
    [
        (_BY_RESOLUTION, SQUARES, (512, 512)),
        (_same_pixels(_BY_RESOLUTION.make(300, SQUARES)), SQUARES, (512, 512)),
        (SizedPriors(_sized, "its own", _sides), ((48, 64), (24, 32), (12, 16), (6, 8)), (384, 512)),
    ],
    ids=["by resolution", "same pixels", "ultraface"],
)
def test_a_rule_takes_rows_and_columns_of_each_map(rule, grids, image) -> None:
    made = rule.make(512, grids)
    assert made.grids == grids
    assert made.image == image
