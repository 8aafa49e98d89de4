"""Default boxes ("priors"): PriorSpec -> [P, 4], and the named tables of the public implementations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from singleshot.errors import ConfigError

MAX_PRIORS = 2_000_000  # a file must not make us allocate more than it is worth
CLIPS = ("none", "corners", "center", "size")
ORDERS = ("location", "box")


@dataclass(frozen=True)
class PriorSpec:
    """Everything that decides the default boxes of a model.

    image_size: side of the input in pixels. maps: side of each feature map in cells. steps: pixels from one cell
    to the next per map, or None for image_size / map (Caffe's step 0). min_sizes, max_sizes: pixels, per map; each
    cell has a square of min, a square of sqrt(min * max), and per ratio r a box of min * sqrt(r) x min / sqrt(r)
    and its transpose. clip: "none"; "corners" clamps x0 y0 x1 y1 to 0..1 and recomputes the centre form; "center"
    clamps cx cy w h; "size" clamps w and h alone. truncate: sizes cut to whole pixels, as Caffe's layer does
    (prior_box_layer.cpp:149,163), which matters for SSD512. two_squares: whether the square of sqrt(min * max) is
    there (ssd_keras' two_boxes_for_ar1). shapes: (width, height) in pixels of every box of a cell, per map, in place
    of min_sizes, max_sizes and ratios, which are then empty: for tables that no rule gives. order: "location", or
    "box" for all cells of a map's first box, then of its second (NVIDIA, ljanyst); models here want "location".
    """

    image_size: int
    maps: tuple[int, ...]
    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...] | None = None
    offset: float = 0.5
    clip: str = "none"
    truncate: bool = False
    variances: tuple[float, float] = field(default=(0.1, 0.2))
    two_squares: bool = True
    shapes: tuple[tuple[tuple[float, float], ...], ...] | None = None
    order: str = "location"

    def __post_init__(self) -> None:
        count = len(self.maps)
        for name in ("min_sizes", "max_sizes", "ratios") if self.shapes is None else ("shapes",):
            if len(getattr(self, name)) != count:
                raise ConfigError(f"priors: {name} has {len(getattr(self, name))} entries, want one per map ({count})")
        if self.shapes is not None:
            if self.min_sizes or self.max_sizes or self.ratios:
                raise ConfigError("priors: shapes beside sizes or ratios: want one of them")
            if any(len(s) != 2 or not 0 < min(s) <= max(s) < math.inf for shapes in self.shapes for s in shapes):
                raise ConfigError("priors: shapes: want a positive width and height each")
            if not all(self.shapes):
                raise ConfigError("priors: shapes: a map without any")
        if self.order not in ORDERS:
            raise ConfigError(f"priors: order {self.order!r}, want one of {', '.join(ORDERS)}")
        if self.steps is not None and len(self.steps) != count:
            raise ConfigError(f"priors: steps has {len(self.steps)} entries, want one per map ({count})")
        if self.clip not in CLIPS:
            raise ConfigError(f"priors: clip {self.clip!r}, want one of {', '.join(CLIPS)}")
        if min(self.maps, default=0) < 1 or self.image_size < 1:
            raise ConfigError(f"priors: maps {self.maps} of an image of {self.image_size}: want positive sizes")
        if self.count > MAX_PRIORS:
            raise ConfigError(f"priors: {self.count} of them, want at most {MAX_PRIORS}")
        for low, high in zip(self.min_sizes, self.max_sizes, strict=True):
            if not 0 < low < high:
                raise ConfigError(f"priors: sizes {low}..{high}: want 0 < min < max")
        if any(r <= 0 or r == 1 for ratios in self.ratios for r in ratios):
            raise ConfigError("priors: ratios must be positive and not 1 (the squares are always there)")
        if min(self.variances) <= 0:
            raise ConfigError(f"priors: variances {self.variances}: want positive numbers")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Priors of one cell, for each map."""
        if self.shapes is not None:
            return tuple(len(shapes) for shapes in self.shapes)
        return tuple(1 + self.two_squares + 2 * len(ratios) for ratios in self.ratios)

    @property
    def count(self) -> int:
        """P, the number of priors in all."""
        return sum(f * f * n for f, n in zip(self.maps, self.per_cell, strict=True))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def make_priors(spec: PriorSpec) -> Float[Tensor, "P 4"]:
    """Priors as cx cy w h in 0..1, location-major: map, row, column, then box (Caffe prior_box_layer.cpp).

    Per cell: min, sqrt(min * max), then every ratio r followed by 1 / r, or the spec's own shapes. Computed in float64,
    returned float32.
    """
    levels = []
    for i, cells in enumerate(spec.maps):
        step = spec.steps[i] if spec.steps is not None else spec.image_size / cells
        centres = (np.arange(cells, dtype=np.float64) + spec.offset) * step / spec.image_size
        shapes = np.array(_cell_shapes(spec, i), np.float64) / spec.image_size
        grid = np.empty((cells, cells, len(shapes), 4), np.float64)
        grid[..., 0] = centres[None, :, None]
        grid[..., 1] = centres[:, None, None]
        grid[..., 2:] = shapes
        levels.append((grid if spec.order == "location" else grid.transpose(2, 0, 1, 3)).reshape(-1, 4))
    return torch.from_numpy(_clip(np.concatenate(levels), spec.clip).astype(np.float32))


def _cell_shapes(spec: PriorSpec, i: int) -> Sequence[tuple[float, float]]:
    """(width, height) in pixels of each box of one of map i's cells."""
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


def sized_for(maps: Sequence[int], image_size: int, min_scale: float = 0.1, max_scale: float = 0.95) -> PriorSpec:
    """A spec for any list of feature maps: scales evenly from min_scale to max_scale (paper, equation 4).

    Every map has ratios 2 and 3; the square between takes the next scale, 1.05 of the side after the last. Twice as
    many maps means half the step between scales. Centres are those of the maps (no steps).
    """
    if not maps or not 0 < min_scale <= max_scale:
        raise ConfigError(f"priors: cannot lay scales {min_scale}..{max_scale} over maps {tuple(maps)}")
    step = (max_scale - min_scale) / max(len(maps) - 1, 1)
    scales = [min_scale + step * i for i in range(len(maps))]
    return PriorSpec(
        image_size=image_size,
        maps=tuple(maps),
        min_sizes=tuple(s * image_size for s in scales),
        max_sizes=tuple(s * image_size for s in [*scales[1:], max(1.05, max_scale + 0.05)]),
        ratios=((2.0, 3.0),) * len(maps),
    )


_MAPS_300 = (38, 19, 10, 5, 3, 1)
_MAPS_512 = (64, 32, 16, 8, 4, 2, 1)
_STEPS_300 = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
_STEPS_512 = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_RATIOS_300 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_RATIOS_512 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))


