"""The detector that a `Graph` describes (see `graph_spec`): imported networks, which no preset has the shape of."""

from __future__ import annotations

from torch import Tensor, nn

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models.dry_run import dry_run
from singleshot.models.graph_layers import make_layer
from singleshot.models.graph_spec import IMAGE, Graph, HeadInput
from singleshot.models.heads import Head
from singleshot.models.necks import PlainNeck
from singleshot.models.ssd import SSD
from singleshot.priors import PriorSpec


class GraphNet(nn.Module):
    """Runs a graph's layers: [B, C, H, W] -> for each head (what its location and its confidence convolutions see)."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()
        for i, layer in enumerate(graph.layers):
            self.layers[key_of(i, layer.name)] = make_layer(layer)
        self._wanted = {name for head in graph.heads for name in (head.location, head.confidence)}
        # Where each map is used for the last time: it is let go of there.
        self._last = {name: i for i, layer in enumerate(graph.layers) for name in layer.inputs}

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The maps of each head, largest first."""
        maps = {IMAGE: x}
        for i, (layer, module) in enumerate(zip(self.graph.layers, self.layers.values(), strict=True)):
            maps[layer.name] = module(*(maps[name] for name in layer.inputs))
            for name in set(layer.inputs):
                if self._last[name] == i and name not in self._wanted:
                    del maps[name]
        return [(maps[head.location], maps[head.confidence]) for head in self.graph.heads]


def key_of(index: int, name: str) -> str:
    """Where a layer's parameters are in the module: torch wants names without dots."""
    return f"{index:03d}_{''.join(c if c.isalnum() or c in '_-' else '_' for c in name)}"


class SplitHead(Head):
    """A head whose two convolutions may see different maps."""

    def __init__(self, spec: HeadInput, boxes: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.columns = num_classes + 1
        self.location = _last_conv(spec.channels[0], boxes * 4, spec)
        self.confidence = _last_conv(spec.channels[1], boxes * self.columns, spec)

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As `Head`, of (what location sees, what confidence sees)."""
        return self.rows(self.location(maps[0]), self.confidence(maps[1]))


def _last_conv(channels: int, outputs: int, spec: HeadInput) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, spec.kernel, padding=spec.kernel // 2, bias=spec.bias)


def build_graph(graph: Graph, num_classes: int, priors: PriorSpec, input_spec: InputSpec, name: str = "custom") -> SSD:
    """The detector that a graph describes, with torch's own initial weights.

    Raises ConfigError when layers, heads and priors do not fit together, which is tried without computing anything.
    """
    if len(graph.heads) != len(priors.maps):
        raise ConfigError(f"network: {len(graph.heads)} heads, but priors for {len(priors.maps)} maps")

    def make() -> SSD:
        heads = [SplitHead(spec, boxes, num_classes) for spec, boxes in zip(graph.heads, priors.per_cell, strict=True)]
        return SSD(GraphNet(graph), PlainNeck(), heads, priors, input_spec, num_classes, name)

    dry_run(make, "network")
    return make()
