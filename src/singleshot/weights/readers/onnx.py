"""ONNX files: their nodes as those of OpenVINO's representation, which one importer reads (see openvino_ir.py).

Kinds and attributes are written as OpenVINO has them, whose operations follow ONNX's; what has no counterpart there
keeps ONNX's name, and is refused by it where a network needs it. Sources: onnx/docs/Operators.md, Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.onnx_kinds import SAME
from singleshot.weights.readers.onnx_tensors import DataFiles, onnx_array
from singleshot.weights.readers.openvino_ir import MAX_BIN, MAX_INPUTS, MAX_NODES, IrNetwork, Node
from singleshot.weights.readers.protobuf import parse_binary
from singleshot.weights.readers.reading import read_bytes

OURS = "singleshot"  # producer, and key in the metadata, of what `singleshot export` writes
_LARGEST = float(np.finfo(np.float32).max)
_WHOLE_TYPES = (2, 3, 4, 5, 6, 7, 9, 12, 13)
_SKIPPED = ("Identity", "Dropout")
Place = tuple[int, int]  # index of a node, and which of its outputs


class _Call(NamedTuple):
    """One node of the file: its places and attributes; outputs: names of what it gives."""

    name: str
    kind: str
    takes: tuple[Place, ...]
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]

    def ints(self, key: str, default: Sequence[int] = ()) -> list[int]:
        """Whole numbers of an attribute."""
        found = self.attributes.get(key)
        return [int(n) for n in found.ints] if found is not None else list(default)

    def int(self, key: str, default: int) -> int:
        """A whole number."""
        found = self.attributes.get(key)
        return int(found.i) if found is not None else default

    def float(self, key: str, default: float) -> float:
        """A number."""
        found = self.attributes.get(key)
        return float(found.f) if found is not None else default

    def text(self, key: str, default: str) -> str:
        """A word."""
        found = self.attributes.get(key)
        return found.s.decode("utf-8", "replace") if found is not None else default


def read_onnx(path: Path, where: str) -> ForeignState:
    """Constants by the names of their tensors; structure: an IrNetwork. Raises CheckpointError."""
    model = parse_binary("onnx.ModelProto", read_bytes(path, where, MAX_BIN), where)
    if model.producer_name == OURS or any(entry.key == OURS for entry in model.metadata_props):
        raise CheckpointError(
            f"{where}: an ONNX file that singleshot exported; it is used as it is, by detect and eval: to train on or"
            " to export anew, give the checkpoint that it was made of"
        )
    if not model.graph.node:
        raise CheckpointError(f"{where}: an ONNX file without a network; it is damaged, or of another kind")
    reader = _Reader(model, DataFiles(path.parent, where))
    network = reader.network()
    return ForeignState(reader.values, where, "onnx", network)


def _texts(**attributes: object) -> dict[str, str]:
    """Attributes as OpenVINO's files write them."""

    def text(value: object) -> str:
        return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    return {key: text(value) for key, value in attributes.items()}


