"""Which prepared frames go to the engine together."""

from __future__ import annotations

from collections.abc import Iterator

from singleshot.runtime.prefetch import HELD_BYTES, Prefetcher
from singleshot.runtime.preparing import Prepared
from singleshot.runtime.sources import LIVE_KINDS

# Images that run alone before batches begin: most jobs are over by then, and an engine that prepares anew for
# batches has not done it for nothing.
ALONE = 16
_ENOUGH = HELD_BYTES // 2  # bytes of images that are run as a batch, however few
_ERRORS_PER_BATCH = 32  # frames without an image that may wait for a batch to fill


def batches(reader: Prefetcher, size: int, start_alone: bool) -> Iterator[list[Prepared]]:
    """The reader's frames in order, `size` images at a time, the last batch smaller.

    start_alone: the first ALONE images and all live ones come one at a time. A live frame never waits for the next, nor
    do many errors in a row or large images. Each list is the taker's, who empties it to let go of what it holds. Raises
    what ended the frames, after all that came before it.
    """
    waiting: list[Prepared] = []
    taken = 0
    while (item := reader.get()).frame is not None:
        waiting.append(item)
        taken += item.usable
        is_live = item.frame.kind in LIVE_KINDS
        wanted = 1 if start_alone and (is_live or taken <= ALONE) else size
        is_full = sum(one.usable for one in waiting) >= wanted or sum(one.held for one in waiting) >= _ENOUGH
        if is_full or (is_live and not reader.has_next) or len(waiting) >= _ERRORS_PER_BATCH + wanted:
            batch, waiting = waiting, []
            del item
            yield batch
    yield waiting
    if item.failure is not None:
        raise item.failure
