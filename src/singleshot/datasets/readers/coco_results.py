"""COCO's results form as labels: a list of image_id, category_id, bbox and score.

What images and classes are called is in the file that `detect --format coco` writes next to it, or in the COCO file
that it was made for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from singleshot.datasets.tree import Tree, join
from singleshot.errors import DataError, printable
from singleshot.files import IMAGE_INFO

_START = re.compile(
    rb'^\s*\[\s*\{(?=[^{}]*"image_id"\s*:)(?=[^{}]*"category_id"\s*:)(?=[^{}]*"(bbox|segmentation)"\s*:)[^{}]*"score"\s*:'
)
_FEW = 50


def is_one(head: bytes) -> bool:
    """Whether a file starts as such a list does; an empty one does not say."""
    return _START.match(head) is not None


def complete(tree: Tree, name: str, rows: list[Any], load: Callable[[Tree, str], dict[str, Any]]) -> dict[str, Any]:
    """The same as a COCO file has it: images and categories of the first file near it that knows all of its images.

    load: reads a COCO file, DataError for others. Raises DataError where there is none.
    """
    wanted = {str(row.get("image_id")) for row in rows if isinstance(row, dict)}
    folder = name.rpartition("/")[0]
    near = [
        join(place, file) for place in dict.fromkeys((folder, "annotations", "")) for file in _json_files(tree, place)
    ]
    for other in near:
        if other == name:
            continue
        try:
            content = load(tree, other)
        except DataError:  # whatever it is, it is not what is looked for
            continue
        if wanted <= {str(image.get("id")) for image in content["images"] if isinstance(image, dict)}:
            return {**content, "annotations": rows}
    raise DataError(
        f"{printable(tree.path(name))}: a list of COCO results, which names neither images nor classes; put"
        f" {IMAGE_INFO} of the same run next to it, or the COCO file that the results belong to"
    )


def _json_files(tree: Tree, folder: str) -> list[str]:
    """The JSON files of a folder, that of `detect` first."""
    return sorted(tree.files(folder, (".json",))[:_FEW], key=lambda file: file != IMAGE_INFO)
