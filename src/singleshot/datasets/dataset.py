"""A data set in memory: paths and annotations as flat arrays, images read when asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from singleshot.class_selection import ClassSelection
from singleshot.datasets.box_rules import clean_boxes, regions_of
from singleshot.datasets.encoded_image import EncodedImage
from singleshot.datasets.packed_strings import StringTable, ragged_rows
from singleshot.datasets.raw import DatasetIds
from singleshot.errors import DataError, printable
from singleshot.images.decode import read_encoded
from singleshot.records import ImageTruth, Sample


class ImageObjects(NamedTuple):
    """What teaches of one image: boxes_px float32 [N, 4], labels int64 [N], difficult bool [N] of its objects without
    crowds; ignored_px: float32 [K, 4], the places of its crowds, each once, None where it has none."""

    boxes_px: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    ignored_px: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """n images with M objects; no Python object per image, so that forked workers share its memory.

    source: what the user gave and the split, for messages; class_names: label -> name;
    names: paths of the image files; image_ids: VOC stems, or COCO image ids as str;
    sizes: int32 [n, 2] width and height as annotated, 0 where unknown;
    ptr: int64 [n + 1], objects of image i are rows ptr[i]:ptr[i + 1] of
    boxes_px: float32 [M, 4] (continuous pixels, corner form), labels: int64 [M], difficult: bool [M],
    crowd: bool [M] and area: float32 [M] (square pixels, as annotated);
    clip_boxes: what to do at reading time with boxes of images whose size is not annotated;
    ids: COCO's, None for other forms.
    selection: which of the data's classes these are, None where each goes by its name; left_out: class -> how many
    objects of it are not here because it was not selected.
    sixteen_bit: how 16-bit images become 8 bits, one of inputs.SIXTEEN_BIT (loaders set what their model wants).
    """

    source: str
    class_names: tuple[str, ...]
    names: StringTable
    image_ids: StringTable
    sizes: np.ndarray
    ptr: np.ndarray
    boxes_px: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    clip_boxes: bool = False
    ids: DatasetIds | None = None
    selection: ClassSelection | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    sixteen_bit: str = "scale"

    def __len__(self) -> int:
        return len(self.names)

    def _rows(self, i: int) -> slice:
        i = self._position(i)
        return slice(int(self.ptr[i]), int(self.ptr[i + 1]))

    def _position(self, i: int) -> int:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"image {i} of {n}")
        return i % n

    @property
    def image_of(self) -> np.ndarray:
        """int64 [M], the image of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.ptr))

    def boxes_of(self, i: int) -> np.ndarray:
        """float32 [N, 4] pixels, a view."""
        return self.boxes_px[self._rows(i)]

    def labels_of(self, i: int) -> np.ndarray:
        """int64 [N], a view."""
        return self.labels[self._rows(i)]

    def truth(self, i: int) -> ImageTruth:
        """Everything that evaluation compares with, crowd objects included; pixels of the original image."""
        rows = self._rows(i)
        return ImageTruth(
            self.boxes_px[rows], self.labels[rows], self.difficult[rows], self.crowd[rows], self.area[rows]
        )

    def sample(self, i: int) -> Sample:
        """Decode image i and give it with its objects; crowd objects are regions to ignore.

        Raises DataError naming the file when it does not decode, when its size is not the annotated one, or,
        where no size was annotated, when a box lies outside it.
        """
        i = self._position(i)
        name = self.names[i]
        encoded = read_encoded(name, self.sixteen_bit)
        image = encoded.decode()
        boxes_px, labels, difficult, ignored_px = self.objects(i, image.shape[1], image.shape[0])
        return Sample(image, boxes_px, labels, difficult, name, encoded.checksum, ignored_px)

    def picture(self, i: int) -> EncodedImage:
        """Image i read but not decoded yet, with its objects as in `sample`; raises DataError likewise."""
        i = self._position(i)
        name = self.names[i]
        encoded = read_encoded(name, self.sixteen_bit)
        boxes_px, labels, _, ignored_px = self.objects(i, encoded.width, encoded.height)
        about = encoded.reductions, name, encoded.checksum, ignored_px
        return EncodedImage(encoded.width, encoded.height, boxes_px, labels, encoded.decode, *about)

    def objects(self, i: int, width: int, height: int) -> ImageObjects:
        """Those of image i, which is width x height pixels. Raises DataError where image and annotation do not fit."""
        i = self._position(i)
        self._check_size(i, width, height)
        rows = slice(int(self.ptr[i]), int(self.ptr[i + 1]))
        boxes_px, crowd = self.boxes_px[rows], self.crowd[rows]
        keep = ~crowd
        if not self.sizes[i].all():
            boxes_px, inside = self._clip_boxes(i, width, height)
            keep, crowd = keep & inside, crowd & inside
        if keep.all():
            return ImageObjects(boxes_px, self.labels[rows], self.difficult[rows])
        ignored_px = regions_of(boxes_px, crowd)
        return ImageObjects(boxes_px[keep], self.labels[rows][keep], self.difficult[rows][keep], ignored_px)

    def _check_size(self, i: int, width: int, height: int) -> None:
        annotated_w, annotated_h = self.sizes[i].tolist()
        if not (annotated_w and annotated_h) or (annotated_w, annotated_h) == (width, height):
            return
        hint = "correct the annotation or take the image that was annotated"
        if (annotated_w, annotated_h) == (height, width):
            hint = "an EXIF rotation in the file was applied, if it has one; save the image upright or annotate it so"
        raise DataError(
            f"{printable(self.names[i])}: image is {width} x {height} pixels, "
            f"its annotation says {annotated_w} x {annotated_h}; {hint}"
        )

    def _clip_boxes(self, i: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        boxes_px = self.boxes_of(i).astype(np.float64)
        size = np.array([width, height], np.float64)
        labels = self.labels_of(i)

        def describe(k: int) -> str:
            name_k = printable(self.class_names[labels[k]])
            return f"{printable(self.names[i])}: object {k} ({name_k}): box {format_box(boxes_px[k])}"

        cleaned = clean_boxes(boxes_px, np.tile(size, (len(boxes_px), 1)), self.clip_boxes, describe)
        return cleaned.boxes, cleaned.keep

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The images at `indices` in that order, with their objects; an index out of range raises IndexError."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64).reshape(-1)
        names = self.names.take(chosen)
        rows, ptr = ragged_rows(self.ptr, chosen)
        return replace(
            self,
            names=names,
            image_ids=self.image_ids.take(chosen),
            sizes=self.sizes[chosen],
            ptr=ptr,
            boxes_px=self.boxes_px[rows],
            labels=self.labels[rows],
            difficult=self.difficult[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
        )


Readable = TypeVar("Readable")


def read_as(data: Readable, sixteen_bit: str) -> Readable:
    """A Dataset or stream whose 16-bit images become 8 bits by that rule; other data as they are."""
    if getattr(data, "sixteen_bit", sixteen_bit) == sixteen_bit:
        return data
    return replace(data, sixteen_bit=sixteen_bit)  # type: ignore[type-var]


def unknown_class(name: str, known: Iterable[str]) -> str:
    """The end of a message about a class that is not among the wanted ones, with the nearest of those."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # get_close_matches minds capitals
        lower = {k.lower(): k for k in known}
        near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)]
    shown = ", ".join(printable(k, 40) for k in known[:8]) + (", ..." if len(known) > 8 else "")
    hint = f"did you mean {printable(near[0])!r}?" if near else "rename it, or train a model that has it"
    return f"class {printable(name)!r}, which is not among the {len(known)} wanted ({shown}); {hint}"


def format_box(box: Sequence[float] | np.ndarray) -> str:
    """Four numbers as short text for messages."""
    return "[" + ", ".join(f"{float(v):.7g}" for v in box) + "]"
