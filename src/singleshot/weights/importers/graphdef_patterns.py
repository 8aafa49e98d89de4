"""What single nodes of TensorFlow's graphs mean: channels times factor plus shift; hard sigmoids and swishes, which are
written as relu6(x + 3) / 6."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from singleshot.weights.readers.graphdef import GraphDef, Node

Constant = Callable[[str], np.ndarray | None]  # a node's name -> its value, None for one that is no constant
MOST_VALUES = 2**24  # of a constant that is computed with
OF_CONSTANTS: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Reshape": lambda x, shape: x.reshape([int(n) for n in shape]),
}
NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_SIXTH = 1e-3  # how far from 1/6 the factor may be: .16667 is written too


def divides_by_six(node: Node, constant: Constant) -> bool:
    """Whether a node divides by six."""
    if node.op not in ("Mul", "RealDiv") or len(node.inputs) != 2:
        return False
    parts = [v for v in (constant(name) for name in node.inputs) if v is not None]
    if len(parts) != 1 or parts[0].size != 1:
        return False
    number = float(parts[0].reshape(-1)[0])
    return abs((number if node.op == "Mul" else 1 / (number or math.inf)) - 1 / 6) < _SIXTH


def _above_three(graph: GraphDef, name: str, constant: Constant) -> str | None:
    """x of relu6(x + 3)."""
    node = graph.nodes.get(name)
    before = graph.nodes.get(node.inputs[0]) if node is not None and node.op == "Relu6" else None
    if before is None or before.op not in ("Add", "AddV2") or len(before.inputs) != 2:
        return None
    parts = [constant(i) for i in before.inputs]
    x = [i for i, p in zip(before.inputs, parts, strict=True) if p is None]
    three = [p for p in parts if p is not None]
    return x[0] if len(x) == 1 and three[0].size == 1 and float(three[0].reshape(-1)[0]) == 3 else None


def hard_sigmoid(graph: GraphDef, name: str, constant: Constant) -> str | None:
    """x of relu6(x + 3) / 6."""
    node = graph.nodes.get(name)
    if node is None or not divides_by_six(node, constant):
        return None
    return _above_three(graph, next(i for i in node.inputs if constant(i) is None), constant)


def hard_swish(graph: GraphDef, name: str, constant: Constant) -> str | None:
    """x of x * relu6(x + 3)."""
    node = graph.nodes.get(name)
    if node is None or node.op != "Mul" or len(node.inputs) != 2:
        return None
    for a, b in (node.inputs, node.inputs[::-1]):
        if _above_three(graph, b, constant) == a:
            return a
    return None


def affine(node: Node, parts: Sequence[np.ndarray | None], channels: int) -> tuple[np.ndarray, np.ndarray] | str:
    """Factor and shift [channels] of a node with one map and constants, or what is wrong with it. parts: its inputs,
    None for the map."""
    one, none = np.ones(channels), np.zeros(channels)
    vectors = [None if p is None else p.astype(np.float64).reshape(-1) for p in parts]
    if any(v is not None and v.size not in (1, channels) for v in vectors):
        return f"has constants that are not one for each of {channels} channels"
    whole = [None if v is None else np.broadcast_to(v, channels) for v in vectors]
    if node.op in NORMS:
        if len(whole) != 5 or whole[0] is not None or any(v is None for v in whole[1:]):
            return "is no normalisation with constants"
        gamma, beta, mean, variance = (np.asarray(v) for v in whole[1:])
        eps = node.attrs["epsilon"].f if "epsilon" in node.attrs else 1e-4
        factor = gamma / np.sqrt(variance + eps)
        return factor, beta - mean * factor
    if node.op == "Neg":
        return -one, none
    first, constant = whole[0] is None, whole[1] if whole[0] is None else whole[0]
    if constant is None:
        return "has inputs that are not understood"
    if node.op == "Mul":
        return constant, none
    if node.op == "RealDiv":
        if not first or not np.all(constant):
            return "divides by a map or by zero"
        return 1 / constant, none
    if node.op == "Sub":
        return (one, -constant) if first else (-one, constant)
    return one, constant


def arithmetic(node: Node, parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """What a node makes of these constants; None where one of them is none, or they do not fit."""
    known = [part for part in parts if part is not None and part.size <= MOST_VALUES]
    if not parts or len(known) < len(parts):
        return None
    try:
        return np.asarray(OF_CONSTANTS[node.op](*known))
    except (ValueError, TypeError):
        return None
