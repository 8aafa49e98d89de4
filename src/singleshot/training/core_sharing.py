"""A training next to other busy processes: its threads move together on the cores that others leave free.

The threads of one operation wait for the slowest of them. Where another process keeps a core busy, the thread on that
core waits for its turn at every operation and the others wait with it, which is worse than fewer cores. Their number
decides the order of sums, so it stays as it is; where they run does not matter for the bits.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

# What is measured is the steps of so many seconds, and of so many steps at least.
_WINDOW_SECONDS, _WINDOW_STEPS = 2.0, 3
# A thread that waits for a core for that part of the time has company there.
_WAITED = 0.15
# Moving must make it so many times as fast.
_GAIN = 1.1
# Cores' time that stands idle, in cores, from which on the threads spread again.
_IDLE = 0.6
# Seconds until moving is tried again after it brought nothing: from, to.
_REST = (10.0, 640.0)


class Cores(Protocol):
    """The machine, as far as it takes to decide."""

    def sets(self) -> list[set[int]]:
        """All cores of this process first, then parts of them on which its threads can go together."""

    def place(self, cores: set[int]) -> None:
        """Move all threads of this process."""

    def waited(self) -> float:
        """Seconds for which the thread that waited longest for a core has done so, since it began."""

    def idle(self) -> float:
        """Seconds that all of the cores together stood idle, since they began."""


class LinuxCores:
    """By /proc and sched_setaffinity. Raises OSError where the system has no such files, or hides them."""

    def __init__(self) -> None:
        self._all = sorted(os.sched_getaffinity(0))
        self._ticks = os.sysconf("SC_CLK_TCK")
        self.waited(), self.idle()

    def sets(self) -> list[set[int]]:
        """All, and the two halves; all alone where there is one core."""
        half = len(self._all) // 2
        return [set(self._all), *([set(self._all[:half]), set(self._all[half:])] if half else [])]

    def place(self, cores: set[int]) -> None:
        """One thread after another: those that begin later are where the one that begins them is."""
        for thread in self._threads():
            try:
                os.sched_setaffinity(int(thread.name), cores)
            except ProcessLookupError:
                continue  # it has ended

    def waited(self) -> float:
        """From each thread's schedstat: nanoseconds computing, nanoseconds waiting for a core, turns."""
        waits = []
        for thread in self._threads():
            try:
                waits.append(int((thread / "schedstat").read_text().split()[1]))
            except (FileNotFoundError, ProcessLookupError):
                continue
        if not waits:
            raise FileNotFoundError("/proc/self/task: no schedstat")
        return max(waits) / 1e9

    def idle(self) -> float:
        """From the lines of /proc/stat: the fourth number of a core, in ticks."""
        names = {f"cpu{core}" for core in self._all}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return sum(int(line[4]) for line in lines if line and line[0] in names) / self._ticks

    @staticmethod
    def _threads() -> list[Path]:
        return list(Path("/proc/self/task").iterdir())


class CoreSharing:
    """Called after each step, it measures and moves the threads where that makes the steps faster.

    While threads wait for cores, each part of `Cores.sets` is tried for a few seconds and the fastest is kept. They
    spread again when cores stand idle.
    """

    def __init__(self, cores: Cores) -> None:
        self._cores, self._sets = cores, cores.sets()
        self._at = 0  # which of the sets
        self._rates: dict[int, float] = {}  # of the sets tried so far, steps per second; empty: nothing is being tried
        self._rest, self._rested_until = _REST[0], 0.0
        self.begin()

    @property
    def together(self) -> bool:
        """Whether the threads are on a part of the cores."""
        return self._at > 0

    def step(self) -> None:
        """A step is done."""
        self._steps += 1
        now = time.monotonic()
        seconds = now - self._since
        if seconds < _WINDOW_SECONDS or self._steps < _WINDOW_STEPS:
            return
        rate = self._steps / seconds
        waited = (self._cores.waited() - self._waited) / seconds
        idle = (self._cores.idle() - self._idle) / seconds
        if self._rates:
            self._tried(rate, now)
        elif self.together and (idle > _IDLE or waited > _WAITED):
            self._go(0)
            log.debug("cores are free again, or busy where the threads are: they spread")
        elif not self.together and waited > _WAITED and now >= self._rested_until and len(self._sets) > 1:
            self._rates[0] = rate
            self._go(1)
        self._begin(now)

    def begin(self) -> None:
        """Measure from here on: what lay between two steps was something else."""
        self._begin(time.monotonic())

    def close(self) -> None:
        """Spread the threads."""
        if self.together:
            self._go(0)

    def _tried(self, rate: float, now: float) -> None:
        self._rates[self._at] = rate
        if self._at + 1 < len(self._sets):
            self._go(self._at + 1)
            return
        best = max(self._rates, key=lambda index: self._rates[index])
        if best and self._rates[best] > _GAIN * self._rates[0]:
            gain = self._rates[best] / self._rates[0]
            log.info("other processes keep cores busy: the threads share the free ones, %.1f times as fast", gain)
            self._rest = _REST[0]
        else:
            best = 0
            self._rested_until, self._rest = now + self._rest, min(2 * self._rest, _REST[1])
        self._go(best)
        self._rates = {}

    def _go(self, index: int) -> None:
        self._at = index
        self._cores.place(self._sets[index])

    def _begin(self, now: float) -> None:
        self._since, self._steps = now, 0
        self._waited, self._idle = self._cores.waited(), self._cores.idle()


def share_cores(threads: int) -> CoreSharing | None:
    """For a training with so many threads; None for one thread, and where the system does not say what it takes."""
    if threads < 2 or not sys.platform.startswith("linux"):
        return None
    try:
        cores = LinuxCores()
    except (OSError, ValueError, IndexError) as error:
        log.debug("cores are not watched: %s", error)
        return None
    return CoreSharing(cores) if len(cores.sets()) > 1 else None
