"""The layers of a whole Keras model (model.save) as the nodes of TensorFlow's that they are, so that what reads frozen
graphs node by node reads them. Layers behind a detector's last convolutions need not be understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.importers.keras import KerasNetwork, short_names
from singleshot.weights.readers.graphdef import GraphDef, Node

_CONSTANT = "Const"
_ACTIVATIONS = {"relu": "Relu", "relu6": "Relu6", "sigmoid": "Sigmoid", "softmax": "Softmax", "tanh": "Tanh"}
_PASSED = ("Dropout", "SpatialDropout2D")
_MIN_EPS = 1.001e-5  # TensorFlow, python/ops/nn_impl.py: fused_batch_norm takes no less
_DAMAGE = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError)


class KerasGraph(GraphDef):
    """Nodes by name; constants are arrays."""

    def __init__(self, tensors: ForeignState) -> None:
        self.where, self.tensors, self.nodes = tensors.where, tensors, {}
        self.names = short_names(tensors)
        self.arrays: dict[str, np.ndarray | str] = {}  # of a constant's node: its values, or their name in the file
        self.outputs: dict[str, str] = {}  # of a layer -> the node that gives what it gives
        self.network = KerasNetwork(tensors.structure, tensors.where)
        self._kinds: dict[str, Callable[[str, Mapping[str, Any], list[str]], str]] = {
            "InputLayer": self._input,
            "Conv2D": self._conv,
            "DepthwiseConv2D": self._depthwise,
            "SeparableConv2D": self._separable,
            "BatchNormalization": self._norm,
            "BatchNormalizationV1": self._norm,
            "ReLU": self._relu,
            "Activation": self._passed,
            "ZeroPadding2D": self._pad,
            "MaxPooling2D": self._max_pool,
            "AveragePooling2D": self._average_pool,
            "Add": self._sum,
            "Concatenate": self._concat,
        }
        try:
            for layer in tensors.structure["config"]["layers"]:
                self._layer(layer["class_name"], layer["config"], _sources(layer.get("inbound_nodes", [])))
        except _DAMAGE as error:
            raise CheckpointError(
                f"{self.where}: its model_config cannot be followed ({printable(error, 80)})"
            ) from error

    def constant(self, name: str) -> np.ndarray | None:
        """Its value; None for what is computed."""
        value = self.arrays.get(name)
        return self.tensors[value].numpy() if isinstance(value, str) else value

    def _layer(self, kind: str, config: Mapping[str, Any], sources: list[str]) -> None:
        name = str(config["name"])
        if not 0 < len(name) <= 1000 or name in self.outputs:
            raise ValueError(f"layer {name[:80]!r} has no name or is there twice")
        inputs = [self.outputs[source] for source in sources]
        build = self._kinds.get(kind)
        if build is None:
            self.outputs[name] = self._node(name, "Identity" if kind in _PASSED else f"Keras {kind}", inputs)
            return
        if config.get("data_format", "channels_last") not in (None, "channels_last"):
            raise ValueError(f"{name[:80]} has its channels first")
        self.outputs[name] = self._activated(name, config, build(name, config, inputs))

    def _node(self, name: str, op: str, inputs: list[str], **attrs: Any) -> str:
        if name in self.nodes:
            raise ValueError(f"two layers {name[:80]!r}")
        self.nodes[name] = Node(name, op, tuple(inputs), attrs)
        return name

    def _const(self, name: str, value: np.ndarray | str) -> str:
        self.arrays[name] = value
        return self._node(name, _CONSTANT, [])

    def _weights(self, layer: str, part: str) -> str:
        name = f"{layer}/{part}"
        return self._const(name, self.names[name])

    def _activated(self, name: str, config: Mapping[str, Any], x: str) -> str:
        kind = config.get("activation", "linear")
        if kind in (None, "linear"):
            return x
        return self._node(f"{name}/activation", _ACTIVATIONS.get(str(kind), str(kind)), [x])

    # ------------------------------------------------------------------------------------------ layers

    def _input(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        return self._node(name, "Placeholder", inputs)

    def _conv(self, name: str, config: Mapping[str, Any], inputs: list[str], op: str = "Conv2D") -> str:
        # Keras 3 calls a depthwise layer's so as well.
        part = "kernel" if f"{name}/kernel" in self.names else "depthwise_kernel"
        x = self._windows(f"{name}/{op}", op, [*inputs, self._weights(name, part)], config)
        return self._node(f"{name}/BiasAdd", "BiasAdd", [x, self._weights(name, "bias")]) if config["use_bias"] else x

    def _depthwise(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        return self._conv(name, config, inputs, "DepthwiseConv2dNative")

    def _separable(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        deep = [*inputs, self._weights(name, "depthwise_kernel")]
        x = self._windows(f"{name}/depthwise", "DepthwiseConv2dNative", deep, config)
        y = self._windows(f"{name}/pointwise", "Conv2D", [x, self._weights(name, "pointwise_kernel")], {})
        return self._node(f"{name}/BiasAdd", "BiasAdd", [y, self._weights(name, "bias")]) if config["use_bias"] else y

    def _max_pool(self, name: str, config: Mapping[str, Any], inputs: list[str], op: str = "MaxPool") -> str:
        return self._windows(name, op, inputs, config)

    def _average_pool(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        return self._max_pool(name, config, inputs, "AvgPool")

    def _windows(self, name: str, op: str, inputs: list[str], config: Mapping[str, Any]) -> str:
        attrs = {"padding": SimpleNamespace(s=str(config.get("padding", "valid")).upper().encode())}
        pool = config.get("pool_size")
        for key, sides in (
            ("strides", config.get("strides") or pool),
            ("dilations", config.get("dilation_rate")),
            ("ksize", pool),
        ):
            if sides is not None:
                attrs[key] = SimpleNamespace(list=SimpleNamespace(i=[1, *map(int, sides), 1]))
        return self._node(name, op, inputs, **attrs)

    def _norm(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        if config.get("axis", -1) not in (-1, 3, [-1], [3]):
            raise ValueError(f"{name[:80]} is normalised along axis {str(config['axis'])[:20]}, not its channels")
        means = [self._weights(name, part) for part in ("moving_mean", "moving_variance")]
        count = self.tensors.shape(self.names[f"{name}/moving_mean"])
        parts = [
            self._weights(name, part) if config.get(key, True) else self._const(f"{name}/{part}", np.full(count, usual))
            for part, key, usual in (("gamma", "scale", 1.0), ("beta", "center", 0.0))
        ]
        eps = SimpleNamespace(f=max(float(config["epsilon"]), _MIN_EPS))
        return self._node(name, "FusedBatchNorm", [*inputs, *parts, *means], epsilon=eps)

    def _relu(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        most = config.get("max_value")
        if most not in (None, 6, 6.0) or config.get("negative_slope") or config.get("threshold"):
            raise ValueError(f"{name[:80]} is a ReLU up to {most}, or with a slope or threshold")
        return self._node(name, "Relu" if most is None else "Relu6", inputs)

    def _passed(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        return inputs[0]

    def _pad(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        amounts = np.array([[0, 0], *config["padding"], [0, 0]], np.int32)
        return self._node(name, "Pad", [*inputs, self._const(f"{name}/paddings", amounts)])

    def _sum(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        return self._node(name, "AddV2", inputs)

    def _concat(self, name: str, config: Mapping[str, Any], inputs: list[str]) -> str:
        axis = self._const(f"{name}/axis", np.array(int(config["axis"])))
        return self._node(name, "ConcatV2", [*inputs, axis])


def _sources(nodes: Any) -> list[str]:
    """Names of the layers that a layer takes, of one call: Keras 2 has [[[name, 0, 0, {}], ...]], Keras 3 a dict of
    arguments."""
    if not nodes:
        return []
    if len(nodes) != 1:
        raise ValueError("a layer that is used more than once")
    if not isinstance(nodes[0], dict):
        return [str(one[0]) for one in nodes[0]]
    (given,) = nodes[0]["args"]
    return [str(one["config"]["keras_history"][0]) for one in (given if isinstance(given, list) else [given])]
