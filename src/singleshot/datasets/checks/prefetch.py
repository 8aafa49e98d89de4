"""Looking at images while the labels are still being read: reading labels keeps one core busy, decoding the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from singleshot.datasets.checks.images import Look, look
from singleshot.datasets.checks.process_pool import Died, ProcessPool
from singleshot.datasets.formats import Source
from singleshot.datasets.tree import Tree, is_image, is_remote, join
from singleshot.errors import DataError

# Fewer images than this are not worth it; folders and files that are looked through for more.
_LEAST, _FOLDERS, _MOST = 200, 100, 100_000
_CHUNK = 16


@contextlib.contextmanager
def looking_ahead(source: Source, workers: int | None, worthwhile: bool = True) -> Iterator[Mapping[str, Look]]:
    """Look at images in the source's folder until the context ends; gives path -> Look, complete only then.

    Which of them have labels is not known yet: one without costs a decode, and is found again by nobody. Only local
    folders are looked through, and only a few levels.
    """
    paths = [] if not worthwhile or source.file or is_remote(source.tree.root) else _images(source.tree)
    found: dict[str, Look] = {}
    if len(paths) < _LEAST:
        yield found
        return
    pool = ProcessPool(look, paths, workers, _CHUNK)

    def gather() -> None:
        # A process that dies ends this; the pass over all images that follows finds out why.
        with contextlib.suppress(RuntimeError):
            for i, seen in pool.run(replace=False):
                if not isinstance(seen, Died):
                    found[paths[i]] = seen

    thread = threading.Thread(target=gather, name="looking ahead", daemon=True)
    try:
        pool.start()
        thread.start()
        yield found
        pool.stop()
        thread.join()
    finally:
        pool.kill()
        if thread.ident is not None:
            thread.join()
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
