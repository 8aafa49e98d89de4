"""What describes a network that no preset has the shape of, imported ones above all.

A `Graph` is a list of layers in the order in which they run, and which of them the heads look at. It travels in the
checkpoint as JSON, so it is read with suspicion: names here, kinds and options of layers in `graph_layers`, sizes in
`graph.build_graph`; nothing in it is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from singleshot.errors import ConfigError, printable

IMAGE = "image"  # what the first layers take: [B, C, H, W], normalised
MAX_LAYERS, MAX_CHANNELS = 5_000, 16_384


class Layer(NamedTuple):
    """One layer.

    Attributes:
        name: of its own, and of its parameters.
        kind: a key of `graph_layers.KINDS`.
        inputs: names of layers before it, or IMAGE.
        options: keyword arguments of the kind.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any]


class HeadInput(NamedTuple):
    """What one map's last convolutions see.

    Attributes:
        location: the layer from which offsets are predicted.
        confidence: the layer from which logits are predicted, the same one in most networks.
        channels: of both.
        kernel: 1 or 3, at stride 1 and padded to keep the side.
        bias: whether the convolutions have one.
    """

    location: str
    confidence: str
    channels: tuple[int, int]
    kernel: int = 3
    bias: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadInput:
        """Inverse of `_asdict`; KeyError, TypeError or ValueError for anything else."""
        first, second = values["channels"]
        names = str(values["location"]), str(values["confidence"])
        return cls(*names, (int(first), int(second)), int(values["kernel"]), bool(values["bias"]))


@dataclass(frozen=True)
class Graph:
    """A network. Raises ConfigError when it cannot be.

    Attributes:
        layers: in running order.
        heads: one for each map, largest map first.
    """

    layers: tuple[Layer, ...]
    heads: tuple[HeadInput, ...]

    def __post_init__(self) -> None:
        if not self.heads or len(self.layers) > MAX_LAYERS:
            raise ConfigError(f"network: {len(self.layers)} layers and {len(self.heads)} heads: want 1 to {MAX_LAYERS}")
        known = {IMAGE}
        for layer in self.layers:
            what = f"network: layer {printable(layer.name, 60)}"
            if not layer.name or layer.name in known:
                raise ConfigError(f"{what}: the name is empty or there twice")
            missing = [name for name in layer.inputs if name not in known]
            if missing or not layer.inputs:
                raise ConfigError(f"{what}: input {printable(missing, 80)} is no layer before it")
            known.add(layer.name)
        for head in self.heads:
            for name in (head.location, head.confidence):
                if name not in known:
                    raise ConfigError(f"network: a head looks at {printable(name, 60)}, which is no layer")
            if head.kernel not in (1, 3) or not all(1 <= c <= MAX_CHANNELS for c in head.channels):
                raise ConfigError(f"network: a head of kernel {head.kernel} on {head.channels} channels")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        layers = [[x.name, x.kind, list(x.inputs), dict(x.options)] for x in self.layers]
        return {"layers": layers, "heads": [h._asdict() for h in self.heads]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Graph:
        """Inverse of `to_dict`; ConfigError for anything else."""
        try:
            layers = tuple(
                Layer(str(name), str(kind), tuple(map(str, inputs)), {str(k): _tuples(v) for k, v in options.items()})
                for name, kind, inputs, options in values["layers"]
            )
            heads = tuple(HeadInput.from_dict(head) for head in values["heads"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = printable(f"{type(error).__name__}: {error}", 80)
            raise ConfigError(f"network: cannot be read ({reason})") from error
        return cls(layers, heads)


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
