"""Default boxes ("priors"): what describes them, PriorSpec -> [P, 4], and the rules that families of them follow.

No torch here. The named tables are in prior_tables.py; priors.py is the door with torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from singleshot.errors import ConfigError, printable

MAX_PRIORS = 2_000_000  # a file must not make us allocate more than it is worth
CLIPS = ("none", "corners", "center", "size")
ORDERS = ("location", "box")

Shapes = tuple[tuple[float, float], ...]  # (width, height) in pixels of the boxes of a cell
Anchors = tuple[tuple[float, float], ...]  # (scale as a part of the side, width / height) of the boxes of a cell
Sides = int | tuple[int, int]  # side of a square, or height and width: of an image in pixels, of a map in cells
Step = float | tuple[float, float]  # pixels from one cell to the next, or those down and those across


@dataclass(frozen=True)
class PriorSpec:
    """Everything that decides the default boxes of a model.

    image_size: side of the input in pixels, or (height, width). maps: side of each feature map in cells, or (rows,
    columns). steps: pixels from one cell to the next per map, or (down, across), or None for image_size / map (Caffe's
    step 0).
    min_sizes, max_sizes: pixels, per map; each cell has a square of min, a square of sqrt(min * max), and per ratio r
    a box of min * sqrt(r) x min / sqrt(r) and its transpose. clip: "none"; "corners" clamps x0 y0 x1 y1 to 0..1 and
    recomputes the centre form; "center" clamps cx cy w h; "size" clamps w and h alone. truncate: sizes cut to whole
    pixels, as Caffe's layer does (prior_box_layer.cpp:149,163), which matters for SSD512. two_squares: whether the
    square of sqrt(min * max) is there (ssd_keras' two_boxes_for_ar1). shapes: (width, height) in pixels of every box
    of a cell, per map, in place of min_sizes, max_sizes and ratios, which are then empty: for tables that no rule
    gives. order: "location", or "box" for all cells of a map's first box, then of its second (NVIDIA, ljanyst); models
    here want "location". rounding: cx cy w h are whole multiples of it, as quantised TensorFlow Lite files store them;
    0: not rounded. centres: (x, y) in cells of every box within its cell, as `shapes` lists them, in place of offset:
    for boxes that stand more densely than the cells (FaceBoxes, section 3.2).
    """

    image_size: Sides
    maps: tuple[Sides, ...]
    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[Step, ...] | None = None
    offset: float = 0.5
    clip: str = "none"
    truncate: bool = False
    variances: tuple[float, float] = field(default=(0.1, 0.2))
    two_squares: bool = True
    shapes: tuple[Shapes, ...] | None = None
    order: str = "location"
    rounding: float = 0.0
    centres: tuple[Shapes, ...] | None = None

    def __post_init__(self) -> None:
        # A square is one number, so that equal tables are equal specs and files stay as they were.
        object.__setattr__(self, "image_size", sides(self.image_size))
        object.__setattr__(self, "maps", tuple(sides(cells) for cells in self.maps))
        self._check_lists()
        for name, known in (("order", ORDERS), ("clip", CLIPS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"priors: {name} {getattr(self, name)!r}, want one of {', '.join(known)}")
        if not self.grids or min(map(min, self.grids)) < 1 or min(self.image) < 1:
            raise ConfigError(f"priors: maps {self.maps} of an image of {self.image_size}: want positive sizes")
        if self.count > MAX_PRIORS:
            raise ConfigError(f"priors: {self.count} of them, want at most {MAX_PRIORS}")
        self._check_numbers()

    def _check_lists(self) -> None:
        """One entry per map in each list, and sizes with ratios or shapes, not both."""
        lists = ["min_sizes", "max_sizes", "ratios"] if self.shapes is None else ["shapes"]
        lists += [] if self.steps is None else ["steps"]
        for name in lists:
            if (found := len(getattr(self, name))) != len(self.maps):
                raise ConfigError(f"priors: {name} has {found} entries, want one per map ({len(self.maps)})")
        if any(isinstance(step, tuple) and len(step) != 2 for step in self.steps or ()):
            raise ConfigError("priors: steps: want a number for each map, or those down and across")
        if self.shapes is None:
            if self.centres is not None:
                raise ConfigError("priors: centres without shapes")
            return
        if self.min_sizes or self.max_sizes or self.ratios:
            raise ConfigError("priors: shapes and also sizes or ratios: want one of them")
        wrong = any(len(s) != 2 or not 0 < min(s) <= max(s) < math.inf for shapes in self.shapes for s in shapes)
        if wrong or not all(self.shapes):
            raise ConfigError("priors: shapes: want a positive width and height each, and one or more for a map")
        if self.centres is None:
            return
        if tuple(map(len, self.centres)) != self.per_cell:
            raise ConfigError("priors: centres: want one for each of the shapes")
        if any(len(c) != 2 or not 0 <= min(c) <= max(c) <= 1 for centres in self.centres for c in centres):
            raise ConfigError("priors: centres: want x and y from 0 to 1 each")

    def _check_numbers(self) -> None:
        for low, high in zip(self.min_sizes, self.max_sizes, strict=True):
            if not 0 < low < high:
                raise ConfigError(f"priors: sizes {low}..{high}: want 0 < min < max")
        if any(r <= 0 or r == 1 for ratios in self.ratios for r in ratios):
            raise ConfigError("priors: ratios must be positive and not 1 (the squares are always there)")
        if not 0 <= self.rounding < 1:
            raise ConfigError(f"priors: rounding {self.rounding}: want 0 or a small part of 1")
        if min(self.variances) <= 0:
            raise ConfigError(f"priors: variances {self.variances}: want positive numbers")

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return height_width(self.image_size)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each map."""
        return tuple(height_width(cells) for cells in self.maps)

    def step(self, i: int) -> tuple[float, float]:
        """Pixels from one cell of map i to the next, down and across."""
        if self.steps is None:
            (height, width), (rows, columns) = self.image, self.grids[i]
            return height / rows, width / columns
        step = self.steps[i]
        return step if isinstance(step, tuple) else (step, step)

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Priors of one cell, for each map."""
        if self.shapes is not None:
            return tuple(len(shapes) for shapes in self.shapes)
        return tuple(1 + self.two_squares + 2 * len(ratios) for ratios in self.ratios)

    @property
    def count(self) -> int:
        """P, the number of priors in all."""
        return sum(self.per_map)

    @property
    def per_map(self) -> tuple[int, ...]:
        """Priors of each map; together P."""
        return tuple(rows * columns * n for (rows, columns), n in zip(self.grids, self.per_cell, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; inverse of `from_dict`. centres are named where there are any."""
        values = asdict(self)
        if self.centres is None:
            del values["centres"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PriorSpec:
        """Inverse of `to_dict`, from lists or tuples; unknown or missing keys raise ConfigError."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(f"priors: unknown key {', '.join(sorted(unknown))}")
        try:
            return cls(**{key: _tuples(value) for key, value in values.items()})
        except TypeError as error:
            raise ConfigError(f"priors: {error}") from error


def height_width(size: Sides) -> tuple[int, int]:
    """Height and width of an image in pixels, rows and columns of a map."""
    return (size, size) if isinstance(size, int) else size


def sides(size: Sides) -> Sides:
    """Height and width as one number where they are equal. Raises ConfigError for what is neither one nor two."""
    if isinstance(size, int):
        return size
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise ConfigError(f"priors: size {printable(size, 60)}: want a whole number, or height and width")
    return size[0] if size[0] == size[1] else size


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def prior_table(spec: PriorSpec) -> np.ndarray:
    """Priors float32 [P, 4] as cx cy w h in 0..1, location-major: map, row, column, then box (Caffe's
    prior_box_layer.cpp).

    Per cell: min, sqrt(min * max), then every ratio r followed by 1 / r, or the spec's own shapes. Computed in float64,
    returned float32.
    """
    levels = []
    height, width = spec.image
    for i, (rows, columns) in enumerate(spec.grids):
        shapes = np.array(cell_shapes(spec, i), np.float64) / (width, height)
        grid = np.empty((rows, columns, len(shapes), 4), np.float64)
        grid[..., 0] = _centres(spec, i, 0, columns, width)[None]
        grid[..., 1] = _centres(spec, i, 1, rows, height)[:, None]
        grid[..., 2:] = shapes
        levels.append((grid if spec.order == "location" else grid.transpose(2, 0, 1, 3)).reshape(-1, 4))
    priors = _clip(np.concatenate(levels), spec.clip)
    if spec.rounding:
        priors = np.round(priors / spec.rounding) * spec.rounding
    return priors.astype(np.float32)


def _centres(spec: PriorSpec, i: int, axis: int, cells: int, pixels: int) -> np.ndarray:
    """float64 [cells, boxes], or [cells, 1] where all boxes of a cell have one centre, in 0..1: along x (axis 0) or y
    of map i, whose input has so many pixels there."""
    step = spec.step(i)[1 - axis]
    within = spec.offset if spec.centres is None else np.array(spec.centres[i], np.float64)[:, axis]
    centres: np.ndarray = (np.arange(cells, dtype=np.float64)[:, None] + within) * step / pixels
    return centres


def cell_shapes(spec: PriorSpec, i: int) -> Sequence[tuple[float, float]]:
    """(width, height) in pixels of each box of one of map i's cells, before any clipping."""
    if spec.shapes is not None:
        return spec.shapes[i]
    low, high = spec.min_sizes[i], spec.max_sizes[i]
    if spec.truncate:
        low, high = float(int(low)), float(int(high))
    shapes = [(low, low)]
    if spec.two_squares:
        between = math.sqrt(low * high)
        shapes.append((between, between))
    for ratio in spec.ratios[i]:
        root = math.sqrt(ratio)
        shapes += [(low * root, low / root), (low / root, low * root)]
    return shapes


def _clip(priors: np.ndarray, clip: str) -> np.ndarray:
    if clip == "center":
        return priors.clip(0.0, 1.0)
    if clip == "size":
        return np.concatenate([priors[:, :2], priors[:, 2:].clip(0.0, 1.0)], axis=1)
    if clip == "corners":
        low = (priors[:, :2] - priors[:, 2:] / 2).clip(0.0, 1.0)
        high = (priors[:, :2] + priors[:, 2:] / 2).clip(0.0, 1.0)
        return np.concatenate([(low + high) / 2, high - low], axis=1)
    return priors


def sized_for(maps: Sequence[Sides], image_size: Sides, min_scale: float = 0.1, max_scale: float = 0.95) -> PriorSpec:
    """A spec for any list of feature maps: scales evenly from min_scale to max_scale (paper, equation 4).

    Scales are in parts of the input's shorter side.

    Every map has ratios 2 and 3; the square between takes the next scale, 1.05 of the side after the last. Twice as
    many maps means half the step between scales. Centres are those of the maps (no steps).
    """
    if not maps or not 0 < min_scale <= max_scale:
        raise ConfigError(f"priors: cannot lay scales {min_scale}..{max_scale} over maps {tuple(maps)}")
    step = (max_scale - min_scale) / max(len(maps) - 1, 1)
    scales = [min_scale + step * i for i in range(len(maps))]
    side = min(height_width(image_size))
    return PriorSpec(
        image_size=image_size,
        maps=tuple(maps),
        min_sizes=tuple(s * side for s in scales),
        max_sizes=tuple(s * side for s in [*scales[1:], max(1.05, max_scale + 0.05)]),
        ratios=((2.0, 3.0),) * len(maps),
    )


def caffe_cell(
    min_sizes: Sequence[float], max_sizes: Sequence[float] = (), ratios: Sequence[float] = (), flip: bool = True
) -> Shapes:
    """Boxes of one cell as Caffe's PriorBox layer makes them from its parameters (prior_box_layer.cpp:149-187).

    For each min size, in whole pixels: its square, the square of sqrt(min * max) where there are max sizes, then
    every ratio but 1, each followed by its inverse if `flip`.
    """
    if max_sizes and len(max_sizes) != len(min_sizes):
        raise ConfigError(f"priors: {len(max_sizes)} max sizes for {len(min_sizes)} min sizes: want as many or none")
    all_ratios: list[float] = []
    for given in ratios:
        for ratio in (given, 1 / given) if flip else (given,):
            if all(abs(ratio - other) >= 1e-6 for other in [1.0, *all_ratios]):
                all_ratios.append(ratio)
    shapes = []
    for i, size in enumerate(min_sizes):
        low = float(int(size))
        shapes.append((low, low))
        if max_sizes:
            between = math.sqrt(low * int(max_sizes[i]))
            shapes.append((between, between))
        shapes += [_stretched(low, ratio) for ratio in all_ratios]
    return tuple(shapes)


def tf_object_detection(
    maps: Sequence[int],
    image_size: int = 300,
    min_scale: float = 0.2,
    max_scale: float = 0.95,
    scales: Sequence[float] = (),
    aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 1 / 3),
    interpolated_ratio: float = 1.0,
    reduce_lowest: bool = True,
) -> PriorSpec:
    """The anchors of TensorFlow's Object Detection API, `ssd_anchor_generator` in a pipeline.config.

    The boxes of `create_ssd_anchors` on these maps. Nothing is clipped. The default order of ratios is that of the
    published configs. Raises ConfigError where scales do not fit the maps.
    """
    if scales and len(scales) != len(maps):
        raise ConfigError(f"priors: {len(scales)} scales for {len(maps)} maps, want one per map")
    own = list(scales) or evenly(min_scale, max_scale, len(maps))
    cells = create_ssd_anchors(own, aspect_ratios, interpolated_ratio, reduce_lowest)
    return from_shapes(image_size, maps, [anchor_shapes(anchors, image_size) for anchors in cells])


def create_ssd_anchors(
    scales: Sequence[float], aspect_ratios: Sequence[float], interpolated_ratio: float = 1.0, reduce_lowest: bool = True
) -> tuple[Anchors, ...]:
    """TensorFlow Object Detection API, anchor_generators/multiple_grid_anchor_generator.py, of the same name.

    scales: one per map. Per cell the ratios in the order of the config, then a box between this scale and the next (1
    after the last) of `interpolated_ratio`, none if that is 0. `reduce_lowest`: the first map has three boxes only, a
    square of .1 and ratios 2 and 1/2 of its scale.
    """
    cells: list[Anchors] = []
    for scale, following in zip(scales, [*scales[1:], 1.0], strict=True):
        if reduce_lowest and not cells:
            cells.append(((0.1, 1.0), (scale, 2.0), (scale, 0.5)))
            continue
        between = [(math.sqrt(scale * following), interpolated_ratio)] if interpolated_ratio > 0 else []
        cells.append((*((scale, ratio) for ratio in aspect_ratios), *between))
    return tuple(cells)


def anchor_shapes(anchors: Anchors, image_size: int) -> Shapes:
    """Boxes of a cell given by scale and ratio, in pixels."""
    return tuple(_stretched(scale * image_size, ratio) for scale, ratio in anchors)


def evenly(low: float, high: float, count: int) -> list[float]:
    """`count` scales from low to high with the same step between them."""
    return [low + (high - low) * i / max(count - 1, 1) for i in range(count)]


def torchvision_boxes(
    image_size: int,
    maps: Sequence[int],
    ratios: Sequence[Sequence[float]],
    min_ratio: float = 0.15,
    max_ratio: float = 0.9,
    scales: Sequence[float] = (),
    steps: Sequence[float] = (),
    clip: bool = True,
) -> PriorSpec:
    """torchvision's DefaultBoxGenerator (models/detection/anchor_utils.py), with its own defaults.

    scales: one per map and one more; without them evenly from min_ratio to max_ratio, then 1. `clip` clamps widths
    and heights, not centres. Raises ConfigError where the lengths do not fit the maps.
    """
    own = list(scales) or [*evenly(min_ratio, max_ratio, len(maps)), 1.0]
    if len(own) != len(maps) + 1:
        raise ConfigError(f"priors: {len(own)} scales for {len(maps)} maps, want one more than maps")
    sizes = tuple(round(scale * image_size, 6) for scale in own)
    return PriorSpec(
        image_size=image_size,
        maps=tuple(maps),
        min_sizes=sizes[:-1],
        max_sizes=sizes[1:],
        ratios=tuple(tuple(float(r) for r in row) for row in ratios),
        steps=tuple(steps) or None,
        clip="size" if clip else "none",
    )


def ljanyst_boxes(
    image_size: int, maps: Sequence[int], ratios: Sequence[Sequence[float]], scales: Sequence[float]
) -> PriorSpec:
    """The paper's boxes as ljanyst/ssd-tensorflow orders them (ssdutils.py, get_anchors_for_preset).

    One box type after the other over a whole map ("size-major"), the types being 1, the ratios, their inverses, and
    last the larger square. scales: one per map and one more. Raises ConfigError where the lengths do not fit the maps.
    """
    if not len(ratios) == len(maps) == len(scales) - 1:
        raise ConfigError(f"priors: {len(ratios)} lists of ratios and {len(scales)} scales for {len(maps)} maps")
    cells = []
    for row, scale, following in zip(ratios, scales, scales[1:], strict=False):
        types = [(scale, r) for r in (1.0, *row, *(1 / r for r in row))] + [(math.sqrt(scale * following), 1.0)]
        cells.append(tuple(_stretched(size * image_size, ratio) for size, ratio in types))
    return from_shapes(image_size, maps, cells, order="box")


def from_shapes(
    image_size: Sides,
    maps: Sequence[Sides],
    shapes: Sequence[Shapes],
    steps: Sequence[Step] = (),
    clip: str = "none",
    order: str = "location",
) -> PriorSpec:
    """A spec of the (width, height) in pixels of every box of a cell, for each map."""
    return PriorSpec(
        image_size=image_size,
        maps=tuple(maps),
        min_sizes=(),
        max_sizes=(),
        ratios=(),
        steps=tuple(steps) or None,
        clip=clip,
        shapes=tuple(shapes),
        order=order,
    )


def squares(*sizes: Sequence[float]) -> tuple[Shapes, ...]:
    """Square boxes of these sides in pixels, for each map: the face detectors' anchors."""
    return tuple(tuple((float(side), float(side)) for side in row) for row in sizes)


def _stretched(size: float, ratio: float) -> tuple[float, float]:
    """(width, height) of the box with the area of a square of `size` and this ratio of width to height."""
    root = math.sqrt(ratio)
    return size * root, size / root
