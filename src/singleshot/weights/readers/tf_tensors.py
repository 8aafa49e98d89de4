"""TensorFlow's types and the values of its TensorProto, as frozen graphs and checkpoints of version 1 hold them."""

from __future__ import annotations

from typing import Any

import numpy as np

# What TensorFlow 1's optimizers put behind a variable's name.
OPTIMIZER_SLOT = r"/(RMSProp|Momentum|Adam|Adagrad|Adadelta|Ftrl)(_\d+)?$"
# core/framework/types.proto
STRING, BFLOAT16, HALF = 7, 14, 19
DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    BFLOAT16: "<u2",
    17: "<u2",
    HALF: "<f2",
}


def flat_values(tensor: Any, number: int) -> np.ndarray:
    """The values that are there (core/util/saved_tensor_slice_util.h: where each type is put).

    Args:
        tensor: a TensorProto or a PackedTensorProto.
        number: of its type, one of `DTYPES`.

    Returns:
        [N]; bfloat16 still as uint16 (see `from_bfloat16`).
    """
    dtype = np.dtype(DTYPES[number])
    if tensor.tensor_content:
        return _from_bytes(tensor.tensor_content, dtype)
    if number in (HALF, BFLOAT16):
        return np.array(tensor.half_val, np.int64).astype("<u2").view(dtype)
    fields = {1: tensor.float_val, 2: tensor.double_val, 9: tensor.int64_val, 10: tensor.bool_val}
    values = fields.get(number, tensor.int_val)
    if values and isinstance(values[0], bytes):
        return _from_bytes(b"".join(values), dtype)
    return np.array(values).astype(dtype)


def _from_bytes(data: bytes, dtype: np.dtype[Any]) -> np.ndarray:
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def from_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16, the upper half of a float32 -> float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)
