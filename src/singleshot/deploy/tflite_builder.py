"""A TensorFlow Lite network put together tensor by tensor, in float32 or int8, and its file.

What is written is tensorflow/lite/schema/schema.fbs, as LiteRT's own package generates it; int8 tensors are scaled by
TensorFlow Lite's specification (ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}  # schema.fbs, enum TensorType
_CUSTOM = 32  # BuiltinOperator.CUSTOM
_LEAST_SCALE = 1e-8
# The version of an operator that first took int8 (tensorflow/lite/tools/versioning/op_version.cc), where it is not 1.
_INT8_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "ADD": 2, "MUL": 2, "MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 2, "PADV2": 2,
    "CONCATENATION": 2, "PAD": 2, "LOGISTIC": 2, "DEQUANTIZE": 2, "MEAN": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "RELU": 2,
    "RELU6": 2, "QUANTIZE": 2,
}  # fmt: skip


class Quantum(NamedTuple):
    """How whole numbers stand for real ones: real = scale * (whole - zero)."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Quantum:
        """int8 over that range, which zero must be in."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, _LEAST_SCALE)
        return cls(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


class TFLiteBuilder:
    """Each `tensor` gives an index, which operators take."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._graph, self._model = schema.SubGraphT(), schema.ModelT()
        self._graph.name = "singleshot"
        self._graph.tensors, self._graph.operators = [], []
        self._model.buffers, self._model.metadata = [schema.BufferT()], []  # the first buffer is that of no data
        self._codes: dict[tuple[str, int], int] = {}
        self.shapes: list[tuple[int, ...]] = []

    # ------------------------------------------------------------------------------------------ tensors

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", quantum: Quantum | None = None) -> int:
        """One that is computed."""
        one = self._schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, np.array(shape, np.int32), _TYPES[dtype], 0
        if quantum is not None:
            one.quantization = self._quantisation([quantum.scale], [quantum.zero])
        self._graph.tensors.append(one)
        self.shapes.append(tuple(shape))
        return len(self.shapes) - 1

    def constant(
        self,
        name: str,
        values: npt.ArrayLike,
        dtype: npt.DTypeLike = np.float32,
        scales: npt.ArrayLike | None = None,
        axis: int = 0,
    ) -> int:
        """Known values. scales: of quantised ones around zero, one for each index of `axis`, or one for all."""
        stored = np.asarray(values, dtype)
        index = self.tensor(name, stored.shape, str(stored.dtype))
        one = self._graph.tensors[index]
        one.buffer = self._buffer(stored.tobytes())
        if scales is not None:
            one.quantization = self._quantisation(scales, np.zeros_like(scales, np.int64), axis)
        return index

    def quantum(self, index: int) -> Quantum | None:
        """How a tensor is scaled."""
        found = self._graph.tensors[index].quantization
        return None if found is None else Quantum(float(found.scale[0]), int(found.zeroPoint[0]))

    def _quantisation(self, scales: Any, zeros: Any, axis: int = 0) -> Any:
        found = self._schema.QuantizationParametersT()
        found.scale, found.zeroPoint = np.asarray(scales, np.float32), np.asarray(zeros, np.int64)
        found.quantizedDimension = axis
        return found

    def _buffer(self, data: bytes) -> int:
        self._model.buffers.append(_aligned(self._schema, data))
        return len(self._model.buffers) - 1

    # ------------------------------------------------------------------------------------------ operators

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **values: Any) -> int:
        """A builtin operator; its first output. options: name of its table of options in the schema."""
        one = self._schema.OperatorT()
        types = {self._graph.tensors[i].type for i in (*inputs, *outputs)}
        version = _INT8_VERSIONS.get(kind, 1) if _TYPES["int8"] in types else 1
        one.opcodeIndex = self._code(kind, version)
        one.inputs, one.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options:
            one.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
            one.builtinOptions = getattr(self._schema, f"{options}T")()
            for key, value in values.items():
                setattr(one.builtinOptions, key, value)
        self._graph.operators.append(one)
        return outputs[0]

    def custom(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Mapping[str, Any]) -> None:
        """An operator by its own name, its options as a FlexBuffer."""
        from flatbuffers import flexbuffers

        self.op(name, inputs, outputs)
        self._graph.operators[-1].customOptions = np.frombuffer(bytes(flexbuffers.Dumps(dict(options))), np.uint8)

    def _code(self, kind: str, version: int) -> int:
        if (kind, version) not in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode = getattr(self._schema.BuiltinOperator, kind, _CUSTOM)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
            if code.builtinCode == _CUSTOM:
                code.customCode = kind
            self._codes[kind, version] = len(self._codes)
            self._model.operatorCodes = [*(self._model.operatorCodes or []), code]
        return self._codes[kind, version]

    # ------------------------------------------------------------------------------------------ the file

    def file(self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes], about: str) -> bytes:
        """The finished file. metadata: by name; about: the description of the model, for people."""
        import flatbuffers

        self._graph.inputs, self._graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        self._model.version, self._model.description, self._model.subgraphs = 3, about, [self._graph]
        for name, data in metadata.items():
            entry = self._schema.MetadataT()
            entry.name, entry.buffer = name, self._buffer(data)
            self._model.metadata.append(entry)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _aligned(schema: Any, data: bytes) -> Any:
    """A buffer whose bytes lie at a multiple of 16, as schema.fbs wants and the generated code does not do."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code's name
            builder.StartVector(1, len(data), 16)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return Aligned()
