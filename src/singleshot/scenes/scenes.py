"""Embedded scenes: synthetic pictures of rings, stars, crosses and leaves, written as a VOC folder.

They let `singleshot demo`, the tests and a first training run work without a download. The same seed gives
the same boxes on every machine, and picture i of a split is the same however many pictures are written.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.scenes.layout import HIDDEN_MAX, Item, hidden_share, lay_out, silhouette, windows
from singleshot.scenes.textures import SHAPES, background, clutter, random_colour

log = logging.getLogger(__name__)

SCENE_CLASSES: tuple[str, ...] = tuple(SHAPES)
SCENES_VERSION = 1
_OWN_COLOUR = 0.92  # part of the objects in the hue of their class
_HUES = (4.0, 2.0, 0.0, 1.0)  # cross blue, leaf green, ring red, star yellow; a turn is 6
MARKER = "scenes.json"
SPLITS = ("train", "val", "test")

# Width and height of the pictures; one in three is portrait.
FRAMES = ((320, 240), (360, 240), (384, 288), (400, 300), (320, 320), (352, 272))


class SceneObject(NamedTuple):
    """One object of a picture.

    label: index into SCENE_CLASSES; box_px: (x0, y0, x1, y1) continuous, whole numbers, tight around the
    whole silhouette inside the picture, also where another object covers it; difficult: hidden by more than
    HIDDEN_MAX, or painted faintly; truncated: it reaches over the picture's edge; hidden: share of its
    silhouette that is covered or outside; outline_px: float [K, 2], its unclipped polygon.
    """

    label: int
    box_px: tuple[float, float, float, float]
    difficult: bool
    truncated: bool
    hidden: float
    outline_px: np.ndarray


# ---------------------------------------------------------------------------------------- composing


def render_scene(
    rng: np.random.Generator, width: int, height: int, empty: bool = False
) -> tuple[np.ndarray, list[SceneObject]]:
    """Compose one picture: uint8 RGB [H, W, 3] and its objects, those drawn last on top.

    Where things lie and how they look come from two generators spawned from `rng`: a colour that another
    OpenCV rounds differently cannot move a box. `empty` leaves the objects out, not the clutter.
    """
    layout_rng, paint_rng = rng.spawn(2)
    items = [] if empty else lay_out(layout_rng, width, height)
    image = _paint(paint_rng, items, width, height)
    shown = [silhouette(item, width, height) for item in items]
    objects = []
    for i, item in enumerate(items):
        hidden = hidden_share(items, shown, i)
        rows, columns = np.flatnonzero(shown[i].any(axis=1)), np.flatnonzero(shown[i].any(axis=0))
        h, w = item.patch.coverage.shape
        inside = 0 <= item.left <= width - w and 0 <= item.top <= height - h
        objects.append(
            SceneObject(
                label=item.label,
                box_px=(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)),
                difficult=item.faint or hidden > HIDDEN_MAX,
                truncated=not inside,
                hidden=hidden,
                outline_px=item.patch.outline + np.array([item.left, item.top]),
            )
        )
    return image, objects


# ---------------------------------------------------------------------------------------- painting


def _paint(rng: np.random.Generator, items: list[Item], width: int, height: int) -> np.ndarray:
    canvas = background(rng, height, width)
    for _ in range(int(rng.integers(2, 8))):
        clutter(rng, canvas)
    light = rng.uniform(0.0, 2.0 * np.pi)
    for item in items:
        casts = max(item.patch.coverage.shape) >= 30 and not item.faint and not item.outlined
        if casts and rng.random() < 0.6:
            _drop_shadow(canvas, item, light)
        _draw_object(rng, canvas, item, light)
        if item.card is not None:
            _draw_board(rng, canvas, item.card)
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    canvas *= (1.0 - np.float32(rng.uniform(0.0, 0.12)) * (xs * xs + ys * ys))[..., None]
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0.5, 3.0))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _draw_object(rng: np.random.Generator, canvas: np.ndarray, item: Item, light: float) -> None:
    """Paint the object onto float32 RGB [H, W, 3]: two colours in its pattern, shading, rim or outline."""
    height, width = canvas.shape[:2]
    window, inner = windows(item, width, height)
    patch = item.patch
    side = max(patch.coverage.shape)
    coverage = patch.coverage * patch.mask  # nothing is drawn outside the box
    below = canvas[window][patch.mask[inner]].mean(axis=0)
    first, second = _two_colours(rng, below, item.faint, item.label)
    colour = first + (second - first) * patch.pattern[..., None]
    ys, xs = np.mgrid[-1 : 1 : coverage.shape[0] * 1j, -1 : 1 : coverage.shape[1] * 1j]
    lit = -(xs * np.cos(light) + ys * np.sin(light))
    strength = 0.06 if item.faint else 0.18
    colour = colour * (1.0 + strength * lit)[..., None]
    stroke = max(2.0, 0.035 * side) if item.outlined else max(1.0, 0.02 * side)
    rim = np.clip(stroke + 0.5 - patch.depth, 0.0, 1.0)[..., None]
    if item.outlined:
        # Only the outline and the texture's second colour stay, as if drawn with a pen.
        ink = np.maximum(rim[..., 0], 0.55 * patch.pattern)
        coverage = coverage * ink
        colour = np.broadcast_to(first, colour.shape)
    elif side >= 24 and not item.faint and rng.random() < 0.5:
        colour = colour * (1.0 - 0.45 * rim)
    alpha = coverage[inner][..., None].astype(np.float32)
    canvas[window] += (colour[inner].astype(np.float32) - canvas[window]) * alpha


def _two_colours(rng: np.random.Generator, below: np.ndarray, faint: bool, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours that stand out from what lies below and from each other; hardly so for a faint object.

    Most objects have their class's hue, as most real things have colours of their own; the rest have any, and so has
    the clutter.
    """
    if faint:
        sign = 1.0 if below.mean() < 128 else -1.0
        return below + sign * rng.uniform(9.0, 14.0), below + sign * rng.uniform(20.0, 26.0)
    own = rng.random() < _OWN_COLOUR
    hues = (_HUES[label] - 0.4, _HUES[label] + 0.4) if own else (0.0, 6.0)
    best, gap = below, -1.0
    for _ in range(8):
        colour = random_colour(rng, (0.45, 1.0), (0.4, 1.0), hues)
        distance = float(np.abs(colour - below).mean())
        if distance > gap:
            best, gap = colour, distance
        if gap > 75.0:
            break
    bright = best.mean() > 110
    other = random_colour(rng, (0.0, 0.6), (0.08, 0.3) if bright else (0.85, 1.0))
    return best, best + (other - best) * rng.uniform(0.65, 1.0)