def _table(side: int, sizes: tuple[float, ...], caffe: bool) -> PriorSpec:
    """The maps and ratios of SSD300 or SSD512; `caffe` adds its steps and its truncation to whole pixels."""
    maps, steps, ratios = (_MAPS_300, _STEPS_300, _RATIOS_300) if side == 300 else (_MAPS_512, _STEPS_512, _RATIOS_512)
    return PriorSpec(
        image_size=side,
        maps=maps,
        min_sizes=sizes[:-1],
        max_sizes=sizes[1:],
        ratios=ratios,
        steps=steps if caffe else None,
        truncate=caffe,
    )


def _scales(side: int, *scales: float) -> tuple[float, ...]:
    return tuple(round(side * s, 6) for s in scales)


PRIORS: dict[str, PriorSpec] = {
    # Caffe examples/ssd/ssd_pascal.py:299-328 and ssd_coco.py:310-320; 512: ssd_pascal_512.py, ssd_coco_512.py.
    "ssd300-voc": _table(300, (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0), caffe=True),
    "ssd300-coco": _table(300, (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0), caffe=True),
    "ssd512-voc": _table(512, (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6), caffe=True),
    "ssd512-coco": _table(512, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72), caffe=True),
    # The paper's section 2.2: s_min .2, s_max .9 over five maps, conv4_3 at .1 (300) or .07, .15 (512), centres
    # (i + .5) / map, as ljanyst/ssd-tensorflow computes them.
    "ssd300-paper": _table(300, _scales(300, 0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075), caffe=False),
    "ssd512-paper": _table(512, _scales(512, 0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), caffe=False),
    # bubbliiiing/ssd-pytorch, backbone mobilenetv2: the VOC sizes on six other maps, clipped as corners.
    "ssd300-mobilenetv2": PriorSpec(
        image_size=300,
        maps=(19, 10, 5, 3, 2, 1),
        min_sizes=(30.0, 60.0, 111.0, 162.0, 213.0, 264.0),
        max_sizes=(60.0, 111.0, 162.0, 213.0, 264.0, 315.0),
        ratios=((2.0, 3.0),) * 6,
        clip="corners",
    ),
    # torchvision ssdlite320_mobilenet_v3_large: min_ratio .2, max_ratio .95 of the side.
    "ssdlite320": PriorSpec(
        image_size=320,
        maps=(20, 10, 5, 3, 2, 1),
        min_sizes=_scales(320, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95),
        max_sizes=_scales(320, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
        ratios=((2.0, 3.0),) * 6,
        clip="size",
    ),
    # Ours: a map at stride 8 before those of SSDLite, with half-size boxes, for objects from a twentieth of the side.
    "ssdlite320-fine": PriorSpec(
        image_size=320,
        maps=(40, 20, 10, 5, 3, 2, 1),
        min_sizes=_scales(320, 0.06, 0.14, 0.26, 0.41, 0.56, 0.71, 0.86),
        max_sizes=_scales(320, 0.14, 0.26, 0.41, 0.56, 0.71, 0.86, 1.01),
        ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
    ),
}


def prior_spec(name: str) -> PriorSpec:
    """The spec of that name; ConfigError lists the names there are."""
    if name not in PRIORS:
        raise ConfigError(f"priors {name!r}: want one of {', '.join(PRIORS)}")
    return PRIORS[name]
