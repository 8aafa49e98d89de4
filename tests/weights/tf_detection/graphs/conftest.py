"""Frozen graphs, node by node."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from singleshot.weights.importing import import_foreign

Arrays = dict[str, np.ndarray]
V1 = "FeatureExtractor/MobilenetV1"


class GraphWriter:
    """GraphDef, byte by byte. proto: number(field, value) and message(field, content)."""

    def __init__(self, proto: SimpleNamespace) -> None:
        self.proto, self.data = proto, b""

    def node(self, name: str, op: str, *inputs: str, **attrs: bytes) -> str:
        message = self.proto.message
        body = message(1, name.encode()) + message(2, op.encode()) + b"".join(message(3, i.encode()) for i in inputs)
        for key, value in attrs.items():
            body += message(5, message(1, key.encode()) + message(2, value))
        self.data += message(1, body)
        return name

    def tensor(self, value: np.ndarray, **given) -> bytes:
        """given: dims, content in place of the array's own."""
        dtype = {"float32": 1, "int32": 3, "float16": 19}[value.dtype.name]
        dims = b"".join(self.proto.message(2, self.proto.number(1, n)) for n in given.get("dims", value.shape))
        content = given.get("content", self.proto.message(4, value.tobytes()))
        return self.proto.message(8, self.proto.number(1, dtype) + self.proto.message(2, dims) + content)

    def const(self, name: str, value, **given) -> str:
        value = np.asarray(value)
        value = value.astype({"f": np.float32, "i": np.int32}[value.dtype.kind]) if value.dtype.itemsize == 8 else value
        return self.node(name, "Const", value=self.tensor(value, **given))

    def rounded(self, name: str, value: np.ndarray, mode: str | None = "MIN_FIRST", number: int = 12) -> np.ndarray:
        """A constant as the graph transform quantize_weights leaves it, of DT_QUINT8; gives what it stands for."""
        low, high = float(np.float32(value.min())), float(np.float32(value.max()))
        step = (high - low) / 255
        start = round(low / step) * step if mode == "MIN_FIRST" else low
        steps = np.clip(np.round((value.astype(np.float64) - start) / step), 0, 255)
        dims = b"".join(self.proto.message(2, self.proto.number(1, n)) for n in value.shape)
        content = self.proto.message(4, steps.astype(np.uint8).tobytes())
        tensor = self.proto.message(8, self.proto.number(1, number) + self.proto.message(2, dims) + content)
        self.node(f"{name}_quantized_const", "Const", value=tensor)
        ends = [self.const(f"{name}_quantized_{end}", np.float32(v)) for end, v in (("min", low), ("max", high))]
        attrs = {} if mode is None else {"mode": self.proto.message(2, mode.encode())}
        self.node(name, "Dequantize", f"{name}_quantized_const", *ends, **attrs)
        return (start + steps * step).astype(np.float32)

    def real(self, value: float) -> bytes:
        return b"\x25" + struct.pack("<f", value)


def _layers_of(v: Arrays) -> Iterator[tuple[str, str]]:
    """(scope, the part that is its kernel) of every convolution."""
    for name in v:
        if name.endswith("weights"):
            yield tuple(name.rsplit("/", 1))


def _write_network(graph: GraphWriter, v: Arrays, eps: float = 0.001, folded: str = "") -> None:
    """Every layer as freeze_graph leaves it; folded: as fold_batch_norms ("bias") or constant folding ("arithmetic")
    of TensorFlow's tools leave it."""
    for scope, part in _layers_of(v):
        op = scope.replace(V1, f"{V1}/MobilenetV1") if "_Conv2d_" not in scope else scope
        kind = "DepthwiseConv2dNative" if part == "depthwise_weights" else "Conv2D"
        conv = f"{op}/{'depthwise' if kind[0] == 'D' else 'Conv2D'}"
        norms = [f"{scope}/BatchNorm/{p}" for p in ("gamma", "beta", "moving_mean", "moving_variance")]
        if folded and norms[1] in v:
            gamma, beta, mean, variance = (v[name].astype(np.float64) for name in norms)
            factor = gamma / np.sqrt(variance + eps)
            shape = (-1, 1) if kind[0] == "D" else (-1,)
            if folded == "bias":
                graph.const(f"{conv}_weights", (v[f"{scope}/{part}"] * factor.reshape(shape)).astype(np.float32))
                graph.node(conv, kind, "image_tensor", f"{conv}_weights")
                graph.const(f"{conv}_bn_offset", (beta - mean * factor).astype(np.float32))
                last = graph.node(f"{op}/BatchNorm/batchnorm/add_1", "BiasAdd", conv, f"{conv}_bn_offset")
            else:
                graph.const(f"{scope}/{part}", v[f"{scope}/{part}"])
                graph.node(conv, kind, "image_tensor", f"{scope}/{part}")
                graph.const(f"{op}/BatchNorm/batchnorm/mul", factor.astype(np.float32))
                graph.const(f"{op}/BatchNorm/batchnorm/sub", (beta - mean * factor).astype(np.float32))
                last = graph.node(f"{op}/BatchNorm/batchnorm/mul_1", "Mul", conv, f"{op}/BatchNorm/batchnorm/mul")
                last = graph.node(f"{op}/BatchNorm/batchnorm/add_1", "Add", last, f"{op}/BatchNorm/batchnorm/sub")
            graph.node(f"{op}/Relu6", "Relu6", last)
            continue
        for name in (f"{scope}/{part}", f"{scope}/biases", *norms):
            if name in v:
                graph.node(f"{graph.const(name, v[name])}/read", "Identity", name)
        graph.node(conv, kind, "image_tensor", f"{scope}/{part}/read")
        if norms[1] in v:
            reads = [f"{name}/read" for name in norms]
            last = graph.node(f"{op}/BatchNorm/FusedBatchNorm", "FusedBatchNorm", conv, *reads, epsilon=graph.real(eps))
            graph.node(f"{op}/Relu6", "Relu6", last)
        else:
            graph.node(f"{op}/BiasAdd", "BiasAdd", conv, f"{scope}/biases/read")


