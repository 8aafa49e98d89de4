"""Threads next to other busy processes: where they run changes, how many they are does not."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from singleshot.training import core_sharing
from singleshot.training.checkpoints import STATE
from singleshot.training.core_sharing import CoreSharing, LinuxCores
from singleshot.training.reports import Reporter


class Machine:
    """Two cores, on one of which something else runs: steps take as long as they do there."""

    def __init__(self, monkeypatch) -> None:
        self.busy: set[int] = set()
        self.at = {0, 1}
        self.now = self._waited = self._idle = 0.0
        self.places: list[set[int]] = []
        self.stalls = 6
        monkeypatch.setattr(core_sharing.time, "monotonic", lambda: self.now)

    def sets(self) -> list[set[int]]:
        return [{0, 1}, {0}, {1}]

    def place(self, cores: set[int]) -> None:
        self.at = cores
        self.places.append(cores)

    def waited(self) -> float:
        return self._waited

    def idle(self) -> float:
        return self._idle

    def step(self) -> float:
        """One step of 0.5 core seconds; gives how long it took."""
        shared = bool(self.at & self.busy)
        seconds = {1: 0.5, 2: 0.25}[len(self.at)] * (
            self.stalls if shared and len(self.at) == 2 else 2 if shared else 1
        )
        self.now += seconds
        self._waited += seconds / 2 if shared else 0.0
        self._idle += seconds * len({0, 1} - self.at - self.busy)
        return seconds


def steps(machine: Machine, sharing: CoreSharing, seconds: float) -> float:
    """Steps per second."""
    ends, count, start = machine.now + seconds, 0, machine.now
    while machine.now < ends:
        machine.step()
        sharing.step()
        count += 1
    return count / (machine.now - start)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


def test_alone_nothing_moves(machine: Machine) -> None:
    assert steps(machine, CoreSharing(machine), 60) == pytest.approx(4, rel=0.05)
    assert machine.places == []


@pytest.mark.parametrize("core", [0, 1])
def test_next_to_a_busy_core_the_threads_go_to_the_other_and_come_back(machine: Machine, core: int) -> None:
    sharing = CoreSharing(machine)
    machine.busy = {core}
    steps(machine, sharing, 20)
    assert machine.at == {1 - core} and sharing.together
    assert steps(machine, sharing, 60) == pytest.approx(2, rel=0.05)
    machine.busy = set()
    steps(machine, sharing, 10)
    assert machine.at == {0, 1} and not sharing.together
    assert steps(machine, sharing, 30) == pytest.approx(4, rel=0.05)


def test_the_other_process_moves_to_where_the_threads_are(machine: Machine) -> None:
    sharing = CoreSharing(machine)
    machine.busy = {0}
    steps(machine, sharing, 20)
    machine.busy = {1}
    steps(machine, sharing, 40)
    assert machine.at == {0}


def test_where_moving_brings_nothing_it_is_tried_ever_more_rarely(machine: Machine) -> None:
    sharing = CoreSharing(machine)
    machine.busy, machine.stalls = {0, 1}, 2  # all cores are shared: one gives half of what both do
    steps(machine, sharing, 600)
    assert machine.at == {0, 1}
    assert 1 <= machine.places.count({0}) <= 8


def test_what_lies_between_two_epochs_does_not_count(machine: Machine) -> None:
    sharing = CoreSharing(machine)
    for _ in range(20):
        machine.step()
        sharing.step()
        machine.now += 1.0
        machine._waited += 1.0  # a validation that waited, say
        sharing.begin()
    assert machine.places == []


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="counts processes by /proc")
def test_on_this_machine_threads_old_and_new_are_placed_and_bits_stay(monkeypatch) -> None:
    cores = LinuxCores()
    everywhere, half = cores.sets()[:2]
    torch.manual_seed(0)
    images, layer = torch.randn(4, 32, 40, 40), torch.nn.Conv2d(32, 32, 3)

    def gradient() -> torch.Tensor:
        layer.zero_grad()
        layer(images).square().sum().backward()
        assert layer.weight.grad is not None
        return layer.weight.grad.clone()

    before = gradient()
    try:
        cores.place(half)
        assert torch.equal(gradient(), before)
        seen: list[set[int]] = []
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert seen == [half]
        assert {frozenset(os.sched_getaffinity(int(t.name))) for t in Path("/proc/self/task").iterdir()} == {
            frozenset(half)
        }
    finally:
        cores.place(everywhere)
    assert os.sched_getaffinity(0) == everywhere
    assert cores.waited() >= 0 and cores.idle() > 0


class StopsAfterAnEpoch(Reporter):
    def on_epoch(self, row) -> None:
        raise KeyboardInterrupt


def test_a_resumed_run_has_as_many_threads_as_before(trainer_of, tmp_path: Path) -> None:
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        trainer_of(tmp_path / "one", epochs=2).run()
        stopped = trainer_of(tmp_path / "two", epochs=2)
        stopped.reporters.append(StopsAfterAnEpoch())
        assert stopped.run().interrupted
        torch.set_num_threads(2)
        trainer = trainer_of(tmp_path / "two", epochs=2)
        assert torch.get_num_threads() == 1
        trainer.run()
    finally:
        torch.set_num_threads(own)
    assert (tmp_path / "one" / STATE).read_bytes() == (tmp_path / "two" / STATE).read_bytes()
