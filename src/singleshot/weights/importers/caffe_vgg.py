"""SSD on VGG16 in a graph: recognised by what its layers do, whatever they are called, and made our preset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from singleshot.models import SSD
from singleshot.models.graph import GraphNet, key_of
from singleshot.models.graph_spec import IMAGE, Graph, Layer
from singleshot.weights.importers.vgg import vgg_model

_STAGES = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))
# Outputs of conv6_1, conv6_2, ..; then kernel, stride and padding of each second one (ssd_pascal.py; SSD512 in the
# models that are given out with the paper).
_WIDE, _NARROW = ((256, 512), (3, 2, 1)), ((128, 256), (3, 2, 1))
_EXTRAS = {6: (_WIDE, _NARROW, *[((128, 256), (3, 1, 0))] * 2), 7: (_WIDE, *[_NARROW] * 3, ((128, 256), (4, 1, 1)))}
_MAPS = {6: (300, (38, 19, 10, 5, 3, 1)), 7: (512, (64, 32, 16, 8, 4, 2, 1))}


def as_preset(model: SSD) -> SSD | None:
    """The preset with the same weights, priors and input where the graph is SSD300 or SSD512 on VGG16; else None."""
    count = len(model.heads)
    if not isinstance(model.backbone, GraphNet) or count not in _MAPS:
        return None
    side, maps = _MAPS[count]
    if (model.input_spec.shape, model.prior_spec.maps) != ((side, side, 3), maps):
        return None
    graph = model.backbone.graph
    wanted, sources = _expected(count)
    own = _digests(graph)
    found = {own[layer.name]: key_of(i, layer.name) for i, layer in enumerate(graph.layers)}
    heads = [(own.get(h.location), own.get(h.confidence), h.kernel, h.bias) for h in graph.heads]
    if heads != [(s, s, 3, True) for s in sources] or set(wanted.values()) - set(found):
        return None
    state: dict[str, Tensor] = model.state_dict()

    def find(layer: str | tuple[str, int], part: str, shape: tuple[int, ...]) -> Tensor:
        if isinstance(layer, tuple):
            return state[f"heads.{layer[1]}.{'location' if layer[0] == 'loc' else 'confidence'}.{part}"]
        return state[f"backbone.layers.{found[wanted[layer]]}.{part}"]

    return vgg_model(find, model.num_classes, model.prior_spec, model.input_spec)


def _digests(graph: Graph) -> dict[str, str]:
    """Layer -> what it computes of the image: the same for two layers that do the same, in whatever order or name."""
    found = {IMAGE: IMAGE}
    for layer in graph.layers:
        found[layer.name] = _digest(layer.kind, _plain_options(layer), *(found[name] for name in layer.inputs))
    return found


def _digest(kind: str, options: Mapping[str, object], *inputs: str) -> str:
    return hashlib.sha256(repr((kind, sorted(options.items()), inputs)).encode()).hexdigest()


def _plain_options(layer: Layer) -> dict[str, object]:
    """Numbers for both directions as pairs, padding as four."""
    options: dict[str, object] = dict(layer.options)
    for name in ("kernel", "stride", "dilation"):
        if isinstance(options.get(name), int):
            options[name] = (options[name],) * 2
    if isinstance(options.get("padding"), int):
        options["padding"] = (options["padding"],) * 4
    return options


def _expected(maps: int) -> tuple[dict[str, str], list[str]]:
    """Digests of VGG16's layers with weights by Caffe's names, and of what each head looks at."""
    named: dict[str, str] = {}
    width = 3

    def conv(name: str, x: str, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> str:
        nonlocal width
        sizes = {"inputs": width, "outputs": outputs, "kernel": kernel, "stride": stride}
        options = {**sizes, "padding": padding, "dilation": dilation, "groups": 1, "bias": True}
        layer = Layer(name, "conv", (), options)
        named[name], width = _digest("conv", _plain_options(layer), x), outputs
        return _digest("relu", {}, named[name])

    def pool(x: str, kernel: int, stride: int, padding: int) -> str:
        options = {"kernel": kernel, "stride": stride, "padding": padding, "round_up": True}
        return _digest("maxpool", _plain_options(Layer("", "maxpool", (), options)), x)

    x, sources = IMAGE, []
    for stage, count, outputs in _STAGES:
        for i in range(1, count + 1):
            x = conv(f"conv{stage}_{i}", x, outputs, 3, padding=1)
        if stage == 4:
            named["l2norm"] = _digest("l2norm", {"channels": 512}, x)
            sources.append(named["l2norm"])
        x = pool(x, 2, 2, 0) if stage < 5 else pool(x, 3, 1, 1)
    x = conv("fc7", conv("fc6", x, 1024, 3, padding=6, dilation=6), 1024, 1)
    sources.append(x)
    for i, ((narrow, wide), (kernel, stride, padding)) in enumerate(_EXTRAS[maps], 6):
        x = conv(f"conv{i}_2", conv(f"conv{i}_1", x, narrow, 1), wide, kernel, stride, padding)
        sources.append(x)
    return named, sources
