"""PyTorch's files (.pth, .pt, .pth.tar, .bin; zip and the form before 1.6), .safetensors and .npz -> ForeignState.

Only `torch.load(weights_only=True)` reads pickles, and only those that `pickle_check` has walked through before.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from singleshot.errors import CheckpointError, printable
from singleshot.weights.foreign_state import MAX_NAMES, ForeignState
from singleshot.weights.readers.other_formats import zip_contents
from singleshot.weights.readers.pickle_check import MAX_PICKLE, check_pickle, stand_ins
from singleshot.weights.readers.reading import reading
from singleshot.weights.readers.wrappers import unwrap

# Of arrays in memory. .npz files may be compressed, a thousand to one: they must not make us allocate without end.
MAX_ARRAY_BYTES = 2**30
OURS = "singleshot"  # key of our own checkpoints' metadata

_LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, names of its storages
_SAY_STATE_DICT = 'save its state dict instead: torch.save(model.state_dict(), "weights.pth")'


def read_pytorch(path: str | Path, where: str | None = None) -> ForeignState:
    """ForeignState by name, out of wrappers such as {"state_dict": ...} and without "module."; what stands with them
    and is plain (epoch, meta with class names) is in `.structure`, with "meta" always there.

    Nothing in the file is executed. Raises CheckpointError with one line: for classes in the file with their name.
    """
    path = Path(path)
    where = printable(path) if where is None else where
    with reading(where), path.open("rb") as file:
        first = file.read(16)
        if first.startswith(b"PK"):
            return _read_zip(path, file, where)
        if is_safetensors(first):
            return _read_safetensors(path, where)
        return _read_legacy(path, file, where)


def is_safetensors(first: bytes) -> bool:
    """By a file's first nine bytes or more: the header's length as u64, then JSON."""
    return len(first) > 8 and first[8:9] == b"{" and 2 <= int.from_bytes(first[:8], "little") <= 100_000_000


# ------------------------------------------------------------------------------------------------ .pth and its kin


def _read_zip(path: Path, file: BinaryIO, where: str) -> ForeignState:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_NAMES:
                raise CheckpointError(f"{where}: an archive of {len(entries)} files (at most {MAX_NAMES} are read)")
            names = [entry.filename for entry in entries]
            if any(name.endswith(".npy") for name in names):
                return _read_npz(archive, where)
            if any(name.endswith("/constants.pkl") for name in names):
                save = 'torch.save(torch.jit.load("FILE").state_dict(), "weights.pth")'
                raise CheckpointError(
                    f"{where}: TorchScript, which holds code; nothing was run; save its state dict: {save}"
                )
            if not any(name.endswith("/data.pkl") for name in names) and (other := zip_contents(names)):
                raise CheckpointError(f"{where}: {other}")
            _check_archive(archive, path.stat().st_size, where)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise _damaged(where, error) from error
    return _torch_load(path, where)


def _check_archive(archive: zipfile.ZipFile, size: int, where: str) -> None:
    """Raise CheckpointError unless the pickle is harmless and the storages are as long as it says."""
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    root = next(iter(sizes), "").partition("/")[0]
    pickle = f"{root}/data.pkl"
    if pickle not in sizes:
        raise CheckpointError(f"{where}: a zip archive, but neither PyTorch's (no data.pkl) nor NumPy's")
    # PyTorch stores without compressing, each name once; anything else makes more of the file than it is.
    if sum(entry.file_size for entry in archive.infolist()) > size or len({n.lower() for n in sizes}) < len(sizes):
        raise CheckpointError(f"{where}: its parts are larger than the file; it is damaged")
    with archive.open(pickle) as part:
        storages = check_pickle(io.BytesIO(part.read(MAX_PICKLE)), where)
    for storage in storages:
        stored = sizes.get(f"{root}/data/{storage.key}", -1)
        if stored < storage.values * _item_size(storage.kind):
            raise CheckpointError(
                f"{where}: damaged or cut short (storage {printable(storage.key, 40)} of {storage.values} values has"
                f" {max(stored, 0)} bytes)"
            )


def _item_size(kind: str) -> int:
    """Bytes of one value of a storage: FloatStorage is of torch.float; 1 where there is no such type."""
    dtype = getattr(torch, kind.removesuffix("Storage").lower(), None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 1


def _read_legacy(path: Path, file: BinaryIO, where: str) -> ForeignState:
    file.seek(0)
    storages = []
    stream = io.BytesIO(file.read(MAX_PICKLE))
    for i in range(_LEGACY_PICKLES):
        storages += check_pickle(stream, where)
        if i == 0 and stream.tell() > 64:
            raise CheckpointError(f"{where}: a pickle, but not of torch.save; {_SAY_STATE_DICT}")
    sizes = {storage.key: storage.values * _item_size(storage.kind) for storage in storages}
    if sum(sizes.values()) > path.stat().st_size:
        raise CheckpointError(f"{where}: damaged or cut short (its storages are larger than the file)")
    return _torch_load(path, where)


def _torch_load(path: Path, where: str) -> ForeignState:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins()):
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its pieces happen to raise
        raise _damaged(where, error) from error
    if isinstance(loaded, Tensor):
        loaded = {"tensor": loaded}
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{where}: holds {type(loaded).__name__}, want a dict of tensors")
    values, structure = unwrap(loaded, where)
    return ForeignState(values, where, "pytorch", structure)


def _damaged(where: str, error: BaseException) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(f"{where}: damaged or cut short ({printable(reason, 120)})")


# --------------------------------------------------------------------------------------------- .safetensors and .npz


def _read_safetensors(path: Path, where: str) -> ForeignState:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if OURS in metadata:
                raise CheckpointError(f"{where}: a model of singleshot's already; use it as it is")
            values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise _damaged(where, error) from error
    values, _ = unwrap(values, where)
    return ForeignState(values, where, "", {"meta": metadata})


def _read_npz(archive: zipfile.ZipFile, where: str) -> ForeignState:
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    if sum(entry.file_size for entry in entries) > MAX_ARRAY_BYTES:
        raise CheckpointError(f"{where}: arrays of more than {MAX_ARRAY_BYTES // 2**20} MB (the most that is read)")
    values = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        try:
            with archive.open(entry) as part:
                values[name] = np.lib.format.read_array(part, allow_pickle=False)
        except (ValueError, MemoryError) as error:
            why = printable(error, 80)
            raise CheckpointError(f"{where}: {printable(name, 80)}: no array of numbers, or damaged ({why})") from error
    named, structure = unwrap(values, where)
    return ForeignState(named, where, "", structure)
