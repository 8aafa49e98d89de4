"""The image that a name in a label file means, wherever it lies below the data set's folder."""

from __future__ import annotations

from collections.abc import Sequence

from singleshot.datasets.tree import Tree, is_image
from singleshot.errors import DataError


class ImageFinder:
    """Finds the images of one tree; its files are listed once, and only when a name is not where it says."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._by_last: dict[str, list[str]] | None = None
        self._walk_error: DataError | None = None

    def find(self, name: str, places: Sequence[str] = ()) -> str | None:
        """The name in the tree of the image called `name`: in one of the folders `places` exactly, else by the longest
        end of its path that fits exactly one image of the tree; None for none.

        Raises DataError when the name leaves the folder, or is a link that does, and nothing fits.
        """
        refused = None
        for place in places:
            try:
                found = self._tree.find(place, name)
            except DataError as error:
                refused = error
                continue
            if found is not None and is_image(found):
                return found
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        rivals = self._called(parts[-1]) if parts else []
        deepest = max((image.count("/") for image in rivals), default=-1) + 1
        for count in range(min(len(parts), deepest), 0, -1):
            end = "/".join(parts[-count:])
            fits = [image for image in rivals if f"/{image}".endswith(f"/{end}")]
            if len(fits) == 1:
                return self._tree.find("", fits[0])  # which refuses links that lead out
            if fits:
                break
        refused = refused or self._walk_error
        if refused is not None:
            raise refused
        return None

    def _called(self, last: str) -> list[str]:
        if self._by_last is None:
            self._by_last = {}
            try:
                for image in filter(is_image, self._tree.walk()):
                    self._by_last.setdefault(image.rpartition("/")[2], []).append(image)
            except DataError as error:  # said of each image that is not among those seen before
                self._walk_error = error
        return self._by_last.get(last, [])
