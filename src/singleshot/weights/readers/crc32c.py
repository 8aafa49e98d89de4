"""CRC-32C (Castagnoli, RFC 3720 section 12.1), as TensorFlow's checkpoints carry it, at the speed of numpy.

A checksum is linear in the state it starts from, so the bytes are cut into lanes, all lanes go forward in step, and
their states are then joined pairwise.
"""

from __future__ import annotations

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # bit-reversed
MASK_DELTA = 0xA282EAD8  # LevelDB util/crc32c.h: stored checksums are rotated and shifted by this
_SMALL = 1024  # bytes up to which a plain loop is quicker
_PIECE = 16 * 2**20
_MAX_LANES = 2**14


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of the bytes, 0..2^32-1."""
    view = memoryview(data).cast("B")
    state = 0xFFFFFFFF
    for start in range(0, len(view), _PIECE):
        state = _forward(state, view[start : start + _PIECE])
    return state ^ 0xFFFFFFFF


def unmask(stored: int) -> int:
    """The checksum from the form in which files keep it."""
    rotated = (stored - MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def mask(crc: int) -> int:
    """Inverse of `unmask`."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _forward(state: int, view: memoryview) -> int:
    """The state after these bytes."""
    if len(view) <= _SMALL:
        table = _byte_tables()[0].tolist()
        for byte in view:
            state = state >> 8 ^ table[(state ^ byte) & 255]
        return state
    lanes = 2
    while lanes < _MAX_LANES and lanes * 512 < len(view):
        lanes *= 2
    length = -(-len(view) // (lanes * 4)) * 4
    padded = np.zeros(lanes * length, np.uint8)  # zeros in front leave a state of zero as it is
    padded[len(padded) - len(view) :] = np.frombuffer(view, np.uint8)
    words = np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T)
    low, high = _half_tables()
    states = np.zeros(lanes, np.uint32)
    for word in words:
        states ^= word
        states = low[states & 0xFFFF] ^ high[states >> 16]
    shift = _zeros(length)
    while len(states) > 1:
        states = _apply(shift, states[0::2]) ^ states[1::2]
        shift = _apply(shift, shift)
    return int(states[0] ^ _apply(_zeros(len(view)), np.array([state], np.uint32))[0])


@cache
def _byte_tables() -> np.ndarray:
    """uint32 [4, 256]: state 0 after one byte and then 0, 1, 2, 3 bytes of zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    tables = [table]
    for _ in range(3):
        tables.append(tables[-1] >> 8 ^ table[tables[-1] & 255])
    return np.stack(tables)


@cache
def _half_tables() -> tuple[np.ndarray, np.ndarray]:
    """uint32 [65536] each: four bytes at once, by the lower and the upper half of a word."""
    one, two, three, four = _byte_tables()
    half = np.arange(65536)
    return four[half & 255] ^ three[half >> 8], two[half & 255] ^ one[half >> 8]


def _apply(columns: np.ndarray, states: np.ndarray) -> np.ndarray:
    """A linear map of states, given by what it makes of each bit (uint32 [32])."""
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where(states >> bit & 1, columns[bit], np.uint32(0))
    return result


@cache
def _zeros(count: int) -> np.ndarray:
    """The map that so many bytes of zero are."""
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    step = columns >> 8 ^ _byte_tables()[0][columns & 255]
    while count:
        if count & 1:
            columns = _apply(step, columns)
        step = _apply(step, step)
        count >>= 1
    return columns
