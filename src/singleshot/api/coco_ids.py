"""The ids that detections of COCO's form take: classes by number, images by that of their file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from singleshot.datasets.dataset import Dataset
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import coco
from singleshot.datasets.readers.coco_layout import coco_files
from singleshot.datasets.tree import open_tree
from singleshot.errors import ConfigError, DataError, printable
from singleshot.runtime.result_files import CocoIds

log = logging.getLogger(__name__)

# A larger set is not read for its ids alone; COCO's own needs none, since its files are called by them.
_MOST_BYTES = 256 * 2**20


def ids_like(path: str, class_names: Sequence[str]) -> CocoIds:
    """The ids of a COCO annotation file. Raises DataError, and ConfigError where it lacks a class."""
    categories, images = coco.read_ids(path)
    lacking = [name for name in class_names if name not in categories]
    if lacking:
        raise ConfigError(
            f"--like {printable(path)}: has no category {printable(lacking[0], 60)!r}, which the model finds "
            f"({len(lacking)} of its {len(class_names)} classes are missing)"
        )
    return CocoIds.by_name_end(categories, images)


def ids_of_sources(
    sources: Sequence[str], class_names: Sequence[str], category_ids: Mapping[str, int] | None
) -> CocoIds:
    """The model's own ids of classes, and those of images that lie in a COCO data set among the sources or above one.

    Without them a class is its label + 1 and an image is what its file is called. What was taken is logged.
    """
    found: Mapping[str, int] = {}
    images: dict[str, int | str] = {}
    seen: set[str] = set()
    for source in sources:
        for folder in _places(source):
            if folder in seen:
                break
            seen.add(folder)
            categories, inside = _read_set(folder)
            found, images = found or categories, {**inside, **images}
            if inside:
                break
    if category_ids is None and set(class_names) <= set(found):
        category_ids = found
    return CocoIds.by_path(category_ids or _counted(class_names), images)


def ids_of_dataset(dataset: Dataset) -> CocoIds:
    """The ids of a data set that was read from COCO files; classes that it does not have so count from 1."""
    assert dataset.ids is not None
    categories: Mapping[str, int] = dataset.ids.categories
    if not set(dataset.class_names) <= set(categories):
        categories = _counted(dataset.class_names)
    return CocoIds.by_path(categories, _images(dataset.names, dataset.image_ids, dataset.ids.whole))


def _counted(class_names: Sequence[str]) -> dict[str, int]:
    return {name: label for label, name in enumerate(class_names, 1)}


def _places(source: str) -> list[str]:
    """Where the data set of a source may begin: the folder of images, and the one above."""
    place = Path(os.path.realpath(source))
    if not place.exists():  # a pattern, a camera, an address
        return []
    folder = place if place.is_dir() else place.parent
    return [str(folder), str(folder.parent)]


def _read_set(folder: str) -> tuple[Mapping[str, int], dict[str, int | str]]:
    """The ids of classes and of images, by path, of the COCO data set in a folder; none where there is none."""
    tree = open_tree(folder)
    try:
        files = [tree.path(file.name) for file in coco_files(tree)]
        if sum(map(os.path.getsize, files)) > _MOST_BYTES:
            log.info("%s: too large to be read for its image ids; --like FILE takes them", printable(folder))
            files = []
        raw = coco.read(tree, "", None, CollectErrors(0)) if files else None
    except (DataError, OSError) as error:
        log.debug("%s: no ids are taken from there (%s)", printable(folder), error)
        return {}, {}
    if raw is None or raw.ids is None or not raw.images:
        return {}, {}
    log.info("%s: image ids are those of this COCO data set; --like FILE takes others", printable(folder))
    paths, idents = [image.path for image in raw.images], [image.ident for image in raw.images]
    return raw.ids.categories, _images(paths, idents, raw.ids.whole)


def _images(paths: Iterable[str], idents: Iterable[str], whole: bool) -> dict[str, int | str]:
    pairs = zip(paths, idents, strict=True)
    return {os.path.realpath(path): int(ident) if whole else ident for path, ident in pairs}
