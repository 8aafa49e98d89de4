"""From what a reader gives to a Dataset: one split, classes as numbers, boxes checked and in pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from singleshot.class_selection import ClassSelection
from singleshot.datasets.box_rules import clean_boxes
from singleshot.datasets.dataset import Dataset, unknown_class
from singleshot.datasets.ignored import add_ignored
from singleshot.datasets.packed_strings import StringTable, offsets_of
from singleshot.datasets.plausible import require_plausible
from singleshot.datasets.raw import Notation, RawImage, RawObject, RawSet
from singleshot.errors import DataError, printable
from singleshot.images.decode import image_size

# Headers are read in threads: what takes time is waiting for the disk or the network.
_THREADS = 16


def build_dataset(
    raw: RawSet,
    split: str,
    class_names: Sequence[str] | None = None,
    clip_boxes: bool = False,
    selection: ClassSelection | None = None,
) -> Dataset:
    """One split of what was read. class_names None takes the data's own; given, objects' classes are looked up in it.
    With a selection (then class_names has no meaning) its classes are taken under their new names, and objects of
    others are left out unread.

    Raises DataError for an unknown class, a box that cannot be used (see `clean_boxes`; with clip_boxes it is cut or
    dropped, and counted in a warning), and where boxes are parts of an image that cannot be measured.
    """
    names = tuple(raw.class_names if class_names is None else class_names) if selection is None else selection.names
    if not names:
        raise DataError(f"{printable(raw.source)}: no annotation has an object; label some before training")
    require_plausible(raw)
    images = [raw.images[i] for i in raw.splits[split]]
    sizes, scales = measure(images)
    owners = [(i, obj) for i, image in enumerate(images) for obj in image.objects]
    known, left_out = {name: label for label, name in enumerate(names)}, Counter[str]()
    if selection is not None:
        known = selection.labels()
        left_out = Counter(obj.name for _, obj in owners if obj.name not in known)
        owners = [(i, obj) for i, obj in owners if obj.name in known]
    labels = _labels(raw.notation, images, owners, known)
    image_of = np.array([i for i, _ in owners], np.int64)
    written = np.array([obj.box for _, obj in owners], np.float64).reshape(-1, 4)

    def describe(j: int) -> str:
        i, obj = owners[j]
        return f"{raw.notation.where(images[i], obj)}: {raw.notation.box(obj.box)}"

    with np.errstate(over="ignore"):  # clean_boxes says which
        boxes_px = written * scales[image_of]
    cleaned = clean_boxes(boxes_px, sizes[image_of], clip_boxes, describe)
    cleaned.warn(f"{printable(raw.source)} ({printable(split)})")
    keep, boxes_px = cleaned.keep, cleaned.boxes[cleaned.keep]
    annotated = np.array([obj.area for _, obj in owners], np.float64)[keep]
    own = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(axis=1)
    data = Dataset(
        source=f"{raw.source} ({split})",
        class_names=names,
        names=StringTable.from_iterable(image.path for image in images),
        image_ids=StringTable.from_iterable(image.ident for image in images),
        sizes=sizes,
        ptr=offsets_of(np.bincount(image_of[keep], minlength=len(images))),
        boxes_px=boxes_px,
        labels=labels[keep],
        difficult=np.array([obj.difficult for _, obj in owners], bool)[keep],
        crowd=np.array([obj.crowd for _, obj in owners], bool)[keep],
        # Only small, medium and large are told apart by it: what float32 cannot hold is large.
        area=np.minimum(np.where(np.isnan(annotated), own, annotated), np.finfo(np.float32).max).astype(np.float32),
        clip_boxes=clip_boxes,
        ids=raw.ids,
        selection=selection,
        left_out=dict(left_out.most_common()),
    )
    return add_ignored(data, images)


def measure(images: Sequence[RawImage]) -> tuple[np.ndarray, np.ndarray]:
    """int32 [n, 2] widths and heights, 0 where unknown, and float64 [n, 4] what boxes are multiplied with.

    Images whose boxes are parts of them are measured by their files' headers. Raises DataError where that fails.
    """
    sizes = np.array([(im.width, im.height) for im in images], np.int32).reshape(-1, 2)
    sizes[(sizes == 0).any(axis=1)] = 0
    relative = np.array([image.relative for image in images], bool)
    todo = np.flatnonzero(relative & (sizes == 0).any(axis=1))
    if len(todo):
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes[todo] = list(pool.map(image_size, [images[i].path for i in todo.tolist()]))
    return sizes, np.where(relative[:, None], np.tile(sizes, 2), 1).astype(np.float64)


def _labels(
    notation: Notation, images: list[RawImage], owners: Iterable[tuple[int, RawObject]], known: dict[str, int]
) -> np.ndarray:
    labels = []
    for i, obj in owners:
        label = known.get(obj.name)
        if label is None:
            raise DataError(f"{notation.where(images[i], obj)}: {unknown_class(obj.name, known)}")
        labels.append(label)
    return np.array(labels, np.int64)
