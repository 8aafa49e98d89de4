"""Whether a network, its input and its priors fit together: shapes alone are run, nothing is computed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from singleshot.errors import ConfigError, printable
from singleshot.input_shape import scaled_priors
from singleshot.inputs import MIN_SIDE
from singleshot.models.ssd import SSD
from singleshot.priors import PriorSpec

MAX_VALUES = 2**28  # of one map: a gigabyte
_ACTIVATIONS = (nn.Hardswish, nn.Hardtanh, nn.ReLU, nn.SiLU)  # nn.ReLU6 is a Hardtanh


def dry_run(make: Callable[[], SSD], what: str) -> None:
    """Make a model on the "meta" device, which holds no values, and run an image's shape through it.

    Args:
        make: gives the model.
        what: starts the message of every error.

    Raises:
        ConfigError: a layer cannot take its input, a map is larger than a gigabyte, or the maps are not those of the
            priors.
    """
    with torch.device("meta"):
        model = make().eval()
    grids, count = _run(model, model.input_spec.sides, what)
    spec = model.prior_spec
    if grids != spec.grids or count != spec.count:
        raise ConfigError(f"{what}: maps of {shown(grids)} cells, but priors for {shown(spec.grids)}")


def priors_on(model: SSD, sides: tuple[int, int], what: str) -> PriorSpec:
    """A network's own default boxes for an input of other sides (see `scaled_priors`), on the maps that come out.

    Args:
        model: on any device; nothing is computed.
        sides: height and width of the input.
        what: starts the message of every error.

    Raises:
        ConfigError: the network cannot take that input; the line names the smallest sides that it takes.
    """
    own = model.prior_spec
    if sides == own.image:
        return own
    model = on_meta(model)
    try:
        grids, count = _run(model, sides, what)
    except ConfigError:
        smallest = smallest_side(model)
        if min(sides) >= smallest:
            raise
        raise ConfigError(
            f"{what}: an input of {sides[0]} x {sides[1]} px (height x width) is too small for its layers; want"
            f" {smallest} px or more each"
        ) from None
    spec = scaled_priors(own, grids, sides)
    if spec.count != count:
        raise ConfigError(f"{what}: cannot have another size, its layers are made for {shown([own.image])} px")
    return spec


def smallest_side(model: SSD) -> int:
    """The smallest height and width that a network takes, which are the same; at most its own."""
    model = on_meta(model)
    low, high = MIN_SIDE, min(model.input_spec.sides)
    while low < high:
        middle = (low + high) // 2
        try:
            _run(model, (middle, middle), "")
            high = middle
        except ConfigError:
            low = middle + 1
    return high


def on_meta(model: SSD) -> SSD:
    """The network without its values."""
    return model if model.priors.is_meta else copy.deepcopy(model).to("meta").eval()


@contextlib.contextmanager
def shapes_pass(model: nn.Module) -> Iterator[None]:
    """While entered, normalisations and activations hand on what they are given, the former after a look at its
    channels. On "meta" they are taken apart into a dozen operators in Python, which is most of what a run costs."""
    passing = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, *_ACTIVATIONS))]
    for module in passing:
        vars(module)["forward"] = _Passing(getattr(module, "num_features", None))
    try:
        yield
    finally:
        for module in passing:
            del vars(module)["forward"]


class _Passing:
    def __init__(self, channels: int | None) -> None:
        self.channels = channels

    def __call__(self, x: Tensor) -> Tensor:
        if self.channels is not None and (x.dim() != 4 or x.shape[1] != self.channels):
            raise ValueError(f"a normalisation of {self.channels} channels gets {tuple(x.shape)}")
        return x


def _run(model: SSD, sides: tuple[int, int], what: str) -> tuple[tuple[tuple[int, int], ...], int]:
    """Rows and columns of each map of a model on "meta", and how many priors its heads answer for."""
    image = torch.zeros(1, model.input_spec.channels, *sides, device="meta")

    def bounded(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.numel() > MAX_VALUES:
            raise ConfigError(f"{what}: a map of {tuple(output.shape)}: larger than a gigabyte")

    hooks = [module.register_forward_hook(bounded) for module in model.modules()]
    try:
        with shapes_pass(model), torch.no_grad():
            maps = model.feature_maps(image)
            raw = model.predict(maps)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{what}: its layers do not fit together ({printable(reason, 120)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(grid_of(m) for m in maps), raw.offsets.shape[1]


def shown(grids: Iterable[tuple[int, int]]) -> str:
    """Rows and columns of maps for people: "38 x 38, 19 x 19"."""
    return ", ".join(f"{rows} x {columns}" for rows, columns in grids)


def grid_of(maps: Tensor | tuple[Tensor, ...]) -> tuple[int, int]:
    """Rows and columns of what a head looks at, which may be several maps of one size; (0, 0) where they differ."""
    sizes = {(m.shape[-2], m.shape[-1]) for m in ((maps,) if isinstance(maps, Tensor) else maps)}
    return sizes.pop() if len(sizes) == 1 else (0, 0)
