"""TensorFlow's checkpoints, read without TensorFlow.

Version 2, a "bundle" (core/util/tensor_bundle/tensor_bundle.cc): prefix.index, a table of names, and the bytes in
prefix.data-00000-of-00001 and so on. Version 1 (core/util/saved_tensor_slice.proto): all in one table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from singleshot.errors import CheckpointError, printable
from singleshot.storage import masked_crc32c
from singleshot.weights.readers.protobuf import parse_binary
from singleshot.weights.readers.sstable import is_sstable, read_sstable
from singleshot.weights.readers.tf_tensors import BFLOAT16, DTYPES, STRING, flat_values, from_bfloat16

_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_MAX_SHARDS = 99_999  # as many as the five digits of their names tell apart
_MAX_BYTES = 4 * 2**30


def bundle_prefix(path: Path) -> Path | None:
    """What its files have in common, when the path names a version 2 checkpoint or one of its files; else None."""
    if not path.name:
        return None
    for prefix in (path, path.with_name(_SUFFIX.sub("", path.name) or path.name)):
        if prefix.with_name(f"{prefix.name}.index").is_file():
            return prefix
    return None


def is_bundle(path: str | Path) -> bool:
    """Whether `read_bundle` is for this: any file of a checkpoint, or the prefix of its files. Raises OSError."""
    path = Path(path)
    if ".data-" in path.name and _SUFFIX.search(path.name):
        return True
    if path.is_file() and is_sstable(path):
        return True
    return bundle_prefix(path) is not None and (not path.exists() or _SUFFIX.search(path.name) is not None)


def read_bundle(path: str | Path, where: str) -> dict[str, np.ndarray]:
    """Name -> array, as saved; bfloat16 becomes float32, and text (a Keras object graph) is left out.

    path: the prefix, the .index or a .data file, or a version 1 checkpoint. Arrays may be read-only. Raises
    CheckpointError: cut off, damaged (all checksums are compared), a shard missing, variables saved in parts; and
    MissingExtraError without protobuf.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{where}: is a folder; name the checkpoint in it, as in {where}/model.ckpt-1000")
    prefix = bundle_prefix(path)
    table = path if path.is_file() and not _SUFFIX.search(path.name) else None
    if table is None and prefix is not None:
        table = prefix.with_name(f"{prefix.name}.index")
    if table is None:
        if path.suffix == ".index" and not path.exists():
            raise CheckpointError(f"{where}: no such file")
        missing = printable(_SUFFIX.sub("", path.name))
        raise CheckpointError(f"{where}: no checkpoint of TensorFlow's there (no {missing}.index beside it)")
    entries = read_sstable(table, where)
    key, first = next(entries, (b"?", b""))
    if key:
        raise CheckpointError(f"{where}: a table, but no checkpoint of TensorFlow's (it has no header)")
    # Version 2 begins with the number of shards, version 1 with a message: the wire types tell.
    if first[:1] == b"\x0a":
        return _read_slices(first, entries, where)
    header = parse_binary("tensorflow.BundleHeaderProto", first, where)
    if header.endianness:
        raise CheckpointError(f"{where}: saved on a big-endian machine, which is not read")
    prefix = prefix or path.with_name(_SUFFIX.sub("", path.name))
    return _Shards(prefix, header.num_shards, where).read(entries)


