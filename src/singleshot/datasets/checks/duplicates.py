"""The same image twice: exactly, by digests of bytes and pixels, and nearly (encoded again, scaled, brightened).

A near duplicate is looked for with a 64-bit perceptual hash, sifted by thumbnails, and reported only after both files
were decoded again and compared place by place: two boards that differ in one soldered joint are two images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

import cv2
import numpy as np

from singleshot.datasets.checks.images import THUMB, Pictures
from singleshot.datasets.checks.process_pool import spread
from singleshot.datasets.findings import RaiseErrors
from singleshot.datasets.splits import role
from singleshot.errors import DataError, printable
from singleshot.images.decode import MAX_FILE_BYTES, check_image, decode_unscaled
from singleshot.images.samples import stretched
from singleshot.storage import read_limited

Thing = TypeVar("Thing")

_RANKS = {"train": 0, "val": 1, "test": 2}
# Bits of 64 that may differ, found through one more band than that, of which one must be equal.
_BITS = 6
# How far to look within a band's bucket: bounds the work where thousands of images look alike.
_REACH = 400
_MAX_CANDIDATES = 2_000_000
_MAX_CONFIRMED = 5_000
_AT_ONCE = 8192  # thumbnails worked on together, for the sake of memory
# Thumbnails flatter than this many grey levels (a blank wall) say nothing.
_FLAT = 4.0
_NO_WAVE = 1e-6  # what rounding leaves of a wave that is not there, as of most in a drawn picture, has any sign
_THUMB_APART = 0.25
# Comparing two files again: side of the grey squares, and the most that they may differ (in standard deviations of
# the image) on the whole and in any small place. Copies that were encoded again, halved or brightened stay below .75
# in every place; DeepPCB's boards and BCCD's cells that look alike differ by 1.5 and more somewhere.
_SIDE = 192
_WHOLE_APART, _PLACE_APART = 0.25, 0.8
_ASPECT_APART = 0.03


def exact_groups(pictures: Pictures, workers: int | None = None) -> list[list[int]]:
    """Positions of files with the same bytes or the same pixels, each group sorted, of two and more."""
    alike = [_by(group, lambda i: pictures.data[i].tobytes()) for group in _equal_thumbs(pictures)]
    # Equal bytes are certain; of files with other bytes but the same thumbnail, the colours decide.
    asked = [members[0] for by_data in alike if len(by_data) > 1 for members in by_data]
    colours: dict[int, bytes] = {}
    with closing(spread(_colours, [pictures.paths[i] for i in asked], workers)) as results:
        for k, digest in results:
            # What cannot be read any more is like nothing else.
            colours[asked[k]] = digest if isinstance(digest, bytes) and digest else str(k).encode()
    groups = []
    for by_data in alike:
        for same in _by(by_data, lambda members: colours.get(members[0], b"")):
            groups.append(sorted(i for members in same for i in members))
    return sorted(group for group in groups if len(group) > 1)


def _by(objects: Sequence[Thing], key: Callable[[Thing], bytes]) -> list[list[Thing]]:
    found: dict[bytes, list[Thing]] = {}
    for obj in objects:
        found.setdefault(key(obj), []).append(obj)
    return list(found.values())


def near_pairs(
    pictures: Pictures, exact: Sequence[Sequence[int]], split_of: np.ndarray, workers: int | None = None
) -> tuple[list[tuple[int, int]], int]:
    """Confirmed near duplicates, one of each exact group standing for it, and how many pairs were not looked at.

    split_of: int [n]; pairs across splits are confirmed first, where there are too many to confirm all.
    """
    later = {i for group in exact for i in group[1:]}
    alone = np.array([i for i in np.flatnonzero(pictures.usable).tolist() if i not in later], np.int64)
    first, second = _candidates(pictures, alone)
    if not len(first):
        return [], 0
    order = np.argsort(split_of[first] == split_of[second], kind="stable")[:_MAX_CONFIRMED]
    asked = [(int(min(a, b)), int(max(a, b))) for a, b in zip(first[order], second[order], strict=True)]
    return sorted(_confirmed(pictures, asked, workers)), len(first) - len(asked)


def _confirmed(pictures: Pictures, asked: list[tuple[int, int]], workers: int | None) -> list[tuple[int, int]]:
    """Those of the pairs that show the same picture in every place. Each file is decoded once: its small grey pictures
    are kept (36 KB in most cases)."""
    side_of = {pair: min(_SIDE, int(pictures.sizes[list(pair)].min())) for pair in asked}
    sides: dict[int, set[int]] = {}
    for pair, side in side_of.items():
        for i in pair:
            sides.setdefault(i, set()).add(side)
    files = sorted(sides)
    small: dict[tuple[int, int], np.ndarray] = {}
    with closing(spread(_shrunk, [(pictures.paths[i], sorted(sides[i])) for i in files], workers, chunk=8)) as results:
        for k, found in results:
            if isinstance(found, list):  # the process lived
                small.update(((files[k], picture.shape[0]), picture) for picture in found)
    pairs = [(pair, [small.get((i, side)) for i in pair]) for pair, side in side_of.items()]
    return [pair for pair, (a, b) in pairs if a is not None and b is not None and _is_same(*_differences(a, b))]


def check_duplicates(
    pictures: Pictures,
    splits: dict[str, list[int]],
    exact: Sequence[Sequence[int]],
    near: Sequence[tuple[int, int]],
    problems: RaiseErrors,
) -> None:
    """Report what is in two splits, and what is twice in one. splits: name -> positions of files; those that are made
    of others by construction left out."""
    where = _Where(splits)
    for i in sorted({i for members in splits.values() for i in members}):
        pair = where.across(i, i)
        if pair is not None:
            message = f"is listed in {printable(pair[0])} and in {printable(pair[1])}; take it out of one of them"
            problems.add("image-in-two-splits", pictures.paths[i], message)

    def report(i: int, other: int, how: str) -> None:
        name = printable(pictures.paths[other])
        pair = where.across(i, other)
        if pair is not None:
            message = f"in {printable(pair[0])}: {how} {name} in {printable(pair[1])}; take it out of one of them"
            problems.add("image-in-two-splits", pictures.paths[i], message)
        else:
            problems.add("image-duplicated", pictures.paths[i], f"{how} {name}; remove one of them")

    for group in exact:
        first = min(group, key=lambda i: (where.rank(i), i))
        for i in group:
            if i != first:
                same = (pictures.data[i] == pictures.data[first]).all()
                report(i, first, f"the same {'bytes' if same else 'pixels'} as")
    for both in near:
        start, other = sorted(both, key=lambda k: (where.rank(k), k))
        report(other, start, "nearly the same picture as")


class _Where:
    """In which splits a file is, and which splits must not share a picture."""

    def __init__(self, splits: dict[str, list[int]]) -> None:
        self._files = {name: set(members) for name, members in splits.items()}
        self._of: dict[int, list[str]] = {}
        for name, members in sorted(splits.items(), key=lambda item: _RANKS.get(role(item[0]), 3)):
            for i in members:
                self._of.setdefault(i, []).append(name)

    def rank(self, i: int) -> int:
        """What is in train stays there, so that evaluation loses the copy."""
        return min((_RANKS.get(role(name), 3) for name in self._of.get(i, ())), default=4)

    def across(self, i: int, j: int) -> tuple[str, str] | None:
        """The names of i's and of j's split where those must not share a picture."""
        return next(((a, b) for a in self._of.get(i, ()) for b in self._of.get(j, ()) if self._apart(a, b)), None)

    def _apart(self, a: str, b: str) -> bool:
        if role(a) == role(b):
            return False
        # Lists of other names may share images on purpose (folds, subsets).
        return (role(a) in _RANKS and role(b) in _RANKS) or self._files[a].isdisjoint(self._files[b])


def _equal_thumbs(pictures: Pictures) -> list[list[int]]:
    """Positions of files of one size with the same thumbnail, in groups of two and more."""
    usable = np.flatnonzero(pictures.usable)
    sizes = np.ascontiguousarray(pictures.sizes[usable]).view(np.uint8).reshape(len(usable), 8)
    rows = np.hstack([sizes, pictures.thumbs[usable].reshape(len(usable), THUMB * THUMB)])
    keys = rows.view(f"V{rows.shape[1]}").ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    parts = np.split(usable[np.argsort(inverse, kind="stable")], np.cumsum(counts)[:-1])
    return [part.tolist() for part in parts if len(part) > 1]


def hashes(thumbs: np.ndarray) -> np.ndarray:
    """uint64 [n] of thumbs uint8 [n, 16, 16]: signs of the 64 lowest waves of the cosine transform, the mean left
    out, so that brightness, contrast and scale change few of them."""
    at = np.arange(THUMB)
    waves = np.cos(np.pi / THUMB * (at[None, :] + 0.5) * at[:9, None])  # [wave, place]
    row, column = np.divmod(np.arange(81), 9)
    chosen = np.argsort(row + column, kind="stable")[1:65]
    planes = (waves[row[chosen], :, None] * waves[column[chosen], None, :]).reshape(64, THUMB * THUMB)
    codes = np.zeros((len(thumbs), 8), np.uint8)
    for start in range(0, len(thumbs), _AT_ONCE):
        part = thumbs[start : start + _AT_ONCE].reshape(-1, THUMB * THUMB).astype(np.float64)
        codes[start : start + _AT_ONCE] = np.packbits(part @ planes.T > _NO_WAVE, axis=1)
    return codes.view(np.uint64).ravel()


def _candidates(pictures: Pictures, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions whose hashes and thumbnails are near each other."""
    thumbs = pictures.thumbs[among]
    among = among[thumbs.reshape(len(among), THUMB * THUMB).std(axis=1) >= _FLAT] if len(among) else among
    if len(among) < 2:
        return among[:0], among[:0]
    codes = hashes(pictures.thumbs[among])
    edges = np.linspace(0, 64, _BITS + 2).astype(int)
    pairs, total = [], 0
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (codes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        band = band[order]
        for step in range(1, min(_REACH, len(order))):
            same = np.flatnonzero(band[step:] == band[:-step])
            if not len(same):
                break
            a, b = order[same], order[same + step]
            near = _popcount(codes[a] ^ codes[b]) <= _BITS
            a, b = a[near], b[near]
            alike = _apart(pictures, among[a], among[b]) <= _THUMB_APART
            pairs.append(np.column_stack([np.minimum(a, b)[alike], np.maximum(a, b)[alike]]))
            total += len(pairs[-1])
            if total > _MAX_CANDIDATES:
                break
    chosen = np.unique(np.concatenate(pairs), axis=0) if pairs else np.zeros((0, 2), np.int64)
    return among[chosen[:, 0]], among[chosen[:, 1]]


def _popcount(codes: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.unpackbits(codes.view(np.uint8).reshape(len(codes), 8), axis=1).sum(axis=1)
    return counts


def _apart(pictures: Pictures, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float [k]: root mean square between thumbnails in standard deviations; infinite for other shapes of images."""
    apart = np.full(len(a), np.inf)
    aspects = [np.log(pictures.sizes[k, 0] / pictures.sizes[k, 1]) for k in (a, b)]
    shaped = np.flatnonzero(np.abs(aspects[0] - aspects[1]) <= _ASPECT_APART)
    for start in range(0, len(shaped), _AT_ONCE):
        part = shaped[start : start + _AT_ONCE]
        first, second = _standard(pictures.thumbs[a[part]]), _standard(pictures.thumbs[b[part]])
        apart[part] = np.sqrt(((first - second) ** 2).mean(axis=1))
    return apart


def _standard(grey: np.ndarray) -> np.ndarray:
    """float32 [n, p]: each image with mean 0 and deviation 1."""
    flat = grey.reshape(len(grey), -1).astype(np.float32)
    standard: np.ndarray = (flat - flat.mean(axis=1, keepdims=True)) / np.maximum(flat.std(axis=1, keepdims=True), 1e-3)
    return standard


def _decode(path: str, flag: int) -> np.ndarray | None:
    try:
        data = read_limited(path, MAX_FILE_BYTES, "image")
        check_image(data, path)
        image = decode_unscaled(data, flag)
        return stretched(image) if image is not None and image.dtype.itemsize == 2 else image
    except (DataError, cv2.error, MemoryError):
        return None


def _colours(path: str) -> bytes:
    """Digest of the colours; b"" where the file cannot be read any more."""
    image = _decode(path, cv2.IMREAD_COLOR)
    return b"" if image is None else hashlib.sha256(np.ascontiguousarray(image).data).digest()


def _shrunk(item: tuple[str, list[int]]) -> list[np.ndarray]:
    """The grey squares of those sides that a file shows; [] where it cannot be read any more."""
    path, sides = item
    image = _decode(path, cv2.IMREAD_GRAYSCALE)
    return [] if image is None else [_square(image, side) for side in sides]


def _square(image: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def same_picture(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two grey images uint8 [H, W] are one picture but for coding, scale, brightness and contrast."""
    return _is_same(*differences(first, second))


def _is_same(whole: float, place: float) -> bool:
    return whole <= _WHOLE_APART and place <= _PLACE_APART


def differences(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Root mean square of the difference on the whole, and the largest in a small place, in standard deviations."""
    side = min(_SIDE, *first.shape, *second.shape)
    return _differences(_square(first, side), _square(second, side))


def _differences(*small: np.ndarray) -> tuple[float, float]:
    side = small[0].shape[0]
    if min(image.std() for image in small) < _FLAT:
        return np.inf, np.inf
    a, b = (_standard(cv2.GaussianBlur(image, (0, 0), 0.8)[None]).reshape(side, side) for image in small)
    difference = a - b
    place = np.sqrt(cv2.blur(difference * difference, (5, 5)))
    return float(np.sqrt((difference**2).mean())), float(place.max())