def _write_surroundings(graph: GraphWriter, size=(300, 300), iou=0.6, score=1e-8, per_class=100, total=100) -> None:
    """What the API's graph does before and after the network."""
    graph.node("image_tensor", "Placeholder")
    resize = "Preprocessor/map/while/ResizeImage"
    graph.const(f"{resize}/size", np.array(size, np.int32))
    graph.node(f"{resize}/ResizeBilinear", "ResizeBilinear", "image_tensor", f"{resize}/size")
    make = "MultipleGridAnchorGenerator"
    for i, row in enumerate([[(0.1, 1.0), (0.25, 2.0), (0.25, 0.5)], *[[(0.3 + 0.1 * k, 1.0)] * 6 for k in range(5)]]):
        end = f"_{i}" if i else ""
        graph.const(f"{make}/Sqrt{end}/x", np.array([ratio for _, ratio in row], np.float32))
        graph.node(f"{make}/Sqrt{end}", "Sqrt", f"{make}/Sqrt{end}/x")
        graph.const(f"{make}/truediv{end}/x", np.array([scale for scale, _ in row], np.float32))
        graph.node(f"{make}/truediv{end}", "RealDiv", f"{make}/truediv{end}/x", f"{make}/Sqrt{end}")
    graph.node("Postprocessor/Decode/unstack", "Unpack", "image_tensor")
    for i, scale in enumerate((8.0, 8.0, 4.0, 4.0, 2.0, 2.0)):  # the last two halve a size
        end, what = f"_{i}" if i else "", "image_tensor" if i > 3 else f"Postprocessor/Decode/unstack:{i}"
        graph.const(f"Postprocessor/Decode/truediv{end}/y", np.float32(scale))
        graph.node(f"Postprocessor/Decode/truediv{end}", "RealDiv", what, f"Postprocessor/Decode/truediv{end}/y")
    graph.node("Postprocessor/convert_scores", "Sigmoid", "image_tensor")
    nms = "Postprocessor/BatchMultiClassNonMaxSuppression/map/while/MultiClassNonMaxSuppression"
    graph.const(f"{nms}/FilterGreaterThan/Greater/y", np.float32(score))
    graph.node(f"{nms}/FilterGreaterThan/Greater", "Greater", "image_tensor", f"{nms}/FilterGreaterThan/Greater/y")
    for i, count in enumerate((per_class, total)):
        graph.const(f"{nms}/Minimum_{i}/x", np.int32(count))
        graph.node(f"{nms}/Minimum_{i}", "Minimum", f"{nms}/Minimum_{i}/x", "image_tensor")
    graph.const(f"{nms}/iou_threshold", np.float32(iou))
    graph.node(
        f"{nms}/NonMaxSuppressionV2", "NonMaxSuppressionV2", "a", "b", f"{nms}/Minimum_0", f"{nms}/iou_threshold"
    )


@pytest.fixture
def graph(tables) -> GraphWriter:
    return GraphWriter(tables)


@pytest.fixture
def imported(tmp_path) -> Callable[..., object]:
    """Writes a graph and imports it."""

    def load(graph: GraphWriter, **options):
        path = tmp_path / "frozen_inference_graph.pb"
        path.write_bytes(graph.data)
        return import_foreign(path, **options)

    return load


@pytest.fixture(scope="session")
def write_network() -> Callable[..., None]:
    """`write_network(graph, variables)`: the nodes of the network whose variables these are."""
    return _write_network


@pytest.fixture(scope="session")
def write_surroundings() -> Callable[..., None]:
    """`write_surroundings(graph)`: the nodes before and behind a network, which prepare the image and do the NMS."""
    return _write_surroundings
