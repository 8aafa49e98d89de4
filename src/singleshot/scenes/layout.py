"""Where the objects of an embedded scene lie: poses, overlaps, what is hidden.

Plain numpy and one generator: the same boxes on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from singleshot.scenes.textures import SHAPES, Patch, affine, make_patch

# Longer side of a box over the longer side of its picture.
SIZE_MIN, SIZE_MAX = 0.042, 0.71  # whole pixels may take a little off
SHORT_PX = 10.0
# An object of which more than this is hidden (covered or outside the picture) is difficult.
HIDDEN_MAX = 0.6
# What an ordinary overlap may hide of an object at most.
OVERLAP_MAX = 0.4


class Item(NamedTuple):
    """An object as placed: its patch's top left corner lies at (left, top), which may be negative."""

    label: int
    patch: Patch
    left: int
    top: int
    outlined: bool
    faint: bool
    card: tuple[int, int, int, int] | None  # a board laid over it: x0 y0 x1 y1 in the picture


def silhouette(item: Item, width: int, height: int) -> np.ndarray:
    """bool [H, W]: the object's pixels, whatever lies over them."""
    canvas = np.zeros((height, width), bool)
    window, inner = windows(item, width, height)
    canvas[window] = item.patch.mask[inner]
    return canvas


def windows(item: Item, width: int, height: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the patch lies in the picture, and which part of the patch that is."""
    h, w = item.patch.coverage.shape
    x0, y0 = max(item.left, 0), max(item.top, 0)
    x1, y1 = min(item.left + w, width), min(item.top + h, height)
    inner = (slice(y0 - item.top, y1 - item.top), slice(x0 - item.left, x1 - item.left))
    return (slice(y0, y1), slice(x0, x1)), inner


def hidden_share(items: list[Item], shown: list[np.ndarray], index: int) -> float:
    """Share of object `index` that lies outside the picture or under a board or a later object."""
    visible = shown[index].copy()
    for i in range(index, len(items)):
        if i > index:
            visible &= ~shown[i]
        card = items[i].card
        if card is not None:
            visible[card[1] : card[3], card[0] : card[2]] = False
    return 1.0 - float(visible.sum()) / float(items[index].patch.mask.sum())


def lay_out(rng: np.random.Generator, width: int, height: int) -> list[Item]:
    """Choose and place 1 to 8 objects, large ones first (and so at the back)."""
    count = int(rng.choice(8, p=[0.08, 0.12, 0.18, 0.2, 0.16, 0.12, 0.08, 0.06])) + 1
    # Log-uniform at heart, thinner at both ends: the smallest cost a detector the longest training.
    spans = np.sort(rng.beta(1.7, 1.65, count))[::-1]
    sides = max(width, height) * SIZE_MIN * (SIZE_MAX / SIZE_MIN) ** spans
    items: list[Item] = []
    shown: list[np.ndarray] = []
    for side in sides:
        item = _place(rng, float(side), items, shown, width, height)
        if item is not None:
            items.append(item)
            shown.append(silhouette(item, width, height))
    return items


def _random_patch(rng: np.random.Generator, label: int, side: float) -> Patch:
    name = tuple(SHAPES)[label]
    outer = rng.uniform(0.0, 2.0 * np.pi)
    # A leaf is long already; squashing it along another axis would only make it a wedge.
    inner = 0.0 if name == "leaf" else rng.uniform(0.0, 2.0 * np.pi)
    squash = rng.uniform(0.8, 1.2) if name == "leaf" else rng.uniform(0.66, 1.0)
    # Small objects get the coarse texture, which their few pixels can still show.
    count = 3 if side < 40 else int(rng.integers(3, 6))
    return make_patch(name, affine(inner, squash, outer), side, SHORT_PX, count)


def _place(
    rng: np.random.Generator, side: float, items: list[Item], shown: list[np.ndarray], width: int, height: int
) -> Item | None:
    """An object of about `side` pixels where it hides the others no more than it may; None when there is no room."""
    label = int(rng.integers(len(SHAPES)))
    patch = _random_patch(rng, label, side)
    h, w = patch.coverage.shape
    if w > width or h > height:
        return None
    outlined = side >= 40 and rng.random() < 0.1
    faint = rng.random() < 0.03
    # What is left of a small object under another could not be told.
    overlaps = rng.random() < 0.35 and side >= 28
    # Up to a third of a larger object may lie outside.
    slack = (w // 3, h // 3) if side >= 40 and rng.random() < 0.12 else (0, 0)
    low, high = np.array([-slack[0], -slack[1]]), np.array([width - w + slack[0], height - h + slack[1]])
    # Chance overlaps are rare: every other object that may overlap looks for a neighbour.
    near = items[int(rng.integers(len(items)))] if items and overlaps and rng.random() < 0.6 else None
    for _ in range(25):
        corner = rng.integers(low, high + 1)
        if near is not None:
            spot = rng.uniform(-0.2, 0.7, 2) * near.patch.mask.shape[::-1] + (near.left, near.top)
            corner = np.clip(np.floor(spot).astype(int), low, high)
        left, top = int(corner[0]), int(corner[1])
        item = Item(label, patch, left, top, outlined, faint, None)
        trial, masks = [*items, item], [*shown, silhouette(item, width, height)]
        if not overlaps and any(_boxes_touch(item, other) for other in items):
            continue
        if max(hidden_share(trial, masks, i) for i in range(len(trial))) > OVERLAP_MAX:
            continue
        if rng.random() < 0.035 and side >= 24:
            return _bury(rng, item, items, shown, width, height)
        return item
    return None


def _boxes_touch(a: Item, b: Item) -> bool:
    (ah, aw), (bh, bw) = a.patch.coverage.shape, b.patch.coverage.shape
    return a.left < b.left + bw and b.left < a.left + aw and a.top < b.top + bh and b.top < a.top + ah


def _bury(
    rng: np.random.Generator, item: Item, items: list[Item], shown: list[np.ndarray], width: int, height: int
) -> Item:
    """Lay a board over most of the object; without one where the board would hide others too much."""
    (rows, columns), _ = windows(item, width, height)
    x0, y0, x1, y1 = columns.start, rows.start, columns.stop, rows.stop
    share = rng.uniform(0.58, 0.74)
    wide, high = round((x1 - x0) * share), round((y1 - y0) * share)
    margin = int(rng.integers(2, 8))
    boards = (
        (x0 - margin, y0 - margin, x0 + wide, y1 + margin),
        (x1 - wide, y0 - margin, x1 + margin, y1 + margin),
        (x0 - margin, y0 - margin, x1 + margin, y0 + high),
        (x0 - margin, y1 - high, x1 + margin, y1 + margin),
    )
    left, top, right, bottom = boards[int(rng.integers(4))]
    buried = item._replace(card=(max(left, 0), max(top, 0), min(right, width), min(bottom, height)))
    trial, masks = [*items, buried], [*shown, silhouette(buried, width, height)]
    shares = [hidden_share(trial, masks, i) for i in range(len(trial))]
    if max(shares[:-1], default=0.0) <= OVERLAP_MAX and HIDDEN_MAX < shares[-1] <= 0.85:
        return buried
    return item
