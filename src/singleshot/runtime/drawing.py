"""Boxes and readable labels on a picture."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from singleshot.errors import ConfigError, printable
from singleshot.runtime.label_layout import Label, LabelLayout

if TYPE_CHECKING:
    from singleshot.runtime.detections import Detections

# Okabe and Ito's palette without black ("Color Universal Design", 2008): distinct to colour-blind readers.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_MAX_TEXT = 40  # characters of a class name that are drawn


# Linear RGB as seen without the long (protanopia) or the medium cones (deuteranopia): Machado, Oliveira and
# Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1.
_COLOUR_BLIND = (
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
_PALETTE = 128  # distinct colours
# How far colours of one model's classes are apart in CIE Lab, as long as there are such; vivid ones first, which have
# such a chroma and lightness: a thin line of others looks like its rim.
_APART = (15.0, 10.0, 5.0, 0.1)
# Of n classes first the second divided by n, no more than the first: two blues are 15 apart.
_FEW_APART, _SHARED = 40.0, 160.0
_VIVID_CHROMA, _VIVID_LIGHTNESS, _VIVID_FIRST = 45.0, (40.0, 88.0), 2  # the last: so many of the distances


def _seen(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of colours uint8 [N, 3] as seen with normal and with the two colour-blind eyes: [N, 3, 3]."""
    values = rgb.astype(np.float32) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    views = [values]
    for matrix in _COLOUR_BLIND:
        lost = np.clip(linear @ np.array(matrix, np.float32).T, 0, 1)
        views.append(np.where(lost <= 0.0031308, lost * 12.92, 1.055 * lost ** (1 / 2.4) - 0.055))
    return cv2.cvtColor(np.stack(views, axis=1).astype(np.float32), cv2.COLOR_RGB2LAB)


@functools.cache
def _palette() -> tuple[tuple[int, int, int], ...]:
    """Okabe and Ito's colours, then always the colour that is farthest from all before for the worst of three eyes."""
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[grid.max(axis=1) - grid.min(axis=1) >= 68]  # no greys: they drown in a photo
    first = len(OKABE_ITO)
    colours = np.concatenate([np.array(OKABE_ITO), grid]).astype(np.uint8)
    seen = np.ascontiguousarray(_seen(colours).transpose(1, 2, 0))  # [eyes, Lab, N]
    nearest = np.full(len(colours), np.inf, np.float32)
    chosen: list[tuple[int, int, int]] = []
    for step in range(_PALETTE):
        pick = step if step < first else first + int(nearest[first:].argmax())
        distance = np.square(seen - seen[:, :, pick, None]).sum(axis=1).min(axis=0)
        nearest = np.minimum(nearest, distance)
        red, green, blue = colours[pick].tolist()
        chosen.append((red, green, blue))
    return tuple(chosen)


@functools.lru_cache(maxsize=64)
def class_colours(names: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
    """RGB colours by class name, whatever the order: the name chooses one of 128, and the next where that is too near
    to another's of these classes, to colour-blind eyes too. Past 128 classes colours come again."""
    palette = _palette()
    seen = _seen(np.array(palette, np.uint8))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=3).min(axis=2)
    wanted = {name: int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(), 16) for name in names}
    nearest = np.full(_PALETTE, np.inf)
    distances = (max(_APART[0], min(_FEW_APART, _SHARED / max(1, len(wanted)))), *_APART)
    found = {}
    for name in sorted(wanted, key=lambda one: (wanted[one], one)):
        tries = [(_vivid(), least) for least in distances[:_VIVID_FIRST]]
        tries += [(np.arange(_PALETTE), least) for least in distances]
        turns = ((np.roll(which, -(wanted[name] % len(which))), least) for which, least in tries)
        pick = next(
            (int(turn[nearest[turn] >= least][0]) for turn, least in turns if (nearest[turn] >= least).any()), 0
        )
        found[name] = palette[pick]
        nearest = np.minimum(nearest, apart[pick])
    return found


@functools.cache
def _vivid() -> np.ndarray:
    """Which of the palette's colours a thin line shows well."""
    lab = _seen(np.array(_palette(), np.uint8))[:, 0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    return np.flatnonzero(
        (chroma >= _VIVID_CHROMA) & (lightness >= _VIVID_LIGHTNESS[0]) & (lightness <= _VIVID_LIGHTNESS[1])
    )


def track_colour(number: int) -> tuple[int, int, int]:
    """RGB of a tracked object, by its number: those that follow each other differ most."""
    return _palette()[int(_vivid()[(number - 1) % len(_vivid())])]


def text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast on the background (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(background) / 255]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # (L + .05) / .05 against 1.05 / (L + .05): equal at L = sqrt(.0525) - .05.
    return (0, 0, 0) if luminance > 0.0525**0.5 - 0.05 else (255, 255, 255)


@functools.cache
def _font() -> Any:
    """OpenCV 5's built-in TrueType font (Latin, Cyrillic, Greek, Chinese, Japanese, Korean, ...); None before 5."""
    face = getattr(cv2, "FontFace", None)
    return face("sans") if face is not None else None


def _drawable(character: str) -> bool:
    """Whether the built-in font has the character: one that it lacks looks exactly like a question mark."""
    pictures = []
    for text in (character, "?"):
        canvas = np.zeros((48, 64), np.uint8)
        cv2.putText(canvas, text, (8, 32), 255, _font(), 24)
        pictures.append(canvas)
    return not np.array_equal(pictures[0], pictures[1])


@functools.lru_cache(maxsize=1024)
def display_name(name: str, label: int) -> str:
    """The class name as this OpenCV can draw it.

    Characters that the font lacks lose their accents; when some still cannot be drawn the class is called by
    its number, since a row of question marks tells less.
    """
    text = printable(name, _MAX_TEXT).strip() or f"class {label}"
    shown = []
    for character in text:
        if character.isascii() or (_font() is not None and _drawable(character)):
            shown.append(character)
            continue
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        if not plain and not unicodedata.combining(character):
            return f"class {label}"
        shown.append(plain)
    return "".join(shown)


@functools.lru_cache(maxsize=4096)
def text_size(text: str, pixels: int) -> tuple[int, int, int]:
    """Width, height above the baseline and depth below it, of text of a nominal size in pixels."""
    if _font() is not None:
        # Advance, not ink: a trailing narrow letter keeps its room. "Ayg" gives every label the same height.
        _, top, _, height = cv2.getTextSize((0, 0), "Ayg", (0, 0), _font(), pixels, 500)
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), pixels, 500)
        return int(width), int(-top), int(max(0, height + top))
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, pixels / 30, 1)
    return int(width), int(height), int(baseline)


