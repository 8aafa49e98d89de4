"""What the embedded scenes are painted with: four textured shapes, backgrounds and clutter.

A shape is a function of unit coordinates (x, y) that gives two signed fields: `edge`, negative inside the
silhouette, and `pattern`, positive where the second colour goes. No shape has a colour of its own, so a
detector must tell the classes apart by outline and texture.

Silhouettes, from which the boxes follow, are plain float64 numpy: the same on every machine. Colours may go
through OpenCV, whose last bit differs between builds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

# A pixel belongs to an object from a quarter of its area on: half of it would cut the tips of stars.
COVERAGE_MIN = 0.25


class Patch(NamedTuple):
    """One drawn object, cut tight: coverage float [h, w] 0..1, pattern float [h, w] 0..1 (share of the second
    colour), depth float [h, w]: pixels inside the silhouette's edge; outline float [K, 2]: its polygon in
    pixels of the patch (x, y)."""

    coverage: np.ndarray
    pattern: np.ndarray
    depth: np.ndarray
    outline: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """bool [h, w]: the silhouette, filled, touching all four sides of the patch."""
        return self.coverage >= COVERAGE_MIN


RING_HOLE = 0.52
STAR_WAIST = 0.46
CROSS_ARM = 0.34
LEAF_WIDTH = 0.52


def _ring(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A life belt: `count` + 3 pairs of segments around a hole."""
    radius = np.hypot(x, y)
    edge = np.maximum(radius - 1.0, RING_HOLE - radius)
    pairs = count + 3
    return edge, np.sin(pairs * np.arctan2(y, x)) * radius / pairs


