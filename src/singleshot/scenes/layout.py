"""Where the objects of an embedded scene lie: poses, overlaps, what is hidden.

Plain numpy and one generator: the same boxes on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from singleshot.scenes.shapes import SHAPES, Patch, make_patch, pose_matrix

# Longer side of a box over the longer side of its picture.
SIZE_MIN, SIZE_MAX = 0.042, 0.7
SHORT_PX = 10.0
# An object of which more than this is hidden (covered or outside the picture) is difficult.
HIDDEN_MAX = 0.6
# What an ordinary overlap may hide of an object at most.
OVERLAP_MAX = 0.4


class Item(NamedTuple):
    """An object as placed in a picture of width x height pixels: its patch's top left corner lies at (left, top), which
    may be negative; board: x0 y0 x1 y1 of what is laid over it."""

    label: int
    patch: Patch
    left: int
    top: int
    width: int
    height: int
    faint: bool = False
    board: tuple[int, int, int, int] | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the patch covers."""
        h, w = self.patch.coverage.shape
        return (
            slice(max(self.top, 0), min(self.top + h, self.height)),
            slice(max(self.left, 0), min(self.left + w, self.width)),
        )

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the patch that lie in the picture."""
        rows, columns = self.window
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )

    @property
    def truncated(self) -> bool:
        """Whether the object reaches over the picture's edge."""
        return self.patch.coverage[self.inner].shape != self.patch.coverage.shape

    def silhouette(self) -> np.ndarray:
        """bool [H, W]: the object's pixels, whatever lies over them."""
        canvas = np.zeros((self.height, self.width), bool)
        canvas[self.window] = self.patch.mask[self.inner]
        return canvas


def hidden_shares(items: list[Item]) -> list[float]:
    """Share of each object that lies outside the picture, or under a board or a later object."""
    shares: list[float] = []
    free = np.ones((items[0].height, items[0].width), bool) if items else np.ones((0, 0), bool)
    for item in reversed(items):  # from the front to the back
        if item.board is not None:
            x0, y0, x1, y1 = item.board
            free[y0:y1, x0:x1] = False
        shown = item.silhouette()
        shares.append(1.0 - float((shown & free).sum()) / float(item.patch.mask.sum()))
        free &= ~shown
    return shares[::-1]


def lay_out(rng: np.random.Generator, width: int, height: int) -> list[Item]:
    """Choose and place 1 to 8 objects, large ones first (and so at the back)."""
    count = int(rng.choice(8, p=[0.08, 0.12, 0.18, 0.2, 0.16, 0.12, 0.08, 0.06])) + 1
    # Log-uniform at heart, thinner at both ends: the smallest cost a detector the longest training.
    spans = np.sort(rng.beta(1.7, 1.65, count))[::-1]
    items: list[Item] = []
    for side in max(width, height) * SIZE_MIN * (SIZE_MAX / SIZE_MIN) ** spans:
        item = _place(rng, float(side), items, width, height)
        if item is not None:
            items.append(item)
    return items


def _random_patch(rng: np.random.Generator, label: int, side: float) -> Patch:
    name = tuple(SHAPES)[label]
    inner, outer = rng.uniform(0.0, 2.0 * np.pi, 2)
    squash = rng.uniform(0.66, 1.0)
    if name == "leaf":  # long already: squashed along another axis it would only be a wedge
        inner, squash = 0.0, squash + 0.17
    # Small objects get the coarse texture, which their few pixels can still show.
    count = 3 if side < 40 else int(rng.integers(3, 6))
    return make_patch(name, pose_matrix(inner, squash, outer), side, SHORT_PX, count)


def _place(rng: np.random.Generator, side: float, items: list[Item], width: int, height: int) -> Item | None:
    """An object of about `side` pixels where it hides the others no more than it may; None when there is no room."""
    label = int(rng.integers(len(SHAPES)))
    patch = _random_patch(rng, label, side)
    size = np.array(patch.coverage.shape[::-1])
    if (size > (width, height)).any():
        return None
    faint, buried = rng.random() < 0.03, rng.random() < 0.035 and side >= 24
    # What is left of a small object under another could not be recognised.
    overlaps = rng.random() < 0.35 and side >= 28
    # Up to a third of a larger object may lie outside.
    slack = size // 3 if side >= 40 and rng.random() < 0.12 else 0 * size
    low, high = -slack, np.array([width, height]) - size + slack
    # Chance overlaps are rare: every other object that may overlap looks for a neighbour.
    near = items[int(rng.integers(len(items)))] if items and overlaps and rng.random() < 0.6 else None
    for _ in range(25):
        corner = rng.integers(low, high + 1)
        if near is not None:
            spot = rng.uniform(-0.2, 0.7, 2) * near.patch.mask.shape[::-1] + (near.left, near.top)
            corner = np.clip(np.floor(spot).astype(int), low, high)
        item = Item(label, patch, int(corner[0]), int(corner[1]), width, height, faint)
        if not overlaps and any(_boxes_touch(item, other) for other in items):
            continue
        if max(hidden_shares([*items, item])) <= OVERLAP_MAX:
            return _bury(rng, item, items) if buried else item
    return None


def _boxes_touch(a: Item, b: Item) -> bool:
    """Whether the windows of two objects share a pixel."""
    return all(p.start < q.stop and q.start < p.stop for p, q in zip(a.window, b.window, strict=True))


def _bury(rng: np.random.Generator, item: Item, items: list[Item]) -> Item:
    """Lay a board over most of the object; without one where the board would hide others too much."""
    rows, columns = item.window
    box = np.array([columns.start, rows.start, columns.stop, rows.stop]) + rng.integers(2, 8) * np.array([-1, -1, 1, 1])
    edge = int(rng.integers(4))  # the side on which the object looks out
    away = rng.uniform(0.26, 0.42) * (box[2:] - box[:2])[edge % 2]
    box[edge] += round(away) * (1 if edge < 2 else -1)
    x0, y0, x1, y1 = np.clip(box, 0, (item.width, item.height) * 2).tolist()
    buried = item._replace(board=(x0, y0, x1, y1))
    *others, own = hidden_shares([*items, buried])
    return buried if max(others, default=0.0) <= OVERLAP_MAX and HIDDEN_MAX < own <= 0.85 else item