class _Reader:
    """Goes through the nodes; `values` fills with constants."""

    def __init__(self, model: Any, files: DataFiles) -> None:
        self.graph, self.where, self.files = model.graph, files.where, files
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        self.version = max(versions, default=1)
        self.values: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.made: dict[str, Place] = {}
        self.padded: dict[str, tuple[Place, list[int]]] = {}  # what zeros are put around: source; top left bottom right
        self.held = {tensor.name: tensor for tensor in self.graph.initializer}

    def network(self) -> IrNetwork:
        """All of it."""
        if len(self.graph.node) > MAX_NODES or len(self.held) > MAX_NODES:
            raise CheckpointError(f"{self.where}: {len(self.graph.node)} nodes (at most {MAX_NODES} are read)")
        for given in self.graph.input:
            if given.name not in self.held:
                dims = tuple(int(dim.dim_value) or -1 for dim in given.type.tensor_type.shape.dim)
                self._place(given.name, Node(given.name, "Parameter", {}, (), (dims,), {}))
        for node in self.graph.node:
            self._read(node)
        for given in self.graph.output:
            takes = (self.made.get(given.name, (-1, 0)),)
            dims = tuple(int(dim.dim_value) or -1 for dim in given.type.tensor_type.shape.dim)
            self.nodes.append(Node(given.name, "Result", {}, takes, (dims,), {}))
        return IrNetwork(printable(self.graph.name, 60), 11, tuple(self.nodes), (), {})

    def _read(self, node: Any) -> None:
        if len(node.input) > MAX_INPUTS or len(node.output) > MAX_INPUTS:
            raise CheckpointError(f"{self.where}: a node with {len(node.input)} inputs (at most {MAX_INPUTS})")
        attributes = {attribute.name: attribute for attribute in node.attribute}
        outputs, kind = tuple(node.output), node.op_type
        name = node.name or (outputs[0] if outputs else kind)
        if kind == "Constant":
            if "value" in attributes and outputs:
                self.held[outputs[0]] = attributes["value"].t
            elif outputs and (scalars := [key for key in ("value_float", "value_int") if key in attributes]):
                one = attributes[scalars[0]]
                self._const(outputs[0], np.array(one.f if scalars[0] == "value_float" else one.i))
            elif outputs and (lists := [key for key in ("value_floats", "value_ints") if key in attributes]):
                many = attributes[lists[0]]
                self._const(outputs[0], np.array(many.floats if lists[0] == "value_floats" else many.ints))
            return
        takes = tuple(self._source(given) for given in node.input)
        call = _Call(name, kind, takes, tuple(node.input), attributes, outputs)
        if kind in _SKIPPED and takes and outputs:
            self.made[outputs[0]] = takes[0]
        elif kind in SAME:
            self._add(call, SAME[kind], takes)
        elif kind in _CONVERT and not node.domain.strip().replace("ai.onnx", ""):
            try:
                _CONVERT[kind](self, call)
            except (IndexError, ValueError) as error:  # inputs that are not there, or of other shapes
                what = f"layer {printable(name, 60)} of type {kind}"
                raise CheckpointError(f"{self.where}: {what} does not fit its inputs ({error})") from error
        else:
            self._add(call, kind, takes)

    # ---------------------------------------------------------------------------------------- places

    def _place(self, tensor: str, node: Node) -> Place:
        self.nodes.append(node)
        self.made[tensor] = len(self.nodes) - 1, 0
        return self.made[tensor]

    def _source(self, tensor: str) -> Place:
        """Where a tensor comes from; node -1 for what is left out, or is made by no node before."""
        if tensor not in self.made and tensor in self.held:
            self._const(tensor, onnx_array(self.held[tensor], self.where, self.files))
        return self.made.get(tensor, (-1, 0))

    def _const(self, name: str, values: np.ndarray) -> Place:
        wanted, n = name, 1
        while name in self.values:
            name, n = f"{wanted}#{n}", n + 1
        self.values[name] = values
        node = Node(name, "Const", {}, (), (values.shape,), {"value": name})
        return self._place(wanted, node)

    def whole(self, call: _Call, values: Sequence[int]) -> Place:
        """A new constant of whole numbers next to a node."""
        return self._const(f"{call.name}/const", np.array(list(values), np.int64))

    def is_computed(self, call: _Call, number: int) -> bool:
        """Whether an input is there and no constant of the file."""
        at = call.takes[number][0] if number < len(call.inputs) and call.inputs[number] else -1
        return at >= 0 and self.nodes[at].kind != "Const"

    def value(self, call: _Call, number: int) -> np.ndarray | None:
        """The constant that an input is; None where there is none."""
        if number >= len(call.inputs) or not call.inputs[number]:
            return None
        node = self.nodes[call.takes[number][0]]
        if node.kind != "Const" or call.takes[number][0] < 0:
            raise CheckpointError(
                f"{self.where}: layer {printable(call.name, 60)} of type {call.kind} computes its input"
                f" {number}, want a constant"
            )
        return self.values[node.blobs["value"]]

    def _add(self, call: _Call, kind: str, takes: Sequence[Place], **attributes: object) -> Place:
        """A node that gives what the call gives."""
        self.nodes.append(Node(call.name, kind, _texts(**attributes), tuple(takes), (), {}))
        for k, output in enumerate(call.outputs):
            self.made[output] = len(self.nodes) - 1, k
        return len(self.nodes) - 1, 0

    # ---------------------------------------------------------------------------------------- kinds

    def conv(self, call: _Call) -> None:
        """Weights of groups as OpenVINO has them, and the bias as a sum behind."""
        weight = self.value(call, 1)
        if weight is None or weight.ndim != 4:
            self._add(call, "Conv", call.takes)
            return
        source, border = self.padded.get(call.inputs[0], (call.takes[0], [0] * 4))
        groups, takes = call.int("group", 1), (source, call.takes[1])
        if groups > 1 and not len(weight) % groups:
            parted = weight.reshape(groups, -1, *weight.shape[1:])
            takes = source, self._const(f"{call.inputs[1]}/groups", parted)
        kind = "Convolution" if groups == 1 else "GroupConvolution"
        place = self._add(call, kind, takes, **self._windows(call, border))
        bias = self.value(call, 2)
        if bias is not None:
            column = self._const(f"{call.inputs[2]}/column", bias.reshape(1, -1, 1, 1))
            self._add(call._replace(name=f"{call.name}/bias"), "Add", (place, column))

    def _windows(self, call: _Call, border: Sequence[int] = (0, 0, 0, 0)) -> dict[str, object]:
        pads = call.ints("pads", (0, 0, 0, 0))
        pads = [a + b for a, b in zip(pads, border, strict=True)] if any(border) else pads
        return {
            "strides": call.ints("strides", (1, 1)),
            "dilations": call.ints("dilations", (1, 1)),
            "pads_begin": pads[: len(pads) // 2],
            "pads_end": pads[len(pads) // 2 :],
            "auto_pad": call.text("auto_pad", "NOTSET").lower(),
        }

    def pool(self, call: _Call) -> None:
        """MaxPool and AveragePool."""
        kind = "MaxPool" if call.kind == "MaxPool" else "AvgPool"
        source, border = (
            (call.takes[0], [0] * 4) if kind == "MaxPool" else self.padded.get(call.inputs[0], (call.takes[0], [0] * 4))
        )
        more = {
            "kernel": call.ints("kernel_shape"),
            "rounding_type": "ceil" if call.int("ceil_mode", 0) else "floor",
            "exclude-pad": "false" if call.int("count_include_pad", 0) or any(border) else "true",
        }
        self._add(call, kind, (source,), **self._windows(call, border), **more)

    def pad(self, call: _Call) -> None:
        """Zeros around a map, which the convolution or mean behind it takes into its own padding."""
        self._add(
            call, "Pad", call.takes if len(call.takes) > 1 else (*call.takes, self.whole(call, call.ints("pads")))
        )
        if self.is_computed(call, 1):
            return
        given = self.value(call, 1) if len(call.takes) > 1 else np.array(call.ints("pads"))
        filled = self.value(call, 2)
        number = call.float("value", 0.0) if filled is None else float(filled.reshape(-1)[0])
        amounts = [] if given is None else [int(n) for n in given.reshape(-1)]
        zeros = call.text("mode", "constant") == "constant" and number == 0
        if zeros and len(amounts) == 8 and min(amounts) >= 0 and not any((*amounts[:2], *amounts[4:6])):
            self.padded[call.outputs[0]] = call.takes[0], [*amounts[2:4], *amounts[6:]]

    def global_mean(self, call: _Call) -> None:
        """GlobalAveragePool."""
        self._add(call, "ReduceMean", (call.takes[0], self.whole(call, (2, 3))), keep_dims="true")

    def reduce(self, call: _Call) -> None:
        """ReduceMean and the like: axes as an attribute, or since version 13 or 18 as an input."""
        given = self.value(call, 1)
        axes = call.ints("axes") if given is None else [int(n) for n in given.reshape(-1)]
        keep = "true" if call.int("keepdims", 1) else "false"
        self._add(call, call.kind, (call.takes[0], self.whole(call, axes)), keep_dims=keep)

    def filled(self, call: _Call) -> None:
        """ConstantOfShape, as a number that is spread."""
        value = call.attributes.get("value")
        number = np.zeros(1, np.float32) if value is None else onnx_array(value.t, self.where, self.files)
        self._add(call, "Broadcast", (self._const(f"{call.name}/value", number), call.takes[0]))

    def norm(self, call: _Call) -> None:
        """BatchNormalization."""
        self._add(call, "BatchNormInference", call.takes, epsilon=call.float("epsilon", 1e-5))

    def leaky(self, call: _Call) -> None:
        """LeakyRelu."""
        self._add(call, "ReLU", call.takes, negative_slope=call.float("alpha", 0.01))

    def elu(self, call: _Call) -> None:
        """Elu."""
        self._add(call, "Elu", call.takes, alpha=call.float("alpha", 1.0))

    def hard_sigmoid(self, call: _Call) -> None:
        """OpenVINO's HSigmoid has one slope and one middle."""
        usual = abs(call.float("alpha", 0.2) - 1 / 6) < 1e-4 and call.float("beta", 0.5) == 0.5
        self._add(call, "HSigmoid" if usual else "HardSigmoid", call.takes)

    def clip(self, call: _Call) -> None:
        """Limits as attributes, or since version 11 as inputs."""
        limits = []
        for number, key, default in ((1, "min", -_LARGEST), (2, "max", _LARGEST)):
            given = self.value(call, number)
            limits.append(call.float(key, default) if given is None else float(given.reshape(-1)[0]))
        self._add(call, "Clamp", call.takes[:1], min=limits[0], max=limits[1])

    def concat(self, call: _Call) -> None:
        """Concat."""
        self._add(call, "Concat", call.takes, axis=call.int("axis", 1))

    def transpose(self, call: _Call) -> None:
        """Without an order all axes are turned round."""
        order = call.ints("perm")
        takes = (call.takes[0], self.whole(call, order)) if order else call.takes
        self._add(call, "Transpose", takes)

    def reshape(self, call: _Call) -> None:
        """The shape as an attribute, or since version 5 as an input."""
        takes = call.takes if len(call.takes) > 1 else (call.takes[0], self.whole(call, call.ints("shape")))
        self._add(call, "Reshape", takes, special_zero=str(not call.int("allowzero", 0)).lower())

    def flatten(self, call: _Call) -> None:
        """Flatten."""
        self._add(call, "Flatten", call.takes, axis=call.int("axis", 1))

    def axes(self, call: _Call) -> None:
        """Squeeze and Unsqueeze: axes as an attribute, or since version 13 as an input."""
        own = call.ints("axes")
        takes = (call.takes[0], self.whole(call, own)) if own else call.takes
        self._add(call, call.kind, takes)

    def softmax(self, call: _Call) -> None:
        """Before version 13 over all axes from that one on."""
        old = self.version < 13
        self._add(call, "Softmax", call.takes, axis=call.int("axis", 1 if old else -1), rest=str(old).lower())

    def gather(self, call: _Call) -> None:
        """Gather."""
        axis = self._const(f"{call.name}/axis", np.array(call.int("axis", 0)))
        self._add(call, "Gather", (*call.takes, axis))

    def cast(self, call: _Call) -> None:
        """To whole numbers, or to numbers with a point."""
        to = call.int("to", 1)
        self._add(call, "Convert", call.takes, destination_type="i64" if to in _WHOLE_TYPES else "f32")

    def split(self, call: _Call) -> None:
        """In parts of given lengths, or in equal ones."""
        axis = self._const(f"{call.name}/axis", np.array(call.int("axis", 0)))
        lengths = call.ints("split")
        if lengths or len(call.takes) > 1:
            given = self.whole(call, lengths) if lengths else call.takes[1]
            self._add(call, "VariadicSplit", (call.takes[0], axis, given))
        else:
            self._add(call, "Split", (call.takes[0], axis), num_splits=len(call.outputs))

    def slice(self, call: _Call) -> None:
        """Places as attributes, or since version 10 as inputs; here: data, start, stop, step, axes."""
        if len(call.takes) == 1:
            starts, ends = call.ints("starts"), call.ints("ends")
            axes = call.ints("axes", range(len(starts)))
            parts = [self.whole(call, values) for values in (starts, ends, [1] * len(starts), axes)]
            self._add(call, "Slice", (call.takes[0], *parts))
            return
        data, start, end, along, by = (*call.takes, (-1, 0), (-1, 0))[:5]
        given = self.value(call, 1) if along[0] < 0 or by[0] < 0 else None
        count = 0 if given is None else given.size
        by = self.whole(call, [1] * count) if by[0] < 0 else by
        along = self.whole(call, range(count)) if along[0] < 0 else along
        self._add(call, "Slice", (data, start, end, by, along))

    def resize(self, call: _Call) -> None:
        """Upsample (scales as attribute or input) and Resize (also sizes)."""
        given = [place for place in call.takes[1:] if place[0] >= 0]
        by = "sizes" if call.kind == "Resize" and len(call.takes) == 4 and call.takes[3][0] >= 0 else "scales"
        scales = call.attributes.get("scales")
        if not given and scales is not None:
            given = [self._const(f"{call.name}/scales", np.array(scales.floats, np.float32))]
        self._add(
            call,
            "Interpolate",
            (call.takes[0], *given[-1:]),
            mode=call.text("mode", "nearest"),
            shape_calculation_mode=by,
            coordinate_transformation_mode=call.text("coordinate_transformation_mode", ""),
        )

    def suppression(self, call: _Call) -> None:
        """NonMaxSuppression."""
        encoding = "center" if call.int("center_point_box", 0) else "corner"
        self._add(call, "NonMaxSuppression", call.takes, box_encoding=encoding)


_CONVERT: dict[str, Callable[[_Reader, _Call], None]] = {
    "Conv": _Reader.conv,
    "MaxPool": _Reader.pool,
    "AveragePool": _Reader.pool,
    "GlobalAveragePool": _Reader.global_mean,
    "Pad": _Reader.pad,
    **dict.fromkeys(
        ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL2"),
        _Reader.reduce,
    ),
    "ConstantOfShape": _Reader.filled,
    "BatchNormalization": _Reader.norm,
    "LeakyRelu": _Reader.leaky,
    "Elu": _Reader.elu,
    "HardSigmoid": _Reader.hard_sigmoid,
    "Clip": _Reader.clip,
    "Concat": _Reader.concat,
    "Transpose": _Reader.transpose,
    "Reshape": _Reader.reshape,
    "Flatten": _Reader.flatten,
    "Squeeze": _Reader.axes,
    "Unsqueeze": _Reader.axes,
    "Softmax": _Reader.softmax,
    "Gather": _Reader.gather,
    "Cast": _Reader.cast,
    "Split": _Reader.split,
    "Slice": _Reader.slice,
    "NonMaxSuppression": _Reader.suppression,
    "Resize": _Reader.resize,
    "Upsample": _Reader.resize,
}
