"""TensorFlow Lite's .tflite files: the network and its constant tensors.

A file is a FlatBuffer (tensorflow/lite/schema/schema.fbs, whose field numbers these are), with a zip archive of label
files behind it if the metadata library wrote any. Every offset, length and count is held against the file before it is
followed, tensors stay views of it, and what is quantised becomes float32 when it is asked for.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.extras import needs
from singleshot.model_info import KEY
from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.readers.reading import read_bytes

MAX_BYTES = 2**31 - 1  # offsets are 32 bits
MAX_TENSORS, MAX_OPERATORS, MAX_BUFFERS, MAX_INPUTS = 20_000, 10_000, 50_000, 200_000
MAX_NAME, MAX_DIMENSIONS, MAX_OPTIONS, MAX_LABELS = 300, 8, 65_536, 2**20
_DAMAGE = (struct.error, LookupError, ArithmeticError, ValueError, TypeError, AttributeError, AssertionError)

# schema.fbs, enum TensorType
DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1", 10: "<f8"}
SPARSE = "sparse"  # in place of the type of a constant that is stored so, which is not read
ACTIVATIONS = ("none", "relu", "relu_n1_to_1", "relu6", "tanh", "sign_bit")

EDGE_TPU = "edgetpu-custom-op"  # its options are the code of a whole network
# schema.fbs, enum BuiltinOperator, by number; 32 is any custom one.
_NAMES = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
    LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
    CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE
    TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK
    LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD
    RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N
    GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
"""
OPERATORS = tuple(_NAMES.split())

# The options that importers look at: name of the operator -> the number of its union, and the names of its options
# in the order of their fields (schema.fbs: Conv2DOptions and so on).
_STRIDES = ("padding", "stride_w", "stride_h")
_OPTIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "CONV_2D": (1, (*_STRIDES, "activation", "dilation_w", "dilation_h")),
    "DEPTHWISE_CONV_2D": (2, (*_STRIDES, "depth_multiplier", "activation", "dilation_w", "dilation_h")),
    "AVERAGE_POOL_2D": (5, (*_STRIDES, "kernel_w", "kernel_h", "activation")),
    "MAX_POOL_2D": (5, (*_STRIDES, "kernel_w", "kernel_h", "activation")),
    "CONCATENATION": (10, ("axis", "activation")),
    "ADD": (11, ("activation",)),
    "MUL": (21, ("activation",)),
    "MEAN": (27, ("keep_dims",)),
    "REDUCE_MAX": (27, ("keep_dims",)),
    "SUB": (28, ("activation",)),
    "PACK": (59, ("values_count", "axis")),
    "RESIZE_NEAREST_NEIGHBOR": (74, ("align_corners", "half_pixel_centers")),
}
_OPTION_TYPES = {
    "padding": "Int8",
    "activation": "Int8",
    "keep_dims": "Bool",
    "align_corners": "Bool",
    "half_pixel_centers": "Bool",
}  # others are Int32


@dataclass(frozen=True)
class Value:
    """One tensor of the network. data: its constant values as they lie in the file, None for what is computed or stored
    as SPARSE; scales, zeros: real = scale * (stored - zero), one for all or one for each index of `axis`; none for
    floats."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None = None
    scales: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    zeros: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    axis: int = 0

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest number that it can hold: infinite unless its values are quantised as a whole."""
        if len(self.scales) != 1 or self.dtype not in ("u1", "i1", "<i2"):
            return -float("inf"), float("inf")
        scale, zero, whole = float(self.scales[0]), int(self.zeros[0]), np.iinfo(self.dtype)
        return scale * (int(whole.min) - zero), scale * (int(whole.max) - zero)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The real numbers of a constant: float32, or whole numbers as they are."""
        assert self.data is not None
        values = self.data
        if len(self.scales):
            shape = [-1 if i == self.axis else 1 for i in range(len(self.shape))] if len(self.scales) > 1 else []
            scales, zeros = self.scales.astype(np.float64).reshape(shape), self.zeros.reshape(shape)
            values = ((values.astype(np.int64) - zeros) * scales).astype(np.float32)
        return np.array(values, dtype=dtype, copy=True)


class Operation(NamedTuple):
    """One operator. kind: schema.fbs' name, or a custom one's own; inputs, outputs: indices of tensors, -1 for an
    optional one that is not there; options: those of `_OPTIONS`, or a custom operator's FlexBuffer map."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


