"""A network put together layer by layer from a foreign checkpoint's weights: Graph and state in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from singleshot.inputs import InputSpec
from singleshot.models import SSD
from singleshot.models.graph import build_graph, key_of
from singleshot.models.graph_layers import Pads
from singleshot.models.graph_spec import IMAGE, Graph, HeadInput, Layer
from singleshot.priors import PriorSpec

Size = int | tuple[int, int]
Padding = int | Pads


class GraphBuilder:
    """Each method adds one layer and returns its name, which later layers take as input; the first take IMAGE.

    Shapes come from the weights. Names need only be different; they are what the layer is called in the checkpoint.
    """

    image = IMAGE

    def __init__(self, channels: int = 3) -> None:
        """channels: of the image."""
        self._layers: list[Layer] = []
        self._state: dict[str, Tensor] = {}
        self._heads: list[HeadInput] = []
        self._head_state: dict[str, Tensor] = {}
        self.channels: dict[str, int] = {IMAGE: channels}

    def add(
        self,
        name: str,
        kind: str,
        *inputs: str,
        weights: dict[str, Tensor] | None = None,
        channels: int | None = None,
        **options: object,
    ) -> str:
        """Any layer of `graph_layers.KINDS`. channels: of its output; the first input's if not given."""
        return self._place(Layer(name, kind, inputs, options), weights or {}, channels)

    def conv(
        self,
        name: str,
        x: str,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> str:
        """weight: [outputs, inputs / groups, kh, kw]; padding: one number, or left, right, top, bottom."""
        outputs, inner, kh, kw = weight.shape
        weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        options = {
            "inputs": inner * groups,
            "outputs": outputs,
            "kernel": (kh, kw),
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias is not None,
        }
        return self._place(Layer(name, "conv", (x,), options), weights, outputs)

    def norm(
        self,
        name: str,
        x: str,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> str:
        """Batch normalisation, kept as such so that training can go on, with the momentum of its source's."""
        weights = {
            "weight": weight,
            "bias": bias,
            "running_mean": mean,
            "running_var": variance,
            "num_batches_tracked": torch.zeros((), dtype=torch.int64),
        }
        usual = momentum == 0.1  # torch.nn.BatchNorm2d's, which a graph need not say
        return self._by_channels(name, "norm", x, weights, eps=eps, **({} if usual else {"momentum": momentum}))

    def l2norm(self, name: str, x: str, weight: Tensor) -> str:
        """conv4_3's normalisation with its learned scale [C]."""
        return self._by_channels(name, "l2norm", x, {"weight": weight})

    def scale(self, name: str, x: str, weight: Tensor, bias: Tensor) -> str:
        """Channels times weight plus bias, [C] each."""
        return self._by_channels(name, "scale", x, {"weight": weight, "bias": bias})

    def _by_channels(self, name: str, kind: str, x: str, weights: dict[str, Tensor], **options: float) -> str:
        """A layer of which each channel has its weight."""
        channels = len(weights["weight"])
        return self._place(Layer(name, kind, (x,), {"channels": channels, **options}), weights, channels)

    def _place(self, layer: Layer, weights: dict[str, Tensor], channels: int | None) -> str:
        for part, tensor in weights.items():
            self._state[f"backbone.layers.{key_of(len(self._layers), layer.name)}.{part}"] = tensor
        self._layers.append(layer)
        self.channels[layer.name] = self.channels[layer.inputs[0]] if channels is None else channels
        return layer.name

    def head(
        self,
        location: str,
        confidence: str,
        location_weight: Tensor,
        location_bias: Tensor | None,
        confidence_weight: Tensor,
        confidence_bias: Tensor | None,
    ) -> None:
        """The last convolutions of one map, largest map first. Their outputs: box after box, and within one dx dy dw dh
        or background and classes; kernel 1 or 3."""
        i = len(self._heads)
        kernel = location_weight.shape[-1]
        channels = location_weight.shape[1], confidence_weight.shape[1]
        self._heads.append(HeadInput(location, confidence, channels, kernel, location_bias is not None))
        parts = (("location", location_weight, location_bias), ("confidence", confidence_weight, confidence_bias))
        for which, weight, bias in parts:
            self._head_state[f"heads.{i}.{which}.weight"] = weight
            if bias is not None:
                self._head_state[f"heads.{i}.{which}.bias"] = bias

    def build(self, num_classes: int, priors: PriorSpec, input_spec: InputSpec, name: str) -> SSD:
        """The model with its weights, in eval mode. Raises ConfigError when layers, heads and priors do not fit."""
        graph = Graph(tuple(self._layers), tuple(self._heads))
        model = build_graph(graph, num_classes, priors, input_spec, name)
        model.load_state_dict({**self._state, **self._head_state})
        return model.eval()


def folded(
    weight: Tensor, bias: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that takes in the batch normalisation behind it; computed in float64."""
    factor = gamma.double() / torch.sqrt(variance.double() + eps)
    old = torch.zeros_like(mean.double()) if bias is None else bias.double()
    new_bias = (old - mean.double()) * factor + beta.double()
    return (weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))).float(), new_bias.float()


def same_padding(side: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after): TensorFlow's SAME for a map of that side, which puts the odd pixel behind."""
    total = max(0, (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side)
    return total // 2, total - total // 2


def box_major(weight: Tensor, boxes: int) -> Tensor:
    """Outputs of a head written coordinate by coordinate (NVIDIA, MLPerf: [values, boxes]) -> box by box, as ours."""
    return weight.reshape(-1, boxes, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)


def move_background(weight: Tensor, boxes: int) -> Tensor:
    """Outputs of a confidence head whose background is each box's last class -> first, as ours."""
    rows = weight.reshape(boxes, -1, *weight.shape[1:])
    return torch.cat([rows[:, -1:], rows[:, :-1]], dim=1).reshape(weight.shape)


def with_background(weight: Tensor, bias: Tensor, boxes: int, logit: float = -20.0) -> tuple[Tensor, Tensor]:
    """A confidence head without background -> one with a column, first, that is always `logit`: with sigmoids it says
    nothing."""

    def rows(values: Tensor, value: float) -> Tensor:
        parts = values.reshape(boxes, -1, *values.shape[1:])
        first = torch.full((boxes, 1, *values.shape[1:]), value)
        return torch.cat([first, parts], dim=1).reshape(-1, *values.shape[1:])

    return rows(weight, 0.0), rows(bias, logit)


def widened(weight: Tensor, side: int) -> Tensor:
    """A 1x1 kernel as the 3x3 that does the same, where the other half of a head has one; itself where it has none."""
    border = (side - weight.shape[-1]) // 2
    return torch.nn.functional.pad(weight, (border,) * 4) if border else weight


def swap_xy(weight: Tensor, boxes: int) -> Tensor:
    """Outputs of a location head in TensorFlow's order (ty tx th tw) -> dx dy dw dh."""
    rows = weight.reshape(boxes, 4, *weight.shape[1:])
    return rows[:, [1, 0, 3, 2]].reshape(weight.shape)
