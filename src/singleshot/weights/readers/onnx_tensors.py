"""The arrays that ONNX files hold (onnx/onnx.proto, TensorProto)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.weights.readers.openvino_ir import MAX_BIN, MAX_DIMS
from singleshot.weights.readers.reading import read_bytes

_ENTRIES = (("location", ""), ("offset", "0"), ("length", ""))
_MOST_DIGITS = 40  # of a place in a file and a length
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


class DataFiles:
    """The files next to an ONNX file in which its larger arrays may lie (onnx/docs/ExternalData.md)."""

    def __init__(self, folder: Path, where: str) -> None:
        self.folder, self.where = folder, where
        self._read: dict[str, bytes] = {}
        self._given = 0  # bytes: arrays may share their places, but not without end

    def raw(self, tensor: Any) -> bytes:
        """An array's bytes. Raises CheckpointError for a file that is not in the folder, or ends before them."""
        what = f"{self.where}: {printable(tensor.name, 80)}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name, start, length = (entries.get(*row) for row in _ENTRIES)
        whole = (start + (length or "0")).isdecimal() and len(start) + len(length) < _MOST_DIGITS
        if not name or Path(name).name != name or "\0" in name or not whole:
            raise CheckpointError(f"{what} lies in {printable(name, 80) or 'no file'}, which is not next to the file")
        if name not in self._read:
            path = self.folder / name
            if path.resolve().parent != self.folder.resolve() or not path.is_file():
                raise CheckpointError(f"{what} lies in {printable(name, 80)}: want that file next to it")
            self._read[name] = read_bytes(path, f"{self.where}: {printable(name, 80)}", MAX_BIN)
        data = self._read[name]
        end = int(start) + int(length) if length else len(data)
        if not int(start) <= end <= len(data):
            raise CheckpointError(f"{what}: {printable(name, 80)} ends before its numbers; the file is damaged")
        self._given += end - int(start)
        if self._given > MAX_BIN:
            raise CheckpointError(f"{self.where}: its arrays hold more than {MAX_BIN // 2**30} GB")
        return data[int(start) : end]


def onnx_array(tensor: Any, where: str, files: DataFiles) -> np.ndarray:
    """A TensorProto's numbers. Raises CheckpointError."""
    name, dims = printable(tensor.name, 80), tuple(int(n) for n in tensor.dims)
    if tensor.data_type not in _TYPES:
        raise CheckpointError(f"{where}: {name} holds numbers of type {tensor.data_type}, not known here")
    dtype, field = _TYPES[tensor.data_type]
    raw = files.raw(tensor) if tensor.data_location else tensor.raw_data
    if raw or tensor.data_location:
        size = len(raw)
        found = np.frombuffer(raw, dtype) if not size % np.dtype(dtype).itemsize else np.empty(0)
    else:
        given = np.array(getattr(tensor, field))
        # Halves are kept as the whole numbers that their bits are.
        found = given.astype(np.uint16).view(dtype) if dtype == "<f2" else given.astype(dtype)
    if len(dims) > MAX_DIMS or min(dims, default=1) < 0 or math.prod(dims) != found.size:
        what = f"{found.size} numbers in the shape {printable(dims, 80)}"
        raise CheckpointError(f"{where}: {name} has {what}; the file is damaged")
    return found.reshape(dims)