def _star(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A nautical star of five arms, each with a light and a dark facet."""
    fifth = 2.0 * np.pi / 5.0
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    angle = np.mod(angle + fifth / 2.0, fifth) - fifth / 2.0
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    # The line from the tip (1, 0) to the waist, whose normal points outwards.
    waist_x, waist_y = STAR_WAIST * np.cos(fifth / 2.0), STAR_WAIST * np.sin(fifth / 2.0)
    length = np.hypot(1.0 - waist_x, waist_y)
    edge = ((along - 1.0) * waist_y + np.abs(across) * (1.0 - waist_x)) / length
    return edge, across


def _cross(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A plus sign with `count` stripes across each arm."""
    wide, high = np.abs(x), np.abs(y)
    edge = np.minimum(np.maximum(wide - 1.0, high - CROSS_ARM), np.maximum(high - 1.0, wide - CROSS_ARM))
    turns = 2.0 * np.pi * count / 2.0
    return edge, -np.cos(turns * np.maximum(wide, high)) / turns


def _leaf_width(x: np.ndarray) -> np.ndarray:
    """Half the leaf's width at x in -1..1: broad near the stalk, pointed at both ends."""
    return LEAF_WIDTH * (1.0 - x * x) * (1.0 - 0.35 * x)


def _leaf(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A pointed leaf with a midrib and `count` + 2 pairs of slanted veins."""
    side = np.abs(y)
    edge = np.maximum(side - _leaf_width(np.clip(x, -1.0, 1.0)), np.abs(x) - 1.0)
    rib = 0.055 - side
    pitch = 2.0 / (count + 2)
    vein = 0.035 - np.abs(np.mod(x - 0.8 * side + 2.0, pitch) - pitch / 2.0)
    return edge, np.maximum(rib, vein)


def _circle_outline() -> np.ndarray:
    angle = np.arange(96) * (2.0 * np.pi / 96)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star_outline() -> np.ndarray:
    angle = np.arange(10) * (np.pi / 5.0)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, STAR_WAIST)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross_outline() -> np.ndarray:
    quarter = np.array([[1.0, -CROSS_ARM], [1.0, CROSS_ARM], [CROSS_ARM, CROSS_ARM]])
    turns = [quarter]
    for _ in range(3):
        turns.append(np.stack([-turns[-1][:, 1], turns[-1][:, 0]], axis=1))
    return np.concatenate(turns)


def _leaf_outline() -> np.ndarray:
    x = np.linspace(-1.0, 1.0, 49)
    width = _leaf_width(x)
    return np.concatenate([np.stack([x, width], axis=1), np.stack([x, -width], axis=1)[::-1]])


Field = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]

# name -> its fields and the polygon around it, in unit coordinates. In alphabetical order, as the VOC reader
# numbers classes.
SHAPES: dict[str, tuple[Field, Callable[[], np.ndarray]]] = {
    "cross": (_cross, _cross_outline),
    "leaf": (_leaf, _leaf_outline),
    "ring": (_ring, _circle_outline),
    "star": (_star, _star_outline),
}


def affine(inner: float, squash: float, outer: float) -> np.ndarray:
    """float [2, 2]: turn by `inner`, shrink along y by `squash`, turn by `outer` (radians)."""

    def turn(angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s], [s, c]])

    return turn(outer) @ np.diag([1.0, squash]) @ turn(inner)


def make_patch(shape: str, matrix: np.ndarray, side_px: float, short_px: float, count: int) -> Patch:
    """Rasterise a shape under `matrix` so that its box's longer side is `side_px`.

    It grows where its shorter side would stay under `short_px`. `count` sets how fine the texture is.
    """
    field, outline_of = SHAPES[shape]
    outline = outline_of() @ matrix.T
    extent = outline.max(axis=0) - outline.min(axis=0)
    scale = max(side_px / extent.max(), short_px / extent.min())
    outline = outline * scale
    outline -= np.floor(outline.min(axis=0)) - 1.0
    width, height = np.ceil(outline.max(axis=0)).astype(int) + 1
    # Small objects are sampled finer, or their texture would turn into noise.
    fine = 1 if side_px > 80 else 2 if side_px > 40 else 3
    xs = (np.arange(width * fine) + 0.5) / fine
    ys = (np.arange(height * fine) + 0.5) / fine
    # The outline's points are the image of the unit shape: its first point fixes the shift.
    shift = outline[0] - (outline_of()[0] @ matrix.T) * scale
    back = np.linalg.inv(matrix * scale)
    dx, dy = xs[None, :] - shift[0], ys[:, None] - shift[1]
    edge, pattern = field(back[0, 0] * dx + back[0, 1] * dy, back[1, 0] * dx + back[1, 1] * dy, count)
    slope_y, slope_x = np.gradient(edge)
    # First order distance to the edge in samples; the floor guards the flat spots on a ridge.
    steps = -edge / np.maximum(np.hypot(slope_x, slope_y), 0.25 / (scale * fine))
    radius = scale * fine
    fields = (
        np.clip(steps + 0.5, 0.0, 1.0),
        np.clip(pattern * radius + 0.5, 0.0, 1.0),
        steps / fine,
    )
    coverage, mixed, depth = (_shrink(values, fine) for values in fields)
    mask = coverage >= COVERAGE_MIN
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Patch(coverage[cut], mixed[cut], depth[cut], outline - np.array([columns[0], rows[0]]))


def _shrink(values: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return values
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return values.reshape(height, factor, width, factor).mean(axis=(1, 3))


def random_colour(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hues: tuple[float, float] = (0.0, 6.0),
) -> np.ndarray:
    """float [3] RGB 0..255; saturation and value are 0..1, a turn of hue is 6 (0 red, 2 green, 4 blue)."""
    hue, sat, val = rng.uniform(*hues), rng.uniform(*saturation), rng.uniform(*value)
    wheel = np.clip(np.abs(np.mod(hue + np.array([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0, 0.0, 1.0)
    return 255.0 * val * (1.0 - sat + sat * wheel)


def clouds(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """float32 [H, W] 0..1: smooth noise whose largest features are about `cell` pixels."""
    total = np.zeros((height, width), np.float32)
    weight, size = 1.0, max(cell, 2)
    for _ in range(3):
        grid = rng.random((height // size + 3, width // size + 3), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight, size = weight * 0.5, max(size // 3, 2)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float32 RGB [H, W, 3]: two muted colours mixed by a gradient, clouds, planks or tiles, with grain."""
    first = random_colour(rng, (0.05, 0.5), (0.25, 0.9))
    second = first * rng.uniform(0.45, 0.85) + random_colour(rng, (0.05, 0.6), (0.1, 0.9)) * rng.uniform(0.05, 0.3)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = xs * cosine + ys * sine, ys * cosine - xs * sine
    slope = (along - along.min()) / float(np.ptp(along))
    kind = int(rng.integers(4))
    noise = clouds(rng, height, width, int(rng.integers(24, 120)))
    if kind == 0:
        mix = 0.8 * slope + 0.2 * noise
    elif kind == 1:
        mix = 0.3 * slope + 0.7 * noise
    else:
        pitch = np.float32(rng.uniform(18.0, 60.0))
        row = np.floor(across / pitch)
        column = np.floor((along + (0.5 * pitch * row if kind == 3 else 0.0)) / (2.0 * pitch))
        cell = row if kind == 2 else row + 57.0 * column
        # A cheap hash gives each plank or tile its own tone; joints are darker lines.
        tone = np.mod(np.abs(np.sin(cell * np.float32(12.9898)) * np.float32(43758.5453)), 1.0)
        mix = 0.5 * tone + 0.3 * noise + 0.2 * slope
        joint = np.mod(across, pitch) < 1.5
        if kind == 3:
            joint |= np.mod(along + 0.5 * pitch * row, 2.0 * pitch) < 1.5
        mix = np.where(joint, 1.15, mix)
    low, step = first.astype(np.float32), (second - first).astype(np.float32)
    canvas: np.ndarray = low + step * mix.astype(np.float32)[..., None]
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0.0, 7.0))
    return canvas


def clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw one thing that is no object onto float32 RGB [H, W, 3]: a line, curve, disc, polygon or soft blob."""
    height, width = canvas.shape[:2]
    colour = random_colour(rng, (0.1, 1.0), (0.2, 1.0))
    centre = rng.uniform([0.0, 0.0], [width, height])
    size = max(height, width) * 0.03 * 10.0 ** rng.uniform(0.0, 1.0)
    layer = np.zeros((height, width), np.uint8)
    kind = int(rng.integers(5))
    if kind == 0:
        ends = np.round(rng.uniform([0, 0], [width, height], (2, 2))).astype(int)
        cv2.line(layer, ends[0].tolist(), ends[1].tolist(), 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind == 1:
        knots = centre + np.cumsum(rng.normal(0.0, size, (4, 2)), axis=0)
        t = np.linspace(0.0, 1.0, 24)[:, None]
        basis = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3], axis=1)
        points = np.round(basis @ knots).astype(np.int32)
        cv2.polylines(layer, [points], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    elif kind in (2, 3):
        corners = 40 if kind == 2 else int(rng.integers(3, 5))
        angle = rng.uniform(0.0, 2.0 * np.pi) + np.arange(corners) * (2.0 * np.pi / corners)
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * size * rng.uniform(0.5, 1.0, 2)
        cv2.fillPoly(layer, [np.round((centre + points) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    else:
        spread = rng.uniform(1.0, 2.5) * size
        bell_x = np.exp(-(((np.arange(width) - centre[0]) / spread) ** 2))
        bell_y = np.exp(-(((np.arange(height) - centre[1]) / spread) ** 2))
        layer = (200.0 * bell_y[:, None] * bell_x).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(layer)
    part = canvas[y : y + h, x : x + w]
    alpha = layer[y : y + h, x : x + w, None].astype(np.float32) * np.float32(rng.uniform(0.35, 0.9) / 255.0)
    part += (colour.astype(np.float32) - part) * alpha
