"""What a user says of an imported model where its file does not: input, default boxes, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from singleshot.errors import ConfigError, printable
from singleshot.inputs import InputSpec
from singleshot.model_info import ModelInfo
from singleshot.models import SSD
from singleshot.models.dry_run import grid_of, shown
from singleshot.prior_boxes import PriorSpec
from singleshot.prior_files import read_priors
from singleshot.prior_tables import PRIORS
from singleshot.weights.checkpoint import build_model
from singleshot.weights.imported_model import ImportedModel, SizedPriors, square_sides

_SAME_STEP = 0.1  # the most that a layer's stride differs from size / map, as a part of it, and is kept
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class ImportSettings:
    """None for what is not said.

    Attributes:
        size: Side of the input in pixels.
        priors: A table of `prior_tables.PRIORS`, or a JSON file of one.
        mean: Of values 0..255: one number for all channels, or R, G, B.
        std: Likewise.
        colour_order: What the first layer takes, "rgb" or "bgr".
    """

    size: int | None = None
    priors: str | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    colour_order: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what no input can be, before a file is read."""
        InputSpec(
            self.size,
            colour_order=self.colour_order or "rgb",
            mean=_numbers("mean", self.mean, 3),
            std=_numbers("std", self.std, 3),
        )
        if self.priors is not None:
            read_priors(self.priors)


def apply_settings(foreign: ImportedModel, settings: ImportSettings, described: bool) -> ImportedModel:
    """The model with what the user says, and notes on that and on what is assumed.

    Args:
        foreign: As its importer gives it.
        settings: What the user says.
        described: Whether the file's format describes its network.

    Raises:
        ConfigError: The file itself says it, or the network does not fit it.
    """
    fixed = foreign.fixed if foreign.fixed is not None else ("size", "priors") if described else ()
    for name in fixed:
        value = getattr(settings, name)
        if value is not None:
            shown = value if isinstance(value, str | int | float) else ",".join(f"{v:g}" for v in value)
            raise ConfigError(
                f"--{name} {printable(shown, 60)}: the file says its own ({foreign.source}); leave it out"
            )
    model, notes = foreign.model, list(foreign.notes)
    spec = _input_spec(model.input_spec, settings, foreign.sized_priors)
    table, about = _priors(foreign, spec, settings)
    spec = replace(spec, height=table.image[0], width=table.image[1])
    if (spec, table) != (model.input_spec, model.prior_spec):
        model = _rebuilt(model, spec, table, settings)
    notes += [note for note in (_size_note(spec, about, settings, fixed), _pixel_note(foreign, spec)) if note]
    return foreign._replace(model=model, notes=tuple(notes))


def _size_note(spec: InputSpec, about: str, settings: ImportSettings, fixed: tuple[str, ...]) -> str:
    """What the input and the default boxes are by."""
    size = f"{spec.height} x {spec.width}"
    if settings.size is None and settings.priors is None:
        own = "the source's own, since the weights do not say (--size, --priors)"
        return "" if "size" in fixed else f"assumed: input {size} and {about}, {own}"
    return f"input {size}{' as given' if settings.size is not None else ''}, {about}"


def _pixel_note(foreign: ImportedModel, spec: InputSpec) -> str:
    """What the user says of pixels in place of the source's."""
    old = foreign.model.input_spec
    changed = [
        f"{name} {_shown(getattr(spec, name))} in place of {_shown(getattr(old, name))}"
        for name in ("mean", "std", "colour_order")
        if getattr(spec, name) != getattr(old, name)
    ]
    return f"as given: {', '.join(changed)}".replace("colour_order", "colour order") if changed else ""


def _shown(value: str | tuple[float, ...]) -> str:
    return value.upper() if isinstance(value, str) else " ".join(f"{v:g}" for v in value)


# ------------------------------------------------------------------------------------------------------------ input


def _input_spec(spec: InputSpec, settings: ImportSettings, sized: SizedPriors | None) -> InputSpec:
    """The model's own with what the user says."""
    height, width = spec.sides
    if settings.size is not None:
        height, width = sized.sides(settings.size) if sized and sized.sides else (settings.size,) * 2
    return replace(
        spec,
        height=height,
        width=width,
        colour_order=settings.colour_order or spec.colour_order,
        mean=_numbers("mean", settings.mean, spec.channels) or spec.mean,
        std=_numbers("std", settings.std, spec.channels) or spec.std,
    )


def _numbers(name: str, value: Numbers | None, channels: int) -> tuple[float, ...] | None:
    """One for each channel. Raises ConfigError for what is no mean or std of values 0..255."""
    if value is None:
        return None
    values = tuple(float(v) for v in ((value,) if isinstance(value, int | float) else value))
    values = values * channels if len(values) == 1 else values
    text = ",".join(f"{v:g}" for v in values)
    if len(values) != channels or not all(-1e6 < v < 1e6 for v in values):
        raise ConfigError(f"--{name} {text or 'of no number'}: want one number, or {channels} of R,G,B")
    if 0 < max(values) < 1 or (name == "mean" and values == (1.0,) * channels):
        parts = ",".join(f"{v * 255:.6g}" for v in values)
        raise ConfigError(f"--{name} {text}: want it for values of 0 to 255: --{name} {parts}")
    return values


