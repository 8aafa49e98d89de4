"""Tensors between processes that compute on the cores of one machine, without gloo's threads.

Batch normalisation over several processes waits for some hundred numbers of the others twice in every layer. gloo hands
each of these to threads of its own, and the changes of thread take longer than the work: see benchmarks/README.md,
"Training next to other work". Here the training's own thread reads and writes sockets, and large tensors are added in
memory that the processes share. Nothing that comes is unpickled.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Of a message. A socket's buffer holds two of them, so that every process can send before any has read.
MOST_BYTES = 1 << 15
_SOCKET_BYTES = 4 * MOST_BYTES  # what the system keeps for each message counts too
_CHUNK = 1 << 20  # bytes that are added at once; each process has two in shared memory
_SHARED_MEMORY = Path("/dev/shm")
_MEET_SECONDS = 60.0
_SIGN = np.zeros(1, np.uint8)


class LocalExchange:
    """peers: a socket to each other process by rank, None for this one's own; boards: the shared memory that each
    writes, two rows of _CHUNK bytes."""

    def __init__(self, peers: Sequence[socket.socket | None], boards: Sequence[mmap.mmap]) -> None:
        self._peers = peers
        self._own = next((rank for rank, peer in enumerate(peers) if peer is None), 0)
        self._boards = [np.frombuffer(board, np.uint8).reshape(2, _CHUNK) for board in boards]
        self._turn = 0  # goes on from one sum to the next: a slower process may still read the last chunk

    def exchange(self, own: np.ndarray) -> np.ndarray:
        """[...] of at most MOST_BYTES -> [size, ...], every process' by its rank.

        Raises RuntimeError for one that is gone or does not answer, as gloo does.
        """
        rows = np.empty((len(self._peers), own.nbytes), np.uint8)
        data = own.tobytes()
        try:
            for peer in self._peers:
                if peer is not None:
                    peer.sendall(data)
            for rank, peer in enumerate(self._peers):
                if peer is None:
                    rows[rank] = np.frombuffer(data, np.uint8)
                else:
                    _receive(peer, rows[rank].data)
        except OSError as error:
            raise RuntimeError(f"the connection to another process of this machine failed ({error})") from error
        return rows.reshape(-1).view(own.dtype).reshape(len(rows), *own.shape)

    def add_up(self, values: np.ndarray) -> None:
        """[N] of any length, in place: the sum over all processes in the order of their ranks, the same bits in each.

        Raises as `exchange`.
        """
        step = _CHUNK // values.itemsize
        for start in range(0, len(values), step):
            part = values[start : start + step]
            # Whoever is at the next chunk but one, which has this one's place, has met the others in between.
            rows = [board[self._turn, : part.nbytes].view(values.dtype) for board in self._boards]
            self._turn = 1 - self._turn
            rows[self._own][:] = part
            self.exchange(_SIGN)
            np.add(rows[0], rows[1], out=part)
            for row in rows[2:]:
                np.add(part, row, out=part)

    def close(self) -> None:
        """Close the sockets; whoever waits for this process knows at once, whatever children hold copies."""
        for peer in self._peers:
            if peer is not None:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
                peer.close()


def connect(rank: int, size: int, gather: Callable[[Any], list[Any]], patience: float) -> LocalExchange | None:
    """Connect all processes with each other; None in all of them where one cannot be reached so.

    Args:
        rank: Which one this is.
        size: How many there are, two or more.
        gather: Gives the plain values of all processes, by rank.
        patience: Seconds that one waits for another later on.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "posix_fallocate"):
        return None  # a system that has none, and so in all of them
    peers: list[socket.socket | None] = [None] * size
    boards: list[mmap.mmap] = []
    with contextlib.ExitStack() as stack:
        own: str | None = None
        door = stack.enter_context(socket.socket(socket.AF_UNIX))
        door.settimeout(_MEET_SECONDS)
        # Where there is no room in shared memory, or its path is too long for a socket's name: none.
        with contextlib.suppress(OSError):
            place = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
            folder = stack.enter_context(  # for this user alone; gone as soon as all have met
                tempfile.TemporaryDirectory(prefix="singleshot-", dir=place, ignore_cleanup_errors=True)
            )
            with (Path(folder) / "board").open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, 2 * _CHUNK)  # else a full disk ends a process that writes there
            door.bind(f"{folder}/door")
            door.listen(size)
            own = folder
        folders = gather(own)
        there = None not in folders
        if there:
            try:
                _meet(rank, peers, door, [f"{one}/door" for one in folders])
                boards = [_open_board(Path(one) / "board") for one in folders]
            except (OSError, ValueError):
                there = False
        there = all(gather(there))
    if not there:
        LocalExchange(peers, []).close()
        return None
    for peer in peers:
        if peer is not None:
            peer.settimeout(patience)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    return LocalExchange(peers, boards)


def _meet(rank: int, peers: list[socket.socket | None], door: socket.socket, addresses: Sequence[str]) -> None:
    """Call those of lower rank, answer those of higher rank."""
    for other in range(rank):
        peer = peers[other] = socket.socket(socket.AF_UNIX)
        peer.settimeout(_MEET_SECONDS)
        peer.connect(addresses[other])
        peer.sendall(rank.to_bytes(4, "big"))
    for _ in range(rank + 1, len(peers)):
        peer, _address = door.accept()
        peer.settimeout(_MEET_SECONDS)
        number = bytearray(4)
        _receive(peer, memoryview(number))
        other = int.from_bytes(number, "big")
        if not rank < other < len(peers) or peers[other] is not None:
            peer.close()
            raise ConnectionError(f"process {other} is not waited for")
        peers[other] = peer


def _open_board(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 2 * _CHUNK)


def _receive(peer: socket.socket, into: memoryview) -> None:
    while into:
        count = peer.recv_into(into)
        if not count:
            raise ConnectionError("it was closed")
        into = into[count:]
