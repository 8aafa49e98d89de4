"""How an embedded scene is painted: background, clutter, objects, boards. No box depends on anything in here, so
that OpenCV may round colours as it likes."""

from __future__ import annotations

import cv2
import numpy as np

from singleshot.scenes.layout import Item

_OWN_COLOUR = 0.92  # part of the objects in the hue of their class
_HUES = (4.0, 2.0, 0.0, 1.0)  # cross blue, leaf green, ring red, star yellow; a turn is 6
_ANY_HUE = (0.0, 6.0)


def paint(rng: np.random.Generator, items: list[Item], width: int, height: int) -> np.ndarray:
    """uint8 RGB [H, W, 3]: background, clutter, then the objects in their order, and some grain."""
    canvas = _background(rng, height, width)
    for _ in range(int(rng.integers(2, 8))):
        _draw_clutter(rng, canvas)
    light = rng.uniform(0.0, 2.0 * np.pi)
    for item in items:
        draw_object(rng, canvas, item, light)
        if item.board is not None:
            x0, y0, x1, y1 = item.board
            colour = _random_colour(rng, (0.1, 0.5), (0.3, 0.8))
            canvas[y0:y1, x0:x1] = colour * rng.uniform(0.85, 1.0, (1, x1 - x0, 1))
            cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), (colour * 0.6).tolist(), 1)
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0.5, 7.0))
    return canvas.round().clip(0, 255).astype(np.uint8)


def draw_object(rng: np.random.Generator, canvas: np.ndarray, item: Item, light: float) -> None:
    """Paint an object onto float32 RGB [H, W, 3]: two colours in its pattern, brighter towards `light` (radians)."""
    patch = item.patch
    below = canvas[item.window][patch.mask[item.inner]].mean(axis=0)
    first, second = _two_colours(rng, below, item.faint, item.label)
    height, width = patch.coverage.shape
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = 1.0 - (0.06 if item.faint else 0.18) * (xs * np.cos(light) + ys * np.sin(light))
    colour = (first + (second - first) * patch.pattern[..., None]) * shade[..., None]
    alpha = (patch.coverage * patch.mask)[..., None]  # nothing is drawn outside the box
    canvas[item.window] += (colour[item.inner] - canvas[item.window]) * alpha[item.inner]


def _two_colours(rng: np.random.Generator, below: np.ndarray, faint: bool, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours that stand out from what lies below and from each other; hardly so for a faint object.

    Most objects have their class's hue, as most real ones have colours of their own; the rest have any, and so has
    the clutter.
    """
    if faint:
        sign = 1.0 if below.mean() < 128 else -1.0
        return below + sign * rng.uniform(9.0, 14.0), below + sign * rng.uniform(20.0, 26.0)
    hues = (_HUES[label] - 0.4, _HUES[label] + 0.4) if rng.random() < _OWN_COLOUR else _ANY_HUE
    colours = [_random_colour(rng, (0.45, 1.0), (0.4, 1.0), hues) for _ in range(4)]
    best = max(colours, key=lambda colour: float(np.abs(colour - below).mean()))
    other = _random_colour(rng, (0.0, 0.6), (0.08, 0.3) if best.mean() > 110 else (0.85, 1.0))
    return best, best + (other - best) * rng.uniform(0.65, 1.0)


def _random_colour(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hues: tuple[float, float] = _ANY_HUE,
) -> np.ndarray:
    """float [3] RGB 0..255; saturation and value are 0..1, a turn of hue is 6 (0 red, 2 green, 4 blue)."""
    hue, sat, val = rng.uniform(*hues), rng.uniform(*saturation), rng.uniform(*value)
    wheel = np.clip(np.abs(np.mod(hue + np.array([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0, 0.0, 1.0)
    return 255.0 * val * (1.0 - sat + sat * wheel)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float32 RGB [H, W, 3]: two muted colours mixed by clouds, alone or over tiles with darker joints."""
    first = _random_colour(rng, (0.05, 0.5), (0.25, 0.9))
    second = first * rng.uniform(0.45, 0.85) + _random_colour(rng, (0.05, 0.6), (0.1, 0.9)) * rng.uniform(0.05, 0.3)
    mix: np.ndarray = np.zeros((height, width), np.float32)
    for cell, weight in ((int(rng.integers(24, 120)), 0.65), (12, 0.35)):
        grid = rng.random((height // cell + 3, width // cell + 3), dtype=np.float32)
        mix += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        ys, xs = np.mgrid[0:height, 0:width]
        angle, pitch = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(18.0, 60.0)
        across = (ys * np.cos(angle) - xs * np.sin(angle)) / pitch
        along = (xs * np.cos(angle) + ys * np.sin(angle)) / pitch / 2.0 + 0.5 * np.floor(across)
        tones = rng.random((16, 16))
        mix = 0.4 * mix + 0.5 * tones[np.floor(across).astype(int) % 16, np.floor(along).astype(int) % 16]
        mix = np.where((across % 1.0 < 1.5 / pitch) | (along % 1.0 < 0.75 / pitch), 1.15, mix)
    image: np.ndarray = first + (second - first) * mix[..., None]
    return image.astype(np.float32)


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw what is no object onto float32 RGB [H, W, 3]: a bent line, a disc or polygon, sharp or blurred."""
    height, width = canvas.shape[:2]
    centre = rng.uniform([0.0, 0.0], [width, height])
    size = max(height, width) * 0.03 * 10.0 ** rng.uniform(0.0, 1.0)
    layer: np.ndarray = np.zeros((height, width), np.float32)
    if rng.random() < 0.4:
        points = np.round(centre + np.cumsum(rng.normal(0.0, size, (4, 2)), axis=0)).astype(np.int32)
        cv2.polylines(layer, [points], False, 1.0, int(rng.integers(1, 4)))
    else:
        corners = int(rng.choice([3, 4, 40]))
        angle = rng.uniform(0.0, 2.0 * np.pi) + np.arange(corners) * (2.0 * np.pi / corners)
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * size * rng.uniform(0.5, 1.0, 2)
        cv2.fillPoly(layer, [np.round(centre + points).astype(np.int32)], 1.0)
    soft = int(rng.choice([2, 2 + 0.6 * size]))
    layer = cv2.blur(layer, (soft, soft))
    colour = _random_colour(rng, (0.1, 1.0), (0.2, 1.0)).astype(np.float32)
    strength = np.float32(rng.uniform(0.35, 0.9))
    x0, y0, w, h = cv2.boundingRect((layer > 0).view(np.uint8))
    drawn = slice(y0, y0 + h), slice(x0, x0 + w)
    canvas[drawn] += (colour - canvas[drawn]) * layer[drawn][..., None] * strength