def _drop_shadow(canvas: np.ndarray, item: Item, light: float) -> None:
    height, width = canvas.shape[:2]
    coverage = item.patch.coverage
    away = max(2.0, 0.04 * max(coverage.shape))
    soft = int(away) * 2 + 1
    pad = soft + 1
    shade = cv2.GaussianBlur(np.pad(coverage, pad).astype(np.float32), (soft, soft), 0)
    left = item.left - pad + round(away * np.cos(light))
    top = item.top - pad + round(away * np.sin(light))
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + shade.shape[1], width), min(top + shade.shape[0], height)
    part = shade[y0 - top : y1 - top, x0 - left : x1 - left, None]
    canvas[y0:y1, x0:x1] *= 1.0 - 0.4 * part


def _draw_board(rng: np.random.Generator, canvas: np.ndarray, card: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = card
    first = random_colour(rng, (0.1, 0.5), (0.3, 0.8))
    grain = rng.uniform(0.85, 1.0, (1, x1 - x0, 1)) if y1 - y0 > x1 - x0 else rng.uniform(0.85, 1.0, (y1 - y0, 1, 1))
    canvas[y0:y1, x0:x1] = first * grain
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), (first * 0.6).tolist(), 1)


# ---------------------------------------------------------------------------------------- writing


