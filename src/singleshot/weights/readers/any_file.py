"""Which kind of file a checkpoint is, by its first bytes rather than its name."""

from __future__ import annotations

from pathlib import Path

from singleshot.errors import CheckpointError, printable
from singleshot.weights.tensors import Tensors

MAX_BYTES = 4 * 2**30


def read_foreign(path: str | Path, beside: str | Path | None = None) -> Tensors:
    """The tensors of a file, with the network where the format describes one. Raises CheckpointError.

    beside: Caffe's prototxt. A TensorFlow checkpoint is named by its prefix or by any of its files.
    """
    path, where = Path(path), printable(path)
    first = _first_bytes(path, where)
    raise CheckpointError(f"{where}: not a checkpoint that is known (it starts with {printable(repr(first[:8]), 40)})")


def _first_bytes(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{where}: is a folder; name the checkpoint file in it")
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{where}: larger than {MAX_BYTES // 2**30} GB (the most that is read)")
        with path.open("rb") as file:
            return file.read(4096)
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({printable(error, 80)})") from error
