"""Whether the pictures of a data set have colours."""

from __future__ import annotations

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError
from singleshot.images.decode import decode_image
from singleshot.loading.shard_stream import ShardStream
from singleshot.loading.some_files import some_files

# JPEG turns greys into colours that are a few values apart.
_GREY = 8


def has_colours(data: Dataset | ShardStream) -> bool:
    """Whether one of a few images has; files that cannot be read have none, which whoever trains on them says."""
    try:
        return any(_coloured(file) for file in some_files(data, 8))
    except DataError:
        return False


def _coloured(file: bytes) -> bool:
    try:
        pixels = decode_image(file, "", reduce=8).astype(np.int16)
    except DataError:
        return False
    apart = pixels.max(axis=2) - pixels.min(axis=2)
    return bool((apart > _GREY).mean() > 0.001)
