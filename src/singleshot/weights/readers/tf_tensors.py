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
    11: "i1",
    12: "u1",
    13: "<i4",
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


def dequantised(values: np.ndarray, low: float, high: float, mode: str) -> np.ndarray | None:
    """What TensorFlow's Dequantize makes of qint8, quint8 or qint32 (its documentation of tf.quantization.dequantize):
    float32; None for a mode that is not known."""
    bounds = np.iinfo(values.dtype)
    step = (high - low) / (bounds.max - bounds.min)
    if mode == "MIN_FIRST":  # what the graph transform quantize_weights writes: 0 is one of the levels
        low = np.round(low / step) * step if step else low
    elif mode != "MIN_COMBINED":
        return None
    return ((values.astype(np.float64) - bounds.min) * step + low).astype(np.float32)


def from_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16, the upper half of a float32 -> float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)
