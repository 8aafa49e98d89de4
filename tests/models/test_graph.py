from __future__ import annotations

import json

import pytest
import torch

from singleshot.errors import ConfigError
from singleshot.inputs import InputSpec
from singleshot.models.graph import build_graph
from singleshot.models.graph_spec import Graph, HeadInput, Layer
from singleshot.priors import PriorSpec

PRIORS = PriorSpec(64, (32,), (), (), (), shapes=(((5.0, 5.0), (6.0, 7.0)),))
CONV = Layer("stem", "conv", ("image",), {"inputs": 3, "outputs": 8, "kernel": 3, "stride": 2, "padding": (0, 1, 0, 1)})


def graph(*layers: Layer, last: str = "stem", channels: int = 8) -> Graph:
    return Graph((CONV, *layers), (HeadInput(last, last, (channels, channels)),))


def build(*layers: Layer, **options) -> torch.nn.Module:
    return build_graph(graph(*layers, **options), 2, PRIORS, InputSpec(64))


def test_every_kind_of_layer_runs_and_survives_json():
    chain = [
        ("norm", {"channels": 8, "eps": 1e-3}),
        ("relu", {}),
        ("relu6", {}),
        ("hardswish", {}),
        ("hardsigmoid", {}),
        ("sigmoid", {}),
        ("scale", {"channels": 8}),
        ("l2norm", {"channels": 8}),
        ("clamp", {"low": -1, "high": 1}),
        ("quantise", {"scale": 0.1, "zero": 3}),
        ("maxpool", {"kernel": 3, "stride": 1, "padding": (0, 2, 0, 2)}),
        ("maxpool", {"kernel": 2, "stride": 1, "padding": (1, 0, 0, 1)}),
        ("avgpool", {"kernel": 3, "stride": 1, "padding": 1}),
    ]
    layers, last = [], "stem"
    for i, (kind, options) in enumerate(chain):
        layers.append(Layer(f"{kind}.{i}", kind, (last,), options))
        last = layers[-1].name
    layers += [
        Layer("pool", "avgpool", (last,), {}),
        Layer("mul", "mul", (last, "pool"), {}),
        Layer("add", "add", (last, "mul"), {}),
        Layer("join", "concat", ("add", "stem"), {}),
    ]
    described = graph(*layers, last="join", channels=16)
    again = Graph.from_dict(json.loads(json.dumps(described.to_dict())))
    assert again == described
    one, two = (build_graph(g, 2, PRIORS, InputSpec(64)).eval() for g in (described, again))
    two.load_state_dict(one.state_dict())
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    raw = one(image)
    assert raw.offsets.shape == (2, 2048, 4)
    assert raw.logits.shape == (2, 2048, 3)
    assert torch.equal(raw.logits, two(image).logits)


def test_uneven_padding_is_tensorflows():
    model = build()
    conv = model.backbone.layers["000_stem"]
    x = torch.randn(1, 3, 64, 64)
    wanted = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
    assert torch.allclose(conv(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([Layer("a", "python", ("stem",), {})], "kind"),
        ([Layer("stem", "relu", ("stem",), {})], "there twice"),
        ([Layer("a", "relu", ("b",), {}), Layer("b", "relu", ("stem",), {})], "no layer before it"),
        ([Layer("a", "relu", (), {})], "no layer before it"),
        ([Layer("a", "relu", ("stem",), {"inplace": "yes"})], "layer a"),
        ([Layer("a", "conv", ("stem",), {"inputs": 8, "outputs": 10**9, "kernel": 3})], "channels"),
        ([Layer("a", "conv", ("stem",), {"inputs": 8, "outputs": 8, "kernel": 10**6})], "kernel"),
        ([Layer("a", "conv", ("stem",), {"inputs": 9, "outputs": 8, "kernel": 1})], "do not fit"),
        ([Layer("a", "conv", ("stem",), {"inputs": 8, "outputs": 8, "kernel": 1, "padding": -1})], "padding"),
        ([Layer("a", "maxpool", ("stem",), {"kernel": 2.5})], "kernel"),
        ([Layer("a", "quantise", ("stem",), {"scale": 0, "zero": 0})], "scale"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(layers, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build(*layers, last=layers[-1].name)
    assert "\n" not in str(caught.value)


def test_maps_and_heads_fit_the_priors():
    pool = Layer("pool", "maxpool", ("stem",), {"kernel": 2})
    with pytest.raises(ConfigError, match="maps of"):
        build(pool, last="pool")
    with pytest.raises(ConfigError, match="no layer"):
        build(last="nowhere")
    with pytest.raises(ConfigError, match="larger than a gigabyte"):
        wide = Layer("wide", "conv", ("image",), {"inputs": 3, "outputs": 16_384, "kernel": 1})
        build_graph(Graph((wide,), (HeadInput("wide", "wide", (16_384, 16_384)),)), 2, PRIORS, InputSpec(1024))


@pytest.mark.parametrize(
    "spoilt", [{}, {"layers": 3, "heads": []}, {"layers": [[1]], "heads": []}, {"layers": [], "heads": [{}]}]
)
def test_a_description_that_is_none_is_refused(spoilt):
    with pytest.raises(ConfigError, match="network"):
        Graph.from_dict(spoilt)


@pytest.mark.parametrize("confidence", ["stem", "relu"])
def test_heads_that_are_joined_for_export_give_the_same(confidence: str) -> None:
    from singleshot.deploy.onnx_network import RawNetwork

    torch.manual_seed(0)
    described = Graph((CONV, Layer("relu", "relu", ("stem",), {})), (HeadInput("stem", confidence, (8, 8)),))
    model = build_graph(described, 2, PRIORS, InputSpec(64)).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    network = RawNetwork(model)
    assert (network.heads is not None) == (confidence == "stem")
    with torch.inference_mode():
        for a, b in zip(network(images), model(images.permute(0, 3, 1, 2)), strict=True):
            torch.testing.assert_close(a, b)
