"""Tensors between processes of one machine: the same bits in each, and nobody waits for one that is gone."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # a helper, which pytest imports by no name of its own
from together import run_together

from singleshot.training import local_exchange

pytestmark = [pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate"), pytest.mark.first]


def own(rank: int, length: int) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=length).astype(np.float32)


@pytest.mark.parametrize("size", [2, 3])
def test_each_has_all_rows_and_the_sum_in_order(tmp_path, size):
    lengths = (1, 5, local_exchange.MOST_BYTES // 4, 700_001)  # the last in three chunks

    def work(world):
        assert world.local is not None
        rows = [world.each_of(torch.from_numpy(own(world.rank, n)).view(1, n)).numpy() for n in lengths]
        parameter = torch.nn.Parameter(torch.zeros(7, 100_003))
        found = []
        for _ in range(3):  # each in the places of the one before
            parameter.grad = torch.from_numpy(own(world.rank, 700_021)).view(7, 100_003)
            world.sum_gradients([parameter])
            found.append(parameter.grad.numpy().copy())
        single, none = world.each_of(torch.tensor(float(world.rank))), world.each_of(torch.ones(2, 0))
        assert (single.tolist(), none.shape) == ([*range(size)], (size, 2, 0))
        halves = world.each_of(torch.full((2,), world.rank, dtype=torch.bfloat16)).float().numpy()
        return rows, found, halves

    for rows, found, halves in run_together(tmp_path, size, work):
        for row, n in zip(rows, lengths, strict=True):
            np.testing.assert_array_equal(row, np.stack([own(rank, n)[None] for rank in range(size)]))
        wanted = sum(own(rank, 700_021) for rank in range(size))
        for one in found:
            np.testing.assert_array_equal(one.ravel(), wanted)
        np.testing.assert_array_equal(halves, [[rank] * 2 for rank in range(size)])


def test_a_fast_process_leaves_a_slow_one_what_it_still_reads(tmp_path, monkeypatch):
    """Sums of one chunk follow each other, and one process is late to read each of them."""
    meet = local_exchange.LocalExchange.exchange

    def late(self, values):
        rows = meet(self, values)
        if os.environ["RANK"] == "1":
            time.sleep(0.02)
        return rows

    monkeypatch.setattr(local_exchange.LocalExchange, "exchange", late)

    def work(world):
        values = [np.full(5, 10.0**k * (world.rank + 1), np.float32) for k in range(4)]
        for one in values:
            world.local.add_up(one)
        return values

    for values in run_together(tmp_path, 2, work):
        np.testing.assert_array_equal(values, [np.full(5, 3 * 10.0**k, np.float32) for k in range(4)])


def test_processes_that_know_their_local_rank_alone_agree(tmp_path):
    """Not every launcher says LOCAL_WORLD_SIZE."""
    found = run_together(
        tmp_path,
        2,
        lambda world: (world.local is not None, world.sum(torch.ones(2)).tolist()),
        patience=30,
        enter=lambda rank: {"LOCAL_WORLD_SIZE": ""},
    )
    assert found == [(True, [2.0, 2.0])] * 2


def test_one_that_ends_is_noticed_by_those_that_wait(tmp_path):
    def work(world):
        world.each_of(torch.ones(3))
        if world.rank == 1:
            os._exit(9)
        with world.reached():
            world.sum(torch.ones(3))

    first, second = run_together(tmp_path, 2, work, patience=30)
    assert second == 9
    assert first[0] == "LostProcessError"
    assert "cannot be reached" in first[1]


def test_where_one_cannot_all_use_the_backend(tmp_path, monkeypatch):
    folder = tempfile.TemporaryDirectory

    def in_one_alone(**options):
        if os.environ["RANK"] == "1":
            raise OSError("no room")
        return folder(**options)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", in_one_alone)
    found = run_together(tmp_path, 2, lambda world: (world.local is None, world.sum(torch.ones(2)).tolist()))
    assert found == [(True, [2.0, 2.0])] * 2


def test_nothing_is_left_in_shared_memory(tmp_path, tmp_path_factory, monkeypatch):
    memory = tmp_path_factory.mktemp("m")  # a socket's path is short
    monkeypatch.setattr(local_exchange, "_SHARED_MEMORY", memory)
    assert run_together(tmp_path, 2, lambda world: world.local is not None) == [True] * 2
    assert not list(memory.iterdir())
