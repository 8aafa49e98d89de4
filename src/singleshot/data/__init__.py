"""Reading data sets: one reader per format, told apart without a flag. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from singleshot.data.coco import choose_file, coco_file, coco_files, coco_splits, read_coco
from singleshot.data.dataset import Dataset
from singleshot.data.folders import describe_contents, find_split
from singleshot.data.voc import read_voc, voc_root, voc_splits
from singleshot.errors import DataError, printable

__all__ = ["Dataset", "available_splits", "find_split", "open_dataset"]

_WANTED = (
    "a VOC folder (Annotations/*.xml, JPEGImages/*, ImageSets/Main/*.txt), or a COCO JSON file or a folder "
    "with train.json or annotations/instances_train*.json"
)


def open_dataset(
    path: str | os.PathLike[str],
    split: str = "train",
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
) -> Dataset:
    """Open one split of a VOC folder, a COCO folder or a COCO JSON file (which is one split: `split` is unused).

    class_names None takes the data's own; given, the data's classes are looked up in it by name. Boxes without
    area or more than 2 px outside their image are errors; with clip_boxes they are dropped or cut, and counted
    in a warning. Raises DataError for anything that cannot be used.
    """
    place, kind = _tell(path)
    if kind == "voc":
        return read_voc(place, split, class_names, clip_boxes)
    file = coco_file(place) if kind == "json" else choose_file(place, split)
    return read_coco(file, class_names, clip_boxes)


def available_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the splits that `open_dataset` would find; of a JSON file the one that its name says."""
    place, kind = _tell(path)
    if kind == "voc":
        return voc_splits(place)
    return (coco_file(place).split,) if kind == "json" else coco_splits(place)


def _tell(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Where the data lies and its kind: "voc", "coco" (a folder) or "json" (a file)."""
    place, where = Path(path), printable(path)
    try:
        is_folder, is_there = place.is_dir(), place.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise DataError(f"{where}: is no path ({error}); want {_WANTED}") from error
    if not is_there:
        raise DataError(f"{where}: no such file or folder; want {_WANTED}")
    if not is_folder:
        if place.suffix.lower() != ".json":
            raise DataError(f"{where}: not a data set that is read here; want {_WANTED}")
        return place, "json"
    try:
        if not any(place.iterdir()):
            raise DataError(f"{where}: empty folder; want {_WANTED}")
    except OSError as error:
        raise DataError(f"{where}: cannot be listed ({error.strerror})") from error
    # A VOC folder may hold a converted JSON beside; a COCO folder holds no "Annotations" with a capital.
    if (place / "Annotations").is_dir() and voc_root(place) == place:
        return place, "voc"
    if coco_files(place):
        return place, "coco"
    root = voc_root(place)
    if root is not None:
        return root, "voc"
    raise DataError(_unknown(place))


def _unknown(place: Path) -> str:
    found = describe_contents(place)
    what = f"{printable(place)}: neither VOC nor COCO (found {found})"
    yolo = (place / "labels").is_dir() or any((place / name).is_file() for name in ("data.yaml", "data.yml"))
    if yolo or (".txt file" in found and "image" in found):
        return f"{what}; YOLO labels are not supported yet, convert them; want {_WANTED}"
    return f"{what}; want {_WANTED}"
