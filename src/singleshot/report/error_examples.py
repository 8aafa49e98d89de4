"""The worst errors of each kind, and the suspected labels, as pictures of where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from singleshot.datasets.dataset import Dataset
from singleshot.errors import DataError, printable
from singleshot.metrics.boxes_numpy import paired_iou
from singleshot.metrics.error_analysis import KINDS, RIGHT, ErrorAnalysis
from singleshot.metrics.label_errors import LabelSuspect
from singleshot.report.html import Picture

# Okabe and Ito's green, orange and blue: distinct to colour-blind readers.
TRUTH, FOUND, OTHER, IGNORED = (0, 158, 115), (255, 140, 0), (140, 200, 240), (150, 150, 150)
_KIND_NAMES = list(KINDS)
_MARGIN = 0.6  # of the boxes' sides, shown around them
_QUALITIES = (80, 60, 40, 20)  # of JPEG: the first with which a picture is small enough
_MAX_BYTES = 40_000  # of a picture of noise, too: the page stays under its limit


class Example(NamedTuple):
    """kind: of KINDS, or of LABEL_KINDS; image: its place; found, truth: rows of the flat detections and objects
    concerned, -1 for none; iou: of the two, None where there are not two; rank: suspicion of a label, None else."""

    kind: str
    image: int
    found: int
    truth: int
    iou: float | None
    rank: float | None = None


def error_examples(errors: ErrorAnalysis) -> dict[str, list[Example]]:
    """All errors by kind, worst first: false positives by score, missed objects by size."""
    found, truth, judged = errors.found, errors.truth, errors.judged
    wrong = np.flatnonzero((judged.kind != RIGHT) & ~judged.ignored)
    wrong = wrong[np.argsort(-found.scores[judged.row[wrong]], kind="stable")]
    examples: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    rows, objects = judged.row[wrong].tolist(), judged.truth[wrong].tolist()
    for i, row, on, iou in zip(wrong.tolist(), rows, objects, _overlaps(errors, rows, objects), strict=True):
        kind = _KIND_NAMES[judged.kind[i]]
        examples[kind].append(Example(kind, int(found.image[row]), row, on, iou))
    missed = np.flatnonzero(judged.missed)
    for row in missed[np.argsort(-truth.area[missed], kind="stable")].tolist():
        examples["missed"].append(Example("missed", int(truth.image[row]), -1, row, None))
    return examples


def suspect_examples(errors: ErrorAnalysis, suspects: Iterable[LabelSuspect]) -> list[Example]:
    """Suspected labels, most suspect first."""
    every = list(suspects)
    overlaps = _overlaps(errors, [one.found for one in every], [one.label for one in every])
    return [
        Example(one.kind, one.image, one.found, one.label, iou, one.suspicion)
        for one, iou in zip(every, overlaps, strict=True)
    ]


def _overlaps(errors: ErrorAnalysis, rows: Sequence[int], objects: Sequence[int]) -> list[float | None]:
    """IoU of detections and objects, row by row; None where one of the two is -1."""
    both = (np.array(rows, np.int64) >= 0) & (np.array(objects, np.int64) >= 0)
    pairs = np.array([rows, objects], np.int64)[:, both]
    known = iter(paired_iou(errors.found.boxes[pairs[0]], errors.truth.boxes[pairs[1]]).tolist())
    return [next(known) if there else None for there in both.tolist()]


def describe(example: Example, errors: ErrorAnalysis, names: Sequence[str]) -> tuple[str, ...]:
    """Words of an example: what was found, what is labelled, and how they overlap."""
    lines = []
    if example.found >= 0:
        label, score = errors.found.labels[example.found], errors.found.scores[example.found]
        lines.append(f"found: {printable(names[label], 40)} {score:.2f}")
    if example.truth >= 0:
        lines.append(f"label: {printable(names[errors.truth.labels[example.truth]], 40)}")
    words = [] if example.iou is None else [f"IoU {example.iou:.2f}"]
    if example.rank is not None:
        words.insert(0, f"suspicion {example.rank:.2f}")
    return (*lines, ", ".join(words)) if words else tuple(lines)


def draw_examples(
    examples: Sequence[Example], errors: ErrorAnalysis, dataset: Dataset, side: int = 320
) -> Iterator[tuple[Example, bytes | None]]:
    """Each example with its picture as JPEG, None where the image cannot be read; side: pixels of the longer side."""
    for example in examples:
        try:
            image = dataset.sample(example.image).image
        except DataError:
            yield example, None
            continue
        yield example, _draw(image, example, errors, side)


def page_pictures(
    examples: Sequence[Example], errors: ErrorAnalysis, dataset: Dataset, kinds: bool = False
) -> list[Picture]:
    """The examples as pictures with words; kinds: the kind is the first of them."""
    pictures = []
    for one, jpeg in draw_examples(examples, errors, dataset):
        words = describe(one, errors, dataset.class_names)
        pictures.append(Picture(jpeg, (*((one.kind,) if kinds else ()), *words, short_name(dataset.names[one.image]))))
    return pictures


def short_name(name: str) -> str:
    """The last part of a path."""
    return printable(name.replace("\\", "/").rpartition("/")[2], 60)


def _draw(image: np.ndarray, example: Example, errors: ErrorAnalysis, side: int) -> bytes:
    found, truth = errors.found, errors.truth
    boxes = [flat.boxes[row] for flat, row in ((truth, example.truth), (found, example.found)) if row >= 0]
    height, width = image.shape[:2]
    x0, y0, x1, y1 = _window(np.array(boxes), width, height)
    scale = min(side / max(x1 - x0, y1 - y0), 4.0)
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    canvas = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    others = np.flatnonzero(truth.image == example.image)
    for row in others[others != example.truth].tolist():
        draw_box(canvas, (truth.boxes[row] - [x0, y0, x0, y0]) * scale, OTHER, 2)
    for row, flat, colour in ((example.truth, truth, TRUTH), (example.found, found, FOUND)):
        if row >= 0:
            draw_box(canvas, (flat.boxes[row] - [x0, y0, x0, y0]) * scale, colour, 3)
    return encode_jpeg(canvas)


def _window(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the image around boxes [n, 4], with a margin, and no smaller than a sixth of its shorter side."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    least = min(width, height) / 6
    half = np.maximum((high - low) * (0.5 + _MARGIN), least)
    half = np.maximum(half, half.max() * 0.6)  # no slivers
    centre, size = (low + high) / 2, np.array([width, height])
    start = np.clip(np.floor(centre - half), 0, size - 1).astype(int)
    end = np.clip(np.ceil(centre + half), start + 1, size).astype(int)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def draw_box(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], line: int, rim: bool = True) -> None:
    """A rectangle, with a dark rim that shows on any ground."""
    corners = np.clip(np.round(box), -4, max(canvas.shape) + 4).astype(int).tolist()
    for shade, thickness in ((((0, 0, 0), line + 2),) if rim else ()) + ((colour, line),):
        cv2.rectangle(canvas, corners[:2], corners[2:], shade, thickness, cv2.LINE_AA)


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8 RGB [H, W, 3] as JPEG, of some 40 kB at most where it is a small picture."""
    data = b""
    for quality in _QUALITIES:
        good, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert good
        data = encoded.tobytes()
        if len(data) <= _MAX_BYTES:
            break
    return data
