"""What a data set holds, in numbers, and what that means for the default boxes of each model."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from singleshot.datasets.box_rules import validate_boxes
from singleshot.datasets.findings import ERROR, KINDS
from singleshot.datasets.raw import RawImage, RawSet
from singleshot.errors import ConfigError, DataError, printable
from singleshot.images.decode import image_size
from singleshot.images.samples import UnreadImageError
from singleshot.input_shape import shape_of_pictures
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_coverage import IOU_MIN, REASONS, best_iou, prior_grids, prior_shapes, why_unmatched

# Objects that are compared with the priors; more tell nothing new and take longer.
MOST_OBJECTS = 200_000
_THREADS = 16
POINTS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# COCO's sizes (cocoeval.py, areaRng): small below 32 x 32 pixels, large from 96 x 96.
SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, np.inf)}
# Sides sqrt(width * height) in pixels of the network's square, from each to the next.
SIDES = (0, 8, 16, 32, 64, 128, 256)


class BoxTable(NamedTuple):
    """All objects of a data set, a row each: image int64 [M]; label int64 [M]; boxes_px float32 [M, 4] in the image;
    square float64 [M, 4] in parts of the square that the image is stretched to; difficult and crowd bool [M].
    sizes: int32 [n, 2] of the images, 0 where unknown; problems: kind of finding -> how many."""

    class_names: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    boxes_px: np.ndarray
    square: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    sizes: np.ndarray
    problems: dict[str, int]

    @property
    def placed(self) -> np.ndarray:
        """bool [M]: no crowd, and the image's size is known."""
        placed: np.ndarray = ~self.crowd & (self.sizes[self.image] > 0).all(axis=1)
        return placed


@dataclass(frozen=True)
class SplitCount:
    """objects counts difficult and crowd ones too; empty: images without objects."""

    name: str
    images: int
    empty: int
    objects: int
    difficult: int
    crowd: int


@dataclass(frozen=True)
class ClassCount:
    """share: of all objects, None where there are none."""

    name: str
    objects: int
    images: int
    share: float | None


@dataclass(frozen=True)
class Part:
    """Some of the objects: how many there are, the share that a prior matches, the mean of their best IoU."""

    name: str
    objects: int
    matched: float | None
    mean_iou: float | None


@dataclass(frozen=True)
class Cover:
    """The priors of one or more models against the objects that are neither crowd nor difficult (`all`)."""

    models: tuple[str, ...]
    priors: str
    count: int
    input_px: int
    all: Part
    difficult: Part
    sizes: tuple[Part, ...]
    sides: tuple[Part, ...]
    classes: tuple[Part, ...]
    unmatched: dict[str, int]
    smallest_px: float
    largest_px: float


@dataclass(frozen=True)
class DataInfo:
    """The report of `data info`. quantiles: what -> its values at POINTS, none without objects; coco: share of objects
    by COCO's sizes; shape: width to height of an input that suits the images; covers: best first; compared and
    sampled: objects that were compared with priors, of how many."""

    source: str
    form: str
    made: bool
    splits: tuple[SplitCount, ...]
    total: SplitCount
    classes: tuple[ClassCount, ...]
    imbalance: float | None
    image_sizes: tuple[tuple[int, int, int], ...]
    distinct_sizes: int
    shape: float
    unmeasured: int
    quantiles: dict[str, tuple[float, ...]]
    coco: dict[str, float]
    model: str
    input_px: int
    covers: tuple[Cover, ...]
    compared: int
    comparable: int
    problems: dict[str, int]

    @property
    def chosen(self) -> Cover:
        """The cover of the model that was asked for."""
        return next(cover for cover in self.covers if self.model in cover.models)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"points": POINTS, "iou_min": IOU_MIN, **asdict(self)}


# ---------------------------------------------------------------------------------------------- reading


def tabulate(raw: RawSet, on_image: Callable[[], None] = lambda: None) -> BoxTable:
    """The objects of all images as arrays; those whose boxes cannot be used are left out and counted in `problems`.

    Images whose size the labels do not say are measured by their headers; on_image is called after each.
    """
    sizes, problems = _measure(raw.images, on_image)
    objects = [(i, obj) for i, image in enumerate(raw.images) for obj in image.objects]
    image = np.array([i for i, _ in objects], np.int64)
    names = list(dict.fromkeys((*raw.class_names, *(obj.name for _, obj in objects))))
    place = {name: k for k, name in enumerate(names)}
    boxes = np.array([obj.box for _, obj in objects], np.float64).reshape(-1, 4)
    relative = np.array([one.relative for one in raw.images], bool)[image]
    size = np.tile(sizes[image], 2).astype(np.float64)
    # A box given in parts of an image that cannot be measured is judged in those parts.
    scale = np.where(relative[:, None] & (size > 0), size, 1)
    with np.errstate(over="ignore"):  # infinite: not finite
        judged = validate_boxes(boxes * scale, sizes[image])
    for kind, bad in (("box-not-finite", judged.non_finite), ("box-without-area", judged.degenerate)):
        problems[kind] = int(bad.sum())
    problems["box-outside"] = int(((judged.outside | judged.empty) & ~judged.degenerate & ~judged.non_finite).sum())
    keep = ~(judged.non_finite | judged.degenerate | judged.empty)
    boxes_px, size = judged.inside[keep], size[keep]
    return BoxTable(
        class_names=tuple(names),
        image=image[keep],
        label=np.array([place[obj.name] for _, obj in objects], np.int64)[keep],
        boxes_px=boxes_px,
        square=boxes_px.astype(np.float64) / np.maximum(size, 1),
        difficult=np.array([obj.difficult for _, obj in objects], bool)[keep],
        crowd=np.array([obj.crowd for _, obj in objects], bool)[keep],
        sizes=sizes,
        problems={kind: count for kind, count in problems.items() if count},
    )