class _Shards:
    """The files prefix.data-0000i-of-0000n."""

    def __init__(self, prefix: Path, count: int, where: str) -> None:
        if not 1 <= count <= _MAX_SHARDS:
            raise CheckpointError(f"{where}: says it has {count} data files")
        self.prefix, self.count, self.where = prefix, count, where

    def path(self, i: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{i:05d}-of-{self.count:05d}")

    def read(self, rows: Iterator[tuple[bytes, bytes]]) -> dict[str, np.ndarray]:
        """All entries of the table, shard by shard in the order of their bytes."""
        entries: dict[int, list[tuple[str, Any]]] = {}
        for key, value in rows:
            name = _name(key, self.where)
            entry = parse_binary("tensorflow.BundleEntryProto", value, f"{self.where}: {printable(name, 80)}")
            if entry.slices:
                raise _in_parts(self.where, name)
            if not 0 <= entry.shard_id < self.count:
                raise CheckpointError(
                    f"{self.where}: {printable(name, 80)} lies in data file {entry.shard_id} of {self.count}"
                )
            if entry.dtype != STRING:
                entries.setdefault(entry.shard_id, []).append((name, entry))
        tensors: dict[str, np.ndarray] = {}
        total = 0
        for i in sorted(entries):
            path = self.path(i)
            try:
                with path.open("rb") as file:
                    total += (size := file.seek(0, 2))
                    if total > _MAX_BYTES:
                        raise CheckpointError(f"{self.where}: larger than {_MAX_BYTES // 2**30} GB")
                    self._read_shard(file, size, entries[i], tensors)
            except FileNotFoundError as error:
                raise CheckpointError(
                    f"{self.where}: its data file {printable(path.name)} is missing; put it beside the index"
                ) from error
            except OSError as error:
                raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error, 80)})") from error
        return tensors

    def _read_shard(
        self, file: BinaryIO, size: int, entries: list[tuple[str, Any]], tensors: dict[str, np.ndarray]
    ) -> None:
        """size: bytes in the file, of which no two tensors share any, so that they are bounded by it."""
        end = 0
        for name, entry in sorted(entries, key=lambda row: (row[1].offset, row[1].size)):
            what = f"{self.where}: {printable(name, 80)}"
            dtype, shape = _form(entry.dtype, entry.shape, what)
            if entry.size != math.prod(shape) * dtype.itemsize:
                raise CheckpointError(f"{what}: {entry.size} bytes for {dtype} of shape {printable(shape, 60)}")
            if entry.offset < end:
                raise CheckpointError(f"{what}: overlaps another tensor; the file is damaged")
            if entry.offset + entry.size > size:
                raise CheckpointError(f"{what}: lies beyond the end of its data file ({size} bytes); it may be cut off")
            end = entry.offset + entry.size
            file.seek(entry.offset)
            data = file.read(entry.size)
            if len(data) != entry.size or masked_crc32c(data) != entry.crc32c:
                raise CheckpointError(f"{what}: checksum does not match; the data file is damaged")
            tensors[name] = _array(np.frombuffer(data, dtype), entry.dtype, shape)


def _read_slices(first: bytes, rows: Iterator[tuple[bytes, bytes]], where: str) -> dict[str, np.ndarray]:
    """Version 1: `first` lists names and shapes, each further row has the values of one."""
    forms: dict[str, tuple[int, tuple[int, ...]]] = {}
    for described in parse_binary("tensorflow.SavedTensorSlices", first, where).meta.tensor:
        if described.type == STRING:
            continue
        _, shape = _form(described.type, described.shape, f"{where}: {printable(described.name, 80)}")
        if len(described.slice) > 1:
            raise _in_parts(where, described.name)
        forms[described.name] = described.type, shape
    tensors: dict[str, np.ndarray] = {}
    for _, value in rows:
        saved = parse_binary("tensorflow.SavedTensorSlices", value, where).data
        if saved.name not in forms:
            continue
        number, shape = forms[saved.name]
        if any(extent.HasField("length") for extent in saved.slice.extent):
            raise _in_parts(where, saved.name)
        values = flat_values(saved.data, number)
        if values.size != math.prod(shape) or saved.name in tensors:
            raise CheckpointError(
                f"{where}: {printable(saved.name, 80)} has {values.size} values for shape {printable(shape, 60)}"
            )
        tensors[saved.name] = _array(values, number, shape)
    if len(tensors) != len(forms):
        left = ", ".join(name for name in forms if name not in tensors)
        raise CheckpointError(f"{where}: values missing for {printable(left, 120)}; the other files of it are needed")
    return tensors


def _form(number: int, shape: Any, what: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """numpy's type and the shape, which no longer says anything absurd."""
    if number not in DTYPES:
        raise CheckpointError(f"{what}: values of TensorFlow's type {number}, which is not read")
    sizes = tuple(dim.size for dim in shape.dim)
    if (
        shape.unknown_rank
        or len(sizes) > 16
        or min(sizes, default=0) < 0
        or math.prod(filter(None, sizes)) > _MAX_BYTES
    ):
        raise CheckpointError(f"{what}: shape {printable(sizes, 60)} is not a shape")
    return np.dtype(DTYPES[number]), sizes


def _array(values: np.ndarray, number: int, shape: tuple[int, ...]) -> np.ndarray:
    return (from_bfloat16(values) if number == BFLOAT16 else values).reshape(shape)


def _name(key: bytes, where: str) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: a name that is not text ({printable(repr(key), 80)})") from error


def _in_parts(where: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: {printable(name, 80)} was saved in parts (a partitioned variable), which is not read;"
        " save the checkpoint again without partitions"
    )
