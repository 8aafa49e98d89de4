"""Labels that state another size than their image has: whether their boxes belong to the stated size, to the image, or
that cannot be known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.measure import header_sizes
from singleshot.datasets.plausible import implausible
from singleshot.datasets.raw import EDGE_PX, Box, Hull, RawImage, RawObject, RawSet
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES, image_size
from singleshot.images.orientation import orientation
from singleshot.storage import is_remote, read_limited

_QUARTER = 5  # EXIF's orientations from here on swap width and height
_REMOTE_SAMPLE = 16  # each costs a round trip; where none of these differs, no other is measured
# How sure it must be, as logarithm of how much likelier one place of the boxes is than the other. A stated size of the
# image's own proportions is believed unless nearly all speaks against it.
_LIKELIER, _CERTAIN = math.log(10), 30.0
_LEAST_SHARE = 0.2  # so that a single image whose boxes fit both sizes decides nothing
_TURNED = math.log(100)  # the same where labels may have been made before EXIF's turn; else each image is an error
_HEADER_BYTES = 1 << 18  # of a file, which say how it is turned
# Sides of resized images may differ by so much in how; less change than this may be a cut as well.
_STRETCHED, _RESIZED = 0.01, 0.1
# Where no size is stated: images that are looked at first; how far a box lies outside, in parts of the side; how many
# such images there must be, and which share of those that are stored turned.
_PROBED, _FAR, _LEAST_LEAVING, _LEAVING = 300, 0.05, 3, 0.1
_MISTAKEN = 0.02  # of images with a box outside the size that the boxes belong to


class _Differing(NamedTuple):
    """Images whose labels state another size: positions, stated and true sizes float64 [n, 2]."""

    where: np.ndarray
    stated: np.ndarray
    true: np.ndarray

    def take(self, chosen: np.ndarray) -> _Differing:
        return _Differing(self.where[chosen], self.stated[chosen], self.true[chosen])


def fit_to_images(raw: RawSet, true_sizes: np.ndarray | None, problems: RaiseErrors) -> RawSet:
    """The set with the images' own sizes where labels state others and it is known to which the boxes belong.

    Boxes of stated sizes that all have the proportions of their images are scaled, nearly the proportions where boxes
    fit the stated sizes alone; where boxes fit the images but not
    the stated sizes, they stay as they are; boxes of images as they are stored, before EXIF's turn by a quarter, are
    turned with them. Each is reported once, with counts; sizes that stay are errors where images are read. true_sizes:
    int32 [n, 2], 0 where an image does not decode; None: they are measured, by their headers.
    """
    stated = np.array([(image.width, image.height) for image in raw.images], np.int32).reshape(-1, 2)
    if raw.form == "shards" or implausible(raw) is not None:
        return raw
    raw = _turn_unstated(raw, stated, true_sizes, problems)
    if not stated.all(axis=1).any():
        return raw
    true = _measured(raw.images, stated) if true_sizes is None else true_sizes
    where = np.flatnonzero(stated.all(axis=1) & true.all(axis=1) & (stated != true).any(axis=1))
    if not len(where):
        return raw
    differing = _Differing(where, stated[where].astype(np.float64), true[where].astype(np.float64))
    is_turned = (differing.stated == differing.true[:, ::-1]).all(axis=1)
    images, scaled, moved, shape = list(raw.images), [], [], "of the same proportions"
    turned = _turn_boxes(images, differing.take(is_turned))
    rest = is_turned & ~np.isin(where, turned)
    for group in (differing.take(~is_turned), differing.take(rest)):
        if not len(group.where):
            continue
        relative = np.array([raw.images[i].relative for i in group.where.tolist()], bool)
        exact = _same_proportions(group)
        same_shape, near_shape = bool(exact.all()), bool((exact | _resized(group)).all())
        evidence = _evidence(raw.images, group.take(~relative))
        if evidence < (-_CERTAIN if same_shape else -_LIKELIER):
            moved += group.where.tolist()
        elif same_shape or (near_shape and evidence > _LIKELIER):
            scaled += group.where.tolist()
            shape = shape if same_shape else "of nearly the same proportions"
            _scale(images, group)
    for i in (*scaled, *moved, *turned):
        images[i] = images[i]._replace(width=int(true[i, 0]), height=int(true[i, 1]))
    _say(raw, scaled, true, "boxes-scaled", shape, "boxes are scaled to the images", problems)
    _say(raw, moved, true, "size-wrong", "and their boxes fit the images", "boxes are read as of the images", problems)
    why = "which is the image's before EXIF's turn by a quarter"
    _say(raw, turned, true, "boxes-turned", why, "boxes are turned with the images", problems)
    return raw._replace(images=images)


def _turn_boxes(images: list[RawImage], group: _Differing) -> list[int]:
    """Turn the boxes of those images of a group with swapped sides whose files are stored turned by a quarter, in the
    list, where boxes tell that they belong to the stored images; the positions of these images."""
    ways: dict[int, int] = {}
    for i in group.where.tolist():
        if not images[i].relative and not is_remote(images[i].path):
            with contextlib.suppress(DataError):
                ways[i] = orientation(read_limited(images[i].path, MAX_FILE_BYTES, "image", _HEADER_BYTES))
    chosen = np.array([ways.get(i, 1) >= _QUARTER for i in group.where.tolist()], bool)
    if not chosen.any() or _evidence(images, group.take(chosen)) <= _TURNED:
        return []
    for i, (width, height) in zip(group.where[chosen].tolist(), group.stated[chosen].tolist(), strict=True):
        objects = [obj._replace(box=_turned(obj.box, ways[i], width, height)) for obj in images[i].objects]
        images[i] = images[i]._replace(objects=objects)
    found: list[int] = group.where[chosen].tolist()
    return found


def _turn_unstated(raw: RawSet, stated: np.ndarray, true_sizes: np.ndarray | None, problems: RaiseErrors) -> RawSet:
    """The set with boxes of images whose size is not stated turned with them, where boxes tell that they were drawn on
    the stored images: VIA's and tables'. Some far outside of the image as it is shown, and inside of the stored one,
    must say so: a slip or a shape that reaches over an edge does not."""
    unstated = [
        i
        for i, image in enumerate(raw.images)
        if not stated[i].all() and image.objects and not image.relative and not is_remote(image.path)
    ]
    if not unstated:
        return raw
    few = [unstated[k] for k in np.unique(np.linspace(0, len(unstated) - 1, _PROBED).round().astype(int))]
    if not _leaving(raw.images, _swapped(raw.images, few, true_sizes)).any():
        return raw
    group = _swapped(raw.images, unstated, true_sizes)
    out = _leaving(raw.images, group)
    images = list(raw.images)
    if len(_turn_boxes(images[:], group.take(out))) < _LEAST_LEAVING:
        return raw
    turned = _turn_boxes(images, group)
    leaving = len(set(group.where[out].tolist()) & set(turned))
    if leaving < max(_LEAST_LEAVING, _LEAVING * len(turned)):
        return raw
    first = raw.images[min(turned)]
    message = (
        f"labels of {len(turned)} of {len(raw.images)} images fit the image before EXIF's turn by a quarter, and of "
        f"{leaving} not as it is turned (first image: {printable(first.path)}): boxes are turned with the images"
    )
    problems.add("boxes-turned", raw.source, message)
    return raw._replace(images=images)


def _swapped(images: Sequence[RawImage], where: list[int], true_sizes: np.ndarray | None) -> _Differing:
    """Those of the images that are not square, with their sides exchanged as if that was stated."""
    if true_sizes is None:
        true = np.array(header_sizes([images[i].path for i in where], _size), np.float64).reshape(-1, 2)
    else:
        true = true_sizes[where].astype(np.float64)
    known = true.all(axis=1) & (true[:, 0] != true[:, 1])
    return _Differing(np.array(where)[known], true[known][:, ::-1], true[known])


def _leaving(images: Sequence[RawImage], group: _Differing) -> np.ndarray:
    """bool [n]: the images of a group with a box far outside of their true size, and all inside of the stated one."""
    found = np.zeros(len(group.where), bool)
    for k, (i, stated, true) in enumerate(zip(group.where.tolist(), group.stated, group.true, strict=True)):
        ends = _ends(images[i])
        found[k] = (ends > (1 + _FAR) * true).any() and bool((ends <= stated + EDGE_PX).all())
    return found


def _ends(image: RawImage) -> np.ndarray:
    """float64 [n, 2] right and lower sides of the boxes that are finite."""
    ends = np.array([obj.box[2:] for obj in image.objects], np.float64).reshape(-1, 2)
    return ends[np.isfinite(ends).all(axis=1)]


def _turned(box: Box, way: int, width: float, height: float) -> Box:
    """A box of a stored image, width x height, in the image as EXIF's orientation 5 to 8 turns it."""
    x0, y0, x1, y1 = box
    left, right = (y0, y1) if way in (5, 8) else (height - y1, height - y0)
    top, bottom = (x0, x1) if way in (5, 6) else (width - x1, width - x0)
    found = (left, top, right, bottom)
    return Hull(found) if isinstance(box, Hull) else found


