"""The one timer: seconds of calls, in turns, so that a machine that drifts hits every side alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def _at_once() -> None:
    """For what has finished when it returns."""


def seconds_of(run: Callable[[], object], wait: Callable[[], object] = _at_once) -> float:
    """Seconds that a call takes.

    Args:
        run: What is timed.
        wait: Called before and after, such as torch.cuda.synchronize for what only queues its work.
    """
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def time_in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, wait: Callable[[], object] = _at_once
) -> dict[str, list[float]]:
    """Seconds of every run in every round.

    Args:
        runs: What is timed, by name; each round calls all of them, one after another.
        rounds: How many rounds count.
        warmup: How many rounds come before, to prepare caches and memory, and do not count.
        wait: See `seconds_of`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name, run in runs.items():
            taken = seconds_of(run, wait)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds
