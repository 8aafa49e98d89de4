"""The detector that a `Graph` describes (see `graph_spec`): imported networks, which no preset has the shape of."""

from __future__ import annotations

from torch import Tensor, nn

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models.dry_run import dry_run
from singleshot.models.graph_layers import make_layer
from singleshot.models.graph_spec import IMAGE, Graph, HeadInput
from singleshot.models.heads import Head, by_prior
from singleshot.models.ssd import SSD, PlainNeck
from singleshot.priors import PriorSpec


class GraphNet(nn.Module):
    """Runs a graph's layers: [B, C, H, W] -> what each head sees."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()
        for i, layer in enumerate(graph.layers):
            self.layers[key_of(i, layer.name)] = make_layer(layer)
        self._wanted = {name for head in graph.heads for name in (head.location, head.confidence)}
        # Where each map is used for the last time: it is let go of there.
        self._last = {name: i for i, layer in enumerate(graph.layers) for name in layer.inputs}

    def forward(self, x: Tensor) -> list[Tensor | tuple[Tensor, Tensor]]:
        """A map for each head, largest first; two where its location and its confidence see different ones."""
        maps = {IMAGE: x}
        for i, (layer, module) in enumerate(zip(self.graph.layers, self.layers.values(), strict=True)):
            maps[layer.name] = module(*(maps[name] for name in layer.inputs))
            for name in set(layer.inputs):
                if self._last[name] == i and name not in self._wanted:
                    del maps[name]
        return [
            maps[first] if first == second else (maps[first], maps[second]) for first, second, *_ in self.graph.heads
        ]


def key_of(index: int, name: str) -> str:
    """Where a layer's parameters are in the module: torch wants names without dots."""
    return f"{index:03d}_{''.join(c if c.isalnum() or c in '_-' else '_' for c in name)}"


class SplitHead(nn.Module):
    """As `Head`, whose two layers see different maps."""

    def __init__(self, location: nn.Module, confidence: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.location, self.confidence = location, confidence
        self.columns = num_classes + 1

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(what location sees, what confidence sees) -> offsets and logits, as `Head`."""
        return by_prior(self.location(maps[0]), 4), by_prior(self.confidence(maps[1]), self.columns)


def _head(spec: HeadInput, boxes: int, num_classes: int) -> nn.Module:
    location, confidence = (
        nn.Conv2d(channels, boxes * columns, spec.kernel, padding=spec.kernel // 2, bias=spec.bias)
        for channels, columns in zip(spec.channels, (4, num_classes + 1), strict=True)
    )
    kind = Head if spec.location == spec.confidence else SplitHead
    return kind(location, confidence, num_classes)


def build_graph(graph: Graph, num_classes: int, priors: PriorSpec, input_spec: InputSpec, name: str = "custom") -> SSD:
    """The detector that a graph describes, with torch's own initial weights.

    Raises ConfigError when layers, heads and priors do not fit together, which is tried without computing anything.
    """
    if len(graph.heads) != len(priors.maps):
        raise ConfigError(f"network: {len(graph.heads)} heads, but priors for {len(priors.maps)} maps")

    def make() -> SSD:
        heads = [_head(spec, boxes, num_classes) for spec, boxes in zip(graph.heads, priors.per_cell, strict=True)]
        return SSD(GraphNet(graph), PlainNeck(), heads, priors, input_spec, num_classes, name)

    dry_run(make, "network")
    return make()
