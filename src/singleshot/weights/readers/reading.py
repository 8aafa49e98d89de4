"""Bytes of a file that somebody else made: at most so many, and what cannot be read ends in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from singleshot.errors import CheckpointError, printable


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns errors of the operating system into CheckpointError. where: what messages call the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({printable(error, 80)})") from error


def read_bytes(path: Path, where: str, most: int) -> bytes:
    """The whole file. Raises CheckpointError where it cannot be read, or has more bytes than `most`."""
    with reading(where), path.open("rb") as file:
        size = file.seek(0, 2)
        if size > most:
            limit = f"{-(-most // 2**30)} GB" if most >= 2**30 else f"{most // 2**20} MB"
            raise CheckpointError(f"{where}: larger than {limit} (the most that is read)")
        file.seek(0)
        return file.read(size)  # a larger number would set as much memory aside