def _measure(images: Sequence[RawImage], on_image: Callable[[], None]) -> tuple[np.ndarray, Counter[str]]:
    """int32 [n, 2] widths and heights, 0 where they cannot be found out, and kinds of findings about those."""
    sizes = np.array([(image.width, image.height) for image in images], np.int32).reshape(-1, 2)
    todo = np.flatnonzero((sizes <= 0).any(axis=1)).tolist()

    problems: Counter[str] = Counter()

    def measure(i: int) -> tuple[int, int] | str:
        try:
            size = image_size(images[i].path)
            return size if all(size) else "image-corrupt"
        except UnreadImageError:
            return "image-unread"
        except DataError:
            return "image-corrupt"

    with ThreadPoolExecutor(_THREADS) as pool:
        for i, size in zip(todo, pool.map(measure, todo), strict=True):
            if isinstance(size, str):
                problems[size] += 1
            sizes[i] = 0 if isinstance(size, str) else size
            on_image()
    return sizes, problems


def to_measure(raw: RawSet) -> int:
    """How many images `tabulate` will measure."""
    return sum(not (image.width > 0 and image.height > 0) for image in raw.images)


# ---------------------------------------------------------------------------------------------- counting


def describe(
    raw: RawSet, table: BoxTable, model: str, problems: Counter[str] | None = None, most: int = MOST_OBJECTS
) -> DataInfo:
    """The numbers of a data set. problems: what reading found besides; most: how many objects to compare with priors.

    Raises ConfigError for a model that there is not.
    """
    choices = presets()
    if model not in choices:
        raise ConfigError(f"--model {printable(model)}: want one of {', '.join(choices)}")
    counts = Counter(table.problems) + Counter(
        {k: n for k, n in (problems or {}).items() if KINDS[k].severity == ERROR}
    )
    splits = tuple(_count_split(name, np.array(at, np.int64), table) for name, at in raw.splits.items())
    classes = _count_classes(table)
    present = [one.objects for one in classes if one.objects]
    known = table.sizes[(table.sizes > 0).all(axis=1)]
    common = Counter(map(tuple, known.tolist())).most_common()
    rows = compared_rows(table, most)
    input_px = choices[model].input_px
    return DataInfo(
        source=raw.source,
        form=raw.form,
        made=raw.made,
        splits=splits,
        total=_count_split("all", np.arange(len(raw.images)), table),
        classes=classes,
        imbalance=max(present) / min(present) if present else None,
        image_sizes=tuple((w, h, n) for (w, h), n in common[:3]),
        distinct_sizes=len(common),
        shape=shape_of_pictures(known[:, 0] / known[:, 1])[0] if len(known) else 1.0,
        unmeasured=len(table.sizes) - len(known),
        quantiles=_quantiles(table, known, input_px),
        coco=_coco_shares(table),
        model=model,
        input_px=input_px,
        covers=_covers(table, rows, choices),
        compared=len(rows),
        comparable=int(table.placed.sum()),
        problems=dict(counts),
    )


def compared_rows(table: BoxTable, most: int = MOST_OBJECTS) -> np.ndarray:
    """Rows of the objects that are compared with priors: all that have a place, or `most` of them by a fixed seed."""
    rows = np.flatnonzero(table.placed)
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _count_split(name: str, images: np.ndarray, table: BoxTable) -> SplitCount:
    """Counts over the images at those positions."""
    count = len(table.sizes)
    per_image, difficult, crowd = (
        np.bincount(table.image[rows], minlength=count)[images]
        for rows in (slice(None), table.difficult & ~table.crowd, table.crowd)
    )
    empty = int((per_image == 0).sum())
    return SplitCount(name, len(images), empty, int(per_image.sum()), int(difficult.sum()), int(crowd.sum()))


