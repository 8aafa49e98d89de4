"""A few image files of a data set, for a look at what it is like before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.findings import RAISE_ERRORS
from singleshot.datasets.shard_tar import read_samples
from singleshot.images.decode import MAX_FILE_BYTES
from singleshot.loading.shard_stream import ShardStream
from singleshot.storage import read_limited


def some_files(data: Dataset | ShardStream, count: int = 16) -> Iterator[bytes]:
    """At most `count` of them, as they are: spread over a folder, or a shard's first.

    Raises DataError where one cannot be read.
    """
    if isinstance(data, ShardStream):
        yield from (sample.image for sample in islice(read_samples(data.paths[0], RAISE_ERRORS), count))
        return
    for i in sorted(set(np.linspace(0, len(data) - 1, count).round().astype(int).tolist())):
        yield read_limited(data.names[i], MAX_FILE_BYTES, "image")