def make_scene(seed: int, split: str, index: int) -> tuple[np.ndarray, list[SceneObject]]:
    """Picture `index` of a split ("train", "val", "test"): uint8 RGB [H, W, 3] and its objects.

    Every tenth picture holds no object.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    width, height = FRAMES[int(rng.integers(len(FRAMES)))]
    if rng.random() < 1 / 3:
        width, height = height, width
    return render_scene(rng, width, height, empty=index % 10 == 9)


def write_scenes(folder: str | Path, train: int = 400, test: int = 100, seed: int = 0, val: int = 50) -> None:
    """Write a VOC folder of scenes: JPEGImages, Annotations, ImageSets/Main/{train,val,test,trainval}.txt.

    It appears whole or not at all. A folder written before with the same settings is kept as it is.
    Raises DataError when the folder holds anything else or cannot be written, ConfigError for bad counts.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0 or sum(counts.values()) == 0 or seed < 0:
        raise ConfigError(
            f"scenes: train {train}, val {val}, test {test}, seed {seed}: want 0 or more, and some picture"
        )
    folder = Path(folder)
    marker = {"version": SCENES_VERSION, "seed": seed, **counts, "classes": list(SCENE_CLASSES)}
    if _holds(folder, marker):
        return
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        _write_all(temporary, counts, seed, marker)
        _publish(temporary, folder)
    except OSError as error:
        # Another process may have finished the same folder meanwhile.
        if not _holds(folder, marker):
            raise DataError(
                f"{printable(folder)}: cannot write the scenes there ({error.strerror}); give another folder"
            ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    log.info("wrote %d scenes to %s", sum(counts.values()), folder)


def _holds(folder: Path, marker: dict[str, Any]) -> bool:
    """Whether these very scenes lie there; False for nothing or an empty folder, DataError for anything else."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == marker:
        return True
    what = "other scenes" if isinstance(found, dict) and "seed" in found else "something else"
    raise DataError(f"{printable(folder)}: holds {what} already; give another folder or remove it")


def _publish(temporary: Path, folder: Path) -> None:
    # mkdtemp makes folders private; a result should have the mode that any new folder has.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)
    temporary.replace(folder)  # fails on a folder that is not empty


def _write_all(root: Path, counts: dict[str, int], seed: int, marker: dict[str, Any]) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    stems: dict[str, list[str]] = {}
    for split in SPLITS:
        stems[split] = [f"{split}_{i:05d}" for i in range(counts[split])]
        for i, stem in enumerate(stems[split]):
            image, objects = make_scene(seed, split, i)
            done, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            assert done
            (root / "JPEGImages" / f"{stem}.jpg").write_bytes(jpeg.tobytes())
            text = _annotation(stem, image.shape[1], image.shape[0], objects)
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    stems["trainval"] = stems["train"] + stems["val"]
    for split, names in stems.items():
        text = "".join(f"{name}\n" for name in names)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")
    (root / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _annotation(stem: str, width: int, height: int, objects: list[SceneObject]) -> str:
    """VOC XML: pixels are counted from 1 and inclusive, so x0..x1 becomes x0 + 1..x1."""
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
        child = ElementTree.SubElement(parent, tag)
        child.text = None if value is None else str(value)
        return child

    add(root, "folder", "scenes")
    add(root, "filename", f"{stem}.jpg")
    size = add(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        add(size, tag, value)
    add(root, "segmented", 0)
    for found in objects:
        node = add(root, "object")
        add(node, "name", SCENE_CLASSES[found.label])
        add(node, "pose", "Unspecified")
        add(node, "truncated", int(found.truncated))
        add(node, "difficult", int(found.difficult))
        x0, y0, x1, y1 = (round(v) for v in found.box_px)
        box = add(node, "bndbox")
        for tag, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            add(box, tag, value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