def _count_classes(table: BoxTable) -> tuple[ClassCount, ...]:
    """Most common first."""
    count = len(table.class_names)
    objects = np.bincount(table.label, minlength=count)
    pairs = np.unique(table.label * max(len(table.sizes), 1) + table.image)
    images = np.bincount(pairs // max(len(table.sizes), 1), minlength=count)
    total = int(objects.sum())
    return tuple(
        ClassCount(table.class_names[k], int(objects[k]), int(images[k]), int(objects[k]) / total if total else None)
        for k in np.argsort(-objects, kind="stable").tolist()
    )


def _quantiles(table: BoxTable, sizes: np.ndarray, input_px: int) -> dict[str, tuple[float, ...]]:
    """Name -> values at POINTS; boxes in pixels of the image and of the square, without crowd ones."""
    rows = table.placed
    width, height = spans(table.boxes_px[rows].astype(np.float64))
    square_w, square_h = spans(table.square[rows] * input_px)
    values = {
        "image_width": sizes[:, 0],
        "image_height": sizes[:, 1],
        "objects_per_image": np.bincount(table.image, minlength=len(table.sizes)),
        "width": width,
        "height": height,
        "side": np.sqrt(width * height),
        "aspect": width / height,
        "square_width": square_w,
        "square_height": square_h,
        "square_side": np.sqrt(square_w * square_h),
        "square_aspect": square_w / square_h,
    }
    return {name: tuple(round(float(v), 4) for v in np.quantile(of, POINTS)) for name, of in values.items() if len(of)}


def spans(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights [M] of corner boxes [M, 4]."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def _coco_shares(table: BoxTable) -> dict[str, float]:
    width, height = spans(table.boxes_px[table.placed])
    side = np.sqrt(width * height)
    return {name: float(((side >= a) & (side < b)).mean()) for name, (a, b) in SIZES.items()} if len(side) else {}


# ---------------------------------------------------------------------------------------------- priors


class Choice(NamedTuple):
    """A preset's table of default boxes and input size."""

    priors: str
    input_px: int


def presets() -> dict[str, Choice]:
    """All models that can be built by name."""
    from singleshot.presets import MODELS

    return {name: Choice(preset.priors, preset.input_spec.size) for name, preset in MODELS.items()}


def _covers(table: BoxTable, rows: np.ndarray, choices: dict[str, Choice]) -> tuple[Cover, ...]:
    """One for all models of a table and input, the best first; of equals the one with the fewest priors."""
    sharing: dict[Choice, list[str]] = {}
    for name, choice in choices.items():
        sharing.setdefault(choice, []).append(name)
    covers = [_cover(table, rows, tuple(models), choice) for choice, models in sharing.items()]
    return tuple(sorted(covers, key=lambda c: (-(c.all.matched or 0), c.count)))


def _cover(table: BoxTable, rows: np.ndarray, models: tuple[str, ...], choice: Choice) -> Cover:
    from singleshot.prior_tables import PRIORS

    return replace(
        measure_cover(table, rows, PRIORS[choice.priors], table.square[rows]), models=models, priors=choice.priors
    )


def measure_cover(
    table: BoxTable, rows: np.ndarray, spec: PriorSpec, boxes: np.ndarray, iou_min: float = IOU_MIN
) -> Cover:
    """How well default boxes meet the objects at those rows. boxes: float [len(rows), 4], them in parts of the input.
    Pixels are those of the input, or of the square of its area. models and priors are left empty."""
    px = math.sqrt(math.prod(spec.image))
    best = best_iou(boxes, prior_grids(spec))
    plain = ~table.difficult[rows]
    shapes = prior_shapes(spec)
    width, height = spans(boxes)
    side = np.sqrt(width * height) * px
    width_px, height_px = spans(table.boxes_px[rows])
    side_px = np.sqrt(width_px * height_px)
    label = table.label[rows]

    def part(name: str, chosen: np.ndarray) -> Part:
        of = best[chosen]
        matched = float((of >= iou_min).mean()) if len(of) else None
        return Part(name, len(of), matched, float(of.mean()) if len(of) else None)

    reasons = Counter(why_unmatched(boxes[plain & (best < iou_min)], shapes, iou_min).tolist())
    ends = [*SIDES[1:], np.inf]
    names = [f"< {SIDES[1]}", *(f"{a}-{b}" for a, b in itertools.pairwise(SIDES[1:])), f">= {SIDES[-1]}"]
    return Cover(
        models=(),
        priors="",
        count=spec.count,
        input_px=round(px),
        all=part("all", plain),
        difficult=part("difficult", ~plain),
        sizes=tuple(part(name, plain & (side_px >= a) & (side_px < b)) for name, (a, b) in SIZES.items()),
        sides=tuple(
            part(name, plain & (side >= a) & (side < b)) for name, a, b in zip(names, SIDES, ends, strict=True)
        ),
        classes=tuple(part(name, plain & (label == k)) for k, name in enumerate(table.class_names)),
        unmatched={key: reasons[key] for key in REASONS if reasons[key]},
        smallest_px=float(np.sqrt(shapes.prod(axis=1)).min() * px),
        largest_px=float(np.sqrt(shapes.prod(axis=1)).max() * px),
    )