# ---------------------------------------------------------------------------------------------------- default boxes


def _priors(foreign: ImportedModel, spec: InputSpec, settings: ImportSettings) -> tuple[PriorSpec, str]:
    """The default boxes for that input, and where they come from, in words. Raises ConfigError."""
    own = foreign.model.prior_spec
    names = [name for name, table in PRIORS.items() if table == own]
    # Some tables have a name for each source.
    known = next((name for name in names if name.rpartition("-")[2] in foreign.source.lower()), (names or [""])[0])
    if settings.priors is None:
        if settings.size is None or spec.sides == own.image:
            return own, f"default boxes {known}" if known else "its default boxes"
        rule = foreign.sized_priors or SizedPriors(
            lambda size, grids: scaled(own, size, square_sides(grids)),
            f"those of {known or 'its source'}, scaled from {own.image[0]} px (--priors names others)",
        )
        return rule.make(settings.size, grids_of(foreign.model, spec)), f"default boxes: {rule.about}"
    table, about = read_priors(settings.priors), f"default boxes {printable(settings.priors, 60)}"
    if settings.priors in PRIORS:
        table = replace(table, variances=own.variances)
    if settings.size is not None and table.image != spec.sides:
        if table.image[0] != table.image[1] or spec.height != spec.width:
            size = printable(settings.priors, 60)
            raise ConfigError(f"--priors {size}: for an input of {table.image_size} px, which --size scales of squares")
        maps = square_sides(grids_of(foreign.model, spec))
        _same_maps(settings, table, len(maps))
        return scaled(table, settings.size, maps), f"{about}, scaled from {table.image[0]} px"
    return table, about


def scaled(table: PriorSpec, size: int, maps: Sequence[int]) -> PriorSpec:
    """The same default boxes for an input of that side, whose maps these are: their sizes grow with it.

    A step that is the layers' stride stays; one that followed from the size of the map follows from it again.
    """
    by = size / table.image[0]
    steps = None
    if table.steps is not None:
        before = [table.step(i)[0] for i in range(len(maps))]  # the tables of such sources are square
        even = [size / cells for cells in maps]
        steps = tuple(old if abs(old / new - 1) < _SAME_STEP else new for old, new in zip(before, even, strict=True))
    return replace(
        table,
        image_size=size,
        maps=tuple(maps),
        min_sizes=tuple(side * by for side in table.min_sizes),
        max_sizes=tuple(side * by for side in table.max_sizes),
        shapes=None
        if table.shapes is None
        else tuple(tuple((width * by, height * by) for width, height in row) for row in table.shapes),
        steps=steps,
    )


# ---------------------------------------------------------------------------------------------------------- network


def grids_of(model: SSD, spec: InputSpec) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the model's maps for that input. Raises ConfigError where its layers cannot take one."""
    import copy

    import torch

    shape = copy.deepcopy(model).to("meta")
    try:
        maps = shape.feature_maps(torch.zeros(1, spec.channels, *spec.sides, device="meta"))
    except RuntimeError as error:
        raise ConfigError(f"--size {spec.height}: too small for the layers of this network") from error
    return tuple(grid_of(m) for m in maps)


def _same_maps(settings: ImportSettings, table: PriorSpec, maps: int) -> None:
    if len(table.maps) != maps:
        raise ConfigError(f"{_option(settings)}: for {len(table.maps)} maps, but this network has {maps}")


def _option(settings: ImportSettings) -> str:
    """The option that the default boxes are by."""
    return f"--priors {printable(settings.priors, 60)}" if settings.priors else f"--size {settings.size}"


def _rebuilt(model: SSD, spec: InputSpec, table: PriorSpec, settings: ImportSettings) -> SSD:
    """The same weights with that input and these default boxes. Raises ConfigError where they do not fit."""
    if table != model.prior_spec:
        given = _option(settings)
        _same_maps(settings, table, len(model.prior_spec.maps))
        if table.per_cell != model.prior_spec.per_cell:
            counts = (" ".join(map(str, s.per_cell)) for s in (table, model.prior_spec))
            raise ConfigError("{}: {} boxes a cell, but the heads of this network have {}".format(given, *counts))
        grids = grids_of(model, spec)
        if grids != table.grids:
            raise ConfigError(f"{given}: for maps of {shown(table.grids)}, but this network has {shown(grids)}")
    info = ModelInfo.of(model, ("",) * model.num_classes)
    built = build_model(replace(info, input_spec=spec, prior_spec=table))
    built.load_state_dict(model.state_dict())
    return built.eval()
