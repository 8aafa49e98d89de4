"""Many strings without a Python object each.

Forked loader workers share the pages of an array; a list of a million `str` is copied into every worker, page
by page, as soon as its reference counts are touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np


def offsets_of(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    """int64 [n + 1]: where each of n groups of `counts` rows starts, and the end of the last."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def ragged_rows(ptr: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the groups `indices` where group i holds rows ptr[i]:ptr[i + 1].

    ptr: int64 [n + 1]; indices: int64 [k], non-negative. Returns the rows' positions int64 [R] in the order of
    `indices`, and their own ptr int64 [k + 1].
    """
    starts, counts = ptr[indices], ptr[indices + 1] - ptr[indices]
    new_ptr = offsets_of(counts)
    return np.repeat(starts - new_ptr[:-1], counts) + np.arange(new_ptr[-1]), new_ptr


def is_text(name: str) -> bool:
    """Whether UTF-8 holds it: no lone surrogates, which stand for bytes that were no UTF-8."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def is_encodable(text: str) -> bool:
    """Whether a StringTable can hold it, and a file be called so: no lone surrogate that no byte stands behind."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def is_name(value: object) -> TypeGuard[str]:
    """Whether it is a text that is more than blanks and that a StringTable can hold."""
    return isinstance(value, str) and bool(value.strip()) and is_encodable(value)


@dataclass(frozen=True, eq=False)
class StringTable:
    """An immutable sequence of str: UTF-8 (surrogateescape, as file names need) in `data` uint8 [B].

    String i is data[offsets[i]:offsets[i + 1]]; offsets is int64 [n + 1].
    """

    data: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_iterable(cls, strings: Iterable[str]) -> StringTable:
        """Pack the strings. A lone surrogate that no file name can hold raises UnicodeEncodeError."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(part) for part in encoded]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"string {index} of {n}")
        index %= n
        part = self.data[self.offsets[index] : self.offsets[index + 1]]
        return part.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, indices: Sequence[int] | np.ndarray) -> StringTable:
        """The strings at `indices`, in that order; an index outside 0..n - 1 raises IndexError."""
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"indices {chosen.min()}..{chosen.max()} of {len(self)} strings")
        rows, offsets = ragged_rows(self.offsets, chosen)
        return StringTable(self.data[rows], offsets)
