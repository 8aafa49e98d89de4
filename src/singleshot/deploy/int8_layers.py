"""A quantised network's layers: which there are, which matter most, and putting some of them back to float."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from singleshot.deploy.onnx_network import consumers_of
from singleshot.runtime.postprocess_numpy import probabilities

if TYPE_CHECKING:
    import onnx

_PASSES = ("MaxPool", "Relu", "Clip", "Concat", "Reshape", "Transpose", "Identity")  # compute nothing of their own
_LITTLE = 0.02  # score under which a prior says nothing that matters
_CENTRE_VARIANCE = 0.1  # Caffe's (ssd_pascal.py: prior_variance), which offsets are divided by

RawArrays = tuple[np.ndarray, np.ndarray]  # offsets [N, P, 4], logits [N, P, C + 1]
Outputs = Callable[["onnx.ModelProto"], RawArrays]


def quantised_layers(quantised: onnx.ModelProto, floating: onnx.ModelProto) -> dict[str, str]:
    """What can go back to float, in the order of the network: a name that says where it is -> name of its node.

    Args:
        quantised: A network as nncf quantised it.
        floating: The same network before.
    """
    rounded = {output for node in quantised.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    weights = {tensor.name for tensor in floating.graph.initializer}
    originals = {node.name: node for node in floating.graph.node}
    layers: dict[str, str] = {}
    for node in quantised.graph.node:
        if node.name not in originals or node.op_type in _PASSES or not rounded & set(node.input):
            continue
        name = next((i for i in originals[node.name].input[1:] if i in weights and i.endswith(".weight")), None)
        if name is None:
            name = f"{node.op_type.lower()} {originals[node.name].output[0]}"
        layers[name.removeprefix("model.").removesuffix(".weight")] = node.name
    return layers


def with_float(quantised: onnx.ModelProto, floating: onnx.ModelProto, nodes: Sequence[str]) -> onnx.ModelProto:
    """A copy of the quantised network in which those nodes take what they take in the floating one."""
    proto = copy.deepcopy(quantised)
    originals = {node.name: node for node in floating.graph.node}
    tensors = {tensor.name: tensor for tensor in floating.graph.initializer}
    own = {tensor.name: tensor for tensor in proto.graph.initializer}
    added: dict[str, onnx.TensorProto] = {}
    for node in proto.graph.node:
        if node.name not in nodes:
            continue
        del node.input[:]
        for name in originals[node.name].input:
            taken = name
            if name in tensors and name in own and own[name].SerializeToString() != tensors[name].SerializeToString():
                taken = f"{name}/float"  # a bias that was corrected for the rounding; others may share it
            if taken in tensors or taken != name:
                added.setdefault(taken, tensors[name])
            node.input.append(taken)
    for name, tensor in added.items():
        if name not in own:
            own_copy = proto.graph.initializer.add()
            own_copy.CopyFrom(tensor)
            own_copy.name = name
    _prune(proto)
    return proto


def _prune(proto: onnx.ModelProto) -> None:
    """Drop nodes and tensors that nothing takes any more."""
    wanted = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
    values = [value for value in proto.graph.value_info if value.name in wanted]
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(reversed(kept))
    proto.graph.initializer.extend(tensors)
    proto.graph.value_info.extend(values)


def rank_layers(
    quantised: onnx.ModelProto,
    floating: onnx.ModelProto,
    layers: Mapping[str, str],
    outputs: Outputs,
    activation: str = "softmax",
) -> list[str]:
    """Layer names, first the one whose return to float brings the raw outputs nearest to the floating network's.

    Args:
        quantised, floating: The network with all layers rounded, and with none.
        layers: As `quantised_layers` gives them.
        outputs: Runs a network on some images -> offsets [N, P, 4], logits [N, P, C + 1].
        activation: What makes scores of its logits.
    """

    def alone(name: str) -> RawArrays:
        return outputs(with_float(quantised, floating, [layers[name]]))

    return rank_by_error(list(layers), outputs(floating), alone, activation)


def rank_by_error(
    layers: Sequence[str], floating: RawArrays, alone: Callable[[str], RawArrays], activation: str = "softmax"
) -> list[str]:
    """As `rank_layers`, by raw outputs: of the floating network, and with one layer alone in float."""
    offsets, logits = floating
    scores = probabilities(logits, activation)[..., 1:]
    speaks = scores.max(axis=-1) > _LITTLE
    if not speaks.any():
        speaks = np.ones_like(speaks)

    def error(found_offsets: np.ndarray, found_logits: np.ndarray) -> float:
        """Mean squared differences of scores, and of offsets in units of a prior's size, where objects may be."""
        moved = np.square(found_offsets - offsets)[speaks].mean() * _CENTRE_VARIANCE**2
        return float(moved + np.square(probabilities(found_logits, activation)[..., 1:] - scores)[speaks].mean())

    errors = {name: error(*alone(name)) for name in layers}
    return sorted(errors, key=lambda name: errors[name])


def l2norm_nodes(network: onnx.ModelProto) -> list[str]:
    """Names of the nodes that scale channel vectors to a length: squares and their root need more than 8 bits."""
    takers = consumers_of(network.graph)
    makers = {output: node for node in network.graph.node for output in node.output}
    names: list[str] = []
    for root in network.graph.node:
        if root.op_type != "Sqrt":
            continue
        chain = [root]
        while chain[-1].input[0] in makers and chain[-1].op_type in ("Sqrt", "Add", "ReduceSum"):
            chain.append(makers[chain[-1].input[0]])
        divisions = takers.get(root.output[0], [])
        scales = [node for one in divisions for node in takers.get(one.output[0], []) if node.op_type == "Mul"]
        names.extend(node.name for node in (*chain, *divisions, *scales))
    return names