class Network(NamedTuple):
    """The first subgraph. labels: lines of each text file in the archive behind it; normalisation: mean and std of the
    input's values as the metadata has them, None where it does not say; description: singleshot's, of its own files."""

    values: tuple[Value, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    description: str | None = None


def read_tflite(path: str | Path) -> ForeignState:
    """The constants of a .tflite file by name, and the Network as `.structure`. Raises CheckpointError."""
    where = printable(path)
    with needs("train", f"{where}: reading .tflite"):
        import flatbuffers  # noqa: F401
    data = read_bytes(Path(path), where, MAX_BYTES)
    if data[4:8] != b"TFL3":
        raise CheckpointError(f"{where}: not a .tflite file (bytes 4 to 8 are {data[4:8]!r}, want b'TFL3')")
    try:
        network = _network(data)
    except _RefusedError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{where}: damaged .tflite file ({printable(error, 100)})") from error
    constants = {value.name: value for value in network.values if value.data is not None}
    return ForeignState(constants, where, "tflite", network)


class _RefusedError(Exception):
    """A file that can be read but is more, or other, than is taken here."""


def _network(data: bytes) -> Network:
    model = _Table(data, struct.unpack_from("<I", data)[0])
    graphs = model.tables(2, 1_000)
    if not graphs:
        raise ValueError("it holds no network")
    graph = graphs[0]
    buffers = model.tables(4, MAX_BUFFERS)
    values = _values(graph, buffers)
    kinds = [_kind(code) for code in model.tables(1, MAX_OPERATORS)]
    operations, budget = [], MAX_INPUTS
    for table in graph.tables(3, MAX_OPERATORS):
        operation = _operation(table, kinds, len(values))
        budget -= len(operation.inputs) + len(operation.outputs)
        if budget < 0:
            raise _RefusedError(f"operators with more than {MAX_INPUTS} inputs in all")
        operations.append(operation)
    ends = [_indices(graph, number, len(values)) for number in (1, 2)]
    about = _labels(data), _normalisation(model, buffers), _description(model, buffers)
    return Network(values, tuple(operations), ends[0], ends[1], *about)


def _values(graph: _Table, buffers: list[_Table]) -> tuple[Value, ...]:
    values: list[Value] = []
    used, names = 0, set()
    for i, table in enumerate(graph.tables(0, MAX_TENSORS)):
        name = table.string(3)
        if not name or name in names:
            name = f"{name}#{i}"
        names.add(name)
        shape = tuple(int(n) for n in table.vector(0, "<i4", MAX_DIMENSIONS))
        dtype = DTYPES.get(int(table.number(1, "Int8", 0)), "")
        stored = _buffer(buffers, int(table.number(2, "Uint32", 0)))
        scales, zeros, axis = _quantisation(table.table(4), shape)
        data = None
        if stored is not None and table.table(6) is not None:
            dtype = SPARSE
        elif stored is not None:
            if not dtype:
                raise _RefusedError(f"tensor {printable(name, 80)} is of a type that is not read here (4 bits or text)")
            data = stored.view(dtype).reshape(shape)
            used += data.size
            # ForeignState may share a buffer; what they hold together must still be in proportion to the file.
            if used > 4 * len(table.data):
                raise _RefusedError("its tensors hold far more than the file")
        values.append(Value(name, shape, dtype, data, scales, zeros, axis))
    return tuple(values)


def _buffer(buffers: list[_Table], index: int) -> np.ndarray | None:
    """Bytes of a constant; None for an empty buffer, which is what computed tensors have."""
    if not 0 <= index < len(buffers):
        raise ValueError(f"buffer {index} of {len(buffers)}")
    table = buffers[index]
    size, start = int(table.number(2, "Uint64", 0)), int(table.number(1, "Uint64", 0))
    if start > 1:  # it lies behind the FlatBuffer, which must stay under 2 GB
        return np.frombuffer(table.data, np.uint8, size, start)
    stored = table.vector(0, "u1", MAX_BYTES)
    return stored if len(stored) else None


def _quantisation(table: _Table | None, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """scales, zero points and the axis that they belong to; empty ones for a tensor of plain numbers."""
    scales = np.empty(0, np.float32) if table is None else table.vector(2, "<f4", MAX_BYTES)
    if table is None or not len(scales):
        return scales, np.empty(0, np.int64), 0
    zeros, axis = table.vector(3, "<i8", MAX_BYTES), int(table.number(6, "Int32", 0))
    zeros = np.zeros(len(scales), np.int64) if not len(zeros) else zeros
    if not (np.isfinite(scales).all() and (scales > 0).all() and (np.abs(zeros) < 2**31).all()):
        raise ValueError("scales or zero points that cannot be")
    if len(zeros) == 1:
        zeros = np.repeat(zeros, len(scales))
    if len(scales) != len(zeros) or (len(scales) > 1 and not 0 <= axis < len(shape)):
        raise ValueError(f"{len(scales)} scales, {len(zeros)} zero points")
    if len(scales) > 1 and shape[axis] != len(scales):
        raise ValueError(f"{len(scales)} scales for {shape[axis]} channels")
    return scales, zeros, axis


def _kind(code: _Table) -> str:
    # Files written before there were 127 operators have the number in a byte alone; the larger of the two counts.
    number = max(int(code.number(0, "Int8", 0)), int(code.number(3, "Int32", 0)))
    if number == 32:
        return code.string(1)
    return OPERATORS[number] if 0 <= number < len(OPERATORS) else f"operator {number}"


def _operation(table: _Table, kinds: list[str], count: int) -> Operation:
    index = int(table.number(0, "Uint32", 0))
    if not 0 <= index < len(kinds):
        raise ValueError(f"operator code {index} of {len(kinds)}")
    kind = kinds[index]
    options: dict[str, Any] = {}
    if kind in _OPTIONS:
        union, fields = _OPTIONS[kind]
        found = table.table(4)
        if found is not None and int(table.number(3, "Uint8", 0)) != union:
            raise ValueError(f"{kind} with the options of another operator")
        for number, name in enumerate(fields):
            default = 1 if name.startswith("dilation") else 0
            flags = _OPTION_TYPES.get(name, "Int32")
            options[name] = default if found is None else int(found.number(number, flags, default))
        if "activation" in options:
            options["activation"] = ACTIVATIONS[options["activation"]] if 0 <= options["activation"] <= 5 else "other"
    elif kind not in OPERATORS and kind != EDGE_TPU:
        options = _flexbuffer(bytes(table.vector(5, "u1", MAX_OPTIONS)))
    return Operation(kind, _indices(table, 1, count), _indices(table, 2, count), options)


def _indices(table: _Table, number: int, count: int) -> tuple[int, ...]:
    found = table.vector(number, "<i4", MAX_INPUTS)
    if len(found) and not (found.min() >= -1 and found.max() < count):
        raise ValueError("an operator on tensors that are not there")
    return tuple(found.tolist())


def _flexbuffer(data: bytes) -> dict[str, Any]:
    """Numbers of a FlexBuffer map by name; other kinds of values are left out."""
    if not data:
        return {}
    from flatbuffers import flexbuffers

    root = flexbuffers.GetRoot(data)
    if not root.IsMap:
        return {}
    keys, found = root.AsMap.Keys, root.AsMap.Values
    if not len(keys) == len(found) <= 1_000:
        raise ValueError(f"a map of {len(found)} options")
    options: dict[str, Any] = {}
    for i in range(len(keys)):
        if found[i].IsBool:
            options[keys[i].AsKey] = found[i].AsBool
        elif found[i].IsInt:
            options[keys[i].AsKey] = found[i].AsInt
        elif found[i].IsFloat:
            options[keys[i].AsKey] = found[i].AsFloat
    return options


def _labels(data: bytes) -> tuple[tuple[str, ...], ...]:
    """Lines of the text files in the archive that the metadata library puts behind the network."""
    if data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557)) < 0:
        return ()
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist()[:20]:
                if entry.filename.endswith(".txt") and entry.file_size <= MAX_LABELS:
                    with archive.open(entry) as file:
                        text = file.read(MAX_LABELS).decode("utf-8", "replace")
                    found.append(tuple(line.strip() for line in text.strip().splitlines()))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, RuntimeError, *_DAMAGE):
        return ()  # names are a convenience: the network does not depend on them
    return tuple(found)


