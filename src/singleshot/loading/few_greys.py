"""A line before a training that would see next to nothing of some images: those with 16 bits of which 8 keep few grey
values."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.findings import RAISE_ERRORS
from singleshot.datasets.shard_tar import read_samples
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES, check_image
from singleshot.images.samples import Greys, count_greys, deep_bits
from singleshot.loading.shard_stream import ShardStream
from singleshot.storage import read_limited

logger = logging.getLogger(__name__)

_LOOKED_AT = 16


def warn_of_few_greys(data: Dataset | ShardStream) -> None:
    """Say so in the log where it is so of most of the 16-bit images of some, spread over a folder or a shard's first.

    Images that cannot be read are passed over: whoever trains on them says it.
    """
    try:
        found = [_greys(file) for file in _some_files(data)]
    except DataError:
        return
    deep = [greys for greys in found if greys is not None]
    few = [greys.kept for greys in deep if greys.few]
    if 2 * len(few) <= len(deep):
        return
    values = f"{min(few)} to {max(few)}" if min(few) < max(few) else f"{min(few)}"
    part = "most" if 2 * len(few) > len(found) else "some"
    logger.warning(
        "%s: %s of its images have 16 bits, of which 8 keep %s grey values; give --sixteen-bit stretch, or convert "
        "them",
        printable(data.source),
        part,
        values,
    )


def _some_files(data: Dataset | ShardStream) -> Iterator[bytes]:
    if isinstance(data, ShardStream):
        yield from (sample.image for sample in islice(read_samples(data.paths[0], RAISE_ERRORS), _LOOKED_AT))
        return
    for i in sorted(set(np.linspace(0, len(data) - 1, _LOOKED_AT).round().astype(int).tolist())):
        yield read_limited(data.names[i], MAX_FILE_BYTES, "image")


def _greys(file: bytes) -> Greys | None:
    """None for an image without 16 bits, or one that does not decode."""
    if deep_bits(file) == 0:
        return None
    check_image(file, "")
    try:
        grey = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        return None
    return None if grey is None or grey.dtype.itemsize != 2 else count_greys(grey)