def _measured(images: Sequence[RawImage], stated: np.ndarray) -> np.ndarray:
    """int32 [n, 2] sizes by the headers of the files, of images whose size is stated; 0 for the others and where a
    header cannot be read. Of remote images a few are measured first, and the others only where one of those differs."""
    sizes = np.zeros_like(stated)
    todo = np.flatnonzero(stated.all(axis=1))
    remote = [i for i in todo.tolist() if is_remote(images[i].path)]

    def measure(some: Sequence[int]) -> None:
        for i, size in zip(some, header_sizes([images[i].path for i in some], _size), strict=True):
            sizes[i] = size

    measure(sorted({*todo.tolist()} - {*remote}))
    sample = remote[:: max(1, len(remote) // _REMOTE_SAMPLE)]
    measure(sample)
    if any((sizes[i] != stated[i]).any() for i in sample):
        measure(sorted({*remote} - {*sample}))
    return sizes


def _size(path: str) -> tuple[int, int]:
    try:
        return image_size(path)
    except DataError:  # which reading the image says
        return 0, 0


def _same_proportions(group: _Differing) -> np.ndarray:
    """bool [n]: whether each image may be its stated size scaled, with sides rounded to whole pixels."""
    (sw, sh), (tw, th) = group.stated.T, group.true.T
    # Rounding either way, or cutting off, moves each side by less than a pixel of the size that was made of the other.
    same: np.ndarray = np.abs(tw * sh - th * sw) <= np.maximum.reduce([sw, sh, tw, th])
    return same


def _resized(group: _Differing) -> np.ndarray:
    """bool [n]: whether each image may be its stated size made smaller or larger by nearly the same in x and y."""
    x, y = (group.true / group.stated).T
    near: np.ndarray = (np.abs(x / y - 1) <= _STRETCHED) & (np.abs(x - 1) > _RESIZED)
    return near


def _evidence(images: Sequence[RawImage], group: _Differing) -> float:
    """Logarithm of how much likelier it is that boxes in pixels belong to the stated sizes than to the images.

    Boxes belong to a size that they do not leave, but for mistakes; one anywhere in an area lies in a part of it by
    that part's share.
    """
    total = 0.0
    for i, stated, true in zip(group.where.tolist(), group.stated, group.true, strict=True):
        ends = _ends(images[i])
        if not len(ends):
            continue
        fits_stated, fits_true = (bool((ends <= size + EDGE_PX).all()) for size in (stated, true))
        in_true, in_stated = _share(true, stated), _share(stated, true)
        if fits_stated and fits_true:
            total += math.log(in_true) - math.log(in_stated)
        elif fits_stated:
            total += math.log(1 - in_true) - math.log(_MISTAKEN)
        elif fits_true:
            total += math.log(_MISTAKEN) - math.log(1 - in_stated)
    return total


def _share(size: np.ndarray, other: np.ndarray) -> float:
    """The share of the other size's area that lies in this one, within bounds."""
    return min(max(float(np.minimum(size / other, 1).prod()), _LEAST_SHARE), 1 - _MISTAKEN)


def _scale(images: list[RawImage], group: _Differing) -> None:
    """Scale the boxes in pixels of these images, in the list."""
    for i, factors in zip(group.where.tolist(), (group.true / group.stated).tolist(), strict=True):
        if not images[i].relative:
            images[i] = images[i]._replace(objects=[_scaled(obj, *factors) for obj in images[i].objects])


def _scaled(obj: RawObject, x: float, y: float) -> RawObject:
    x0, y0, x1, y1 = obj.box
    box = (x0 * x, y0 * y, x1 * x, y1 * y)
    return obj._replace(box=Hull(box) if isinstance(obj.box, Hull) else box, area=obj.area * x * y)


def _say(
    raw: RawSet, where: list[int], true: np.ndarray, kind: str, why: str, done: str, problems: RaiseErrors
) -> None:
    if not where:
        return
    first = raw.images[min(where)]
    name = printable(first.path.replace("\\", "/").rpartition("/")[2], 80)
    message = (
        f"labels of {len(where)} of {len(raw.images)} images state another size than the image has, {why} (first: "
        f"{printable(first.file)} says {first.width} x {first.height}, {name} is {true[min(where), 0]} x "
        f"{true[min(where), 1]} pixels): {done}"
    )
    problems.add(kind, raw.source, message)
