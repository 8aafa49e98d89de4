"""Several processes that train together, as torchrun would start them: forks of the test's own, so that none imports
PyTorch anew."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from singleshot.devices import read_launch
from singleshot.training.distributed import World, joined


def run_together(
    folder: Path,
    size: int,
    work: Callable[[World], Any],
    patience: float = 120,
    enter: Callable[[int], dict[str, str]] = lambda rank: {},
) -> list[Any]:
    """What `work` gave or raised in each process, by rank; the exit code of one that died. enter: called in each before
    it meets the others; what it gives goes into its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_child, args=(folder, rank, size, port, work, enter)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()
    files = [folder / f"{rank}.pickle" for rank in range(size)]
    return [
        pickle.loads(file.read_bytes()) if file.exists() else process.exitcode
        for file, process in zip(files, processes, strict=True)
    ]


def _child(
    folder: Path, rank: int, size: int, port: int, work: Callable[[World], Any], enter: Callable[[int], dict[str, str]]
) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **enter(rank)}  # fmt: skip
    result: Any
    try:
        with joined(read_launch(), torch.device("cpu")) as world:
            result = work(world)
    except Exception as error:
        traceback.print_exc()
        result = (type(error).__name__, str(error))
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    os._exit(0)
