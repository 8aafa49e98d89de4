"""The door to the default boxes, for those who have torch.

What a table is and what becomes of it (`PriorSpec`, `prior_table`, the rules of families) is in prior_boxes.py, the
named tables are in prior_tables.py; neither needs torch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from singleshot.prior_boxes import (
    CLIPS,
    MAX_PRIORS,
    ORDERS,
    PriorSpec,
    Shapes,
    caffe_cell,
    cell_shapes,
    from_shapes,
    ljanyst_boxes,
    prior_table,
    sized_for,
    tf_object_detection,
    torchvision_boxes,
)
from singleshot.prior_tables import PRIORS, SOURCES, prior_spec

__all__ = [
    "CLIPS",
    "MAX_PRIORS",
    "ORDERS",
    "PRIORS",
    "SOURCES",
    "PriorSpec",
    "Shapes",
    "caffe_cell",
    "cell_shapes",
    "from_shapes",
    "ljanyst_boxes",
    "make_priors",
    "prior_spec",
    "prior_table",
    "sized_for",
    "tf_object_detection",
    "torchvision_boxes",
]


def make_priors(spec: PriorSpec) -> Float[Tensor, "P 4"]:
    """Priors as cx cy w h in 0..1, location-major unless the spec says otherwise: `prior_table` as a tensor."""
    return torch.from_numpy(prior_table(spec))
