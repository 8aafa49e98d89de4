"""The four shapes of the embedded scenes, as fields over unit coordinates, and their rasters.

No shape has a colour of its own, so a detector must tell the classes apart by outline and texture. Silhouettes, from
which the boxes follow, are plain float64 numpy: the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# A pixel belongs to an object from a quarter of its area on: half of it would cut the tips of stars.
COVERAGE_MIN = 0.25

RING_HOLE = 0.52
STAR_WAIST = 0.46
CROSS_ARM = 0.34
LEAF_WIDTH = 0.52


class Patch(NamedTuple):
    """One drawn object, cut tight: coverage and pattern float [h, w] 0..1 (of the silhouette, and of the second colour
    in it); pose float [2, 3]: unit coordinates (x, y, 1) to pixels of the patch."""

    coverage: np.ndarray
    pattern: np.ndarray
    pose: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """bool [h, w]: the silhouette, touching all four sides of the patch."""
        return self.coverage >= COVERAGE_MIN


def _ring(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A life belt: `count` + 3 pairs of segments around a hole."""
    radius = np.hypot(x, y)
    return (radius <= 1.0) & (radius >= RING_HOLE), np.sin((count + 3) * np.arctan2(y, x)) > 0


def _star(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A nautical star of five arms, each with a light and a dark facet."""
    fifth = 2.0 * np.pi / 5.0
    radius = np.hypot(x, y)
    angle = np.mod(np.arctan2(y, x) + fifth / 2.0, fifth) - fifth / 2.0
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    # Below the line from the tip (1, 0) to the waist.
    waist_x, waist_y = STAR_WAIST * np.cos(fifth / 2.0), STAR_WAIST * np.sin(fifth / 2.0)
    return (along - 1.0) * waist_y + np.abs(across) * (1.0 - waist_x) <= 0, across > 0


def _cross(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A plus sign with `count` stripes across each arm."""
    longer, shorter = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return (longer <= 1.0) & (shorter <= CROSS_ARM), np.cos(np.pi * count * longer) < 0


def _leaf(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A leaf, broad near its stalk and pointed at both ends, with a midrib and `count` + 2 pairs of slanted veins."""
    side = np.abs(y)
    pitch = 2.0 / (count + 2)
    veins = np.abs(np.mod(x - 0.8 * side + 2.0, pitch) - pitch / 2.0) < 0.035
    inside = (side <= LEAF_WIDTH * (1.0 - x * x) * (1.0 - 0.35 * x)) & (np.abs(x) <= 1.0)
    return inside, veins | (side < 0.055)


# name -> function of unit coordinates and the fineness of the texture: inside the silhouette, in the second colour.
# In alphabetical order, as the VOC reader numbers classes.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]] = {
    "cross": _cross,
    "leaf": _leaf,
    "ring": _ring,
    "star": _star,
}


def pose_matrix(inner: float, squash: float, outer: float) -> np.ndarray:
    """float [2, 2]: turn by `inner`, shrink along y by `squash`, turn by `outer` (radians)."""

    def turn(angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s], [s, c]])

    matrix: np.ndarray = turn(outer) @ np.diag([1.0, squash]) @ turn(inner)
    return matrix


def _shares(samples: np.ndarray, fine: int) -> np.ndarray:
    """bool [h * fine, w * fine] -> float [h, w]: the share of each pixel's samples that are true."""
    counts = np.zeros((len(samples) // fine, samples.shape[1] // fine), np.uint8)
    for i in range(fine):
        for j in range(fine):
            counts += samples[i::fine, j::fine].view(np.uint8)
    shares: np.ndarray = counts / (fine * fine)
    return shares


def make_patch(shape: str, matrix: np.ndarray, side_px: float, short_px: float, count: int) -> Patch:
    """Rasterise a shape under `matrix` float [2, 2] so that its box's longer side is about `side_px` pixels.

    It grows where its shorter side would stay under `short_px`. `count` sets how fine the texture is.
    """
    x, y = np.meshgrid(np.linspace(-1, 1, 129), np.linspace(-1, 1, 129))
    inside, _ = SHAPES[shape](x, y, count)
    points = np.column_stack([x[inside], y[inside]]) @ matrix.T
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    scale = max(side_px / extent.max(), short_px / extent.min())
    margin = 2 + int(side_px / 32)  # the grid may miss the end of a tip
    width, height = np.ceil(extent * scale).astype(int) + 2 * margin
    shift = margin - low * scale
    # Small objects are sampled finer, or their texture would turn into noise.
    fine = 2 if side_px > 80 else 4
    xs = (np.arange(width * fine) + 0.5) / fine - shift[0]
    ys = (np.arange(height * fine) + 0.5)[:, None] / fine - shift[1]
    back = np.linalg.inv(matrix * scale)
    samples = SHAPES[shape](back[0, 0] * xs + back[0, 1] * ys, back[1, 0] * xs + back[1, 1] * ys, count)
    coverage, pattern = (_shares(values, fine) for values in samples)
    mask = coverage >= COVERAGE_MIN
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Patch(coverage[cut], pattern[cut], np.column_stack([matrix * scale, shift - (columns[0], rows[0])]))
