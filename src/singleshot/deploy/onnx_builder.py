"""Nodes and constants of an ONNX graph that is written by hand, and the versions it is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 18
IR_VERSION = 9


class Builder:
    """Collects the nodes and constants of a graph."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def const(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Adds a constant; its name."""
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def op(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Adds a node; the name of its first output."""
        from onnx import helper

        name = f"{self.name}/{outputs[0]}"
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), name=name, **attributes))
        return outputs[0]

    def model(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
        """The onnx.ModelProto of what was added."""
        from onnx import helper

        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