def put_text(image: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int], pixels: int) -> None:
    """Text of a nominal size in pixels, in place; origin: x and y of its baseline's left end."""
    if _font() is not None:
        cv2.putText(image, text, origin, colour, _font(), pixels, 500)
    else:
        thickness = max(1, round(pixels / 16))
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, pixels / 30, colour, thickness, cv2.LINE_AA)


def _draw_label(image: np.ndarray, label: Label, colour: tuple[int, int, int]) -> None:
    corner = (label.x + label.width - 1, label.y + label.height - 1)
    cv2.rectangle(image, (label.x, label.y), corner, colour, cv2.FILLED)
    origin = (label.x + label.pad, label.y + label.baseline)
    put_text(image, label.text, origin, text_colour(colour), label.pixels)


def _draw_box(image: np.ndarray, corners: tuple[int, int, int, int], colour: tuple[int, int, int], line: int) -> None:
    """The box's own outermost `line` pixels, with a thin rim on both sides that keeps it visible on any ground; for a
    line of one pixel the rim outside is enough."""
    rim = max(1, line // 4)
    for depth in range(
        -rim, line + (rim if line > 1 else 0)
    ):  # nested, since OpenCV's thick lines are wider than asked for
        x0, y0, x1, y1 = corners[0] + depth, corners[1] + depth, corners[2] - depth, corners[3] - depth
        if x0 <= x1 and y0 <= y1:
            shade = colour if 0 <= depth < line else text_colour(colour)
            cv2.rectangle(image, (x0, y0), (x1, y1), shade, 1)


@dataclass(frozen=True)
class DrawOptions:
    """How detections are drawn. line_width: pixels of a box's line, None for what suits the picture; labels: without
    them no text at all; scores: in the labels. Raises ConfigError for a width outside 1 to 100."""

    line_width: int | None = None
    labels: bool = True
    scores: bool = True

    def __post_init__(self) -> None:
        if self.line_width is not None and not 1 <= self.line_width <= 100:
            raise ConfigError(f"line width {self.line_width}: want 1 to 100 pixels")


USUAL = DrawOptions()


def draw_detections(image: np.ndarray, detections: Detections, options: DrawOptions = USUAL) -> np.ndarray:
    """A copy of the image (uint8 RGB [H, W, 3]) with boxes and "name score" labels; best detections on top.

    Line width and letters grow with the image, so that a shrunk copy still reads, and letters shrink with their box.
    Tracked objects have a colour each, and "#3 name score". Labels stand apart; where there is no room for one its
    name is shortened, then left out, then the score too.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    shorter = min(height, width)
    line = options.line_width or (1 if shorter < 100 else max(2, round(shorter / 160)))
    pixels = min(max(13, round(shorter / 28)), 160)
    corners = []
    for x0, y0, x1, y1 in detections.boxes:
        left, top = min(max(0, int(np.floor(x0))), width - 1), min(max(0, int(np.floor(y0))), height - 1)
        right, bottom = min(int(np.ceil(x1)), width) - 1, min(int(np.ceil(y1)), height) - 1
        corners.append((left, top, max(left, right), max(top, bottom)))
    colours = _colours(detections)
    for row in reversed(range(len(detections))):
        _draw_box(canvas, corners[row], colours[row], line)
    if not options.labels:
        return canvas
    layout = LabelLayout(height, width, pixels, corners, text_size)
    for row, corner in enumerate(corners):  # after all boxes: no line runs through a word
        number = int(detections.labels[row])
        score = f"{float(detections.scores[row]):.2f}" if options.scores else ""
        name = display_name(detections.names[row], number)
        if detections.track_ids is not None:
            name = f"#{detections.track_ids[row]} {name}"
        label = layout.place(corner, name, score)
        if label is not None:
            _draw_label(canvas, label, colours[row])
    return canvas


def _colours(detections: Detections) -> list[tuple[int, int, int]]:
    """Of each object: its own where it is tracked, else its class's."""
    if detections.track_ids is not None:
        return [track_colour(int(number)) for number in detections.track_ids]
    colours = class_colours(tuple(dict.fromkeys((*detections.every_class, *detections.names))))
    return [colours[name] for name in detections.names]
