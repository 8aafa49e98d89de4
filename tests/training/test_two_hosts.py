"""Two hosts, as two network namespaces of this machine: they train as two processes of one do, and one that is cut off
ends the other."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from singleshot.training import distributed, loop
from singleshot.training.state import read_about

sys.path.insert(0, str(Path(__file__).parent))  # a helper, which pytest imports by no name of its own
from together import run_together

pytestmark = pytest.mark.slow
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <sched.h>; Python has `os.setns` from 3.12 on


class Hosts(NamedTuple):
    """By rank: the namespaces, and the interface that each has."""

    namespaces: tuple[str, str]
    interfaces: tuple[str, str]

    def enter(self, rank: int) -> dict[str, str]:
        """Be on that host from now on."""
        with Path("/run/netns", self.namespaces[rank]).open("rb") as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEW_NETWORK) == 0
        return {
            "MASTER_ADDR": "10.77.0.1",
            "GLOO_SOCKET_IFNAME": self.interfaces[rank],
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        }

    def connect(self, state: str) -> None:
        """The second host's cable: "up" or "down"."""
        ip("-n", self.namespaces[1], "link", "set", self.interfaces[1], state)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    one = Hosts((f"singleshot-{os.getpid()}-0", f"singleshot-{os.getpid()}-1"), ("sshot0", "sshot1"))
    try:
        for name in one.namespaces:
            ip("netns", "add", name)
        first, second = one.namespaces
        ip("link", "add", one.interfaces[0], "netns", first, "type", "veth",
           "peer", "name", one.interfaces[1], "netns", second)  # fmt: skip
        for rank, (name, interface) in enumerate(zip(*one, strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", interface)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", interface, "up")
    except (OSError, subprocess.CalledProcessError):
        _remove(one)
        pytest.skip("no network namespaces here")
    yield one
    _remove(one)


def _remove(hosts: Hosts) -> None:
    for name in hosts.namespaces:
        if Path("/run/netns", name).exists():
            ip("netns", "del", name)


def test_two_hosts_train_as_one_and_one_that_is_cut_off_ends_the_other(
    trainer_of, hosts: Hosts, tmp_path: Path, before_step, monkeypatch
) -> None:
    run_together(tmp_path / "a", 2, lambda world: trainer_of(tmp_path / "straight", world=world).run().steps)
    out = tmp_path / "run"

    def cut_off(world) -> None:
        trainer = trainer_of(out, world=world)
        if not world.leads:
            before_step(trainer, 4, lambda: hosts.connect("down"))
        trainer.run()

    with monkeypatch.context() as patched:
        patched.setattr(distributed, "PATIENCE_SECONDS", 5.0)
        results = run_together(tmp_path / "b", 2, cut_off, enter=hosts.enter)
    for rank, (kind, text) in enumerate(results):
        assert kind == "LostProcessError"
        assert text.startswith(f"process {rank} of 2")
    assert read_about(out / loop.STATE).progress.step == 3
    hosts.connect("up")
    ends = run_together(tmp_path / "c", 2, lambda world: trainer_of(out, world=world).run().steps, enter=hosts.enter)
    assert ends == [6, 6]
    for name in (loop.BEST, loop.LAST, loop.STATE):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