def _normalisation(model: _Table, buffers: list[_Table]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of the first input by the metadata (metadata_schema.fbs: ModelMetadata to NormalizationOptions)."""
    for entry in model.tables(6, 1_000):
        stored = _buffer(buffers, int(entry.number(1, "Uint32", 0))) if entry.string(0) == "TFLITE_METADATA" else None
        if stored is None or stored[4:8].tobytes() != b"M001":
            continue
        data = stored.tobytes()
        for graph in _Table(data, struct.unpack_from("<I", data)[0]).tables(3, 1_000)[:1]:
            for tensor in graph.tables(2, 1_000)[:1]:
                for unit in tensor.tables(4, 1_000):
                    options = unit.table(1)
                    if int(unit.number(0, "Uint8", 0)) == 1 and options is not None:
                        mean, std = (tuple(options.vector(n, "<f4", 64).tolist()) for n in (0, 1))
                        return mean, std
    return None


def _description(model: _Table, buffers: list[_Table]) -> str | None:
    for entry in model.tables(6, 1_000):
        stored = _buffer(buffers, int(entry.number(1, "Uint32", 0))) if entry.string(0) == KEY else None
        if stored is not None:
            return stored.tobytes().decode("utf-8", "replace")
    return None


class _Table:
    """A table of the file, read by field number. What lies outside the file raises one of _DAMAGE."""

    def __init__(self, data: bytes, position: int) -> None:
        from flatbuffers.table import Table

        self.data, self._at = data, position
        if not 4 <= position <= len(data) - 4:
            raise ValueError("an offset out of the file")
        if not 0 <= position - struct.unpack_from("<i", data, position)[0] <= len(data) - 4:
            raise ValueError("an offset out of the file")
        self._table = Table(data, position)

    def number(self, field_number: int, flags: str, default: int) -> int:
        """A scalar. flags: the type, as flatbuffers.number_types calls it."""
        from flatbuffers import number_types

        offset = self._table.Offset(4 + 2 * field_number)
        kind = getattr(number_types, f"{flags}Flags")
        return int(self._table.Get(kind, self._at + offset)) if offset else default

    def vector(self, field_number: int, dtype: str, limit: int) -> np.ndarray:
        """A view of a vector of numbers; empty where there is none."""
        offset = self._table.Offset(4 + 2 * field_number)
        if not offset:
            return np.empty(0, dtype)
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        if count > limit:
            raise _RefusedError(f"{count} of something of which at most {limit} are read")
        return np.frombuffer(self.data, dtype, count, start) if count else np.empty(0, dtype)

    def string(self, field_number: int) -> str:
        """Text, its first MAX_NAME bytes; "" where there is none."""
        return self.vector(field_number, "u1", MAX_BYTES)[:MAX_NAME].tobytes().decode("utf-8", "replace")

    def table(self, field_number: int) -> _Table | None:
        """The table that a field points to."""
        offset = self._table.Offset(4 + 2 * field_number)
        return _Table(self.data, self._table.Indirect(self._at + offset)) if offset else None

    def tables(self, field_number: int, limit: int) -> list[_Table]:
        """Those that a vector points to."""
        offset = self._table.Offset(4 + 2 * field_number)
        start = self._table.Vector(offset) if offset else 0
        away = self.vector(field_number, "<u4", limit)
        return [_Table(self.data, start + 4 * i + int(n)) for i, n in enumerate(away.tolist())]
