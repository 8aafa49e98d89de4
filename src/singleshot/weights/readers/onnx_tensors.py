"""The arrays that ONNX files hold (onnx/onnx.proto, TensorProto)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.readers.openvino_ir import MAX_DIMS

# TensorProto.DataType -> NumPy's type, and the field that holds its values where raw_data does not.
_TYPES = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("u1", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
}


def onnx_array(tensor: Any, where: str) -> np.ndarray:
    """A TensorProto's numbers. Raises CheckpointError."""
    name, dims = printable(tensor.name, 80), tuple(int(n) for n in tensor.dims)
    if tensor.data_location:
        raise CheckpointError(f"{where}: {name} lies in a file of its own, which is not read; save it as one file")
    if tensor.data_type not in _TYPES:
        raise CheckpointError(f"{where}: {name} holds numbers of type {tensor.data_type}, not known here")
    dtype, field = _TYPES[tensor.data_type]
    if tensor.raw_data:
        size = len(tensor.raw_data)
        found = np.frombuffer(tensor.raw_data, dtype) if not size % np.dtype(dtype).itemsize else np.empty(0)
    else:
        given = np.array(getattr(tensor, field))
        # Halves are kept as the whole numbers that their bits are.
        found = given.astype(np.uint16).view(dtype) if dtype == "<f2" else given.astype(dtype)
    if len(dims) > MAX_DIMS or min(dims, default=1) < 0 or math.prod(dims) != found.size:
        what = f"{found.size} numbers in the shape {printable(dims, 80)}"
        raise CheckpointError(f"{where}: {name} has {what}; the file is damaged")
    return found.reshape(dims)
