"""Looking at images while the labels are still being read: reading labels keeps one core busy, decoding the others."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from singleshot.datasets.checks.images import Look, look
from singleshot.datasets.checks.process_pool import ProcessPool
from singleshot.datasets.sources import Source
from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError
from singleshot.images.suffixes import is_image
from singleshot.storage import is_remote

# Fewer images than this are not worth it; folders and files that are looked through for more.
LEAST, _FOLDERS, _MOST = 200, 100, 100_000
_CHUNK = 16


class Ahead:
    """Images that are being looked at before it is known which of them have labels."""

    def __init__(self, paths: Sequence[str] = (), pool: ProcessPool[str, Look] | None = None) -> None:
        self._paths, self._pool = paths, pool

    def looks(self, wanted: Collection[str]) -> Iterator[tuple[str, Look]]:
        """(path, what it showed), in no order, of images that are wanted and of some that are not. Chunks that are not
        begun and hold few that are wanted are left out, and after a process has died all that it had not done."""
        if self._pool is not None:
            there = {i for i, path in enumerate(self._paths) if path in wanted}
            yield from ((self._paths[i], seen) for i, seen in self._pool.finished(there))


@contextlib.contextmanager
def looking_ahead(source: Source, workers: int | None, worthwhile: bool = True, least: int = LEAST) -> Iterator[Ahead]:
    """Look at images in the source's folder until the context ends.

    Which of them have labels is not known yet: one without costs a decode, and is found again by nobody. Only local
    folders are looked through, and only a few levels.
    """
    paths = [] if not worthwhile or source.file or is_remote(source.tree.root) else _images(source.tree)
    if len(paths) < least:
        yield Ahead()
        return
    pool = ProcessPool(look, paths, range(len(paths)), workers, _CHUNK)
    try:
        pool.start()
        yield Ahead(paths, pool)
    finally:
        pool.close()


def _images(tree: Tree) -> list[str]:
    """Paths of image files in the folder and those below it, those of folders with the most of them first."""
    level, seen, found = [""], 0, []
    while level:
        below: list[str] = []
        for folder in level:
            seen += 1
            try:
                names = [tree.find(folder, name) for name in tree.files(folder) if is_image(name)]
            except DataError:  # a link out of the folder, say: the reader says it, if it matters
                continue
            found.append([tree.path(name) for name in names if name is not None])
            below += [join(folder, name) for name in tree.folders(folder)]
        level = below if seen + len(below) <= _FOLDERS else []
    found.sort(key=len, reverse=True)
    return [path for here in found for path in here][:_MOST]
